"""Traces over real servers: a consumer, a worker, Kafka, Redis and an HTTP receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from kafka import KafkaProducer
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from rebound_celery import Consumer, ConsumerConfig, Rebound, Record, RetryPolicy
from rebound_celery.testing.running import QUICK_JOIN, running
from tests.integration.test_delivery_http import Receiver, receiver, status
from tests.processes import Process
from tests.topics import read_topic
from tests.tracing import PAIRS, TRACEPARENT, Spans, id_of, linked, text_of, traced
from tests.waiting import wait_until

__all__ = ["receiver"]

TRACE = TRACEPARENT.split("-")[1]


@pytest.fixture
def spans() -> Iterator[Spans]:
    with traced() as spans:
        yield spans


def trace_of(span: Any) -> str:
    return text_of(span).split("-")[1]


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_a_records_trace_goes_through_its_retry_to_the_dead_letter(spans: Spans, client: str) -> None:
    app = Celery("shop", set_as_current=False)
    Rebound(app, kafka_client=client)
    seen: list[tuple[Any, ...]] = []

    def handle(record: Record) -> None:
        with trace.get_tracer("shop").start_as_current_span("pay"):
            seen.append((record.value, record.attempt, record.headers))
        raise ValueError("no price")

    config: Any = {"group": "g", "topics": "orders", "handler": handle, "kafka_options": QUICK_JOIN}
    config |= {"policy": RetryPolicy(max_retries=1, base_delay=1), "concurrency": 4}
    with running(app, topics={"orders": 1, "orders-dlq": 1}) as servers:
        producer = KafkaProducer(bootstrap_servers=servers.kafka)
        producer.send("orders", value=b"0", headers=list(PAIRS))
        for number in range(1, 6):
            context = f"00-{number:032x}-00f067aa0ba902b7-01".encode()
            producer.send("orders", value=b"%d" % number, headers=[("traceparent", context)])
        producer.close()
        with Consumer(ConsumerConfig(**config), app):
            wait_until(lambda: len(spans.named("publish orders-dlq")) == 6, timeout=60)
        dead = [dict(record.headers) for record in read_topic(servers.kafka, "orders-dlq", 6)]

    assert [headers for value, _, headers in seen if value == b"0"] == [PAIRS, PAIRS]
    assert [letter.get("tracestate") for letter in dead if letter["traceparent"] == PAIRS[0][1]] == [PAIRS[1][1]]
    of_trace: dict[str, list[Any]] = {}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        of_trace.setdefault(trace_of(span), []).append(span)
    assert sorted(of_trace) == sorted([TRACE, *(f"{number:032x}" for number in range(1, 6))])
    for of_record in of_trace.values():
        named = {name: [span for span in of_record if span.name == name] for name in {span.name for span in of_record}}
        first, second = named["process orders"]
        (delivery,) = named["publish orders"]
        (dead_delivery,) = named["publish orders-dlq"]
        assert linked(second) == linked(delivery) == [id_of(first)]
        assert linked(dead_delivery) == [id_of(second)]
        assert [pay.parent.span_id for pay in named["pay"]] == [one.context.span_id for one in (first, second)]
        (wait, _) = named["receive rebound"]
        assert 0.9e9 < wait.end_time - wait.start_time < 20e9


def test_a_callers_trace_goes_to_a_receiver_and_to_the_dead_set(spans: Spans, receiver: Receiver) -> None:
    receiver.answers["/"] = [status(503), status(400)]
    app = Celery("shop", set_as_current=False)
    rebound = Rebound(app)
    with running(app):
        with trace.get_tracer("shop").start_as_current_span("checkout"):
            rebound.schedule_retry(f"{receiver.url}/", {"n": 1}, delay=0, max_retries=1, base_delay=1)
        wait_until(lambda: len(rebound.dead_set) == 1, timeout=30)
        wait_until(lambda: len(spans.named("publish dead-set")) == 1)
        (dead,) = rebound.dead_set

    (caller,) = spans.named("checkout")
    expected = text_of(caller)
    sent = [{name.lower(): value for name, value in post.headers.items()}["traceparent"] for post in receiver.posts]
    assert sent == [expected, expected]
    assert dead.headers == (("traceparent", expected.encode()),)
    assert spans.traces == {trace_of(caller)}
    first, second = spans.named("publish 127.0.0.1")
    assert [(span.attributes or {})["error.type"] for span in (first, second)] == ["503", "400"]
    assert linked(first) == [id_of(caller)]
    assert linked(second) == [id_of(first)]
    assert [span.status.status_code for span in (first, second)] == [StatusCode.ERROR] * 2


@pytest.mark.parametrize("pool", ["prefork", "gevent", "threads"])
def test_each_pool_makes_the_spans_of_its_deliveries(
    pool: str, redis_url: str, kafka_brokers: str, topic: str, run_process: Callable[..., Process], tmp_path: Any
) -> None:
    """With prefork, the provider is set before the fork."""
    file = tmp_path / "spans"
    env = {"TEST_SPANS": str(file), "TEST_REDIS_URL": redis_url, "TEST_KAFKA": kafka_brokers}
    worker = run_process(
        "-m", "celery", "-A", "tests.acceptance.apps.traced", "worker", "-P", pool, "-c", "2", "-l", "INFO", env=env
    )
    app = Celery("traced", broker=redis_url, set_as_current=False)
    rebound = Rebound(app)
    requests: list[dict[str, Any]] = [
        {"destination": f"kafka://{topic}", "value": "v", "headers": {"traceparent": context}, "delay": 0}
        for context in (f"00-{number:032x}-00f067aa0ba902b7-01" for number in range(1, 21))
    ]
    requests[7]["destination"] = {"topic": topic, "partition": 99}

    rebound.schedule_retries(requests)

    def lines() -> list[list[str]]:
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    wait_until(lambda: sum(line[1:3] == ["publish", topic] for line in lines()) >= 20, timeout=60, message=worker.tail)
    deliveries = [line for line in lines() if line[1:3] == ["publish", topic]]
    assert sorted(line[3] for line in deliveries) == [f"{number:032x}" for number in range(1, 21)]
    assert [line[3] for line in deliveries if line[4] == "ERROR"] == [f"{8:032x}"]
    assert all(line[4] == "UNSET" for line in lines() if line[1] == "receive")
    rebound.close()
    app.close()
