"""A process has one set of destinations, however many threads ask for it first."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from rebound_celery.delivery.opened import Destinations, OpenedDestinations


def test_threads_that_come_at_once_get_the_same_destinations() -> None:
    made: list[Destinations] = []
    together = threading.Barrier(8)

    def build() -> Destinations:
        time.sleep(0.05)
        made.append({})
        return made[-1]

    opened = OpenedDestinations(build)

    def ask() -> Destinations:
        together.wait(10)
        return opened.by_kind

    with ThreadPoolExecutor(8) as pool:
        got = [each.result(10) for each in [pool.submit(ask) for _ in range(8)]]

    assert len(made) == 1
    assert all(each is made[0] for each in got)


def test_a_child_that_is_forked_while_a_thread_makes_them_makes_its_own() -> None:
    began, release = threading.Event(), threading.Event()

    def build() -> Destinations:
        began.set()
        release.wait(10)
        return {}

    opened = OpenedDestinations(build)
    thread = threading.Thread(target=lambda: opened.by_kind)
    thread.start()
    began.wait(10)
    child = os.fork()
    if child == 0:
        release.set()
        os._exit(0 if opened.by_kind == {} else 1)
    _, status = os.waitpid(child, 0)
    release.set()
    thread.join(10)

    assert status == 0
