"""The delivery path on the pools of one process: steps that are told for one pool, on each of the others too.

What a kill leaves behind does not depend on the pool, but who comes to a step does: on solo the worker's only thread
claims and delivers, on gevent and eventlet there is no event loop to claim in, and on all of them another thread
settles and renews. Prefork has steps of its own (`prefork_steps`), for it has two processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tests.acceptance.crash_points.steps import ON_POOLS, Step


def on_pools(rows: Mapping[str, Sequence[Step]]) -> dict[str, list[Step]]:
    """These rows, with their steps on every other pool that their flows are killed on.

    Of several between the same two effects it is the last: each costs two workers' start.
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
