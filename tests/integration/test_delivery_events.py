"""The task events of deliveries, for monitors such as Flower: every message has the events of one task."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from celery import Celery

from rebound_celery import Rebound
from rebound_celery.destinations import http
from tests.acceptance.apps.worker import running_worker
from tests.acceptance.crash_points.receiver import Receiver
from tests.waiting import wait_until

SECRET = "pay-4711"

Heard = dict[str, list[dict[str, Any]]]


@pytest.fixture
def app(redis_url: str) -> Celery:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    Rebound(app)
    return app


@contextmanager
def listening(app: Celery) -> Iterator[Heard]:
    """The task events that are sent, by the task's id, in their order. To be left before the worker ends."""
    events: Heard = defaultdict(list)
    ready = threading.Event()
    with app.connection_for_read() as connection:
        # The worker's own events have no uuid.
        receiver = app.events.Receiver(
            connection, handlers={"*": lambda event: events[event.get("uuid", "")].append(event)}
        )
        receiver.on_consume_ready = lambda *_, **__: ready.set()
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False})
        thread.start()
        assert ready.wait(10)
        yield events
        receiver.should_stop = True
        thread.join(10)


@pytest.fixture
def receivers() -> Iterator[Callable[..., Receiver]]:
    """`receivers(...)` starts an HTTP receiver; it is stopped after the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> Receiver:
            receiver = Receiver(**options)
            stack.callback(receiver.close)
            return receiver

        yield start


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("task-") for event in events]


def test_each_message_of_a_batch_has_the_events_of_a_task(
    app: Celery, receivers: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A message whose answer comes later than that is received a second time, as on a busy machine.
    monkeypatch.setattr(http, "_PATIENCE_S", 30.0)
    receiver = receivers(refused={2})
    requests = [
        {"destination": receiver.url, "id": f"m{n}", "message_data": SECRET, "source": "shop", "base_delay": 1}
        for n in range(30)
    ]
    with running_worker(app), listening(app) as heard:
        app.rebound.schedule_retries(requests)
        delivered = ["sent", "received", "started", "sent", "retried", "received", "started", "succeeded"]
        wait_until(
            lambda: sum(len(heard[f"m{n}:2"]) for n in range(30)) == 30 * len(delivered),
            timeout=30,
            message=lambda: str({name: kinds(events) for name, events in heard.items()}),
        )

    assert [kinds(heard[f"m{n}:2"]) for n in range(30)] == [delivered] * 30
    sent, received, _, _, retried, again, _, succeeded = heard["m0:2"]
    assert sent["args"] == received["args"] == f"shop attempt 2/4 -> {receiver.url}"
    assert (received["name"], received["retries"], again["retries"]) == ("rebound.deliver", 0, 1)
    assert again["args"] == f"shop attempt 3/4 -> {receiver.url}"
    assert "500" in retried["exception"]
    assert succeeded["runtime"] > 0
    assert SECRET not in str(dict(heard))


def test_what_is_in_work_is_shown_without_its_payload(app: Celery, receivers: Callable[..., Receiver]) -> None:
    receiver = receivers(hanging=1)
    with running_worker(app), listening(app) as heard:
        app.rebound.schedule_retry(receiver.url, SECRET, id="m", source="shop", base_delay=1)
        wait_until(lambda: receiver.posts, timeout=20)
        (active,) = app.control.inspect(timeout=3).active().values()
        receiver.release.set()
        wait_until(lambda: kinds(heard["m:2"])[-1:] == ["succeeded"], timeout=20)

    assert [(task["id"], task["args"]) for task in active] == [("m:2", [f"shop attempt 2/4 -> {receiver.url}"])]
    assert SECRET not in str(active)


def test_with_events_off_nothing_is_sent(app: Celery, receivers: Callable[..., Receiver]) -> None:
    app.conf.worker_send_task_events = app.conf.task_send_sent_event = False
    receiver = receivers()
    with running_worker(app), listening(app) as heard:
        result = app.rebound.schedule_retry(receiver.url, SECRET, id="m", base_delay=1)
        wait_until(lambda: receiver.posts, timeout=20)
        app.rebound.schedule_retry(receiver.url, SECRET, id="later", base_delay=1)
        wait_until(lambda: len(receiver.posts) == 2, timeout=20)

    assert result.id not in heard
