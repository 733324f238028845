"""The steps of the delivery on each pool that has one process: the steps of one pool are repeated on the others.

A kill leaves the same state on every pool, but different threads come to a step. On solo, the worker's only thread
claims and delivers. On gevent and eventlet there is no event loop that claims. On all of them another thread settles
and renews. Prefork has its own steps (`prefork_steps`), because it has two processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tests.acceptance.crash_points.steps import ON_POOLS, Step


def on_pools(rows: Mapping[str, Sequence[Step]]) -> dict[str, list[Step]]:
    """Return these rows with their steps on every other pool of their flows.

    If several steps lie between the same two effects, only the last is repeated, because each step starts two workers.
    """
    return {
        row: [*steps, *_of_pools({step.place: step for step in steps if not step.variant}.values())]
        for row, steps in rows.items()
    }


def _of_pools(steps: Iterable[Step]) -> list[Step]:
    return [
        replace(step, name=f"{step.name} on {pool}", variant=pool)
        for step in steps
        for pool, flows in ON_POOLS.items()
        if step.flow in flows
    ]
