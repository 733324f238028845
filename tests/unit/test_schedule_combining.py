"""Calls of several threads share a run: each caller gets the end of its own call, and none waits for ever."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from rebound_celery.schedule.store.combining import Combiner


def test_a_call_alone_runs_at_once():
    runs: list[list[int]] = []
    combiner = Combiner[int](lambda items: runs.append(list(items)))

    combiner.call(1)
    combiner.call(2)

    assert runs == [[1], [2]]


def test_calls_that_wait_run_together():
    runs: list[list[int]] = []
    go, begun = threading.Event(), threading.Event()

    def run(items: Sequence[int]) -> None:
        runs.append(list(items))
        begun.set()
        assert go.wait(10)

    combiner = Combiner[int](run)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(combiner.call, 0)
        assert begun.wait(10)
        others = [pool.submit(combiner.call, number) for number in range(1, 6)]
        while len(combiner._waiting) < 5:
            pass
        go.set()
        for future in (first, *others):
            future.result(10)

    assert [sorted(items) for items in runs] == [[0], [1, 2, 3, 4, 5]]


def test_a_fault_is_told_to_those_whose_calls_it_ended_and_to_no_other():
    def run(items: Sequence[int]) -> None:
        if 13 in items:
            raise ValueError("no luck")

    combiner = Combiner[int](run)
    with pytest.raises(ValueError, match="no luck"):
        combiner.call(13)
    combiner.call(1)


def test_many_threads_run_every_call_once():
    done: list[int] = []
    combiner = Combiner[int](done.extend, most=3)

    def work(start: int) -> None:
        for number in range(start, start + 500):
            combiner.call(number)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, start) for start in range(0, 4_000, 500)]:
            future.result(60)

    assert sorted(done) == list(range(4_000))


def test_interrupted_caller_holds_up_no_other() -> None:
    """As by Ctrl-C, in a thread that waits for its turn, or for others."""
    runs: list[list[int]] = []
    entered, release = threading.Event(), threading.Event()

    def run(items: Sequence[int]) -> None:
        runs.append(list(items))
        if items[0] == 0:
            entered.set()
            release.wait(10)

    combiner = Combiner[int](run)
    first = threading.Thread(target=combiner.call, args=(0,))
    first.start()
    assert entered.wait(10)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            combiner.call(1)
    finally:
        signal.signal(signal.SIGALRM, earlier)
    release.set()
    first.join(10)
    combiner.call(2)

    assert runs == [[0], [2]]
