"""Deliveries have Celery's task signals: one of each for each delivery, with what Celery's own tracer gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery, signals

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.delivery import DeliverTask
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.delivery.form import STORED_ENCODING, STORED_TYPE
from rebound_celery.delivery.job import Received
from rebound_celery.destinations import Delivered, Failed, Outcome
from rebound_celery.errors import DeadLetterError
from rebound_celery.message.address import KafkaAddress
from rebound_celery.schedule.port import Hold, Tally

NAMES = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "task_internal_error")

Heard = list[tuple[str, Any, dict[str, Any]]]


class Destinations:
    """Answer each message with what its value says; `by_kind` is what the task asks for."""

    def __init__(self) -> None:
        self.by_kind: Mapping[str, Any] = {"kafka": self}

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        if any(message.value == b"break" for message in messages):
            raise SystemError("a fault of the destination's")
        return [
            Failed("no") if message.value == b"fail" and message.reason is None else Delivered("there")
            for message in messages
        ]


class Publisher:
    """Keeps what is stored again, after the signals of publishing."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self.stored: list[Delivery] = []

    def publish(self, deliveries: Sequence[Delivery], *, hold: Hold | None = None, tally: Tally | None = None) -> None:
        for delivery in deliveries:
            after = self._task.form.before_publish(delivery, 0)
            if after is not None:
                after()
        self.stored += deliveries

    def replaces(self) -> bool:
        return True


@pytest.fixture
def task() -> Any:
    app = Celery("signals", broker="redis://127.0.0.1:1", set_as_current=False)
    Rebound(app)
    found: Any = app.tasks[DeliverTask.name]
    found.destinations = Destinations()
    publisher = Publisher(found)
    found.publisher = lambda: publisher
    return found


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What the signals tell: the name, the id of the task's request at that time, and the arguments."""
    calls: Heard = []

    def listen(name: str) -> Any:
        def receiver(sender: Any, signal: Any, **named: Any) -> None:
            calls.append((name, sender.request.id, {"sender": sender, **named}))

        getattr(signals, name).connect(receiver, weak=False)
        return receiver

    receivers = {name: listen(name) for name in NAMES}
    yield calls
    for name, receiver in receivers.items():
        getattr(signals, name).disconnect(receiver)


def received(id_: str, value: bytes, max_retries: int = 3, policy: RetryPolicy | None = None) -> Received:
    target = KafkaAddress("orders", None)
    policy = policy or RetryPolicy(max_retries)
    message = Message(id_, value, target, 2, policy, dead_destination=KafkaAddress("orders-dlq", None))
    delivery = Delivery(message=message, task_id=message.task_id)
    return Received(delivery.encode(), STORED_TYPE, STORED_ENCODING, delivery.task_id, 3)


def test_each_delivery_has_the_signals_of_a_task(task: Any, heard: Heard) -> None:
    task.run_batch([received("a", b"ok"), received("b", b"fail"), received("c", b"fail", max_retries=1)], "w@host")

    by_id = {id_: [(name, named) for name, its, named in heard if its == id_] for id_ in ("a:2", "b:2", "c:2")}
    assert {id_: [name for name, _ in calls] for id_, calls in by_id.items()} == {
        "a:2": ["task_prerun", "task_success", "task_postrun"],
        "b:2": ["task_prerun", "task_retry", "task_postrun"],
        "c:2": ["task_prerun", "task_failure", "task_postrun"],
    }
    assert len(heard) == 9
    assert all(named["sender"] is task for _, _, named in heard)
    (_, prerun), (_, success), (_, postrun) = by_id["a:2"]
    assert (prerun["task_id"], prerun["task"], prerun["kwargs"]) == ("a:2", task, {})
    assert success["result"] == postrun["retval"] == "there"
    assert success["runtime"] >= 0
    assert postrun["state"] == "SUCCESS"
    retry, failure = by_id["b:2"][1][1], by_id["c:2"][1][1]
    assert retry["request"].hostname == "w@host"
    assert "no" in str(retry["reason"])
    assert isinstance(retry["einfo"], ExceptionInfo)
    assert by_id["b:2"][2][1]["state"] == "RETRY"
    assert failure["task_id"] == "c:2"
    assert isinstance(failure["exception"], DeadLetterError)
    assert isinstance(failure["einfo"], ExceptionInfo)
    assert by_id["c:2"][2][1]["state"] == "FAILURE"


def test_fault_of_rebounds_own_is_an_internal_error(task: Any, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise SystemError("ours")

    monkeypatch.setattr(type(task), "_batch", fail)
    task.run_batch([received("a", b"ok")], "w@host")

    assert [name for name, _, _ in heard] == ["task_prerun", "task_internal_error", "task_postrun"]
    assert isinstance(heard[1][2]["exception"], SystemError)
    assert heard[2][2]["state"] == "REJECTED"


def test_nothing_is_made_while_nobody_listens(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebound_celery.delivery.observed.Observed", None)

    (result,) = task.run_batch([received("a", b"ok")], "w@host")

    assert result.end == "done"


def test_what_a_listener_sets_stays_with_its_delivery(task: Any) -> None:
    """OpenTelemetry makes a span the current one at task_prerun, and ends it at task_postrun."""
    current: ContextVar[str] = ContextVar("current", default="nobody")
    seen: list[tuple[str, str]] = []
    published: list[str] = []

    def begin(task_id: str, **_: Any) -> None:
        current.set(task_id)

    def end(task_id: str, **_: Any) -> None:
        seen.append((task_id, current.get()))

    def publish(headers: dict[str, Any], **_: Any) -> None:
        headers["traceparent"] = current.get()
        published.append(current.get())

    signals.task_prerun.connect(begin)
    signals.task_postrun.connect(end)
    signals.before_task_publish.connect(publish)
    try:
        task.run_batch([received("a", b"ok"), received("b", b"fail")], "w@host")
    finally:
        signals.task_prerun.disconnect(begin)
        signals.task_postrun.disconnect(end)
        signals.before_task_publish.disconnect(publish)

    assert seen == [("a:2", "a:2"), ("b:2", "b:2")]
    assert published == ["b:2"]
    (again,) = task.publisher().stored
    assert again.task_headers == {"traceparent": "b:2"}
    assert current.get() == "nobody"
