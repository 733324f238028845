"""Every way to call the public API that must type-check under `mypy --strict` and pyright."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from celery import Celery

from rebound_celery import (
    Consumer,
    ConsumerConfig,
    DeadLetter,
    Drop,
    ErrorRule,
    HttpOptions,
    InvalidSettingError,
    Message,
    NotInstalledError,
    NotStoredError,
    Rebound,
    ReboundError,
    Record,
    RetryAfter,
    RetryPolicy,
    RetryRequest,
    Settings,
    UnreachableError,
    handle_failure,
    handle_failure_async,
    install_schedule,
    schedule_retries,
    schedule_retry,
)
from rebound_celery.other_consumers import Handled, read_record
from rebound_celery.testing import QUICK_JOIN, InMemory, Servers, in_memory, running

app = Celery("shop", broker="redis://localhost:6379/0")


def an_app_with_rebound() -> Rebound:
    rebound = Rebound(app)
    Rebound(app, kafka_brokers="localhost:9092", max_retries=3, base_delay=5)
    settings: Settings = rebound.settings
    brokers: tuple[str, ...] = settings.kafka_brokers
    queue: str = settings.queue
    print(brokers, queue, settings.lease)
    return rebound


def an_app_that_signs_webhooks() -> Rebound:
    options = HttpOptions(
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", strict=True, headers={"X-Shop": "7"}, rate=50
    )
    return Rebound(app, http_destinations={"https://api.example.com/*": options, "*": {"public_only": True}})


def an_app_with_countdowns_only() -> None:
    install_schedule(app)


def one_retry(rebound: Rebound, error: Exception) -> None:
    result = schedule_retry("kafka://orders", b"bytes")
    print(result.id)
    schedule_retry("kafka://orders", "text")
    schedule_retry("kafka://orders", {"any": ["JSON", 1, None]})
    schedule_retry("kafka://orders", None)
    schedule_retry({"topic": "orders"}, b"")
    schedule_retry({"url": "https://example.org/hook"}, b"")
    schedule_retry("kafka://orders", message_data=b"the name of the value in Rebound's Go service")
    rebound.schedule_retry(
        "https://example.org/hook",
        {"order": 7},
        id="order-7",
        key="7",
        headers={"trace": b"\x00", "user": "text"},
        max_retries=0,
        base_delay=1.5,
        destination_type="http",
        dead_destination="kafka://orders-dlq",
        source="shop",
        client_id="web",
        is_priority=True,
        error=error,
        attempt=2,
        unique_key="cart-7",
        unique="extend",
        max_wait=60,
    )
    rebound.schedule_retry(
        destination="orders",
        value=b"value",
        key=b"\x00",
        headers=[("repeated", b"1"), ("repeated", "2")],
        policy=RetryPolicy(max_retries=5, base_delay=2),
        destination_type="kafka",
        dead_destination={"topic": "given-up"},
        error="a text",
    )


def an_outage(rebound: Rebound) -> None:
    for breaker in rebound.breakers:
        until_ms: int | None = breaker.until_ms
        print(breaker.lane, breaker.state, until_ms, breaker.error)
    rebound.breakers.open("https://example.org/", seconds=60)
    closed: bool = rebound.breakers.close({"topic": "orders"})
    rebound.lanes.pause("kafka://orders", 60)
    rebound.lanes.resume("kafka:orders")
    rebound.lanes.set_rate("kafka://orders", None)
    print(closed, rebound.breakers.get("kafka://orders"), [lane.waiting for lane in rebound.lanes])
    ConsumerConfig(group="billing", topics="orders", handler=handle, failure_pause={"share": 0.8})


def many_retries(rebound: Rebound) -> None:
    requests = [
        RetryRequest(destination="kafka://orders", value=b"1"),
        RetryRequest(destination={"url": "https://example.org"}, value={"a": 1}, key="k", max_retries=1, error="no"),
    ]
    for outcome in rebound.schedule_retries(requests):
        if isinstance(outcome, ReboundError):
            print("not stored", outcome)
        else:
            print(outcome.id)
    mappings: list[Mapping[str, object]] = [{"destination": "kafka://orders", "value": b"1", "base_delay": 5}]
    outcomes = schedule_retries(mappings)
    print(len(outcomes), outcomes[0])
    schedule_retries([*requests, *mappings])
    schedule_retries(generated())


def generated() -> Iterator[RetryRequest]:
    for number in range(10):
        yield RetryRequest(destination="kafka://orders", value=number, policy=RetryPolicy(max_retries=0))


def handle(record: Record) -> None:
    topic: str = record.topic
    partition: int = record.partition
    offset: int = record.offset
    key: bytes | None = record.key
    value: bytes | None = record.value
    headers: tuple[tuple[str, bytes | None], ...] = record.headers
    attempt: int = record.attempt
    identity: str = record.id
    first_failed_at: int | None = record.first_failed_at
    origin: tuple[str, int, int] = (record.origin.topic, record.origin.partition, record.origin.offset)
    print(topic, partition, offset, key, value, headers, attempt, identity, first_failed_at, origin)
    for past in record.history:
        print(past.attempt, past.failed_at_ms, past.error, past.by)


def handle_with_instructions(record: Record) -> None:
    if record.value is None:
        raise Drop("a tombstone")
    if record.attempt > 2:
        raise DeadLetter("seen twice", topic="orders-parked")
    raise RetryAfter(30) from TimeoutError()


def every_option_of_a_policy() -> list[RetryPolicy]:
    return [
        RetryPolicy(
            max_retries=5,
            base_delay=2,
            kind="linear",
            max_delay=60,
            jitter="full",
            budget=3600,
            quick_retries=2,
            quick_delay=0.1,
            first_delay=10,
            rules=[
                ErrorRule(TimeoutError, delay=1),
                ErrorRule(["decimal.InvalidOperation", KeyError], "dead-letter", dead_letter_topic="orders-broken"),
                ErrorRule("ValueError", "drop"),
            ],
        ),
        RetryPolicy(delays=[1, 60, 3600]),
    ]


def a_message(message: Message) -> None:
    identity: str = message.id
    attempt: int = message.attempt
    value: bytes | None = message.value
    key: bytes | None = message.key
    reason: str | None = message.reason
    policy: RetryPolicy = message.policy
    print(identity, attempt, value, key, reason, policy.max_retries, policy.base_delay)


def a_consumer() -> None:
    config = ConsumerConfig(group="billing", topics="orders", handler=handle)
    with Consumer(config, app) as consumer:
        stats = consumer.stats()
        total: int = stats.total
        rate: float = stats.success_rate
        print(total, rate, stats.succeeded, stats.retried, stats.dead, stats.errors, stats.to_json())
    consumer = Consumer(config)
    consumer.start()
    consumer.stop()
    is_over: bool = consumer.join(timeout=5)
    is_closed: bool = consumer.close(timeout=5)
    print(is_over, is_closed)
    consumer.run(handle_signals=True)


def every_setting_of_a_consumer() -> list[ConsumerConfig]:
    return [
        ConsumerConfig(
            group="billing",
            topics=["orders", "refunds"],
            handler=lambda record: record.value,
            brokers=["localhost:9092", "localhost:9093"],
            max_retries=3,
            base_delay=5,
            dead_letter_topic="given-up",
            retry_topic="again",
            concurrency=4,
            max_in_flight=100,
            commit_interval=0.5,
            stop_timeout=10,
            stats_interval=0,
            health_file="/run/billing.health",
            kafka_options={"session_timeout_ms": 10_000},
        ),
        ConsumerConfig(
            group="audit",
            topics=re.compile("orders-.*"),
            handler=handle,
            brokers="localhost:9092",
            policy=RetryPolicy(max_retries=3, base_delay=5),
            kafka_options=QUICK_JOIN,
        ),
    ]


def errors() -> None:
    try:
        schedule_retry("kafka://orders", b"")
    except InvalidSettingError as error:
        print(error.field, error.value, error.allowed)
    except UnreachableError as error:
        print(error.service, error.address, error.cause)
    except (NotInstalledError, NotStoredError):
        raise
    except ReboundError:
        raise


def a_test_of_my_own() -> None:
    with running(app, topics={"orders": 4}) as servers:
        place: Servers = servers
        print(place.kafka, place.redis)
    with running(app, worker=False):
        pass


async def a_consumer_that_is_not_rebounds(rebound: Rebound, message: object, error: Exception) -> None:
    handled: Handled = rebound.handle_failure(message, error, group="billing", policy={"max_retries": 3})
    print(handled.then, handled.due_ms, handled.reason)
    handle_failure(
        {"topic": "orders"}, "a text", app=app, retry_topic="later", dead_letter_topic="dead", brokers=["b:1"]
    )
    await rebound.handle_failure_async(message, error)
    await handle_failure_async(message, error, policy=RetryPolicy())
    record: Record = read_record(message, "billing")
    print(record.attempt)


def consumers_that_an_app_declares(rebound: Rebound) -> None:
    @rebound.consumer("orders", "returns", group="stock", policy=RetryPolicy(), concurrency=20)
    def count(record: Record) -> int:
        return record.offset

    @rebound.consumer(re.compile("orders-.*"), group="billing")
    async def bill(record: Record) -> None: ...

    configs: tuple[ConsumerConfig, ...] = rebound.consumers
    print(configs, count, bill)


def a_test_in_memory() -> None:
    with in_memory(app, topics={"orders": 4}) as memory:
        shop: InMemory = memory
        shop.produce("orders", {"id": 42}, key="k", headers={"h": "1"})
        shop.advance(minutes=10)
        shop.http.answer = lambda post: 200 if post.body else 500
        attempts: list[int] = [record.attempt for record in shop.records("orders")]
        print(attempts, [waiting.due_in_s for waiting in shop.waiting()], shop.stats("billing").dead)
