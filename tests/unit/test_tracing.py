"""With OpenTelemetry, attempts, waits and deliveries are spans of one trace, and a link leads to the attempt before."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from celery import Celery, signals
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from rebound_celery import (
    ConsumerConfig,
    DeadLetter,
    Drop,
    InvalidSettingError,
    Message,
    Rebound,
    Record,
    RetryPolicy,
    schedule_retry,
)
from rebound_celery.config import Settings
from rebound_celery.delivery.batch import Batch
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.destinations import Failed, Outcome, Underway
from rebound_celery.destinations.host_threads import HostThreads
from rebound_celery.message.address import HttpAddress
from rebound_celery.message.headers import PREVIOUS_SPAN
from rebound_celery.testing import in_memory
from rebound_celery.testing.clock import ManualClock
from rebound_celery.testing.destinations import MemoryReceivers
from tests.tracing import CONTEXT, PAIRS, TRACEPARENT, Spans, id_of, linked, parent_of, text_of, traced

_, TRACE, PARENT, _ = TRACEPARENT.split("-")
NOW_MS = 1_700_000_000_000
TWICE = RetryPolicy(max_retries=1, base_delay=5)


@pytest.fixture
def spans() -> Iterator[Spans]:
    with traced() as spans:
        yield spans


class Shop:
    """An app whose handler raises what the test says, and notes the context in which it is called."""

    def __init__(self, *errors: BaseException, policy: RetryPolicy = TWICE, **settings: Any) -> None:
        self.rebound = Rebound(Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False), **settings)
        self.errors = list(errors)
        self.policy = policy
        self.records: list[Record] = []
        self.contexts: list[str] = []
        self.baggage: list[object] = []
        self.memory = in_memory(self.rebound.app, now_ms=NOW_MS)

    def handle(self, record: Record) -> None:
        self.records.append(record)
        self.contexts.append(f"{trace.get_current_span().get_span_context().span_id:016x}")
        self.baggage.append(baggage.get_baggage("customer"))
        if self.errors:
            raise self.errors.pop(0)

    def config(self, **fields: Any) -> ConsumerConfig:
        fields = {"handler": self.handle, "policy": self.policy, **fields}
        return ConsumerConfig(topics="orders", group="billing", **fields)


def test_two_attempts_with_a_wait_and_a_delivery_are_one_trace(spans: Spans) -> None:
    shop = Shop(ValueError("no price"))

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"secret", key="alice", headers=CONTEXT)
        memory.advance(minutes=1)

    assert spans.names == ["process orders", "receive rebound", "publish orders", "process orders"]
    assert spans.traces == {TRACE}
    assert [parent_of(span) for span in spans] == [PARENT] * 4
    first, wait, delivery, second = spans
    assert [linked(span) for span in spans] == [[], [id_of(first)], [id_of(first)], [id_of(first)]]
    kinds = [SpanKind.CONSUMER, SpanKind.CLIENT, SpanKind.CLIENT, SpanKind.CONSUMER]
    assert [span.kind for span in spans] == kinds
    assert (wait.start_time, wait.end_time) == (NOW_MS * 1_000_000, (NOW_MS + 5_000) * 1_000_000)
    assert first.status.status_code == StatusCode.ERROR
    assert first.status.description == "ValueError: no price"
    assert [span.status.status_code for span in (wait, delivery, second)] == [StatusCode.UNSET] * 3
    assert [record.headers for record in shop.records] == [PAIRS, PAIRS]
    assert shop.contexts == [id_of(first), id_of(second)]


def test_the_attributes_are_those_of_the_conventions_and_hold_no_payload(spans: Spans) -> None:
    shop = Shop(ValueError("no price"))

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"secret", key="alice", headers={"h": "private"})
        memory.advance(minutes=1)
        record_id = shop.records[0].id

    first, wait, delivery, _ = spans
    assert dict(first.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 0,
        "messaging.consumer.group.name": "billing",
        "messaging.message.id": record_id,
        "rebound.attempt": 1,
        "rebound.outcome": "retry",
        "error.type": "ValueError",
    }
    assert dict(wait.attributes or {}) == {
        "messaging.system": "redis",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.destination.name": "rebound",
        "messaging.message.id": record_id,
        "rebound.attempt": 2,
    }
    assert dict(delivery.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 1,
        "messaging.message.id": record_id,
        "rebound.attempt": 2,
    }
    told = repr([(span.name, dict(span.attributes or {}), span.events, span.status.description) for span in spans])
    assert not any(secret in told for secret in ("secret", "alice", "private"))
    assert first.instrumentation_scope is not None
    assert first.instrumentation_scope.name == "rebound_celery"


def test_a_record_without_a_context_gets_that_of_its_first_attempt(spans: Spans) -> None:
    shop = Shop(ValueError("no price"))

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"1", headers={"mine": "7"})
        memory.advance(minutes=1)

    first = next(iter(spans))
    assert first.parent is None
    assert len(spans.traces) == 1
    assert shop.records[0].headers == (("mine", b"7"),)
    assert shop.records[1].headers == (("mine", b"7"), ("traceparent", text_of(first).encode()))
    assert [linked(span) for span in spans.named("process")] == [[], [id_of(first)]]


def test_a_dead_letter_is_of_the_same_trace_and_says_why(spans: Spans) -> None:
    shop = Shop(ValueError("one"), ValueError("two"))

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"1", headers=CONTEXT)
        memory.advance(minutes=1)
        (headers,) = memory.headers("orders-dlq")

    attempts, (dead,) = spans.named("process"), spans.named("publish orders-dlq")
    assert spans.traces == {TRACE}
    assert [(span.attributes or {})["rebound.outcome"] for span in attempts] == ["retry", "dead-letter"]
    assert (dead.attributes or {})["rebound.reason"] == "retries-exhausted"
    assert linked(dead) == [id_of(attempts[1])]
    assert (headers["traceparent"], headers["tracestate"]) == tuple(CONTEXT.values())
    assert headers[PREVIOUS_SPAN] == text_of(attempts[1])


def test_what_a_handler_raises_is_told_by_its_span(spans: Spans) -> None:
    shop = Shop(DeadLetter("no such customer"), Drop("cancelled"))

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"1")
        memory.produce("orders", b"2")
        memory.run()

    dead, dropped = spans.named("process")
    assert (dead.status.status_code, (dead.attributes or {})["rebound.outcome"]) == (StatusCode.ERROR, "dead-letter")
    assert (dropped.status.status_code, (dropped.attributes or {})["rebound.outcome"]) == (StatusCode.UNSET, "drop")


def test_an_exception_that_ends_the_consumer_ends_the_span(spans: Spans) -> None:
    shop = Shop(SystemExit(3))

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"1")
        with pytest.raises(SystemExit):
            memory.run()

    (span,) = spans
    assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.ERROR, "SystemExit")
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_first_delivery_that_is_delayed_is_no_attempt(spans: Spans) -> None:
    shop = Shop(policy=RetryPolicy(first_delay=10))

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"1", headers=CONTEXT)
        memory.advance(minutes=1)

    assert spans.names == ["receive rebound", "publish orders", "process orders"]
    assert [linked(span) for span in spans] == [[], [], []]


def test_an_async_handler_has_the_context_of_its_record(spans: Spans) -> None:
    shop = Shop()

    async def handle(record: Record) -> None:
        await asyncio.sleep(0)
        shop.handle(record)

    with shop.memory as memory:
        memory.consume(shop.config(handler=handle))
        memory.produce("orders", b"1", headers={**CONTEXT, "baggage": "customer=7"})
        memory.run()

    (span,) = spans
    assert (shop.contexts, shop.baggage) == ([id_of(span)], ["7"])


def test_records_that_wait_behind_another_of_their_key_keep_their_own_traces(spans: Spans) -> None:
    shop = Shop(ValueError("no price"))
    others = {"traceparent": TRACEPARENT.replace("4bf9", "aaaa")}

    with shop.memory as memory:
        memory.consume(shop.config(ordering="key"))
        memory.produce("orders", b"1", key="k", headers=CONTEXT)
        memory.produce("orders", b"2", key="k", headers=others)
        memory.advance(minutes=1)

    assert [record.value for record in shop.records] == [b"1", b"1", b"2"]
    attempts = spans.named("process")
    traces = [text_of(span).split("-")[1] for span in attempts]
    assert traces == [TRACE, TRACE, TRACE.replace("4bf9", "aaaa")]
    assert [linked(span) for span in attempts] == [[], [id_of(attempts[0])], []]


def test_a_span_of_a_receiver_of_celerys_signals_is_a_child_of_the_attempt(spans: Spans) -> None:
    """OpenTelemetry's instrumentation of Celery begins a span at task_prerun."""
    shop = Shop()
    seen: list[str] = []

    def begin(**_: Any) -> None:
        seen.append(f"{trace.get_current_span().get_span_context().span_id:016x}")

    signals.task_prerun.connect(begin)
    try:
        with shop.memory as memory:
            memory.consume(shop.config())
            memory.produce("orders", b"1")
            memory.run()
    finally:
        signals.task_prerun.disconnect(begin)

    assert seen == [id_of(next(iter(spans)))]


# What schedule_retry does


def test_schedule_retry_within_a_span_carries_its_context(spans: Spans) -> None:
    shop = Shop()

    with shop.memory as memory:
        memory.consume(shop.config())
        with trace.get_tracer("shop").start_as_current_span("checkout"):
            context.attach(baggage.set_baggage("customer", "7"))
            schedule_retry("kafka://orders", b"1", headers={"mine": "7"}, delay=3)
        memory.advance(minutes=1)

    (caller,) = spans.named("checkout")
    rest = [span for span in spans if span is not caller]
    assert [span.name for span in rest] == ["receive rebound", "publish orders", "process orders"]
    assert [parent_of(span) for span in rest] == [id_of(caller)] * 3
    assert [linked(span) for span in rest] == [[id_of(caller)]] * 3
    assert dict(shop.records[0].headers)["traceparent"].decode() == text_of(caller)
    assert shop.baggage == ["7"]


def test_a_context_that_the_caller_gave_is_kept(spans: Spans) -> None:
    shop = Shop()

    with shop.memory as memory, trace.get_tracer("shop").start_as_current_span("checkout"):
        shop.rebound.schedule_retry("kafka://orders", b"1", headers={"TraceParent": TRACEPARENT})
        (waiting,) = memory.waiting()

    assert waiting.message.headers == (("TraceParent", TRACEPARENT.encode()),)


def test_schedule_retry_outside_of_a_span_adds_nothing(spans: Spans) -> None:
    shop = Shop()

    with shop.memory as memory:
        shop.rebound.schedule_retry("kafka://orders", b"1")
        (waiting,) = memory.waiting()

    assert (waiting.message.headers, waiting.message.previous_span) == ((), None)


def test_each_of_many_requests_has_the_span_in_which_it_was_made(spans: Spans) -> None:
    """A generator of requests has spans of its own."""
    shop = Shop()
    tracer = trace.get_tracer("shop")

    def requests() -> Iterator[dict[str, Any]]:
        for number in range(3):
            with tracer.start_as_current_span(f"order {number}"):
                yield {"destination": "kafka://orders", "value": str(number)}
        yield {"destination": "kafka://orders", "value": "3", "headers": CONTEXT}
        yield {"destination": "kafka://orders", "value": "4"}

    with shop.memory as memory:
        shop.rebound.schedule_retries(requests())
        found = {one.message.value: dict(one.message.headers) for one in memory.waiting()}

    made = {f"{number}".encode(): {"traceparent": text_of(span).encode()} for number, span in enumerate(spans)}
    assert found == {**made, b"3": dict(PAIRS), b"4": {}}


def test_a_message_without_a_context_gets_one_when_it_is_delivered(spans: Spans) -> None:
    shop = Shop()

    with shop.memory as memory:
        memory.consume(shop.config())
        shop.rebound.schedule_retry("kafka://orders", b"1", delay=1)
        memory.advance(minutes=1)

    assert spans.names == ["receive rebound", "publish orders", "process orders"]
    assert len(spans.traces) == 1
    wait, *rest = spans
    assert [parent_of(span) for span in rest] == [id_of(wait)] * 2


def test_the_apps_own_span_of_a_failed_record_is_the_attempt_before(spans: Spans) -> None:
    shop = Shop()

    with shop.memory as memory:
        with trace.get_tracer("shop").start_as_current_span("consume"):
            shop.rebound.handle_failure({"topic": "orders", "value": b"1", "headers": CONTEXT}, ValueError("no price"))
        memory.advance(minutes=1)
        (record,) = memory.records("orders")

    own, wait, delivery = spans
    assert (own.name, record.headers, record.previous_span) == ("consume", PAIRS, text_of(own))
    assert linked(wait) == linked(delivery) == [id_of(own)]


# Deliveries


def test_a_post_that_fails_is_an_attempt_and_the_next_one_has_a_link_to_it(spans: Spans) -> None:
    shop = Shop()
    answers = [500, 200]

    with shop.memory as memory:
        memory.http.answer = lambda _: answers.pop(0)
        url = "https://user:pass@hooks.test/customers/77?token=secret"
        shop.rebound.schedule_retry(url, {"n": 1}, headers=CONTEXT, delay=0, policy=TWICE)
        memory.advance(minutes=1)
        posts = [{name: post.headers[name] for name in CONTEXT} for post in memory.http.posts]

    assert posts == [CONTEXT, CONTEXT]
    assert spans.names == ["receive rebound", "publish hooks.test"] * 2
    assert spans.traces == {TRACE}
    failed, delivered = spans.named("publish")
    assert (failed.status.status_code, delivered.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert failed.status.description is not None
    assert "answered 500" in failed.status.description
    assert linked(delivered) == [id_of(failed)]
    attributes = dict(failed.attributes or {})
    assert attributes["server.address"] == "hooks.test"
    assert attributes["error.type"] == "rebound_celery.errors.AttemptFailedError"
    told = repr([(span.name, dict(span.attributes or {}), span.status.description) for span in spans])
    assert not any(secret in told for secret in ("user", "pass@", "token"))


def test_an_outage_is_a_failed_delivery_and_no_attempt(spans: Spans) -> None:
    shop = Shop(ValueError("no price"))

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"1", headers=CONTEXT)
        memory.run()
        memory.kafka.is_away = True
        memory.advance(seconds=5.5)
        memory.kafka.is_away = False
        memory.advance(minutes=1)

    first = next(iter(spans))
    away, delivered = spans.named("publish")
    waits = spans.named("receive")
    assert [(span.start_time or 0) // 1_000_000 - NOW_MS for span in waits] == [0, 5_000]
    assert (away.attributes or {})["error.type"] == "rebound_celery.errors.OutageError"
    assert linked(away) == linked(delivered) == [id_of(first)]


def test_each_delivery_of_a_batch_has_a_span_of_its_own(spans: Spans) -> None:
    shop = Shop()

    with shop.memory as memory:
        for number in range(3):
            headers = {"traceparent": f"00-{number + 1:032x}-00f067aa0ba902b7-01"}
            shop.rebound.schedule_retry(
                {"topic": "orders", "partition": number % 2 * 7}, b"", headers=headers, delay=1, max_retries=5
            )
        memory.advance(seconds=1)

    deliveries = [span for span in spans if span.name == "publish orders"]
    traces = [text_of(span).split("-")[1] for span in deliveries]
    assert sorted(traces) == [f"{number + 1:032x}" for number in range(3)]
    failed = [span for span in deliveries if span.status.status_code == StatusCode.ERROR]
    assert [text_of(span).split("-")[1] for span in failed] == [f"{2:032x}"]


class Slow:
    """A destination that has not answered yet."""

    def __init__(self) -> None:
        self.outcome: Future[Outcome] = Future()

    def send(self, messages: Sequence[Message]) -> list[Outcome | Underway]:
        return [Underway("there is no answer yet", 30, self.outcome) for _ in messages]

    def close(self) -> None: ...


def test_the_span_of_a_delivery_that_takes_long_ends_with_its_outcome(spans: Spans) -> None:
    stored: list[Delivery] = []
    slow = Slow()

    def keep(deliveries: Sequence[Delivery], **_: object) -> None:
        stored.extend(Delivery.decode(one.task_id, one.encode()) for one in deliveries)

    batch = Batch({"http": slow}, Settings(), keep, "w", ManualClock(NOW_MS), lambda *_, **__: None)
    message = Message("m", b"", HttpAddress("http://hooks.test/"), 1, TWICE, headers=PAIRS)
    batch.deliver([Delivery(message, "m:1")])
    assert spans.names == ["receive rebound"]
    slow.outcome.set_result(Failed("http://hooks.test/ answered 503", None, 503))

    _, span = spans
    assert span.name == "publish hooks.test"
    assert (span.attributes or {})["error.type"] == "503"
    assert (span.attributes or {})["http.response.status_code"] == 503
    # Another job settles it.
    batch.deliver([stored[-1]])
    assert len(spans.names) == 2
    assert (stored[-1].message.attempt, stored[-1].message.previous_span) == (2, text_of(span))


def test_a_dead_letter_in_redis_has_a_span(spans: Spans) -> None:
    shop = Shop()

    with shop.memory as memory:
        memory.http.answer = lambda _: 500
        shop.rebound.schedule_retry("https://hooks.test/", b"", headers=CONTEXT, delay=0, max_retries=0)
        memory.advance(minutes=1)
        (dead,) = shop.rebound.dead_set

    assert dead.headers == PAIRS
    posted, kept = spans.named("publish")
    assert (kept.name, (kept.attributes or {})["messaging.system"]) == ("publish dead-set", "redis")
    assert dead.previous_span == text_of(posted)
    assert linked(kept) == [id_of(posted)]


def test_errors_in_spans_are_redacted(spans: Spans) -> None:
    def redact(_where: str, value: object) -> object:
        return value.replace("4711", "****") if isinstance(value, str) else value

    shop = Shop(ValueError("card 4711"), redact=redact)

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.http.answer = lambda _: 1 // 0
        memory.produce("orders", b"1")
        shop.rebound.schedule_retry("https://hooks.test/4711", b"", delay=0, max_retries=0)
        memory.run()

    texts = [span.status.description for span in spans if span.status.status_code == StatusCode.ERROR]
    assert len(texts) == 2
    assert all(text is not None and "****" in text and "4711" not in text for text in texts)


def test_the_threads_that_post_are_not_instrumented() -> None:
    """OpenTelemetry's instrumentation of urllib3 would replace the message's context by that of its own span."""
    threads: HostThreads[str, object] = HostThreads(lambda key: context.get_value(key), 1)

    assert threads.submit("host", "suppress_instrumentation", 1).result(5) is True
    threads.close(waits=True)


def test_a_worker_that_is_not_traced_leaves_no_time_from_which_a_later_wait_would_seem_to_begin() -> None:
    stored: list[Delivery] = []
    batch = Batch(
        {"http": MemoryReceivers()},
        Settings(),
        lambda deliveries, **_: stored.extend(deliveries),
        "w",
        ManualClock(NOW_MS),
        lambda *_, **__: None,
    )
    batch.destinations["http"].answer = lambda _: 500  # type: ignore[attr-defined]
    batch.deliver([Delivery(Message("m", b"", HttpAddress("http://hooks.test/"), 1, TWICE), "m:1", since_ms=7)])

    assert [one.since_ms for one in stored] == [None]


# How it is turned on and off


def test_the_setting_turns_it_off(spans: Spans) -> None:
    shop = Shop(ValueError("no price"), tracing=False)

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"1", headers=CONTEXT)
        with trace.get_tracer("shop").start_as_current_span("checkout"):
            shop.rebound.schedule_retry("kafka://orders", b"2")
        memory.advance(minutes=1)

    assert spans.names == ["checkout"]
    assert sorted(record.headers for record in shop.records) == [(), PAIRS, PAIRS]


def test_the_setting_may_be_in_the_environment() -> None:
    assert Settings.read({}, {"REBOUND_TRACING": "false"}).tracing is False
    assert Settings.read({}, {"REBOUND_TRACING": "1"}).tracing is True
    assert Settings().tracing is True
    with pytest.raises(InvalidSettingError, match=r"REBOUND_TRACING.*'maybe'"):
        Settings.read({}, {"REBOUND_TRACING": "maybe"})


def test_without_a_provider_nothing_is_added() -> None:
    shop = Shop(ValueError("no price"))

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"1")
        memory.advance(minutes=1)
        (_, again) = memory.headers("orders")

    assert PREVIOUS_SPAN not in again
    assert "traceparent" not in again


NOT_INSTALLED = "import sys; sys.modules['opentelemetry'] = None"
NO_PROVIDER = "import opentelemetry.trace"
TURNED_OFF = """
import os
os.environ["OTEL_SDK_DISABLED"] = "true"
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
"""


@pytest.mark.parametrize("begin", [NOT_INSTALLED, "", NO_PROVIDER, TURNED_OFF])
def test_an_app_that_does_not_use_opentelemetry_works_and_imports_nothing_of_it(begin: str) -> None:
    """redis-py imports parts of it where it is installed."""
    code = """
import sys
from celery import Celery
from rebound_celery import ConsumerConfig, Rebound
from rebound_celery.testing import in_memory
calls = []
def handle(record):
    calls.append(record.headers)
    raise ValueError
rebound = Rebound(Celery("shop", broker="redis://127.0.0.1:1/0"), max_retries=1)
with in_memory(rebound.app) as memory:
    memory.consume(ConsumerConfig(topics="orders", group="g", handler=handle))
    memory.produce("orders", b"1")
    rebound.schedule_retry("https://hooks.test/", b"")
    memory.advance(minutes=5)
assert calls == [(), ()], calls
assert "rebound_celery.tracing.tracer" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", begin + "\n" + code], check=True, timeout=60)


def test_a_trace_that_is_not_sampled_has_no_spans_and_keeps_its_context() -> None:
    shop = Shop(ValueError("no price"))

    with traced(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)) as spans, shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"1", headers=CONTEXT)
        memory.advance(minutes=1)

    assert spans.names == []
    assert [record.headers for record in shop.records] == [PAIRS, PAIRS]


class Broken(SpanProcessor):
    """An app's processor with a fault."""

    def __init__(self, when: str) -> None:
        self._when = when

    def on_start(self, *_: Any) -> None:
        if self._when == "start":
            raise RuntimeError("the app's fault")

    def on_end(self, *_: Any) -> None:
        if self._when == "end":
            raise RuntimeError("the app's fault")


@pytest.mark.parametrize("when", ["start", "end"])
def test_a_fault_of_the_apps_tracing_stops_no_message(when: str, caplog: pytest.LogCaptureFixture) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken(when))
    shop = Shop(ValueError("no price"))

    with traced(provider), shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"1", headers=CONTEXT)
        memory.advance(minutes=1)

    assert [(record.attempt, record.headers) for record in shop.records] == [(1, PAIRS), (2, PAIRS)]
    assert {getattr(entry, "event", "") for entry in caplog.records} >= {"not_traced"}


@pytest.mark.parametrize("value", ["", "00-xx", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff" * 40])
def test_a_broken_header_of_the_attempt_before_is_no_link(spans: Spans, value: str) -> None:
    shop = Shop()

    with shop.memory as memory:
        memory.consume(shop.config())
        memory.produce("orders", b"1", headers={"rebound-attempt": "2", PREVIOUS_SPAN: value})
        memory.run()

    (span,) = spans
    assert linked(span) == []
