"""`app.rebound.dead_letters`: dead letters in Redis and in Kafka topics through one interface."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kafka import KafkaProducer
from msgspec.structs import replace
from redis import Redis

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.dead_letters import NoTopicError
from rebound_celery.embedded import free_port
from rebound_celery.errors import InvalidSettingError, UnreachableError
from rebound_celery.message import Origin, PastAttempt, codec
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.message.headers import kafka_headers
from rebound_celery.policy import Failure
from rebound_celery.schedule.port import DeadEntry, open_schedule
from rebound_celery.selection import Filter, Progress
from tests.acceptance.apps.worker import close_redis_connections, running_worker
from tests.servers import RedisServer
from tests.waiting import wait_until

IN_REDIS = Message(
    id="order-7",
    value=b"\x00\xff",
    key=b"k",
    headers=(("a", b"1"), ("a", b"")),
    destination=HttpAddress("http://user:secret@127.0.0.1:1/hook?key=1"),
    dead_destination=DEAD_SET,
    attempt=4,
    policy=RetryPolicy(3, 1),
    reason="rejected",
    failure=Failure("shop.errors.Refused", "no such customer", "Traceback"),
    history=(PastAttempt(3, 1_700_000_000_000, "Refused: no", "celery@a"),),
    first_failed_at=1_700_000_000_000,
    content_type="text/x-order",
    source="shop",
)

needs_apache = pytest.mark.skipif(
    "REBOUND_TEST_KAFKA" not in os.environ, reason="the embedded broker deletes no records and has no transactions"
)

Produce = Callable[..., Any]
Read = Callable[..., Any]


@pytest.fixture(autouse=True)
def _apps_leave_no_connection() -> Iterator[None]:
    yield
    close_redis_connections()


@pytest.fixture
def alone(redis_url: str) -> Rebound:
    """An app without Kafka."""
    app = Celery("shop", broker=redis_url, set_as_current=False)
    return Rebound(app, kafka_brokers=f"127.0.0.1:{free_port()}")


@pytest.fixture
def rebound(redis_url: str, kafka_brokers: str) -> Rebound:
    return Rebound(Celery("shop", broker=redis_url, set_as_current=False), kafka_brokers=kafka_brokers)


def keep_dead(rebound: Rebound, *messages: Message, died_ms: int = 1_700_000_100_000) -> None:
    """Keep messages in Redis as a worker does, each a millisecond after the one before."""
    with open_schedule(rebound.app, rebound.settings.queue) as schedule:
        schedule.keep_dead(
            [
                DeadEntry(message.task_id, message.reason or "", codec.encode(message), died_ms + number)
                for number, message in enumerate(messages)
            ]
        )


def letter(number: int, topic: str, **fields: Any) -> Message:
    """A message that a consumer of `topic` has given up."""
    made = Message(
        id=f"m{number}",
        value=b'{"number": %d}' % number,
        destination=KafkaAddress(topic),
        attempt=4,
        policy=RetryPolicy(3, 1),
        key=b"customer-%d" % number,
        headers=(("trace", b"t%d" % number),),
        dead_destination=KafkaAddress(f"{topic}-dlq"),
        reason="retries-exhausted",
        failure=Failure("builtins.ValueError" if number % 2 else "builtins.KeyError", f"bad {number}", "Traceback"),
        history=(PastAttempt(4, 1_700_000_000_000, "ValueError: bad", "consumer shop@a"),),
        group="shop",
        origin=Origin(topic, 0, number, 1_700_000_000_000),
        first_failed_at=1_700_000_000_000,
    )
    return replace(made, **fields)


def dead(produce: Produce, *messages: Message, partition: int | None = None) -> None:
    """Produce dead letters as a worker does."""
    for message in messages:
        assert isinstance(message.dead_destination, KafkaAddress)
        produce(message.dead_destination.topic, [(message.key, message.value, kafka_headers(message))], partition)


@pytest.fixture
def topics(make_topic: Callable[..., str]) -> tuple[str, str]:
    """A topic, and its dead letter topic with 3 partitions."""
    topic = make_topic(3)
    return topic, make_topic(3, f"{topic}-dlq")


# looking


def test_letters_in_redis_are_listed_in_pages_and_found_by_two_ids(alone: Rebound) -> None:
    keep_dead(alone, *(replace(IN_REDIS, id=f"m{number}") for number in range(5)))
    letters = alone.dead_letters

    first = letters.list(source="redis", limit=3)
    second = letters.list(source="redis", after=first.next, limit=3)

    assert [view.message_id for view in first.entries + second.entries] == [f"m{number}" for number in range(5)]
    assert second.next is None
    assert letters.count() == letters.count("redis") == 5
    view = letters.get("m3")
    assert view is not None
    assert view == letters.get("m3:dead")
    assert view.to_dict() | {"died_ms": 0} == {
        "id": "m3:dead",
        "message_id": "m3",
        "kept_in": "redis",
        "partition": None,
        "offset": None,
        "died_ms": 0,
        "attempts": 4,
        "replays": 0,
        "written_by": "rebound",
        "destination": "http://127.0.0.1:1/hook",
        "origin": None,
        "group": None,
        "key": "k",
        "key_base64": "aw==",
        "headers": [
            {"name": "a", "value": "1", "value_base64": "MQ=="},
            {"name": "a", "value": "", "value_base64": ""},
        ],
        "reason": "rejected",
        "exception": "shop.errors.Refused",
        "error": "no such customer",
        "first_failed_at_ms": 1_700_000_000_000,
        "history": [{"attempt": 3, "failed_at_ms": 1_700_000_000_000, "error": "Refused: no", "by": "celery@a"}],
        "source": "shop",
        "client_id": None,
        "size_bytes": 2,
        "task": None,
        "problem": None,
        "stacktrace": "Traceback",
    }
    assert letters.get("nothing") is None


def test_a_filter_reads_all_letters_and_tells_how_far_it_is(alone: Rebound) -> None:
    keep_dead(alone, *(replace(IN_REDIS, id=f"m{number}", key=b"%d" % (number % 10)) for number in range(1_200)))
    told: list[Progress] = []

    found = list(alone.dead_letters.iterate(Filter(key=b"7"), "redis", progress=told.append))

    assert len(found) == 120
    assert told[-1] == Progress(1_000, 1_200, 100)
    page = alone.dead_letters.list(Filter(key=b"7"), "redis", read=200)
    assert (len(page.entries), page.read) == (20, 200)
    assert alone.dead_letters.list(Filter(key=b"7"), "redis", after=page.next, limit=1).entries == [found[20]]
    late = Filter(died_from_ms=1_700_000_100_000 + 1_190, died_to_ms=1_700_000_100_000 + 1_194)
    assert [view.message_id for view in alone.dead_letters.iterate(late, "redis")] == [
        f"m{number}" for number in range(1_190, 1_195)
    ]


def test_a_letter_that_cannot_be_read_is_listed_with_the_reason(alone: Rebound) -> None:
    with open_schedule(alone.app, "rebound") as schedule:
        schedule.keep_dead([DeadEntry("x:1", "unreadable", b"\x11damaged", 1), DeadEntry("y:1", "lost", b"\x99", 2)])

    first, second = alone.dead_letters.list(source="redis").entries

    assert (first.id, first.reason) == ("x:1", "unreadable")
    assert "damaged" in (first.problem or "")
    assert "later version" in (second.problem or "")
    result = alone.dead_letters.replay(filter=Filter(), source="redis")
    assert (result.left, result.replayed, result.done) == (2, 0, True)
    assert "it cannot be read" in result.problems[0]
    assert alone.dead_letters.count() == 2


def test_letters_of_a_topic_are_listed_by_time_over_all_partitions(
    rebound: Rebound, topics: tuple[str, str], produce: Produce
) -> None:
    topic, dlq = topics
    for number in range(12):
        dead(produce, letter(number, topic), partition=number % 3)
        time.sleep(0.002)  # records of one millisecond may come in any order

    views = list(rebound.dead_letters.iterate(source=dlq))

    assert [view.message_id for view in views] == [f"m{number}" for number in range(12)]
    view = views[4]
    assert (view.id, view.kept_in, view.partition, view.offset) == (f"{dlq}:1:1", dlq, 1, 1)
    assert (view.reason, view.exception, view.error) == ("retries-exhausted", "builtins.KeyError", "bad 4")
    assert (view.attempts, view.group, str(view.origin)) == (4, "shop", f"{topic}[0]@4")
    assert (view.key, view.headers, view.written_by) == (b"customer-4", (("trace", b"t4"),), "rebound")
    assert view.destination_text == f"kafka://{topic}"
    assert rebound.dead_letters.get(view.id) == view
    assert rebound.dead_letters.get(f"{dlq}:1:100") is None
    assert rebound.dead_letters.get(f"{dlq}:9:0") is None
    kept = rebound.dead_letters.letter(view.id)
    assert kept is not None
    assert kept.value == b'{"number": 4}'


def test_pages_of_a_topic_go_on_where_the_page_before_ended(
    rebound: Rebound, topics: tuple[str, str], produce: Produce
) -> None:
    topic, dlq = topics
    for number in range(10):
        dead(produce, letter(number, topic), partition=number % 3)

    found, after = [], None
    while True:
        page = rebound.dead_letters.list(Filter(exception="ValueError"), dlq, after, 2)
        found += [view.message_id for view in page.entries]
        after = page.next
        if after is None:
            break

    assert sorted(found) == ["m1", "m3", "m5", "m7", "m9"]


def test_without_a_source_redis_and_all_dead_letter_topics_are_listed(
    rebound: Rebound, topics: tuple[str, str], produce: Produce
) -> None:
    topic, dlq = topics
    keep_dead(rebound, IN_REDIS)
    dead(produce, letter(1, topic), letter(2, topic))

    assert rebound.dead_letters.sources()[0] == "redis"
    assert dlq in rebound.dead_letters.sources()
    mine = Filter(topic=topic)
    views, after = [], None
    while True:
        page = rebound.dead_letters.list(mine, None, after, 1)
        views += page.entries
        if (after := page.next) is None:
            break
    assert {view.message_id for view in views} == {"m1", "m2"}
    first = rebound.dead_letters.list(limit=1)
    assert [view.id for view in first.entries] == ["order-7:dead"]


@needs_apache
def test_records_of_a_transaction_are_listed_once_it_is_committed(
    rebound: Rebound, topics: tuple[str, str], produce: Produce, kafka_brokers: str
) -> None:
    topic, dlq = topics
    dead(produce, letter(1, topic), partition=0)
    producer = KafkaProducer(bootstrap_servers=kafka_brokers, transactional_id="streams")

    def listed() -> list[str]:
        return [view.id for view in rebound.dead_letters.iterate(source=dlq)]

    try:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(dlq, value=b"aborted", partition=0)
        producer.flush()
        assert listed() == [f"{dlq}:0:0"]
        producer.abort_transaction()
        producer.begin_transaction()
        producer.send(dlq, value=b"committed", partition=0)
        producer.commit_transaction()
    finally:
        producer.close()
    # The end of each transaction takes an offset too.
    wait_until(lambda: listed() == [f"{dlq}:0:0", f"{dlq}:0:3"])
    assert rebound.dead_letters.count(dlq) == 5


def test_what_is_not_there_or_away_is_said_plainly(alone: Rebound, rebound: Rebound, topics: tuple[str, str]) -> None:
    with pytest.raises(NoTopicError, match=f"Kafka has no topic with this name; there is {topics[1]}"):
        rebound.dead_letters.list(source=topics[1][:-1])
    with pytest.raises(InvalidSettingError, match="source='a b'"):
        rebound.dead_letters.list(source="a b")
    with pytest.raises(InvalidSettingError, match="after='x'"):
        rebound.dead_letters.list(after="x")
    with pytest.raises(InvalidSettingError, match="limit=0"):
        rebound.dead_letters.list(limit=0)
    with pytest.raises(UnreachableError, match="Kafka"):
        alone.dead_letters.list()
    assert rebound.dead_letters.list(source=topics[1]).entries == []
    away = Celery("shop", broker=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False)
    with pytest.raises(UnreachableError, match="Redis"):
        Rebound(away).dead_letters.list(source="redis")


def test_a_record_that_fits_no_convention_is_listed_and_needs_a_target(
    rebound: Rebound, topics: tuple[str, str], produce: Produce, read_topic: Read
) -> None:
    topic, dlq = topics
    produce(dlq, [(b"k", b"v", [("h", b"1")])], 0)

    (view,) = rebound.dead_letters.list(source=dlq).entries
    assert (view.written_by, view.reason, view.origin, view.headers) == ("unknown", None, None, (("h", b"1"),))
    result = rebound.dead_letters.replay(filter=Filter(), source=dlq)
    assert (result.left, result.problems) == (
        1,
        (f"{dlq}:0:0: its headers do not tell where it came from: give a target",),
    )
    assert rebound.dead_letters.replay(view.id, target=f"kafka://{topic}").replayed == 1
    with running_worker(rebound.app):
        (record,) = read_topic(topic, 1)
    assert (record.key, record.value) == (b"k", b"v")


# replaying


def headers_of(record: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}


def test_a_replayed_letter_begins_with_attempt_1_and_counts_its_replays(
    rebound: Rebound, topics: tuple[str, str], produce: Produce, read_topic: Read
) -> None:
    topic, dlq = topics
    dead(produce, letter(1, topic), letter(2, topic, headers=(("rebound-replays", b"1"),)))

    result = rebound.dead_letters.replay(filter=Filter(), source=dlq)

    assert (result.read, result.matched, result.replayed, result.parked, result.left) == (2, 2, 2, 0, 0)
    with running_worker(rebound.app):
        first, second = sorted(read_topic(topic, 2), key=lambda record: record.key)
    assert (first.key, first.value) == (b"customer-1", b'{"number": 1}')
    assert headers_of(first) | {"rebound-history": ""} == {
        "trace": "t1",
        "rebound-replays": "1",
        "rebound-id": "m1",
        "rebound-attempt": "1",
        "rebound-group": "shop",
        "rebound-history": "",
    }
    assert headers_of(second)["rebound-replays"] == "2"


def test_a_letter_of_a_topic_is_replayed_once_unless_it_is_asked_for_again(
    rebound: Rebound, topics: tuple[str, str], produce: Produce, read_topic: Read
) -> None:
    topic, dlq = topics
    dead(produce, *(letter(number, topic) for number in range(5)))
    replay = rebound.dead_letters.replay

    assert replay(filter=Filter(), source=dlq, dry_run=True).replayed == 5
    assert replay(filter=Filter(), source=dlq, limit=2).replayed == 2
    rest = replay(filter=Filter(), source=dlq)
    assert (rest.replayed, rest.repeated) == (3, 2)
    with running_worker(rebound.app):
        assert len(read_topic(topic, 5)) == 5
        wait_until(lambda: rebound.pending.count() == 0)
        assert replay(f"{dlq}:0:0").replayed == 0
        assert replay(filter=Filter(exception="KeyError"), source=dlq, again=True).replayed == 3
        assert len(read_topic(topic, 8)) == 8


def test_letters_that_were_replayed_before_do_not_count_against_the_rate(
    rebound: Rebound, topics: tuple[str, str], produce: Produce
) -> None:
    topic, dlq = topics
    dead(produce, *(letter(number, topic) for number in range(20)))
    rebound.dead_letters.replay(filter=Filter(), source=dlq)
    began = time.monotonic()

    assert rebound.dead_letters.replay(filter=Filter(), source=dlq, rate=0.5).repeated == 20

    # Each would take two seconds.
    assert time.monotonic() - began < 20


def test_a_letter_with_the_id_of_a_message_that_waits_is_left_for_a_later_replay(
    rebound: Rebound, topics: tuple[str, str], produce: Produce, read_topic: Read
) -> None:
    topic, dlq = topics
    dead(produce, letter(1, topic), letter(1, topic, value=b"another"), partition=0)
    replay = rebound.dead_letters.replay

    first = replay(f"{dlq}:0:0", f"{dlq}:0:1", dry_run=True)
    assert first.replayed == 2
    assert replay(f"{dlq}:0:0").replayed == 1
    assert replay(f"{dlq}:0:1").repeated == 1
    with running_worker(rebound.app):
        wait_until(lambda: rebound.pending.count() == 0)
        assert replay(filter=Filter(), source=dlq).replayed == 1
        values = {record.value for record in read_topic(topic, 2)}
    assert values == {b'{"number": 1}', b"another"}


def test_a_letter_in_redis_leaves_it_when_it_is_replayed(alone: Rebound) -> None:
    keep_dead(alone, IN_REDIS, replace(IN_REDIS, id="other", key=b"x"))

    result = alone.dead_letters.replay("order-7", "nothing")

    assert (result.replayed, result.unknown, result.done) == (1, ("nothing",), True)
    assert [view.message_id for view in alone.dead_letters.list(source="redis").entries] == ["other"]
    (waiting,) = alone.pending.list().entries
    assert alone.pending.get("order-7") == waiting
    message = alone.pending.message(waiting.id)
    assert message == replace(
        IN_REDIS,
        attempt=1,
        reason=None,
        failure=None,
        first_failed_at=None,
        headers=(*IN_REDIS.headers, ("rebound-replays", b"1")),
    )
    assert alone.dead_letters.replay("order-7").unknown == ("order-7",)


def test_a_replayed_message_that_dies_again_has_its_number_of_replays(alone: Rebound) -> None:
    gone = replace(IN_REDIS, destination=HttpAddress(f"http://127.0.0.1:{free_port()}/"), policy=RetryPolicy(0, 1))
    keep_dead(alone, gone)

    alone.dead_letters.replay(filter=Filter(), source="redis")
    with running_worker(alone.app):
        wait_until(lambda: alone.dead_letters.count() == 1, timeout=15)

    (view,) = alone.dead_letters.list(source="redis").entries
    assert (view.id, view.replays, view.headers[:2]) == ("order-7:dead", 1, IN_REDIS.headers)


def test_a_letter_that_was_replayed_too_often_is_parked_with_its_reason(
    rebound: Rebound, topics: tuple[str, str], produce: Produce, read_topic: Read, make_topic: Callable[..., str]
) -> None:
    topic, dlq = topics
    parked = make_topic(1, f"{topic}-parked")
    dead(produce, letter(1, topic, headers=(("rebound-replays", b"3"),)))

    result = rebound.dead_letters.replay(filter=Filter(), source=dlq)

    assert (result.replayed, result.parked) == (0, 1)
    with running_worker(rebound.app):
        (record,) = read_topic(parked, 1)
    found = headers_of(record)
    assert (found["rebound-reason"], found["rebound-replays"], found["rebound-attempt"]) == (
        "retries-exhausted",
        "3",
        "4",
    )
    again = rebound.dead_letters.replay(filter=Filter(), source=parked)
    assert (again.parked, again.left) == (0, 1)
    assert "raise max_replays" in again.problems[0]
    assert rebound.dead_letters.replay(filter=Filter(), source=parked, max_replays=9).replayed == 1


def test_a_letter_for_a_url_that_was_replayed_too_often_stays_where_it_is(alone: Rebound) -> None:
    keep_dead(alone, replace(IN_REDIS, headers=(("rebound-replays", b"3"),)))

    result = alone.dead_letters.replay(filter=Filter(), source="redis")

    assert (result.left, result.parked, alone.dead_letters.count()) == (1, 0, 1)
    assert "no topic to park it in" in result.problems[0]
    assert alone.dead_letters.replay("order-7", max_replays=4).replayed == 1


def test_the_order_of_each_key_is_kept(
    rebound: Rebound, topics: tuple[str, str], produce: Produce, read_topic: Read
) -> None:
    topic, dlq = topics
    keys = [b"a", b"b", b"a", b"a", None, b"b", b"c", b"a"] * 6
    dead(produce, *(letter(number, topic, key=key) for number, key in enumerate(keys)))

    with running_worker(rebound.app, concurrency=4):
        result = rebound.dead_letters.replay(filter=Filter(), source=dlq)
        records = read_topic(topic, len(keys), timeout=30)

    assert result.replayed == len(keys)
    for key in (b"a", b"b", b"c"):
        numbers = [json.loads(record.value)["number"] for record in records if record.key == key]
        assert numbers == sorted(numbers)
        assert len(numbers) == keys.count(key)


def test_a_letter_waits_until_the_one_before_with_its_key_is_delivered(
    rebound: Rebound, topics: tuple[str, str], produce: Produce
) -> None:
    topic, dlq = topics
    dead(produce, *(letter(number, topic, key=b"k") for number in range(3)), letter(9, topic, key=b"other"))

    replay = rebound.dead_letters.begin_replay(filter=Filter(), source=dlq)
    first, second = replay.step(), replay.step()

    assert (first.replayed, second.replayed, second.done) == (2, 2, False)
    assert replay.wait_s > 0
    # No worker runs, and a new replay does not overtake either.
    replay.close()
    other = rebound.dead_letters.begin_replay(filter=Filter(), source=dlq, after=second.position)
    found = [other.step() for _ in range(3)][-1]
    assert (found.replayed, found.repeated) == (0, 2)
    other.close()


def test_a_replay_goes_on_from_a_saved_position(rebound: Rebound, topics: tuple[str, str], produce: Produce) -> None:
    topic, dlq = topics
    dead(produce, *(letter(number, topic) for number in range(6)))
    replay = rebound.dead_letters.begin_replay(filter=Filter(), source=dlq, limit=4)
    position = replay.run().position
    replay.close()

    rest = rebound.dead_letters.begin_replay(filter=Filter(), source=dlq, after=position)
    assert rest.run().replayed == 2
    rest.close()
    with pytest.raises(InvalidSettingError, match="it is a position in"):
        rebound.dead_letters.begin_replay(filter=Filter(), source="redis", after=position)


def test_a_rate_holds(alone: Rebound) -> None:
    keep_dead(alone, *(replace(IN_REDIS, id=f"m{number}") for number in range(10)))
    began = time.monotonic()

    assert alone.dead_letters.replay(filter=Filter(), source="redis", rate=20).replayed == 10

    # The first letters may go at once.
    assert 0.3 < time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "give ids, or a filter"),
        ({"filter": Filter()}, "say whose dead letters"),
        ({"filter": Filter(), "source": "redis", "limit": 0}, "limit=0"),
        ({"filter": Filter(), "source": "redis", "rate": 0}, "rate=0"),
        ({"filter": Filter(), "source": "redis", "max_replays": -1}, "max_replays=-1"),
        ({"filter": Filter(), "source": "redis", "target": "ftp://x"}, "target='ftp://x'"),
    ],
)
def test_wrong_options_of_a_replay_are_named(alone: Rebound, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidSettingError, match=text):
        alone.dead_letters.replay(**options)


def test_a_replay_goes_on_after_redis_was_away(tmp_path: Path) -> None:
    with RedisServer(aof_dir=tmp_path) as server:
        rebound = Rebound(Celery("shop", broker=server.url, set_as_current=False))
        keep_dead(rebound, *(replace(IN_REDIS, id=f"m{number}") for number in range(1_500)))
        replay = rebound.dead_letters.begin_replay(filter=Filter(), source="redis")
        first = replay.step()
        server.kill()
        # It has read ahead, and then asks Redis to store.
        with pytest.raises(UnreachableError, match="Redis"):
            replay.step()
        with pytest.raises(UnreachableError, match="Redis"):
            replay.run()
        server.restart()
        last = replay.run()
        replay.close()

        assert 0 < first.replayed < 1_500
        assert (last.matched, last.replayed, last.repeated) == (1_500, 1_500, 0)
        assert (rebound.dead_letters.count(), rebound.pending.count()) == (0, 1_500)


# editing


def test_an_edited_letter_goes_with_a_record_of_the_change_and_the_original_is_kept(
    rebound: Rebound, topics: tuple[str, str], produce: Produce, read_topic: Read
) -> None:
    topic, dlq = topics
    dead(produce, letter(1, topic), partition=2)
    edit = rebound.dead_letters.edit

    task_id = edit(f"{dlq}:2:0", value={"number": 7}, headers={"trace": "new"})

    assert edit(f"{dlq}:2:0", value={"number": 7}, headers={"trace": "new"}) == task_id
    assert rebound.pending.count() == 1
    with running_worker(rebound.app):
        (record,) = read_topic(topic, 1)
    found = headers_of(record)
    assert (record.key, record.value, found["trace"]) == (b"customer-1", b'{"number":7}', "new")
    assert found["rebound-edited"] == f"value,headers of {dlq}:2:0"
    assert (found["rebound-replays"], found["rebound-attempt"]) == ("1", "1")
    assert found["rebound-id"] != "m1"
    assert rebound.dead_letters.get(f"{dlq}:2:0") is not None
    assert rebound.dead_letters.replay(f"{dlq}:2:0").replayed == 1


def test_an_edit_of_a_letter_in_redis_keeps_it_and_its_destination(alone: Rebound) -> None:
    keep_dead(alone, IN_REDIS)

    task_id = alone.dead_letters.edit("order-7", key=None)

    message = alone.pending.message(task_id)
    assert message is not None
    assert (message.key, message.value, message.destination) == (None, b"\x00\xff", IN_REDIS.destination)
    assert dict(message.headers)["rebound-edited"] == b"key of redis:order-7:dead"
    assert alone.dead_letters.count() == 1
    with pytest.raises(InvalidSettingError, match="nothing is changed"):
        alone.dead_letters.edit("order-7")
    with pytest.raises(InvalidSettingError, match="there is no dead letter with this id"):
        alone.dead_letters.edit("nothing", value=b"")


# purging


def test_letters_in_redis_are_purged_by_ids_and_by_a_filter(alone: Rebound) -> None:
    keep_dead(alone, *(replace(IN_REDIS, id=f"m{number}", key=b"%d" % (number % 2)) for number in range(10)))
    purge = alone.dead_letters.purge

    by_id = purge("m0", "m1:dead", "nothing")
    assert (by_id.matched, by_id.changed, by_id.unknown) == (2, 2, ("nothing",))
    assert purge(filter=Filter(key=b"1"), source="redis", dry_run=True).matched == 4
    assert purge(filter=Filter(key=b"1"), source="redis", limit=1).changed == 1
    assert purge(filter=Filter(key=b"1"), source="redis").changed == 3
    assert alone.dead_letters.count() == 4
    assert purge(filter=Filter(), source="redis").changed == 4
    assert alone.dead_letters.count() == 0


def test_what_kafka_cannot_delete_is_said(rebound: Rebound, topics: tuple[str, str]) -> None:
    purge = rebound.dead_letters.purge
    with pytest.raises(InvalidSettingError, match="Kafka cannot delete single records"):
        purge(filter=Filter(reason="rejected"), source=topics[1])
    with pytest.raises(InvalidSettingError, match="up_to='x'"):
        purge(up_to="x")
    with pytest.raises(InvalidSettingError, match="give ids, or a filter"):
        purge()
    with pytest.raises(NoTopicError):
        purge(up_to="nothing-dlq:0:1")


@needs_apache
def test_a_topic_is_purged_up_to_a_letter_or_as_a_whole(
    rebound: Rebound, topics: tuple[str, str], produce: Produce
) -> None:
    topic, dlq = topics
    for number in range(9):
        dead(produce, letter(number, topic), partition=number % 3)
    letters = rebound.dead_letters

    assert letters.count(dlq) == 9
    assert letters.purge(up_to=f"{dlq}:1:1", dry_run=True).matched == 2
    assert letters.purge(up_to=f"{dlq}:1:1").changed == 2
    assert {view.message_id for view in letters.iterate(source=dlq)} == {"m0", "m2", "m3", "m5", "m6", "m7", "m8"}
    assert letters.get(f"{dlq}:1:1") is None
    assert letters.purge(filter=Filter(), source=dlq).changed == 7
    assert letters.count(dlq) == 0
    assert letters.list(source=dlq).entries == []
    assert letters.purge(filter=Filter(), source=dlq).changed == 0


# moving


def test_exported_letters_are_imported_as_they_were(alone: Rebound) -> None:
    messages = [IN_REDIS, replace(IN_REDIS, id="text", value="größe".encode(), headers=(("rebound-replays", b"2"),))]
    keep_dead(alone, *messages)
    views = alone.dead_letters.list(source="redis").entries

    lines = [json.dumps(letter) for letter in alone.dead_letters.export(source="redis")]
    alone.dead_letters.purge(filter=Filter(), source="redis")
    assert alone.dead_letters.import_(map(json.loads, lines)) == 2

    assert alone.dead_letters.list(source="redis").entries == views
    assert list(alone.dead_set) == messages
    first, second = map(json.loads, lines)
    assert (first["value"], first["value_base64"]) == (None, "AP8=")
    assert second["value"] == "größe"
    assert alone.dead_letters.import_(map(json.loads, lines)) == 2
    assert alone.dead_letters.count() == 2


def test_letters_of_a_topic_are_exported_and_can_be_kept_in_redis(
    rebound: Rebound, topics: tuple[str, str], produce: Produce
) -> None:
    topic, dlq = topics
    dead(produce, letter(1, topic), letter(1, topic), partition=0)

    exported = list(rebound.dead_letters.export(source=dlq))
    assert rebound.dead_letters.import_(exported) == 2

    first, second = rebound.dead_letters.list(source="redis").entries
    assert (first.message_id, first.destination_text, first.attempts) == ("m1", f"kafka://{topic}", 4)
    assert first.id != second.id
    assert rebound.dead_letters.replay(filter=Filter(), source="redis", dry_run=True).replayed == 2


@pytest.mark.parametrize(
    ("letter_", "text"),
    [
        ([], "letter 1='list'"),
        ({}, "KeyError"),
        ({"message_id": "m", "id": "m:dead", "headers": [], "value_base64": "?"}, "letter 1='m:dead'"),
        ({"message_id": "m", "id": "m:dead", "headers": [], "address": {"x": 1}}, "no exported letter"),
        ({"message_id": "m", "id": "m:dead", "headers": [], "first_failed_at_ms": "x"}, "no exported letter"),
    ],
)
def test_what_is_no_exported_letter_is_named(alone: Rebound, letter_: Any, text: str) -> None:
    with pytest.raises(InvalidSettingError, match=text):
        alone.dead_letters.import_([letter_])
    assert alone.dead_letters.count() == 0


def test_encrypted_letters_are_shown_with_the_key_and_not_without(redis_url: str) -> None:
    pytest.importorskip("cryptography")
    key = "a:" + "A" * 43 + "="
    app = Celery("shop", broker=redis_url, set_as_current=False)
    rebound = Rebound(app, encryption_keys=key)
    with open_schedule(app, "rebound") as schedule:
        sealed = rebound.settings.encryption_keys.seal(codec.encode(IN_REDIS))
        schedule.keep_dead([DeadEntry(IN_REDIS.task_id, "rejected", sealed, 5)])

    assert rebound.dead_letters.list(source="redis").entries[0].problem is None
    other = Rebound(Celery("other", broker=redis_url, set_as_current=False))
    assert "'a'" in (other.dead_letters.list(source="redis").entries[0].problem or "")
    rebound.dead_letters.replay(filter=Filter(), source="redis")
    with Redis.from_url(redis_url) as client:
        (stored,) = client.hgetall("rebound:1:{rebound}:messages").values()  # type: ignore[union-attr]
    assert b"hook" not in stored


def test_a_topic_that_is_not_for_dead_letters_is_not_purged(alone: Rebound) -> None:
    with pytest.raises(InvalidSettingError, match=r"source='orders' .*-dlq or -parked"):
        alone.dead_letters.purge(filter=Filter(), source="orders", dry_run=True)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda letters: letters.list("orders"), "filter='orders' cannot be used: it is a Filter, such as"),
        (lambda letters: letters.list(Filter(), read="5"), "read='5' cannot be used"),
        (lambda letters: list(letters.iterate("orders")), "filter='orders' cannot be used"),
        (lambda letters: list(letters.export("orders")), "filter='orders' cannot be used"),
        (lambda letters: letters.list(source=5), "source=5 cannot be used"),
        (lambda letters: letters.get(5), "id=5 cannot be used: it is the id of a dead letter, as a text"),
        (lambda letters: letters.edit(["a"], value=b""), "id=['a'] cannot be used"),
        (lambda letters: letters.replay(["a"]), "ids=['a'] cannot be used: an id is a text: give each as an argument"),
        (lambda letters: letters.replay(filter="a", source="redis"), "filter='a' cannot be used"),
        (lambda letters: letters.replay("a", filter=Filter()), "filter='all' cannot be used: ids say which entries"),
        (lambda letters: letters.purge(["a"]), "ids=['a'] cannot be used: an id is a text"),
        (lambda letters: letters.purge(filter=Filter(), source="redis", limit=0), "limit=0 cannot be used"),
        (lambda letters: letters.purge("a", limit=1), "limit=1 cannot be used: it goes with a filter"),
        (lambda letters: letters.purge(up_to=5), "up_to=5 cannot be used: it is the id of a letter in a topic"),
        (lambda letters: letters.purge("a", up_to="a:0:1"), "up_to='a:0:1' cannot be used: it says all"),
    ],
)
def test_a_wrong_argument_is_named(alone: Rebound, call: Callable[[Any], object], text: str) -> None:
    keep_dead(alone, IN_REDIS)

    with pytest.raises(InvalidSettingError) as refused:
        call(alone.dead_letters)

    assert text in str(refused.value)
    assert alone.dead_letters.count() == 1
