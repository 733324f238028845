"""The handler as a task of the app: Celery's signals for it, and Celery's clean-up for Django."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, current_app, signals, states

from rebound_celery import ErrorRule, RetryPolicy
from rebound_celery.compat.celery_fixups import install_worker_fixups
from rebound_celery.config import Settings
from rebound_celery.consumer import ConsumerConfig
from rebound_celery.consumer.failure_handler import FailureHandler
from rebound_celery.consumer.handler_task import HandlerTask
from rebound_celery.consumer.key_queues import KeyQueues
from rebound_celery.consumer.offset_tracker import OffsetTracker
from rebound_celery.consumer.workers import Workers
from rebound_celery.message import Record
from tests.unit.test_consumer_offset_tracker import P, record

SIGNALS = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry")


class Collected(list):  # type: ignore[type-arg]
    """What was to be stored."""

    put = list.append


@contextmanager
def listening(*names: str) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Collect what these signals send, and in which request of the sender's."""
    heard: list[tuple[str, dict[str, Any]]] = []
    receivers = []
    for name in names:

        def receiver(*, sender: Any, name: str = name, **sent: Any) -> None:
            request = sender.request
            heard.append((name, {**sent, "sender": sender.name, "id": request.id, "retries": request.retries}))

        receivers.append((getattr(signals, name), receiver))
    for signal, receiver in receivers:
        signal.connect(receiver)
    try:
        yield heard
    finally:
        for signal, receiver in receivers:
            signal.disconnect(receiver)


def handle(record: Record) -> str:
    if record.offset:
        raise ValueError("no")
    return f"in {current_app.main}"


def run(offsets: list[int], max_retries: int | None = None, **fields: Any) -> tuple[OffsetTracker, Collected]:
    """Have the handler called for records at these offsets, in a thread of its own."""
    app = Celery("shop", set_as_current=False)
    config = ConsumerConfig(group="g", topics="t", handler=handle, concurrency=1, max_retries=max_retries, **fields)
    offset_tracker, stored, wake = OffsetTracker(), Collected(), threading.Event()
    key_queues = KeyQueues(0, wake)
    failure_handler = FailureHandler(config, Settings())
    workers = Workers(
        config,
        HandlerTask(app, config),
        failure_handler,
        offset_tracker,
        key_queues,
        stored,
        wake,  # type: ignore[arg-type]
    )
    jobs, _ = offset_tracker.admit(P, [(offset, record(offset)) for offset in offsets])
    key_queues.add(jobs)
    workers.start()
    assert wake.wait(10)
    key_queues.close()
    return offset_tracker, stored


def test_signals_surround_a_call_that_succeeds() -> None:
    with listening(*SIGNALS) as heard:
        offset_tracker, stored = run([0])

    assert [name for name, _ in heard] == ["task_prerun", "task_success", "task_postrun"]
    assert {sent["sender"] for _, sent in heard} == {"tests.unit.test_consumer_handler_task.handle"}
    assert {sent["id"] for _, sent in heard} == {"0:1"}
    assert heard[1][1]["result"] == "in shop", "Celery's current app is the consumer's"
    assert (heard[2][1]["state"], heard[2][1]["retval"]) == (states.SUCCESS, "in shop")
    assert heard[0][1]["args"][0].offset == 0
    assert (offset_tracker.stats().succeeded, stored) == (1, [])


@pytest.mark.parametrize(
    ("max_retries", "name", "state"), [(3, "task_retry", states.RETRY), (0, "task_failure", states.FAILURE)]
)
def test_signals_tell_a_retry_from_a_dead_letter(max_retries: int, name: str, state: str) -> None:
    with listening(*SIGNALS) as heard:
        _, stored = run([7], max_retries)

    assert [name for name, _ in heard] == ["task_prerun", name, "task_postrun"]
    assert heard[2][1]["state"] == state
    assert str(heard[2][1]["retval"]) == "no"
    assert "ValueError: no" in str(heard[1][1]["einfo"])
    assert [failed.dead for failed in stored] == [state == states.FAILURE]


def test_a_dropped_record_has_no_signal_of_a_failure() -> None:
    with listening(*SIGNALS) as heard:
        offset_tracker, stored = run([7], policy=RetryPolicy(rules=[ErrorRule(ValueError, "drop")]))

    assert [name for name, _ in heard] == ["task_prerun", "task_postrun"]
    assert (heard[1][1]["state"], str(heard[1][1]["retval"])) == (states.IGNORED, "no")
    assert (offset_tracker.stats().dropped, stored) == (1, [])


def test_nothing_is_made_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HandlerTask, "run", lambda *_: pytest.fail("a request was made"))
    for name in SIGNALS:
        monkeypatch.setattr(getattr(signals, name), "receivers", [])

    offset_tracker, stored = run([0, 7])

    assert (offset_tracker.stats().succeeded, len(stored)) == (1, 1)


def test_receiver_that_raises_costs_no_record() -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("a tracing library's fault")

    signals.task_prerun.connect(broken)
    try:
        offset_tracker, _ = run([0])
    finally:
        signals.task_prerun.disconnect(broken)

    assert offset_tracker.stats().succeeded == 1


@pytest.fixture
def time_zone_restored() -> Iterator[None]:
    """Django sets the time zone of the whole process when it reads its settings."""
    before = os.environ.get("TZ")
    yield
    if before is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("time_zone_restored")
@pytest.mark.parametrize("settings", [None, "tests.unit.test_consumer_handler_task"])
def test_the_fixup_of_django_is_installed_where_the_app_has_it(
    settings: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("django")
    monkeypatch.syspath_prepend(".")
    if settings is not None:
        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", settings)
    connected = [], []  # type: ignore[var-annotated]
    for signal, receivers in zip((signals.task_prerun, signals.task_postrun), connected, strict=True):
        monkeypatch.setattr(signal, "connect", receivers.append)

    install_worker_fixups(Celery("shop", set_as_current=False))

    found = [[receiver.__name__ for receiver in receivers] for receivers in connected]
    assert found == ([[], []] if settings is None else [["on_task_prerun"], ["on_task_postrun"]])
