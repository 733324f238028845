"""Measures the processor time of one message: from a request or a failed record to stored bytes and back.

python -m benchmarks.message_cost
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import timeit
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from rebound_celery import tracing
from rebound_celery.config import Settings
from rebound_celery.consumer import ConsumerConfig
from rebound_celery.consumer.failure_handler import FailureHandler
from rebound_celery.consumer.partition_tracker import Job, Partition, PartitionTracker
from rebound_celery.consumer.reading import read_safely
from rebound_celery.message import Message, Record, new_id
from rebound_celery.message.codec import decode, decode_many, encode, pack, seal_many
from rebound_celery.message.encryption import NO_KEYS, KeyRing
from rebound_celery.message.headers import kafka_headers
from rebound_celery.policy import Decision, ErrorRule, Failure, Retry, RetryPolicy, decide
from rebound_celery.redaction import Redactor
from rebound_celery.requests import RetryRequest

NOW_MS = 1_790_000_000_000
CALLS = 20_000
ROUNDS = 7

PLAIN_POLICY = RetryPolicy()
FULL_POLICY = RetryPolicy(
    max_retries=9,
    max_delay=600,
    jitter="full",
    budget=86_400,
    rules=[
        ErrorRule(KeyError, "drop"),
        ErrorRule(["ssl.SSLError", TimeoutError], delay=1),
        ErrorRule(OSError, delay=9),
    ],
)
ERROR = RuntimeError("no answer")
ERROR.__cause__ = ConnectionResetError("reset by peer")
FAILURE = Failure.of(ERROR)
CARD = re.compile(r"\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}")


class ConsumerRecord(NamedTuple):
    """The fields of kafka-python's ConsumerRecord that are read."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def measure(what: str, call: Callable[[], object], note: str = "") -> None:
    best = min(timeit.repeat(call, number=CALLS, repeat=ROUNDS, timer=time.process_time)) / CALLS
    print(f"{what:50} {best * 1e6:6.2f} us  {note}")


def measure_many(what: str, call: Callable[[], object]) -> None:
    best = min(timeit.repeat(call, number=CALLS // 500, repeat=ROUNDS, timer=time.process_time)) / CALLS
    print(f"{what:50} {best * 1e6:6.2f} us  a message")


def redact(_where: str, value: object) -> object:
    """Replace card numbers: the example of docs/security.md."""
    return CARD.sub("****", value) if isinstance(value, str) else value


def decided(policy: RetryPolicy) -> Decision:
    """What follows an attempt that failed with an exception that has a cause."""
    return decide(policy, 2, FAILURE, first_failed_at_ms=NOW_MS, now_ms=NOW_MS, error=ERROR)


def measure_tracing(record: Record, failed: Message) -> None:
    """What tracing costs: where OpenTelemetry is not imported, where it has no provider, and where spans are made.

    The spans are made and dropped: what an exporter does with them is not part of it.
    """
    waited = replace(failed, previous_span="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")

    def off() -> object:
        return tracing.find(wanted=True)

    def attempt() -> object:
        tracer = tracing.find(wanted=True)
        assert tracer is not None
        with tracer.attempt(record, "billing") as one:
            return one.failed(failed)

    def succeeded() -> None:
        tracer = tracing.find(wanted=True)
        assert tracer is not None
        with tracer.attempt(record, "billing"):
            pass

    def deliver() -> None:
        tracer = tracing.find(wanted=True)
        assert tracer is not None
        span = tracer.delivery(tracer.wait(waited, "rebound", NOW_MS, NOW_MS + 5_000))
        assert span is not None
        span.delivered("kafka:orders[3]@1207")

    def schedule() -> object:
        tracer = tracing.find(wanted=True)
        assert tracer is not None
        return tracer.of_caller(failed)

    # redis-py imports it where it is installed.
    imported = {name: module for name, module in sys.modules.items() if name.startswith("opentelemetry")}
    for name in imported:
        del sys.modules[name]
    measure("tracing, not imported", off)
    sys.modules.update(imported)
    from opentelemetry import trace

    measure("tracing, no provider", off)
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    bare = trace.get_tracer("bare")
    attributes = {f"messaging.attribute{number}": "orders" for number in range(9)}
    measure("a bare span with 9 attributes", lambda: bare.start_span("a", attributes=attributes).end())
    measure("tracing, an attempt that succeeds", succeeded)
    measure("tracing, an attempt that fails", attempt)
    measure("tracing, a wait and a delivery", deliver)
    with trace.get_tracer("shop").start_as_current_span("checkout"):
        measure("tracing, a message of a caller", schedule)


def main() -> None:
    settings = Settings()
    # Without this, the lines about dead letters would be written to stderr.
    logging.getLogger("rebound_celery").setLevel(logging.ERROR)
    # 200 random bytes as text, as in the benchmark of the schedule; and an order of 200 bytes.
    hexes = os.urandom(100).hex().encode()
    order = (b'{"order_id":4711,"customer":"c-77","amount":99.5,"currency":"EUR","note":"' + 200 * b"please ring ")[
        :200
    ]
    print(f"Python {sys.version.split()[0]}, the best of {ROUNDS} rounds of {CALLS}; payload of 200 bytes")
    request = RetryRequest(destination="kafka://orders", value=hexes, max_retries=3, base_delay=5)
    message, _ = request.to_message(settings, NOW_MS)
    arguments = {"destination": "kafka://orders", "message_data": hexes, "max_retries": 3, "base_delay": 5}
    measure("new id", new_id)
    measure("decision of the default policy", lambda: decided(PLAIN_POLICY))
    measure("decision with every option and three rules", lambda: decided(FULL_POLICY))
    measure("request of a mapping", lambda: RetryRequest.from_mapping(arguments))
    measure("request -> message, checked", lambda: request.to_message(settings, NOW_MS))
    measure("the next attempt of a message", lambda: message.failed(None, Retry(1, 3), now_ms=NOW_MS, by="here"))

    error = ConnectionRefusedError("[Errno 111] Connection refused")
    raw = ConsumerRecord("orders", 3, 81_264, NOW_MS, b"c-77", order, [])
    record = read_safely(raw, "billing")
    handler = FailureHandler(ConsumerConfig(group="billing", topics="orders", handler=print), settings)
    job = Job(record, PartitionTracker(Partition("orders", 3)))
    failed = handler.decide(job, error, NOW_MS).message
    again = ConsumerRecord("orders", 3, 91_264, NOW_MS, b"c-77", order, kafka_headers(failed))
    measure("failure of an exception", lambda: Failure.of(error))
    measure("Kafka record -> record", lambda: read_safely(raw, "billing"))
    measure("Kafka record of a retry -> record", lambda: read_safely(again, "billing"))
    measure("failed record -> message", lambda: handler.decide(job, error, NOW_MS))
    last = FailureHandler(ConsumerConfig(group="billing", topics="orders", handler=print, max_retries=0), settings)
    redacted = Settings(redact=Redactor(redact))
    hooked = FailureHandler(ConsumerConfig(group="billing", topics="orders", handler=print), redacted)
    hooked_last = FailureHandler(
        ConsumerConfig(group="billing", topics="orders", handler=print, max_retries=0), redacted
    )
    measure("failed record -> message, redacted", lambda: hooked.decide(job, error, NOW_MS))
    measure("failed record -> dead letter", lambda: last.decide(job, error, NOW_MS))
    measure("failed record -> dead letter, redacted", lambda: hooked_last.decide(job, error, NOW_MS))
    measure("headers of a retry", lambda: kafka_headers(failed))

    for what, one in (("200 bytes in hex", message), ("an order, failed once", failed)):
        packed, stored = pack(one), encode(one)
        assert decode(one.id, stored) == (one, {})
        measure(f"pack: {what}", lambda one=one: pack(one), f"{len(packed)} bytes")
        measure(f"encode: {what}", lambda one=one: encode(one), f"{len(stored)} bytes")
        measure(f"decode: {what}", lambda one=one, stored=stored: decode(one.id, stored))

        keys = KeyRing({"k1": os.urandom(32)})
        sealed = keys.seal(stored)
        assert keys.open(sealed) == stored
        measure(f"encrypt: {what}", lambda stored=stored: keys.seal(stored), f"{len(sealed)} bytes")  # noqa: B023
        measure(f"decrypt: {what}", lambda sealed=sealed: keys.open(sealed))  # noqa: B023
        measure(f"encrypt without keys: {what}", lambda stored=stored: NO_KEYS.seal_many(stored))
        measure(f"decrypt without keys: {what}", lambda stored=stored: NO_KEYS.open(stored))

        many, forms = [(one, {})] * 500, [(one.id, stored)] * 500
        measure_many(f"encode, 500 in one call: {what}", lambda many=many: seal_many([pack(*each) for each in many]))
        measure_many(f"decode, 500 in one call: {what}", lambda forms=forms: decode_many(forms))

    traced = replace(record, headers=(("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),))
    second = handler.decide(Job(traced, PartitionTracker(Partition("orders", 3))), error, NOW_MS)
    assert second is not None
    measure_tracing(traced, second.message)


if __name__ == "__main__":
    main()
