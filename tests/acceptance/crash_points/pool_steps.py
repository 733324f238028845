"""The delivery path on the pools of one process: the steps of the threads pool, on each of the others too.

What a kill leaves behind does not depend on the pool, but who comes to a step does: on solo the worker's only thread
claims and delivers, on gevent and eventlet there is no event loop to claim in, and on all of them another thread
settles and renews. Prefork has steps of its own, for it has two processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tests.acceptance.crash_points.steps import ON_POOLS, Step


def on_pools(rows: Mapping[str, Sequence[Step]]) -> dict[str, list[Step]]:
    """These rows, with their steps on every pool of one process that their flows are killed on."""
    return {row: [*steps, *(one for step in steps for one in _on_pools(step))] for row, steps in rows.items()}


def _on_pools(step: Step) -> list[Step]:
    pools = (pool for pool, flows in ON_POOLS.items() if pool != "prefork" and step.flow in flows)
    return [] if step.variant else [replace(step, name=f"{step.name} on {pool}", variant=pool) for pool in pools]
