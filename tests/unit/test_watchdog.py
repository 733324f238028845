"""The watchdog's decisions: a fault, or a worker that is busy, paused or without its Redis."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.worker import state
from redis.exceptions import ConnectionError as RedisConnectionError

from rebound_celery.health import HealthFile
from rebound_celery.schedule.worker.watchdog import PATIENCE_S, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable


class Worker:
    """A worker's consumer with its channel, claimer, leases and cycle, as far as the watchdog looks at them."""

    def __init__(self, clock: list[float], pool: str = "celery.concurrency.prefork") -> None:
        self.clock, self.answered, self.room, self.overdue_ms = clock, clock[0], True, 5_000
        self.active_queues, self.closed = ["q"], False
        self.done: list[Callable[[], None]] = []
        self.claimer = self.leases = self.connection = self.transport = self.cycle = self.task_consumer = self
        self.channel, self.queues = self, [SimpleNamespace(name="q")]
        self.pool = type("TaskPool", (), {"__module__": pool})()
        self.task_buckets: dict[str, Any] = {}
        self.soon = self.done.append
        self.released: list[str] = []

    @property
    def claimed_queues(self) -> list[str]:
        return self.active_queues

    def answered_at(self, _queue: str) -> float:
        return self.answered

    def has_room(self, _queue: str) -> bool:
        return self.room

    def tags_of(self, queues: list[str]) -> list[str]:
        return [f"lease of {queue}" for queue in queues]

    def release(self, tags: list[str], keep: Any) -> None:
        self.released += tags

    def keys_of(self, queue: str) -> str:
        return queue

    def store_of(self, _keys: str) -> Any:
        if self.overdue_ms < 0:
            raise RedisConnectionError("gone")
        return SimpleNamespace(overdue_ms=lambda: self.overdue_ms)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    monkeypatch.setattr(state, "requests", {})
    return now


@pytest.fixture
def worker(clock: list[float]) -> Worker:
    return Worker(clock)


def looks(worker: Worker, watching: Watchdog, seconds: float) -> list[str]:
    """The states of a look each second."""
    states = []
    for _ in range(round(seconds)):
        worker.clock[0] += 1
        states.append(watching.look()[0])
    return states


def watch(worker: Worker) -> Watchdog:
    return Watchdog(worker, HealthFile(None), clock=SimpleNamespace(monotonic=lambda: worker.clock[0]))


def test_remedies_follow_one_another_until_the_worker_is_reported(worker: Worker) -> None:
    watching = watch(worker)

    states = looks(worker, watching, 5 * PATIENCE_S)

    assert len(worker.done) == 2, "the timer, and the connection"
    reported = states.index("stalled")
    assert 3 * PATIENCE_S - 1 <= reported <= 3 * PATIENCE_S + 1
    assert set(states[reported:]) == {"stalled"}


def test_claims_that_go_on_end_it(worker: Worker) -> None:
    watching = watch(worker)
    looks(worker, watching, 3 * PATIENCE_S + 3)
    worker.answered = worker.clock[0]

    assert looks(worker, watching, 1) == ["ok"]


def test_connection_is_not_made_anew_where_nothing_is_due(worker: Worker) -> None:
    worker.overdue_ms = 0

    looks(worker, watch(worker), 3 * PATIENCE_S)

    assert len(worker.done) == 1


def test_channel_that_does_not_consume_yet_is_no_recovery(worker: Worker) -> None:
    watching = watch(worker)
    looks(worker, watching, 2 * PATIENCE_S + 1)
    worker.active_queues = []
    looks(worker, watching, 2)
    worker.active_queues = ["q"]

    states = looks(worker, watching, PATIENCE_S + 2)

    assert states[-1] == "stalled"
    assert len(worker.done) == 2


def test_worker_whose_queues_are_all_cancelled_is_well_again(worker: Worker) -> None:
    watching = watch(worker)
    looks(worker, watching, 4 * PATIENCE_S)
    worker.active_queues, worker.queues = [], []

    assert looks(worker, watching, 1) == ["ok"]


def busy(worker: Worker) -> None:
    state.requests["id"] = None
    worker.room = False


def busy_in_its_own_thread(worker: Worker) -> None:
    state.requests["id"] = None
    worker.pool = type("TaskPool", (), {"__module__": "celery.concurrency.solo"})()


def rate_limited(worker: Worker) -> None:
    worker.room = False
    worker.task_buckets["task"] = SimpleNamespace(contents=[1])


def paused(worker: Worker) -> None:
    worker.active_queues = []


def closing(worker: Worker) -> None:
    worker.claimer = None


@pytest.mark.parametrize("how", [busy, busy_in_its_own_thread, rate_limited, paused, closing])
def test_worker_that_need_not_claim_is_well(worker: Worker, how: Callable[[Worker], None]) -> None:
    how(worker)

    assert set(looks(worker, watch(worker), 10 * PATIENCE_S)) == {"ok"}
    assert worker.done == []


def test_worker_that_has_room_again_has_time_to_claim(worker: Worker) -> None:
    watching = watch(worker)
    busy(worker)
    looks(worker, watching, 10 * PATIENCE_S)
    worker.room = True

    assert set(looks(worker, watching, PATIENCE_S - 1)) == {"ok"}
    assert worker.done == []


@pytest.mark.parametrize("what", ["Redis", "connection"])
def test_worker_without_its_redis_waits(worker: Worker, what: str) -> None:
    watching, connection = watch(worker), worker.connection
    looks(worker, watching, 1)
    if what == "Redis":
        worker.overdue_ms = -1
    else:
        worker.connection = None

    states = looks(worker, watching, 10 * PATIENCE_S)
    assert set(states[round(PATIENCE_S) :]) == {"waiting"}

    worker.overdue_ms, worker.connection = 5_000, connection
    assert set(looks(worker, watching, PATIENCE_S - 1)) == {"ok"}, "it has time to claim"
    assert worker.done == []


def test_channel_that_is_closed_and_still_in_use_is_a_fault(worker: Worker) -> None:
    worker.closed = True
    watching = watch(worker)

    states = looks(worker, watching, 4 * PATIENCE_S)

    assert states[-1] == "stalled"
    assert len(worker.done) == 1, "a timer would not help"
    with pytest.raises(RedisConnectionError):
        worker.done[0]()
    assert worker.released == ["lease of q"]
