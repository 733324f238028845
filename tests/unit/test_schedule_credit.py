"""How many due messages a worker takes: what its pool can begin, more of short tasks, and its share beside others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rebound_celery.schedule.port import ScheduleOptions
from rebound_celery.schedule.transport import installed
from rebound_celery.schedule.transport.credit import LEASED_QUEUE_BYTES, LEASED_QUEUE_CREDIT, Credit
from rebound_celery.schedule.transport.installed import Load


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Worker:
    """A worker with this load."""

    def __init__(self, load: Load | None) -> None:
        self.it: Load | None = load

    def owns(self, channel: Any) -> bool:
        return self.it is not None

    def load(self, channel: Any) -> Load | None:
        return self.it

    def tasks_to_finish(self) -> set[str]:
        return set()


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worker = Worker(Load(size=2, busy=0, begun=0))
        monkeypatch.setattr(installed, "worker", self.worker)
        self.clock = Clock()
        self.held = 0
        self.held_bytes = {"owned": 0}
        self.qos = SimpleNamespace(prefetch_count=8)
        options = ScheduleOptions(leased={"owned": SimpleNamespace(), "celerys": None})  # type: ignore[dict-item]
        channel = SimpleNamespace(
            qos=self.qos,
            options=options,
            active_queues=["celery", "celerys", "owned"],
            is_leased=lambda name: name in options.leased,
        )
        leases: Any = SimpleNamespace(count=lambda _queues: self.held, bytes_by_queue=self.held_bytes)
        self.credit = Credit(channel, leases, clock=self.clock)  # type: ignore[arg-type]

    def room(self, queue: str = "celery", *, busy: int = 0, begun: int = 0, after: float = 0.0) -> int:
        self.clock.now += after
        self.worker.it = Load(2, busy, begun)
        return self.credit.room(queue)

    def saw_small_ones(self) -> None:
        for _ in range(10):
            self.credit.saw("owned", 1_000)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


@pytest.mark.parametrize("prefetch", [1, 2, 8, 0])
def test_a_worker_takes_what_its_pool_can_begin(bench: Bench, prefetch: int):
    bench.qos.prefetch_count = prefetch

    assert [bench.room(busy=busy) for busy in (0, 1, 2, 5)] == [2, 1, 0, 0]
    assert bench.room("celerys") == 2


@pytest.mark.parametrize("each_s", [0.35, 1.0, 60.0])
def test_of_long_tasks_it_takes_nothing_ahead(bench: Bench, each_s: float):
    """Two at a time, begun together or one after the other."""
    for together in (True, False):
        for step in range(400):
            rounds = step * 0.05 / each_s
            begun = 2 * int(rounds + 1) if together else int(2 * rounds + 1)
            assert bench.room(busy=2, begun=begun, after=0.05) == 0


def test_of_short_tasks_it_takes_as_many_as_it_will_soon_begin_in_not_too_small_parts(bench: Bench):
    bench.room()
    assert bench.room(busy=2, begun=12, after=0.05) == 16  # the most: twice the prefetch count
    assert bench.room(busy=14, begun=12) == 4
    assert bench.room(busy=15, begun=12) == 0
    bench.held = 13
    assert bench.room(busy=2, begun=12) == 3


def test_beside_an_ordinary_queue_that_is_always_full_it_takes_turns(bench: Bench):
    assert bench.room(busy=6) == 0
    bench.credit.waits("celery")
    assert bench.room(busy=6) == 0
    bench.credit.passed()
    assert bench.room(busy=6) == 1
    bench.credit.took("celery", 1, is_more_due=True)
    assert bench.room(busy=6) == 0
    bench.credit.passed()
    bench.credit.took("celery", 0, is_more_due=False)
    bench.credit.passed()
    assert bench.room(busy=6) == 0


def test_a_process_without_a_worker_takes_what_its_prefetch_count_allows(bench: Bench):
    bench.worker.it = None

    assert bench.credit.room("celery") == 8
    bench.qos.prefetch_count, bench.held = 0, 50
    assert bench.credit.room("celery") == 150


def test_the_owner_of_a_leased_queue_gathers_many(bench: Bench):
    bench.saw_small_ones()
    assert bench.room("owned", busy=5) == LEASED_QUEUE_CREDIT
    bench.held = LEASED_QUEUE_CREDIT - 10
    assert bench.room("owned") == 0


def test_of_large_messages_few_are_taken(bench: Bench):
    """All that is held of them stays below a limit; a single one may be larger than that."""
    assert bench.room("owned") == 16
    bench.held, bench.held_bytes["owned"] = 16, 16 * 2_000_000
    bench.credit.saw("owned", 2_000_000)
    assert bench.room("owned") == (LEASED_QUEUE_BYTES - 16 * 2_000_000) // 2_097_152
    bench.held, bench.held_bytes["owned"] = 32, 32 * 2_097_152
    assert bench.room("owned") == 0

    bench.credit.saw("owned", 2 * LEASED_QUEUE_BYTES)
    assert bench.room("owned") == 0
    bench.held = bench.held_bytes["owned"] = 0
    assert bench.room("owned") == 1


def test_once_messages_are_small_again_many_are_taken(bench: Bench):
    bench.credit.saw("owned", LEASED_QUEUE_BYTES)
    assert bench.room("owned") == 1
    bench.saw_small_ones()
    assert bench.room("owned") == LEASED_QUEUE_CREDIT
