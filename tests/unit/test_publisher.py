"""The stored form of a retry is the one that Celery's own `apply_async(eta=...)` would store."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery, signals
from celery._state import _task_stack
from kombu import serialization
from kombu.exceptions import OperationalError
from kombu.transport import memory

from rebound_celery import Message, NotStoredError, Rebound, UnreachableError
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.delivery.form import STORED_TYPE, from_argument, to_argument
from rebound_celery.errors import UnsupportedBrokerError
from rebound_celery.message import Origin
from rebound_celery.message.address import KafkaAddress
from rebound_celery.policy import RetryPolicy
from rebound_celery.schedule.port import Claimed

DUE_MS = 2_000_000_000_123
MESSAGE = Message(
    id="9f1c",
    value="Größe".encode(),
    key=b"\xff",
    destination=KafkaAddress("orders"),
    attempt=2,
    policy=RetryPolicy(3, 5),
    origin=Origin("orders", 3, 812, 1_700_000_000_000),
)

#: Where the stored message may differ from apply_async's, and why.
LEGITIMATE_DIFFERENCES = {
    "properties.delivery_tag": "drawn anew for each message",
    "properties.argsrepr": "Celery's send_task lets its own options leak into the properties; nobody reads them there",
    "properties.kwargsrepr": "the same",
    "headers.rebound-slow": "tells the worker which messages are slow to deliver, before it decodes them",
    "properties.reply_to": "stored only where results are sent as messages; no other result backend reads it",
}

#: Where the message of a claim may differ as well, and why.
LEGITIMATE_AT_CLAIM = {
    **LEGITIMATE_DIFFERENCES,
    "headers.eta": "what is claimed is due: with an eta, Celery would hold it once more",
    "body": "it is the stored form itself, and stays undecoded until it is delivered",
    "content-type": "of the stored form",
    "content-encoding": "of the stored form",
    "properties.body_encoding": "the stored form need not be text",
    "properties.delivery_tag": "the schedule names the lease in it",
}


@dataclass
class Stored:
    """What arrives at kombu's channel: queue, message, and the options of the call."""

    queue: str
    message: dict[str, Any]

    @property
    def fields(self) -> dict[str, Any]:
        """All fields, those of inner mappings under dotted names, the body decoded."""
        flat = dict(_flatten(self.message))
        flat["body"] = self.body
        return flat

    @property
    def body(self) -> Any:
        raw = base64.b64decode(self.message["body"])
        types = self.message["content-type"], self.message["content-encoding"]
        return serialization.loads(raw, *types, accept=[types[0]])


def _flatten(mapping: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[Stored]:
    """What is put on queues of the memory transport, in order."""
    puts: list[Stored] = []

    def put(channel: Any, queue: str, message: dict[str, Any], **options: Any) -> None:
        puts.append(Stored(queue, json.loads(json.dumps(message))))

    monkeypatch.setattr(memory.Channel, "_put", put)
    monkeypatch.setattr(memory.Channel, "_put_fanout", put)
    return puts


def make_app(**conf: Any) -> tuple[Celery, Rebound]:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(conf)
    return app, Rebound(app)


def apply_async(app: Celery, message: Message = MESSAGE, *, due_ms: int | None = DUE_MS, priority: int = 3) -> None:
    app.tasks["rebound.deliver"].apply_async(
        args=(to_argument(Delivery(message=message, task_id=message.task_id)),),
        eta=None if due_ms is None else datetime.fromtimestamp(due_ms / 1000, UTC),
        task_id=message.task_id,
        argsrepr=str(message),
        kwargsrepr="{}",
        queue="rebound",
        priority=priority,
    )


def differences(ours: Stored, celerys: Stored) -> dict[str, tuple[Any, Any]]:
    mine, theirs = ours.fields, celerys.fields
    names = mine.keys() | theirs.keys()
    return {name: (mine.get(name), theirs.get(name)) for name in names if mine.get(name) != theirs.get(name)}


CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"task_ignore_result": True},
    {"task_time_limit": 30, "task_soft_time_limit": 20},
    {"timezone": "Europe/Berlin"},
    {"timezone": "Europe/Berlin", "enable_utc": False},
    {"task_serializer": "pickle"},
    {"task_serializer": "yaml"},
    {"task_annotations": {"*": {"expires": 5, "max_retries": 1, "ignore_result": True}}},
    {"task_annotations": {"rebound.deliver": {"time_limit": 5}}},
    {"task_routes": {"rebound.*": {"queue": "elsewhere"}}},
    {"task_default_exchange_type": "topic", "task_default_queue": "shop"},
    {"task_send_sent_event": False},
]


@pytest.mark.parametrize("conf", CONFIGURATIONS, ids=repr)
def test_a_stored_retry_equals_what_apply_async_sends_field_by_field(
    conf: dict[str, Any], stored: list[Stored]
) -> None:
    app, rebound = make_app(**conf)

    rebound.store([(MESSAGE, DUE_MS)])
    apply_async(app)

    ours, celerys = (put for put in stored if put.queue == "rebound")
    assert differences(ours, celerys).keys() <= LEGITIMATE_DIFFERENCES.keys()


@pytest.mark.parametrize("conf", CONFIGURATIONS, ids=repr)
@pytest.mark.parametrize("detailed", [True, False], ids=["with events", "without"])
def test_a_claimed_retry_equals_what_apply_async_sends_field_by_field(
    conf: dict[str, Any], detailed: bool, stored: list[Stored]
) -> None:
    app, _ = make_app(**conf)
    form = app.tasks["rebound.deliver"].form
    form.details_wanted = lambda: detailed
    delivery = Delivery(message=MESSAGE, task_id=MESSAGE.task_id)

    made = form.open(Claimed(MESSAGE.task_id, delivery.encode(), "kafka:orders", 3, 0))
    apply_async(app)

    (celerys,) = (put for put in stored if put.queue == "rebound")
    mine, theirs = dict(_flatten(made)), celerys.fields
    different = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
    assert different <= LEGITIMATE_AT_CLAIM.keys() | (set() if detailed else {"headers.argsrepr"})
    assert (made["body"], made["content-type"]) == (delivery.encode(), STORED_TYPE)


def test_a_claimed_retry_has_what_was_known_when_it_was_stored() -> None:
    app, _ = make_app(result_backend="rpc://")
    delivery = Delivery(
        message=MESSAGE,
        task_id=MESSAGE.task_id,
        tries=2,
        root_id="root",
        parent_id="parent",
        reply_to="queue",
        task_headers={"traceparent": "00-abc"},
    )

    made = app.tasks["rebound.deliver"].form.open(Claimed(MESSAGE.task_id, delivery.encode(), "http:a:80", 0, 2))

    headers, properties = made["headers"], made["properties"]
    assert (headers["retries"], headers["root_id"], headers["parent_id"]) == (2, "root", "parent")
    assert (headers["traceparent"], headers["rebound-slow"]) == ("00-abc", True)
    assert (properties["reply_to"], properties["priority"]) == ("queue", 0)


def test_a_retry_that_is_due_has_no_eta_as_with_apply_async(stored: list[Stored]) -> None:
    app, rebound = make_app()

    rebound.store([(MESSAGE, 0)])
    apply_async(app, due_ms=None)

    ours, celerys = (put for put in stored if put.queue == "rebound")
    assert differences(ours, celerys).keys() <= LEGITIMATE_DIFFERENCES.keys()
    assert ours.message["headers"]["eta"] is None


def test_a_retry_stored_within_a_task_is_that_tasks_child_as_with_apply_async(stored: list[Stored]) -> None:
    app, rebound = make_app()

    @app.task(name="parent", shared=False)
    def parent() -> None:
        """Another task of the app's, in which a retry is scheduled."""

    parent.push_request(id="parent-id", root_id="root-id", called_directly=False)
    _task_stack.push(parent)
    try:
        rebound.store([(MESSAGE, DUE_MS)])
        apply_async(app)
    finally:
        _task_stack.pop()
        parent.pop_request()

    ours, celerys = (put for put in stored if put.queue == "rebound")
    assert differences(ours, celerys).keys() <= LEGITIMATE_DIFFERENCES.keys() | {"body"}  # it holds both ids
    assert (ours.message["headers"]["root_id"], ours.message["headers"]["parent_id"]) == ("root-id", "parent-id")


def test_many_messages_are_stored_each_with_its_own_id_due_time_and_text(stored: list[Stored]) -> None:
    app, rebound = make_app()
    messages = [
        Message(id=str(n), value=b"", destination=KafkaAddress("orders"), attempt=1, policy=RetryPolicy(0, 1))
        for n in range(3)
    ]

    rebound.store([(message, DUE_MS + 1000 * n) for n, message in enumerate(messages)])
    for n, message in enumerate(messages):
        apply_async(app, message, due_ms=DUE_MS + 1000 * n)

    puts = [put for put in stored if put.queue == "rebound"]
    assert len(puts) == 6
    for ours, celerys in zip(puts[:3], puts[3:], strict=True):
        assert differences(ours, celerys).keys() <= LEGITIMATE_DIFFERENCES.keys()


def test_a_retry_is_persistent_and_uncompressed_whatever_the_app_does_with_its_own_tasks(stored: list[Stored]) -> None:
    _, rebound = make_app(task_default_delivery_mode="transient", task_compression="gzip")

    rebound.store([(MESSAGE, DUE_MS)])

    assert stored[0].message["properties"]["delivery_mode"] == 2
    assert "compression" not in stored[0].message["headers"]


def test_priority_is_taken_first_where_it_is_asked_for(stored: list[Stored]) -> None:
    _, rebound = make_app()

    rebound.schedule_retry("kafka://orders", is_priority=True)
    rebound.schedule_retry("kafka://orders")

    assert [put.message["properties"]["priority"] for put in stored] == [0, 3]


def test_payload_stands_in_no_header_nor_property(stored: list[Stored]) -> None:
    _, rebound = make_app()

    rebound.schedule_retry("kafka://orders", b"secret", key=b"secret", headers={"secret": b"secret"}, error="secret")

    assert "secret" not in json.dumps({**stored[0].message, "body": ""})
    assert b"secret" in Delivery.decode("x:2", from_argument(stored[0].body[0][0])).message.value


def test_nothing_is_put_for_nothing(stored: list[Stored]) -> None:
    _, rebound = make_app()

    rebound.store([])

    assert stored == []


@pytest.fixture
def published() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The signals that are sent while something is published, with their arguments."""
    seen: list[tuple[str, dict[str, Any]]] = []

    def before(**arguments: Any) -> None:
        seen.append(("before", arguments))
        arguments["headers"]["traceparent"] = "00-abc"

    def after(**arguments: Any) -> None:
        seen.append(("after", arguments))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    yield seen
    signals.before_task_publish.disconnect(before)
    signals.after_task_publish.disconnect(after)


def test_publish_signals_fire_as_for_apply_async_and_may_add_headers(
    stored: list[Stored], published: list[tuple[str, dict[str, Any]]]
) -> None:
    app, rebound = make_app()

    rebound.store([(MESSAGE, DUE_MS)])
    ours, published[:] = published[:], []
    apply_async(app)

    assert [name for name, _ in ours] == ["before", "after"] == [name for name, _ in published]
    for (_, mine), (_, celerys) in zip(ours, published, strict=True):
        assert mine.keys() == celerys.keys()
        for name in ("sender", "exchange", "routing_key"):
            assert mine[name] == celerys[name]
        assert mine["headers"] == celerys["headers"]
    assert stored[0].message["headers"]["traceparent"] == "00-abc"


def test_the_signals_of_many_retries_come_in_pairs_so_that_no_two_become_one_trace(
    stored: list[Stored], published: list[tuple[str, dict[str, Any]]]
) -> None:
    _, rebound = make_app()

    rebound.schedule_retries([{"destination": "kafka://orders", "id": str(n)} for n in range(3)])

    assert [(name, arguments["headers"]["id"]) for name, arguments in published] == [
        (name, f"{n}:2") for n in range(3) for name in ("before", "after")
    ]


@pytest.fixture(params=["UTC", "Asia/Tokyo"])
def time_zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The process' time zone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def test_a_task_sent_event_tells_watchers_what_apply_async_would(
    time_zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, rebound = make_app()
    events: list[tuple[str, str, dict[str, Any]]] = []

    def basic_publish(channel: Any, message: dict[str, Any], exchange: str, routing_key: str, **_: Any) -> None:
        if exchange:
            body = {**json.loads(message.pop("body")), "clock": 0, "timestamp": 0}
            events.append((exchange, routing_key, {**message, "body": body}))

    monkeypatch.setattr(memory.Channel, "basic_publish", basic_publish)
    rebound.store([(MESSAGE, DUE_MS)])
    apply_async(app)

    ours, celerys = events
    assert ours == celerys
    assert ours[2]["body"]["args"] == "orders[3]@812 attempt 2/4 -> kafka:orders"


def test_threads_may_schedule_at_once_and_each_retry_is_stored_once(stored: list[Stored]) -> None:
    _, rebound = make_app()
    barrier = threading.Barrier(4)

    def store(n: int) -> None:
        barrier.wait(5)
        for i in range(50):
            rebound.schedule_retry("kafka://orders", id=f"{n}-{i}")

    threads = [threading.Thread(target=store, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    ids = [put.message["headers"]["id"] for put in stored if put.queue == "rebound"]
    assert len(ids) == len(set(ids)) == 200


def test_a_broker_that_is_no_redis_is_told_where_redis_is_needed() -> None:
    _, rebound = make_app()

    with pytest.raises(UnsupportedBrokerError, match=r"the broker is memory:.*rebound keeps what waits in Redis"):
        rebound.check_redis()


@pytest.mark.parametrize("credentials", [":hunter2", "user:hunter2"])
def test_a_broker_that_is_away_is_named_without_its_password(credentials: str) -> None:
    # kombu tries again for some seconds unless it is told not to.
    app = Celery("shop", broker=f"redis://{credentials}@127.0.0.1:1/0", set_as_current=False)
    app.conf.broker_transport_options = {"max_retries": 0, "interval_start": 0, "interval_step": 0}
    rebound = Rebound(app)

    with pytest.raises(NotStoredError, match=r"127\.0\.0\.1:1/0") as not_stored:
        rebound.schedule_retry("kafka://orders")
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1/0") as unreachable:
        rebound.check_redis()

    assert "hunter2" not in f"{not_stored.value} {unreachable.value}"
    assert isinstance(not_stored.value, OperationalError)
