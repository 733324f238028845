"""The consumer on a broker, with a store in memory in place of Redis: calls, stored messages and commits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import threading
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from rebound_celery.compat.kafka_python import release_set_aside_records
from rebound_celery.config import Settings
from rebound_celery.consumer import Consumer, ConsumerConfig
from rebound_celery.consumer.connection import connect
from rebound_celery.consumer.rebalance import RebalanceListener
from rebound_celery.embedded import EmbeddedKafka, create_topics
from rebound_celery.errors import NotInstalledError, NotStoredError, UnreachableError
from rebound_celery.message.address import KafkaAddress
from rebound_celery.policy import RetryPolicy
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rebound_celery.message import Message, Record

#: The embedded broker takes half a session timeout for a join; Apache Kafka takes none under 6 s by default.
APACHE = "REBOUND_TEST_KAFKA" in os.environ
SESSION_MS = 6000 if APACHE else 2000
OPTIONS = {"session_timeout_ms": SESSION_MS, "heartbeat_interval_ms": 300}


class FakeApp:
    """A Celery app, as far as the consumer looks at one; its store is a dict that can be made to fail."""

    main = "fake"
    #: Celery's own, for frameworks such as Django.
    _fixups = ()

    def __init__(self, brokers: str, **settings: Any) -> None:
        self.rebound = self
        self.settings = Settings(kafka_brokers=(brokers,), **settings)
        self.asleep = threading.Event()
        self.tries = 0
        self.stored: dict[str, tuple[Message, int]] = {}

    def store(self, retries: Sequence[tuple[Message, int]]) -> None:
        self.tries += 1
        if self.asleep.is_set():
            raise NotStoredError("cannot reach Redis at 127.0.0.1:1")
        for message, due_ms in retries:
            self.stored[message.task_id] = message, due_ms

    @property
    def chains(self) -> FakeApp:
        return self

    def break_up(self, prefix: str) -> int:
        return 0

    def set_current(self) -> None: ...

    def check_redis(self) -> None:
        if self.asleep.is_set():
            raise UnreachableError("Redis", "127.0.0.1:1", "connection refused")

    def warn_if_unclaimed(self) -> None: ...

    @property
    def messages(self) -> list[Message]:
        return [message for message, _ in self.stored.values()]


def test_consumer_rests_while_kafka_hangs():
    with EmbeddedKafka() as kafka:
        create_topics(kafka.address, {"t": 1})
        seen: list[Record] = []
        options = {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 300}
        config = ConsumerConfig(group="g", topics="t", handler=seen.append, kafka_options=options)
        producer = KafkaProducer(bootstrap_servers=kafka.address)
        producer.send("t", b"v").get(timeout=10)
        producer.close()
        with Consumer(config, FakeApp(kafka.address)):
            wait_until(lambda: seen)
            os.kill(kafka.pid, signal.SIGSTOP)
            try:
                time.sleep(1)  # a heartbeat is overdue now
                began = time.process_time()
                time.sleep(2)
                spent_s = time.process_time() - began
            finally:
                os.kill(kafka.pid, signal.SIGCONT)

    assert spent_s < 0.3, "of 2 s; a poll that spins takes all there is"


class Fixture:
    """Makes consumers of one group, and looks at what the group has committed."""

    def __init__(self, brokers: str, stack: contextlib.ExitStack) -> None:
        self.brokers = brokers
        self.group = f"g-{uuid.uuid4().hex[:8]}"
        self.app = FakeApp(brokers)
        self._stack = stack
        self._reader: KafkaConsumer | None = None

    def start(self, topics: Any, handler: Callable[[Record], object], **fields: Any) -> Consumer:
        options = OPTIONS | fields.pop("kafka_options", {})
        fields = {"group": self.group, "commit_interval": 0.1, "stop_timeout": 10, **fields}
        consumer = Consumer(ConsumerConfig(topics=topics, handler=handler, kafka_options=options, **fields), self.app)
        consumer.start()
        self._stack.callback(self.end, consumer)
        return consumer

    @staticmethod
    def end(consumer: Consumer) -> None:
        with contextlib.suppress(SystemExit):
            consumer.close(30)

    def committed(self, topic: str, partition: int = 0) -> int | None:
        if self._reader is None:
            self._reader = KafkaConsumer(bootstrap_servers=self.brokers, group_id=self.group, enable_auto_commit=False)
            self._stack.callback(self._reader.close)
        return self._reader.committed(TopicPartition(topic, partition))  # type: ignore[no-any-return]


@pytest.fixture
def fix(kafka_brokers: str, caplog: pytest.LogCaptureFixture) -> Iterator[Fixture]:
    caplog.set_level("INFO", "rebound_celery")
    with contextlib.ExitStack() as stack:
        yield Fixture(kafka_brokers, stack)


def nothing(record: Record) -> None: ...


def fail(record: Record) -> None:
    raise ValueError("no")


def numbers(count: int, keys: int = 0) -> list[tuple[bytes | None, bytes, list[tuple[str, bytes]]]]:
    return [(b"k%d" % (n % keys) if keys else None, b"%d" % n, []) for n in range(count)]


def test_every_record_is_handled_and_committed(fix: Fixture, topic: str, produce: Any) -> None:
    sent = produce(topic, numbers(400, keys=50))
    seen: list[Record] = []
    consumer = fix.start(topic, seen.append)
    wait_until(lambda: len(seen) >= 400, timeout=30)
    consumer.close(30)
    assert sorted(int(record.value or b"") for record in seen) == list(range(400))
    stats = consumer.stats()
    assert (stats.total, stats.succeeded) == (400, 400)
    for partition in range(4):
        count = sum(1 for one in sent if one.partition == partition)
        assert (fix.committed(topic, partition) or 0) == count


def test_a_failure_is_stored_with_all_that_the_record_had(
    fix: Fixture, make_topic: Any, kafka_brokers: str, produce: Any
) -> None:
    topic = make_topic(1)
    records = [
        (b"k", None, []),
        (None, b"v", []),
        (b"\xff\x00", b"\x80\x81", [("h", b"1"), ("h", b"2"), ("bin", b"\xff\xfe"), ("empty", b"")]),
        (b"big", b"x" * 900_000, []),
        (b"", b"", []),
    ]
    produce(topic, records)
    before = time.time() * 1000
    consumer = fix.start(topic, fail, max_retries=2, base_delay=5)
    wait_until(lambda: len(fix.app.stored) == 5, timeout=30)
    after = time.time() * 1000
    stored = sorted(fix.app.stored.values(), key=lambda pair: pair[0].origin.offset)  # type: ignore[union-attr]
    assert [(m.key, m.value, list(m.headers)) for m, _ in stored] == records
    for offset, (message, due_ms) in enumerate(stored):
        assert message.destination == KafkaAddress(topic)
        assert message.dead_destination == KafkaAddress(f"{topic}-dlq")
        assert (message.attempt, message.policy) == (2, RetryPolicy(2, 5))
        assert (message.group, message.reason) == (fix.group, None)
        assert message.origin is not None
        assert (message.origin.topic, message.origin.partition, message.origin.offset) == (topic, 0, offset)
        assert message.failure is not None
        assert (message.failure.exception_class, message.failure.message) == ("ValueError", "no")
        assert message.first_failed_at is not None
        assert before - 1 <= message.first_failed_at <= after
        assert due_ms == message.first_failed_at + 5000
    wait_until(lambda: consumer.stats().retried == 5)
    wait_until(lambda: fix.committed(topic) == 5)


def test_the_last_failure_is_a_dead_letter_due_at_once(fix: Fixture, make_topic: Any, produce: Any) -> None:
    topic, later = make_topic(1), make_topic(1)
    headers = [
        ("rebound-id", b"abc"),
        ("rebound-attempt", b"3"),
        ("rebound-group", fix.group.encode()),
        ("rebound-origin-topic", b"first"),
        ("rebound-origin-partition", b"7"),
        ("rebound-origin-offset", b"70"),
        ("rebound-first-failed-at", b"1000"),
        ("mine", b"1"),
    ]
    produce(later, [(b"k", b"v", headers)])
    consumer = fix.start(topic, fail, max_retries=2, base_delay=5, retry_topic=later)
    wait_until(lambda: consumer.stats().dead == 1, timeout=30)
    ((message, due_ms),) = fix.app.stored.values()
    assert (message.id, message.attempt, message.reason) == ("abc", 3, "retries-exhausted")
    assert message.failure is not None
    assert "in fail" in message.failure.stacktrace
    assert message.dead_destination == KafkaAddress("first-dlq")
    assert message.destination == KafkaAddress(later)
    assert message.first_failed_at == 1000
    assert message.headers == (("mine", b"1"),)
    assert abs(due_ms - time.time() * 1000) < 30_000
    assert message.origin is not None
    assert message.origin.offset == 70


def test_broken_headers_make_a_first_attempt(fix: Fixture, make_topic: Any, produce: Any) -> None:
    topic = make_topic(1)
    produce(topic, [(b"k", b"v", [("rebound-attempt", b"\xff\xffx"), ("rebound-origin-topic", b"a/b\x00")])])
    fix.start(topic, fail)
    wait_until(lambda: fix.app.stored, timeout=30)
    assert fix.app.messages[0].attempt == 2
    assert fix.app.messages[0].dead_destination == KafkaAddress(f"{topic}-dlq")


def test_the_retries_of_another_group_are_skipped_and_committed(fix: Fixture, make_topic: Any, produce: Any) -> None:
    topic = make_topic(1)
    produce(topic, [(None, b"theirs", [("rebound-group", b"other")]), (None, b"all", []), (None, b"ours", [])])
    produce(topic, [(None, b"ours", [("rebound-group", fix.group.encode())])])
    produce(topic, [(None, b"theirs", [("rebound-group", b"other")])])
    seen: list[bytes | None] = []
    consumer = fix.start(topic, lambda record: seen.append(record.value))
    wait_until(lambda: fix.committed(topic) == 5, timeout=30)
    assert sorted(filter(None, seen)) == [b"all", b"ours", b"ours"]
    assert (consumer.stats().total, consumer.stats().skipped) == (3, 2)


def test_brokers_are_named_only_where_they_are_not_the_apps(fix: Fixture, make_topic: Any, produce: Any) -> None:
    topic = make_topic(1)
    produce(topic, [(None, b"v", [])])
    fix.app.settings = Settings(kafka_brokers=("elsewhere:9092",))
    fix.start(topic, fail, brokers=fix.brokers, dead_letter_topic="grave")
    wait_until(lambda: fix.app.stored, timeout=30)
    assert fix.app.messages[0].destination == KafkaAddress(topic, fix.brokers)
    assert fix.app.messages[0].dead_destination == KafkaAddress("grave", fix.brokers)


def test_while_redis_is_away_nothing_is_committed_and_nothing_lost(
    fix: Fixture, make_topic: Any, produce: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topic = make_topic(1)
    consumer = fix.start(topic, fail)
    produce(topic, numbers(1))
    wait_until(lambda: fix.committed(topic) == 1, timeout=30)
    fix.app.asleep.set()
    produce(topic, numbers(50))
    tries = fix.app.tries
    wait_until(lambda: fix.app.tries > tries + 1, timeout=15)
    assert fix.committed(topic) == 1
    fix.app.asleep.clear()
    wait_until(lambda: fix.committed(topic) == 51, timeout=15)
    assert consumer.stats().retried == 51
    events = Counter(getattr(line, "event", None) for line in caplog.records)
    assert (events["joining"], events["store_down"], events["store_up"]) == (1, 1, 1)
    said = next(line for line in caplog.records if getattr(line, "event", None) == "store_down")
    assert "127.0.0.1:1" in said.getMessage()


def test_with_redis_away_at_the_stop_failures_stay_uncommitted(fix: Fixture, make_topic: Any, produce: Any) -> None:
    topic = make_topic(1)
    called = threading.Event()

    def handler(record: Record) -> None:
        if record.value == b"1":
            called.set()
            raise ValueError

    consumer = fix.start(topic, handler, stop_timeout=0.5)
    wait_until(lambda: fix.committed(topic) is None)
    wait_until(consumer.stats)
    produce(topic, numbers(1))
    wait_until(lambda: fix.committed(topic) == 1, timeout=30)
    fix.app.asleep.set()
    produce(topic, [(None, b"1", []), (None, b"2", [])])
    wait_until(called.is_set)
    wait_until(lambda: consumer.stats().succeeded == 2)
    consumer.close(10)
    assert fix.committed(topic) == 1
    stats = consumer.stats()
    assert (stats.errors, stats.succeeded, stats.total) == (1, 2, 3)


def test_system_exit_in_a_handler_ends_the_consumer_and_leaves_the_record(
    fix: Fixture, make_topic: Any, produce: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topic = make_topic(1)
    produce(topic, numbers(20))

    def handler(record: Record) -> None:
        if record.value == b"7":
            raise SystemExit(3)

    consumer = fix.start(topic, handler, concurrency=1)
    with pytest.raises(SystemExit):
        wait_until(lambda: consumer.join(0.1), timeout=30)
    assert fix.committed(topic) == 7
    assert consumer.stats().errors == 1
    (told,) = (record for record in caplog.records if record.levelno == logging.CRITICAL)
    assert f"the handler raised SystemExit(3) for {topic}[0]@7" in told.message


def test_a_plain_handler_whose_own_event_loop_cancels_something_has_failed(
    fix: Fixture, make_topic: Any, produce: Any
) -> None:
    """CancelledError is no Exception. It ended the consumer, and met each one that read the record next."""
    topic = make_topic(1)
    produce(topic, numbers(20))

    async def cancelled() -> None:
        raise asyncio.CancelledError

    def handler(record: Record) -> None:
        if record.value == b"7":
            asyncio.run(cancelled())

    consumer = fix.start(topic, handler, concurrency=1, max_retries=0)
    wait_until(lambda: consumer.stats().total == 20, timeout=30)
    assert (consumer.stats().succeeded, consumer.stats().dead) == (19, 1)
    consumer.close(10)


def test_a_hung_handler_holds_up_its_own_record_only(fix: Fixture, make_topic: Any, produce: Any) -> None:
    topic = make_topic(2)
    release = threading.Event()

    def handler(record: Record) -> None:
        if record.value == b"hang":
            release.wait(60)

    produce(topic, [(b"a", b"hang", []), (b"a", b"behind it", []), (b"b", b"1", []), (b"c", b"2", [])], partition=0)
    produce(topic, numbers(300, keys=7), partition=1)
    consumer = fix.start(topic, handler, stop_timeout=0.5, max_in_flight=50, concurrency=3)
    try:
        wait_until(lambda: consumer.stats().succeeded == 302, timeout=30)
        wait_until(lambda: fix.committed(topic, 1) == 300)
        assert (fix.committed(topic, 0) or 0) == 0
        started = time.monotonic()
        consumer.close(10)
        assert time.monotonic() - started < 5
    finally:
        release.set()
    assert (fix.committed(topic, 0) or 0) == 0
    assert (consumer.stats().errors, consumer.stats().succeeded) == (1, 302)


def test_order_within_a_key_holds_for_many_threads(fix: Fixture, make_topic: Any, produce: Any) -> None:
    topic = make_topic(3)
    produce(topic, numbers(3000, keys=20))
    seen: list[tuple[bytes | None, int]] = []

    def handler(record: Record) -> None:
        seen.append((record.key, int(record.value or b"")))

    fix.start(topic, handler, concurrency=16)
    wait_until(lambda: len(seen) == 3000, timeout=30)
    for key in {key for key, _ in seen}:
        order = [number for other, number in seen if other == key]
        assert order == sorted(order)


def test_slow_handlers_do_not_cost_the_membership(fix: Fixture, make_topic: Any, produce: Any) -> None:
    topic = make_topic(1)
    produce(topic, numbers(3))
    calls: Counter[bytes | None] = Counter()

    def handler(record: Record) -> None:
        calls[record.value] += 1
        time.sleep(3.0)

    consumer = fix.start(
        topic, handler, concurrency=1, max_in_flight=1, kafka_options={"max_poll_interval_ms": SESSION_MS}
    )
    wait_until(lambda: fix.committed(topic) == 3, timeout=40)
    assert set(calls.values()) == {1}
    assert consumer.stats().errors == 0


def test_a_second_consumer_takes_its_share_without_loss(fix: Fixture, make_topic: Any, produce: Any) -> None:
    topic = make_topic(4)
    produce(topic, numbers(1200, keys=97))
    handled: Counter[int] = Counter()
    by: Counter[str] = Counter()

    def handler_of(name: str) -> Callable[[Record], None]:
        def handler(record: Record) -> None:
            time.sleep(0.03)
            handled[int(record.value or b"")] += 1
            by[name] += 1

        return handler

    first = fix.start(topic, handler_of("first"))
    wait_until(lambda: by["first"] > 50, timeout=30)
    second = fix.start(topic, handler_of("second"))
    wait_until(lambda: by["second"] > 50, timeout=30)
    second.close(30)
    wait_until(lambda: len(handled) == 1200, timeout=60, message=lambda: f"{len(handled)} handled")
    first.close(30)
    assert {number: times for number, times in handled.items() if times > 1} == {}, "nobody was killed, or was slow"
    ends = sum(fix.committed(topic, partition) or 0 for partition in range(4))
    assert ends == 1200


def test_what_is_held_in_a_rebalance_survives_it_with_a_hung_handler(
    fix: Fixture, make_topic: Any, produce: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kafka-python keeps its position in a partition that comes back: dropped records would never be read again."""
    monkeypatch.setattr("rebound_celery.consumer.rebalance.REVOKE_WAIT_S", 0.5)
    topic = make_topic(2)
    release, hung = threading.Event(), threading.Event()
    handled: Counter[int] = Counter()

    def handler(record: Record) -> None:
        if record.value == b"0":
            hung.set()
            release.wait(100)
        # Slow, so that there is something left for the second consumer, however long it takes to join.
        release.wait(0.2)
        handled[int(record.value or b"")] += 1

    produce(topic, numbers(600, keys=40))
    first = fix.start(topic, handler, concurrency=4)
    wait_until(lambda: hung.is_set() and len(handled) > 20, timeout=30)
    second = fix.start(topic, handler, concurrency=4)
    wait_until(lambda: second.stats().total > 20, timeout=55)
    release.set()
    wait_until(lambda: len(handled) == 600, timeout=60, message=lambda: f"{len(handled)} handled")
    second.close(30)
    first.close(30)
    assert sum(fix.committed(topic, partition) or 0 for partition in range(2)) == 600


def test_after_a_missed_generation_it_goes_on_where_the_group_is(
    fix: Fixture, make_topic: Any, produce: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever had the partition meanwhile has done some of it: what is held here is out of date."""
    topic = make_topic(1)
    monkeypatch.setattr("rebound_celery.consumer.rebalance.REVOKE_WAIT_S", 0.2)
    release, running = threading.Event(), threading.Event()
    calls: Counter[bytes | None] = Counter()

    def handler(record: Record) -> None:
        calls[record.value] += 1
        if record.value == b"0" and not running.is_set():
            running.set()
            release.wait(60)

    on_revoked, on_assigned = RebalanceListener.on_partitions_revoked, RebalanceListener.on_partitions_assigned

    async def revoked(self: RebalanceListener, partitions: Any) -> None:
        await on_revoked(self, partitions)
        # As if another consumer had been through offset 4 before this one is back.
        await self._consumer.commit_async({TopicPartition(topic, 0): OffsetAndMetadata(5, "", -1)})
        if self._revoked_in is not None:
            self._revoked_in = (self._revoked_in[0] - 5, self._revoked_in[1])

    back = threading.Event()

    async def assigned(self: RebalanceListener, partitions: Any) -> None:
        await on_assigned(self, partitions)
        if running.is_set():
            back.set()

    produce(topic, [(b"k", b"%d" % number, []) for number in range(8)])
    monkeypatch.setattr(RebalanceListener, "on_partitions_assigned", assigned)
    consumer = fix.start(topic, handler)
    wait_until(running.is_set, timeout=30)
    monkeypatch.setattr(RebalanceListener, "on_partitions_revoked", revoked)
    _kafka_of(consumer)._coordinator.request_rejoin()
    wait_until(back.is_set, timeout=30)
    release.set()
    wait_until(lambda: fix.committed(topic) == 8, timeout=30)
    assert calls == {b"0": 1, b"5": 1, b"6": 1, b"7": 1}
    assert consumer.stats().errors == 1


def test_after_a_missed_generation_the_group_s_offset_holds_also_where_nothing_was_read_here(
    fix: Fixture, make_topic: Any, produce: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kafka-python keeps its position in a partition, though another consumer has begun it meanwhile."""
    topic = make_topic(2)
    seen: list[tuple[int, int]] = []
    produce(topic, numbers(1), partition=0)
    consumer = fix.start(topic, lambda record: seen.append((record.partition, record.offset)))
    wait_until(lambda: seen == [(0, 0)], timeout=30)
    on_revoked = RebalanceListener.on_partitions_revoked

    async def revoked(self: RebalanceListener, partitions: Any) -> None:
        await on_revoked(self, partitions)
        # As if others had been through offset 4 of the partition that was empty till then.
        produce(topic, numbers(8), partition=1)
        await self._consumer.commit_async({TopicPartition(topic, 1): OffsetAndMetadata(5, "", -1)})
        assert self._revoked_in is not None
        self._revoked_in = (self._revoked_in[0] - 5, self._revoked_in[1])

    monkeypatch.setattr(RebalanceListener, "on_partitions_revoked", revoked)
    _kafka_of(consumer)._coordinator.request_rejoin()
    wait_until(lambda: (1, 7) in seen, timeout=30)
    consumer.close(30)
    assert seen == [(0, 0), (1, 5), (1, 6), (1, 7)]


@pytest.mark.parametrize("pause_s", [0.0, 0.1])
def test_join_that_is_answered_between_two_polls_is_taken(
    fix: Fixture, make_topic: Any, kafka_brokers: str, pause_s: float
) -> None:
    """With nothing to do, or much, polls are short; kafka-python joins for ever then, or never learns that it has."""
    topic = make_topic(2)
    options = OPTIONS | {"metadata_max_age_ms": 300}
    config = ConsumerConfig(group=fix.group, topics=topic, handler=nothing, kafka_options=options)
    consumer = connect(config, fix.app.settings)
    try:
        consumer.subscribe(topics=[topic])

        def assigned() -> int:
            consumer.poll(timeout_ms=1)
            return len(consumer.assignment())

        wait_until(lambda: assigned() == 2, timeout=20, interval=pause_s)
        assert consumer.group_metadata().generation_id <= 2, "the first may come before the topic is known"
        if APACHE:  # the embedded one cannot add partitions
            add_partitions(kafka_brokers, topic, 3)
            wait_until(lambda: assigned() == 3, timeout=20, interval=pause_s)
            assert consumer.group_metadata().generation_id <= 3
    finally:
        consumer.close()


def add_partitions(brokers: str, topic: str, count: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=brokers)
    try:
        admin.create_partitions({topic: count})
    finally:
        admin.close()


def test_the_result_for_a_lost_partition_is_ignored(
    fix: Fixture, make_topic: Any, produce: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = make_topic(1)
    release, running, lost = threading.Event(), threading.Event(), threading.Event()
    calls: Counter[bytes | None] = Counter()
    on_lost = RebalanceListener.on_partitions_lost

    async def watched(self: RebalanceListener, partitions: Any) -> None:
        await on_lost(self, partitions)
        lost.set()

    monkeypatch.setattr(RebalanceListener, "on_partitions_lost", watched)

    def handler(record: Record) -> None:
        calls[record.value] += 1
        if record.value == b"0" and calls[b"0"] == 1:
            running.set()
            release.wait(60)
            raise ValueError("this result comes too late")

    produce(topic, [(b"k", b"0", []), (b"k", b"1", []), (b"l", b"2", [])])
    consumer = fix.start(topic, handler)
    wait_until(running.is_set, timeout=30)
    # What kafka-python does when a heartbeat is told that the member is unknown.
    loop_consumer = _kafka_of(consumer)
    loop_consumer._coordinator.reset_generation()
    wait_until(lost.is_set, timeout=30)
    wait_until(lambda: consumer.stats().errors == 1)
    release.set()
    wait_until(lambda: fix.committed(topic) == 3, timeout=30)
    assert calls[b"0"] == 2
    assert fix.app.stored == {}


def _kafka_of(consumer: Consumer) -> Any:
    import gc

    (found,) = (
        one
        for one in gc.get_objects()
        if isinstance(one, KafkaConsumer) and one.config["group_id"] == consumer._config.group
    )
    return found


def test_a_partition_that_was_paused_goes_on(fix: Fixture, make_topic: Any, produce: Any) -> None:
    topic = make_topic(2)
    one, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    produce(topic, numbers(10), partition=0)
    reader = KafkaConsumer(bootstrap_servers=fix.brokers, group_id=None, auto_offset_reset="earliest")
    try:
        reader.assign([one])
        wait_until(lambda: reader.poll(timeout_ms=100, max_records=1), timeout=15)
        reader.assign([one, other])
        reader.pause(one)
        produce(topic, numbers(10), partition=1)
        from_other: list[object] = []
        wait_until(lambda: from_other.extend(reader.poll(100).get(other, [])) or len(from_other) == 10, timeout=15)
        reader.resume(one)
        from_one: list[object] = []

        def read_on() -> bool:
            release_set_aside_records(reader)
            from_one.extend(reader.poll(100).get(one, []))
            return len(from_one) == 9

        wait_until(read_on, timeout=10)
    finally:
        reader.close()


def test_a_pattern_reads_no_dead_letters(fix: Fixture, make_topic: Any, produce: Any) -> None:
    base = f"p-{uuid.uuid4().hex[:8]}"
    for name in (base, f"{base}-eu", f"{base}-dlq", f"x-{base}"):
        make_topic(1, name)
        produce(name, [(None, name.encode(), [])])
    seen: list[str] = []
    fix.start(re.compile(f"{base}.*"), lambda record: seen.append(record.topic))
    wait_until(lambda: len(seen) == 2, timeout=30)
    wait_until(lambda: fix.committed(base) == 1 and fix.committed(f"{base}-eu") == 1)
    assert sorted(seen) == [base, f"{base}-eu"]


def test_a_server_that_is_away_is_named_at_the_start(fix: Fixture, unused_address: str) -> None:
    config = ConsumerConfig(
        group="g", topics="t", handler=nothing, brokers=unused_address, kafka_options={"bootstrap_timeout_ms": 500}
    )
    threads = threading.active_count()
    with pytest.raises(UnreachableError, match=f"Kafka at {re.escape(unused_address)}"):
        Consumer(config, fix.app).run()
    wait_until(lambda: threading.active_count() <= threads)
    fix.app.asleep.set()
    with pytest.raises(UnreachableError, match="Redis at"):
        Consumer(config, fix.app).run()
    with pytest.raises(NotInstalledError):
        Consumer(config, object())


@pytest.fixture
def unused_address() -> str:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def test_stop_is_final_and_may_be_repeated(fix: Fixture, topic: str) -> None:
    consumer = Consumer(ConsumerConfig(group="g", topics=topic, handler=nothing), fix.app)
    consumer.stop()
    consumer.stop()
    consumer.run()
    assert consumer.close() is True


class RawName(str):
    """A header's name in bytes that are no UTF-8, as other clients can produce it."""

    def encode(self, *_: Any) -> bytes:
        return b"caf\xe9"


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_header_whose_name_is_no_utf8_stops_no_partition(
    fix: Fixture, kafka_brokers: str, make_topic: Any, compression: str | None
) -> None:
    """It is read as Java's client reads it; kafka-python alone fails at each poll."""
    topic = make_topic(1)
    with KafkaProducer(bootstrap_servers=kafka_brokers, compression_type=compression, linger_ms=100) as producer:
        for value, headers in (
            (b"1", [("a", b"1")]),
            (b"2", [("b", b"1"), (RawName(), b"2")]),
            (b"3", [("c", b"\xff")]),
        ):
            producer.send(topic, value, headers=headers)
        producer.flush(10)
    seen: list[Record] = []

    fix.start(topic, seen.append)

    wait_until(lambda: len(seen) == 3, timeout=30)
    assert sorted((record.value, record.headers) for record in seen) == [
        (b"1", (("a", b"1"),)),
        (b"2", (("b", b"1"), ("caf\ufffd", b"2"))),
        (b"3", (("c", b"\xff"),)),
    ]
    wait_until(lambda: fix.committed(topic) == 3)
