"""Gathering deliveries in a worker: what is gathered when a connection is lost, and jobs that end with an error."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.concurrency.thread import TaskPool

from rebound_celery.delivery.gatherer import Gatherer
from rebound_celery.delivery.job import Job
from rebound_celery.delivery.result import End, Result

if TYPE_CHECKING:
    from collections.abc import Callable


class Pool:
    """A pool that keeps the jobs it is given."""

    num_processes = 2

    def __init__(self, *, uses_semaphore: bool = False) -> None:
        self.uses_semaphore = uses_semaphore
        self.is_green = False
        self.options: dict[str, Any] = {}
        self.jobs: list[list[str]] = []

    def apply_async(self, _run: Any, args: Any, **_: Any) -> None:
        self.jobs.append([received.task_id for received in args[0]])


class Timer:
    """A timer that fires when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def call_after(self, _seconds: float, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def fire(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Events:
    """Nobody watches."""

    is_on = False

    def tell(self, _kind: str, _each: Any) -> None:
        pass


class Request(SimpleNamespace):
    """A request of Celery's; its worker state holds weak references to it."""

    __hash__ = object.__hash__


def request(task_id: str) -> Any:
    message = SimpleNamespace(body=b"", content_type="", content_encoding="", channel=None, delivery_tag=task_id)
    return Request(
        id=task_id,
        name="rebound.deliver",
        message=message,
        hostname="w",
        delivery_info={},
        request_dict={},
        acknowledged=False,
        reject=lambda requeue: None,
        revoked=lambda: False,
    )


def gatherer(pool: Pool) -> tuple[Gatherer, Timer]:
    timer = Timer()
    return Gatherer(
        SimpleNamespace(run_batch=None, longest_send_s=120), SimpleNamespace(pool=pool, hub=None, timer=timer), Events()
    ), timer


@pytest.mark.parametrize("is_slow", [False, True])
def test_what_was_gathered_when_the_connection_was_lost_runs_on_the_next_one(is_slow: bool) -> None:
    """The timer of the earlier connection never fires again. Without a job such messages keep their leases for ever."""
    pool = Pool()
    earlier, _ = gatherer(pool)
    earlier.add(request("a:2"), is_slow)
    later, timer = gatherer(pool)

    later.take_over(earlier)
    for call in timer.calls:
        call()

    assert pool.jobs == [["a:2"]]
    assert earlier.drain() == ([], [])


def test_prefork_leaves_what_was_gathered_to_the_broker() -> None:
    pool = Pool(uses_semaphore=True)
    earlier, _ = gatherer(pool)
    earlier.add(request("a:2"), is_slow=False)
    later, timer = gatherer(pool)

    later.take_over(earlier)

    assert timer.calls == []
    assert earlier.drain() == ([], [])


def test_a_job_whose_messages_cannot_be_settled_has_ended_all_the_same() -> None:
    """Else the gatherer waits for its end, and gives the pool nothing more."""
    ended: list[bool] = []
    one = request("a:2")

    def reject(requeue: bool) -> None:
        raise RuntimeError("the channel is closed")

    one.reject = reject
    job = Job(
        SimpleNamespace(run_batch=None, longest_send_s=120),
        [one],
        0,
        lambda *_: None,
        lambda: ended.append(True),
        Events(),
    )

    with pytest.raises(RuntimeError):
        job.on_done([Result(End.BACK, "Redis is away")])

    assert ended == [True]


def test_a_job_that_had_no_thread_runs_once_there_are_threads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The threads pool queues a job and then raises, if it cannot start a thread. It gets nothing more to run."""
    ran: list[int] = []

    def run_batch(received: list[Any], _hostname: str) -> list[Result]:
        ran.append(len(received))
        return [Result(End.BACK, "")] * len(received)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool, timer = TaskPool(2), Timer()
    consumer = SimpleNamespace(pool=pool, hub=None, timer=timer)
    its = Gatherer(SimpleNamespace(run_batch=run_batch, longest_send_s=120), consumer, Events())
    its.add(request("a:2"), is_slow=False)
    its.add(request("b:2"), is_slow=True)

    with monkeypatch.context() as shortage:
        shortage.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            timer.fire()
        assert len(timer.calls) == 1
    assert ran == []
    timer.fire()
    pool.executor.shutdown(wait=True)

    assert ran == [1, 1]
    assert timer.calls == []
    assert caplog.text.count("no thread") == 1


def test_a_lost_connection_does_not_stop_the_wait_for_a_thread() -> None:
    """Celery clears its timers when the connection is lost."""
    pool = Pool()
    earlier, _ = gatherer(pool)
    earlier._start_thread_soon()
    later, timer = gatherer(pool)

    later.take_over(earlier)

    assert len(timer.calls) == 1
