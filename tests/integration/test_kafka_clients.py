"""The Kafka destination with each client library: threads, forks, greenlets, and a Kafka that hangs."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import IncompatibleBrokerVersion
from msgspec.structs import replace

from rebound_celery.destinations import Delivered, Outcome, Rejected, Unavailable
from rebound_celery.destinations.kafka import KafkaDestination
from rebound_celery.destinations.kafka.kafka_python import KafkaPythonClient
from rebound_celery.embedded import EmbeddedKafka, create_topics, free_port
from rebound_celery.message import Message
from rebound_celery.message.address import KafkaAddress
from rebound_celery.policy import RetryPolicy
from tests.processes import Process
from tests.waiting import wait_until

Open = Callable[..., KafkaDestination]


@pytest.fixture(params=["kafka-python", "confluent"])
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_destination(client: str, kafka_brokers: str) -> Iterator[Open]:
    """`open_destination(brokers=None, timeout_s=10, **options)`; closed in the end."""
    opened = []

    def make(brokers: str | None = None, timeout_s: float = 10, **options: Any) -> KafkaDestination:
        opened.append(KafkaDestination([brokers or kafka_brokers], options, timeout_s, client))
        return opened[-1]

    yield make
    for destination in opened:
        destination.close()


def make_messages(topic: str, count: int, **changes: Any) -> list[Message]:
    message = Message(id="m", value=b"v", destination=KafkaAddress(topic), attempt=1, policy=RetryPolicy(3, 1))
    return [replace(message, id=str(n), key=b"k%d" % n, **changes) for n in range(count)]


def test_several_threads_deliver_at_once(
    open_destination: Open, topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    """One thread serves the confirmations of the others, and hands that over when it has its own."""
    destination = open_destination()
    outcomes: list[Outcome] = []

    def deliver() -> None:
        for size in (1, 50, 3, 100) * 3:
            outcomes.extend(destination.send(make_messages(topic, size)))

    threads = [threading.Thread(target=deliver) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert not any(thread.is_alive() for thread in threads)
    assert len(outcomes) == 8 * 3 * 154
    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    assert len({outcome.where for outcome in outcomes if isinstance(outcome, Delivered)}) == len(outcomes)
    assert len(read_topic(topic, len(outcomes), timeout=30)) == len(outcomes)


def test_each_message_of_a_batch_has_its_own_outcome(
    open_destination: Open, topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    away = f"127.0.0.1:{free_port()}"
    targets = [KafkaAddress(topic), KafkaAddress(topic, partition=77), KafkaAddress(topic, away), KafkaAddress(topic)]
    messages = [
        replace(message, destination=target) for message, target in zip(make_messages(topic, 4), targets, strict=True)
    ]

    outcomes = open_destination(timeout_s=1).send(messages)

    assert [type(outcome) for outcome in outcomes] == [Delivered, Rejected, Unavailable, Delivered]
    assert len(read_topic(topic, 2)) == 2


@pytest.mark.skipif("REBOUND_TEST_KAFKA" not in os.environ, reason="the embedded broker takes any record")
def test_a_record_that_kafka_refuses_takes_no_other_of_its_batch_with_it(
    open_destination: Open, kafka_brokers: str, read_topic: Callable[..., list[Any]]
) -> None:
    """A topic that is compacted refuses a record without key. Threads share a client, and their records a batch."""
    topic = f"t-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=kafka_brokers)
    admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"cleanup.policy": "compact"})])
    admin.close()
    destination = open_destination()
    outcomes: list[Outcome] = []

    def deliver() -> None:
        for size in (20, 1, 20, 1):
            messages = make_messages(topic, size)
            messages[size // 2] = replace(messages[size // 2], key=None)
            outcomes.extend(destination.send(messages))

    def deliver_one() -> None:
        for _ in range(40):
            outcomes.extend(destination.send(make_messages(topic, 1)))

    threads = [threading.Thread(target=target) for target in (deliver, deliver, deliver_one, deliver_one)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert not any(thread.is_alive() for thread in threads)
    kinds = Counter(map(type, outcomes))
    assert kinds == {Delivered: 2 * 2 * 19 + 80, Rejected: 2 * 4}
    assert len(read_topic(topic, kinds[Delivered])) == kinds[Delivered]


def test_a_closed_destination_may_be_used_again(open_destination: Open, topic: str) -> None:
    destination = open_destination()

    for _ in range(3):
        (outcome,) = destination.send(make_messages(topic, 1))
        destination.close()
        assert isinstance(outcome, Delivered)


def test_a_child_process_leaves_its_parents_connections_alone(
    open_destination: Open, topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    """The child delivers over connections of its own, and the parent goes on."""
    destination = open_destination()
    destination.send(make_messages(topic, 10))

    pid = os.fork()
    if not pid:
        try:
            done = [isinstance(outcome, Delivered) for outcome in destination.send(make_messages(topic, 10))]
            destination.close()
            os._exit(0 if all(done) else 1)
        finally:
            os._exit(2)
    ended: list[tuple[int, int]] = []
    try:
        wait_until(lambda: (found := os.waitpid(pid, os.WNOHANG))[0] and not ended.append(found), timeout=20)
    finally:
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    assert ended == [(pid, 0)]
    assert {type(outcome) for outcome in destination.send(make_messages(topic, 10))} == {Delivered}
    assert len(read_topic(topic, 30)) == 30


def test_a_kafka_that_hangs_is_an_outage_and_holds_no_close_up(client: str) -> None:
    with EmbeddedKafka() as kafka:
        create_topics(kafka.address, {"orders": 4})
        destination = KafkaDestination([kafka.address], {}, 1, client)
        assert kafka.pid is not None
        assert isinstance(destination.send(make_messages("orders", 1))[0], Delivered)
        os.kill(kafka.pid, signal.SIGSTOP)
        # A signal is not there at once: a broker that is busy may answer meanwhile.
        tasks = list(Path(f"/proc/{kafka.pid}/task").iterdir())
        wait_until(lambda: all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks))
        try:
            began = time.monotonic()
            outcomes = destination.send(make_messages("orders", 50))
            waited = time.monotonic() - began
            destination.close()
            closed = time.monotonic() - began - waited
        finally:
            os.kill(kafka.pid, signal.SIGCONT)
        kafka.kill()

    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert waited < 5
    assert closed < 6


def test_a_kafka_that_was_away_for_long_gets_messages_within_seconds(client: str) -> None:
    """The pause before the next try to connect does not grow with the outage."""
    with EmbeddedKafka() as kafka:
        create_topics(kafka.address, {"orders": 4})
        destination = KafkaDestination([kafka.address], {}, 1, client)
        assert isinstance(destination.send(make_messages("orders", 1))[0], Delivered)
        kafka.kill()
        away_until = time.monotonic() + 20
        while time.monotonic() < away_until:
            assert isinstance(destination.send(make_messages("orders", 1))[0], Unavailable)
        kafka.start()
        began = time.monotonic()
        while not isinstance(destination.send(make_messages("orders", 1))[0], Delivered):
            assert time.monotonic() < began + 20
        waited = time.monotonic() - began
        destination.close()

    assert waited < 5


def test_a_partition_that_was_added_after_the_first_message_is_there(
    open_destination: Open, kafka_brokers: str, make_topic: Callable[..., str]
) -> None:
    """Clients ask for the number of partitions every five minutes only."""
    topic, destination = make_topic(1), open_destination()
    first, second, missing = (
        make_messages(topic, 1, destination=KafkaAddress(topic, partition=number)) for number in (0, 1, 77)
    )
    assert isinstance(destination.send(first)[0], Delivered)

    admin = KafkaAdminClient(bootstrap_servers=kafka_brokers)
    try:
        admin.create_partitions({topic: 2})
    except IncompatibleBrokerVersion:
        # The embedded Kafka adds no partitions.
        admin.delete_topics([topic])
        make_topic(2, topic)
    admin.close()

    assert [type(outcome) for outcome in destination.send([*second, *missing, *second])] == [
        Delivered,
        Rejected,
        Delivered,
    ]


def test_a_request_for_metadata_that_is_under_way_does_not_wake_the_producer_again(kafka_brokers: str) -> None:
    """Its thread asks in each turn while a topic has no leader. If that woke it, it would never wait."""
    client = KafkaPythonClient(kafka_brokers, {}, 5)
    cluster = client._producer._metadata
    woken, notify = [], cluster._wakeup.notify
    cluster._wakeup.notify = lambda: woken.append(notify())

    asked = [cluster.request_update() for _ in range(1000)]

    assert 1 <= len(woken) < 100
    wait_until(lambda: all(future.is_done for future in asked))
    client.close(2)


GREENLETS = """
import sys
library, client, brokers, topic, away = sys.argv[1:]
if library == "gevent":
    from gevent import monkey
    monkey.patch_all()
    from gevent import spawn
else:
    import eventlet
    eventlet.monkey_patch()
    from eventlet import spawn
import time
from rebound_celery.destinations.kafka import KafkaDestination
from tests.integration.test_kafka_clients import make_messages

ticks = []
def tick():
    while True:
        ticks.append(time.monotonic())
        time.sleep(0.01)
spawn(tick)
time.sleep(0.05)

def longest_gap():
    gap = max(later - earlier for earlier, later in zip(ticks, ticks[1:]))
    del ticks[:-1]
    return gap

there = KafkaDestination([brokers], {}, 10, client)
kinds = [type(outcome).__name__ for _ in range(20) for outcome in there.send(make_messages(topic, 20))]
there.close()
print("there", set(kinds), len(kinds), f"{longest_gap():.2f}")
nowhere = KafkaDestination([away], {}, 1, client)
kinds = [type(outcome).__name__ for outcome in nowhere.send(make_messages(topic, 20))]
time.sleep(0.05)
print("away", set(kinds), len(kinds), f"{longest_gap():.2f}", flush=True)
nowhere.close()
time.sleep(0.05)
print("closed", f"{longest_gap():.2f}", flush=True)
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_other_greenlets_run_while_a_delivery_waits(
    library: str, client: str, kafka_brokers: str, topic: str, run_process: Callable[..., Process]
) -> None:
    """librdkafka waits in C, where no other greenlet gets its turn: the destination must not wait there."""
    away = f"127.0.0.1:{free_port()}"
    options = ["-W", "ignore", "-c", GREENLETS, library, client, kafka_brokers, topic, away]

    process = run_process(*options)

    output = process.wait_for_output("closed", timeout=60)
    lines = {words[0]: words for words in map(str.split, output.splitlines()) if words}
    assert lines["there"][1:3] == ["{'Delivered'}", "400"]
    assert lines["away"][1:3] == ["{'Unavailable'}", "20"]
    if client == "confluent":
        assert max(float(lines["there"][3]), float(lines["away"][3])) < 0.3, output
