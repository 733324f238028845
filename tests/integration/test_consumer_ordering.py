"""`ordering="key"` with a real broker, a real Redis and a worker: each key's records are handled in their order."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kafka import KafkaAdminClient

from rebound_celery import Drop, Rebound, RetryPolicy
from rebound_celery.consumer import Consumer, ConsumerConfig
from tests.acceptance.apps.worker import running_worker
from tests.integration.test_consumer import OPTIONS
from tests.integration.test_consumer_group_changes import needs_apache
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rebound_celery import Record


@pytest.fixture
def rebound(redis_url: str, kafka_brokers: str) -> Iterator[Rebound]:
    """A Rebound whose app has a running worker."""
    app = Celery("shop", broker=redis_url, set_as_current=False)
    rebound = Rebound(app, kafka_brokers=kafka_brokers, kafka_timeout=5, base_delay=1, lease=3)
    with running_worker(app):
        yield rebound
        rebound.close()


class Shop:
    """A handler that writes down its calls, and refuses values as often as it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes | None, bytes | None, int]] = []
        self.refused: dict[bytes, int] = {}
        #: In which attempt each value is dropped.
        self.dropped: dict[bytes, int] = {}
        self.sleep_s: dict[bytes, float] = {}
        self._lock = threading.Lock()

    def __call__(self, record: Record) -> None:
        value = record.value or b""
        with self._lock:
            self.calls.append((record.key, record.value, record.attempt))
        time.sleep(self.sleep_s.get(value, 0))
        if record.attempt == self.dropped.get(value):
            raise Drop("not needed any more")
        if record.attempt <= self.refused.get(value, 0):
            raise ValueError(f"{value!r} is refused")

    def of(self, key: bytes | None) -> list[tuple[bytes | None, int]]:
        with self._lock:
            return [(value, attempt) for found, value, attempt in self.calls if found == key]


class Fixture:
    """Starts consumers of one group on one topic."""

    def __init__(self, rebound: Rebound, topic: str, stack: contextlib.ExitStack) -> None:
        self.shop = Shop()
        self.group = f"g-{uuid.uuid4().hex[:8]}"
        self.topic = topic
        self._rebound, self._stack = rebound, stack

    def start(self, **fields: Any) -> Consumer:
        fields = {"ordering": "key", "stop_timeout": 10, "max_retries": 3, **fields}
        fields = {"kafka_options": OPTIONS, **fields}
        config = ConsumerConfig(group=self.group, topics=self.topic, handler=self.shop, **fields)
        consumer = Consumer(config, self._rebound.app)
        consumer.start()
        self._stack.callback(consumer.close, 30)
        return consumer


@pytest.fixture
def fixture(rebound: Rebound, topic: str) -> Iterator[Fixture]:
    with contextlib.ExitStack() as stack:
        yield Fixture(rebound, topic, stack)


def values(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def records(key: bytes, *numbers: int) -> list[tuple[bytes, bytes, list[tuple[str, bytes]]]]:
    return [(key, value, []) for value in values(*numbers)]


def test_later_records_of_a_key_wait_for_its_retries_and_other_keys_go_on(
    fixture: Fixture, rebound: Rebound, topic: str, produce: Callable[..., Any]
) -> None:
    shop = fixture.shop
    shop.refused = {b"1": 2}
    consumer = fixture.start()

    produce(topic, [*records(b"a", 0, 1, 2, 3), *records(b"b", 10, 11)])
    wait_until(lambda: len(shop.of(b"b")) == 2)
    assert shop.of(b"a") == [(b"0", 1), (b"1", 1)]
    produce(topic, records(b"a", 4, 5))

    wait_until(lambda: len(shop.of(b"a")) == 8, timeout=30)
    assert shop.of(b"a") == [(b"0", 1), (b"1", 1), (b"1", 2), (b"1", 3), *((value, 1) for value in values(2, 3, 4, 5))]
    wait_until(lambda: not rebound.chains.page())
    with rebound._publisher.open() as schedule:
        assert schedule.counts().waiting == schedule.counts().behind == 0
    stats = consumer.stats()
    assert (stats.succeeded, stats.retried, stats.dead, stats.errors) == (8, 2, 0, 0)


def test_records_behind_the_head_are_handled_quickly_and_may_fail_too(
    fixture: Fixture, topic: str, produce: Callable[..., Any]
) -> None:
    shop = fixture.shop
    shop.refused = {b"0": 1, b"150": 1}
    fixture.start()

    produce(topic, records(b"a", *range(300)))

    wait_until(lambda: len(shop.of(b"a")) == 302, timeout=30)
    done = [value for value, attempt in shop.of(b"a") if attempt > shop.refused.get(value or b"", 0)]
    assert done == values(*range(300))
    produce(topic, records(b"a", 300))
    wait_until(lambda: shop.of(b"a")[-1] == (b"300", 1))


@pytest.mark.parametrize("refused", [9, 1])
def test_dead_letter_lets_the_key_go_on(
    fixture: Fixture, topic: str, produce: Callable[..., Any], make_topic: Callable[..., str], refused: int
) -> None:
    make_topic(1, f"{topic}-dlq")
    shop = fixture.shop
    shop.refused = {b"0": 9, b"1": 9}
    fixture.start(max_retries=1 if refused > 1 else 0)

    produce(topic, records(b"a", 0, 1, 2))

    wait_until(lambda: shop.of(b"a")[-1:] == [(b"2", 1)], timeout=30)
    if refused > 1:
        assert shop.of(b"a") == [(b"0", 1), (b"0", 2), (b"1", 1), (b"1", 2), (b"2", 1)]


def test_dead_letter_holds_the_key_until_it_is_released(
    fixture: Fixture, rebound: Rebound, topic: str, produce: Callable[..., Any], make_topic: Callable[..., str]
) -> None:
    make_topic(1, f"{topic}-dlq")
    shop = fixture.shop
    shop.refused = {b"0": 9}
    fixture.start(max_retries=1, after_dead_letter="hold")

    produce(topic, [*records(b"a/b", 0, 1), *records(b"b", 10)])
    chain = wait_until(lambda: next((chain for chain in rebound.chains.page() if chain.state == "held"), None))

    assert chain.name.startswith(f"{fixture.group}/{topic}/")
    assert chain.name.endswith("/a%2Fb")
    assert chain.behind == 1
    assert shop.of(b"a/b") == [(b"0", 1), (b"0", 2)]
    assert rebound.chains.release(chain.name) == 2
    wait_until(lambda: shop.of(b"a/b")[-1] == (b"1", 1), timeout=20)
    wait_until(lambda: not rebound.chains.page())


def test_another_consumer_goes_on_where_one_has_stopped(
    fixture: Fixture, rebound: Rebound, topic: str, produce: Callable[..., Any]
) -> None:
    shop = fixture.shop
    shop.refused = {b"0": 1}
    first = fixture.start()
    produce(topic, records(b"a", 0, 1, 2))
    wait_until(lambda: any(chain.behind == 2 for chain in rebound.chains.page()))
    first.close(20)

    fixture.start()
    produce(topic, records(b"a", 3, 4))

    wait_until(lambda: len(shop.of(b"a")) == 6, timeout=30)
    assert shop.of(b"a") == [(b"0", 1), (b"0", 2), *((value, 1) for value in values(1, 2, 3, 4))]


def test_slow_handler_keeps_what_it_has_taken(
    fixture: Fixture, rebound: Rebound, topic: str, produce: Callable[..., Any]
) -> None:
    """Its lease is renewed: the record is not delivered to a second handler meanwhile."""
    shop = fixture.shop
    shop.refused = {b"0": 1}
    shop.sleep_s = {b"1": 5}
    fixture.start()

    produce(topic, records(b"a", 0, 1, 2))

    wait_until(lambda: shop.of(b"a")[-1:] == [(b"2", 1)], timeout=30)
    assert shop.of(b"a") == [(b"0", 1), (b"0", 2), (b"1", 1), (b"2", 1)]


def test_order_holds_with_a_retry_topic(
    fixture: Fixture, topic: str, produce: Callable[..., Any], make_topic: Callable[..., str]
) -> None:
    retry_topic = make_topic(2)
    shop = fixture.shop
    for _ in range(2):
        fixture.start(retry_topic=retry_topic)
    keys = [b"k%d" % number for number in range(12)]
    shop.refused = {b"1": 1, b"3": 2}
    for number in range(8):
        produce(topic, [(key, b"%d" % number, []) for key in keys])

    wait_until(lambda: all(len(shop.of(key)) >= 11 for key in keys), timeout=40)

    for key in keys:
        finished: dict[bytes, int] = defaultdict(int)
        for value, attempt in shop.of(key):
            assert int(value or b"0") >= max(map(int, finished), default=0), "no record begins after a later one"
            finished[value or b""] = attempt
        assert {value: attempt for value, attempt in finished.items() if attempt > 1} == {b"1": 2, b"3": 3}


def test_consumer_without_an_order_lets_waiting_records_go(
    fixture: Fixture, rebound: Rebound, topic: str, produce: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    shop = fixture.shop
    shop.refused = {b"0": 3}
    first = fixture.start(base_delay=60, max_retries=None)
    produce(topic, records(b"a", 0, 1, 2))
    wait_until(lambda: any(chain.behind == 2 for chain in rebound.chains.page()))
    first.close(20)

    fixture.start(ordering=None)

    wait_until(lambda: sorted(shop.of(b"a")) == [(b"0", 1), (b"1", 1), (b"2", 1)], timeout=20)
    assert not rebound.chains.page()
    assert [entry for entry in caplog.records if getattr(entry, "event", "") == "chains_broken_up"]


def test_dropped_record_lets_the_key_go_on_even_if_a_dead_letter_would_hold_it(
    fixture: Fixture, rebound: Rebound, topic: str, produce: Callable[..., Any]
) -> None:
    shop = fixture.shop
    shop.refused, shop.dropped = {b"0": 1}, {b"0": 2, b"2": 1, b"10": 1}
    consumer = fixture.start(after_dead_letter="hold")

    produce(topic, [*records(b"a", 0, 1, 2, 3), *records(b"b", 10, 11)])

    wait_until(lambda: shop.of(b"a")[-1:] == [(b"3", 1)], timeout=30)
    assert shop.of(b"a") == [(b"0", 1), (b"0", 2), (b"1", 1), (b"2", 1), (b"3", 1)]
    assert shop.of(b"b") == [(b"10", 1), (b"11", 1)]
    wait_until(lambda: not rebound.chains.page())
    stats = wait_until(lambda: consumer.stats() if consumer.stats().total == 7 else None)
    assert (stats.succeeded, stats.retried, stats.dropped, stats.dead, stats.errors) == (3, 1, 3, 0, 0)


def test_delayed_first_delivery_keeps_the_order_and_each_record_is_handled_once(
    fixture: Fixture, rebound: Rebound, topic: str, produce: Callable[..., Any]
) -> None:
    shop = fixture.shop
    shop.refused = {b"0": 1}
    fixture.start(max_retries=None, policy=RetryPolicy(3, base_delay=1, first_delay=1))

    produce(topic, records(b"a", 0, 1, 2))
    wait_until(lambda: any(chain.behind == 2 for chain in rebound.chains.page()))
    assert shop.of(b"a") == []
    wait_until(lambda: shop.of(b"a"), timeout=20)
    sent_at = time.monotonic()
    produce(topic, records(b"a", 3))

    wait_until(lambda: shop.of(b"a")[-1:] == [(b"3", 1)], timeout=30)
    assert 1 <= time.monotonic() - sent_at < 4, "its own delay is over, and nothing has waited for the end of a lease"
    assert shop.of(b"a") == [(b"0", 1), (b"0", 2), *((value, 1) for value in values(1, 2, 3))]
    wait_until(lambda: not rebound.chains.page())


def test_key_that_is_free_again_delays_its_next_record(
    fixture: Fixture, rebound: Rebound, topic: str, produce: Callable[..., Any]
) -> None:
    """Somebody has ended the chain: this consumer believes that the key is blocked, and Redis knows that it is free."""
    shop = fixture.shop
    shop.refused = {b"0": 9}
    fixture.start(max_retries=None, policy=RetryPolicy(3, base_delay=60, first_delay=1))
    produce(topic, records(b"a", 0))
    wait_until(lambda: shop.of(b"a"), timeout=20)
    (chain,) = wait_until(lambda: [chain for chain in rebound.chains.page() if chain.state == "sent"])
    rebound.chains.release(chain.name)

    sent_at = time.monotonic()
    produce(topic, records(b"a", 1))
    wait_until(lambda: shop.of(b"a")[-1:] == [(b"1", 1)], timeout=20)

    assert 1 <= time.monotonic() - sent_at < 2.5, "its delay, and not the time of a lease"


def test_quick_retry_of_a_record_in_a_chain_is_a_part_of_its_attempt(
    fixture: Fixture, topic: str, produce: Callable[..., Any]
) -> None:
    shop = fixture.shop
    shop.refused = {b"0": 1, b"1": 1}
    fixture.start(max_retries=None, policy=RetryPolicy(3, base_delay=1, quick_retries=1))

    produce(topic, records(b"a", 0, 1, 2))

    wait_until(lambda: shop.of(b"a")[-1:] == [(b"2", 1)], timeout=30)
    first = [(b"0", 1), (b"0", 1), (b"0", 2)]
    assert shop.of(b"a") == [*first, (b"1", 1), (b"1", 1), (b"1", 2), (b"2", 1)]


@needs_apache
def test_records_of_a_topic_that_is_created_again_are_no_copies_of_those_that_wait(
    fixture: Fixture,
    rebound: Rebound,
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
    kafka_brokers: str,
) -> None:
    topic = make_topic(1)
    fixture.topic = topic
    shop = fixture.shop
    shop.refused = {b"0": 1}
    options = {**OPTIONS, "metadata_max_age_ms": 500}
    fixture.start(base_delay=15, kafka_options=options)
    produce(topic, records(b"a", 0, 1, 2))
    wait_until(lambda: [chain.behind for chain in rebound.chains.page()] == [2])

    admin = KafkaAdminClient(bootstrap_servers=kafka_brokers)
    try:
        admin.delete_topics([topic])
        wait_until(lambda: topic not in admin.list_topics(), timeout=20)
    finally:
        admin.close()
    make_topic(1, topic)
    # They get the offsets of those that wait.
    produce(topic, records(b"a", 10, 11, 12, 13))

    expected = [(b"0", 1), (b"0", 2), *((value, 1) for value in values(1, 2, 10, 11, 12, 13))]
    wait_until(lambda: len(shop.of(b"a")) >= len(expected), timeout=40)
    assert sorted(shop.of(b"a")) == sorted(expected)
    wait_until(lambda: not rebound.chains.page())
