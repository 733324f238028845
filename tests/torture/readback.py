"""Reads the data of a finished run: Kafka's topics to their ends, Redis, and the journals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from redis import Redis

from rebound_celery.demo.stored import waiting
from rebound_celery.schedule.store.keys import QueueKeys
from tests.torture.history import Call, Commit, Fault, History, Position, Post, Produced
from tests.torture.journal import Journal, JournalReader
from tests.torture.plan import DEAD_TOPIC, GROUP, PARTITIONS, QUEUE, TOPIC
from tests.torture.watch import look

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: The header of the records that end a topic.
END = "torture-end"

TIMEOUT_S = 120.0


def read_history(brokers: str, redis_url: str, directory: Path, *, in_order: bool = False) -> History:
    """Return the history of the run. No process may write to the topics any more."""
    offsets = Journal("commits", directory)
    reader = KafkaConsumer(bootstrap_servers=brokers, group_id=GROUP, enable_auto_commit=False)
    try:
        look(reader, offsets)
    finally:
        reader.close()
    records = _read_topics(brokers)
    _keep(records, directory)
    return History(
        produced={p.id: p for p in _produced(directory)},
        calls=_calls(directory),
        records=records[TOPIC],
        letters=records[DEAD_TOPIC],
        posts=_posts(directory),
        held=frozenset(waiting(redis_url, QUEUE)),
        kept_dead=_kept_dead(redis_url),
        commits=_commits(directory),
        faults=_faults(directory),
        in_order=in_order,
    )


def _keep(records: Mapping[str, list[Position]], directory: Path) -> None:
    """Write Kafka's records to the journals' directory, because Kafka is removed after the run."""
    for topic, positions in records.items():
        lines = (json.dumps(dataclasses.asdict(position)) + "\n" for position in positions)
        (directory / f"topic-{topic}.jsonl").write_text("".join(lines))


def _produced(directory: Path) -> list[Produced]:
    lines = JournalReader("produced", directory).lines()
    return [Produced(id=line["id"], ns=line["ns"], http=line.get("http", False)) for line in lines if "id" in line]


def _calls(directory: Path) -> list[Call]:
    begun: dict[str, dict[str, Any]] = {}
    for line in JournalReader("calls", directory).lines():
        if line.pop("what") == "begin":
            begun[line["call"]] = {name: value for name, value in line.items() if name != "call"}
    for line in JournalReader("calls", directory).lines():
        if line["what"] != "begin":
            begun[line["call"]].update(end_ns=line["ns"], outcome=line["what"])
    return [Call(**fields) for fields in begun.values()]


def _posts(directory: Path) -> list[Post]:
    names = ("id", "attempt", "ns", "answer", "taken")
    return [Post(**{name: line[name] for name in names}) for line in JournalReader("posts", directory).lines()]


def _commits(directory: Path) -> list[Commit]:
    return [
        Commit(ns=line["ns"], offsets={int(partition): offset for partition, offset in line["offsets"].items()})
        for line in JournalReader("commits", directory).lines()
    ]


def _faults(directory: Path) -> list[Fault]:
    found: dict[tuple[str, str, int], Fault] = {}
    for line in JournalReader("events", directory).lines():
        kind, target, start = line.pop("kind"), line.pop("target"), line.pop("start")
        # The second line of a fault has its end and replaces the first line.
        found[kind, target, start] = Fault(
            kind=kind, target=target, start_ns=start, end_ns=line.pop("end", start), details=line
        )
    return sorted(found.values(), key=lambda fault: fault.start_ns)


def _kept_dead(url: str) -> dict[str, str]:
    with Redis.from_url(url, socket_timeout=30) as redis:
        entries: Any = redis.hgetall(QueueKeys("", QUEUE, ()).dead)
    return {_message_id(name.decode()): letter.partition(b"\n")[0].decode() for name, letter in entries.items()}


def _message_id(task_id: str) -> str:
    return task_id.rpartition(":")[0]


def _read_topics(brokers: str) -> dict[str, list[Position]]:
    """Return all records of both topics.

    A record that marks the end is added to each partition. An end offset would be simpler, but the embedded broker does
    not return exact ones.
    """
    mark = uuid.uuid4().bytes
    places = [TopicPartition(topic, number) for topic in (TOPIC, DEAD_TOPIC) for number in range(PARTITIONS)]
    producer = KafkaProducer(bootstrap_servers=brokers, delivery_timeout_ms=30_000)
    try:
        for place in places:
            producer.send(place.topic, b"", partition=place.partition, headers=[(END, mark)]).get(timeout=40)
    finally:
        producer.close(timeout=5)
    missing, found = set(places), {TOPIC: [], DEAD_TOPIC: []}  # type: ignore[var-annotated]
    deadline = time.monotonic() + TIMEOUT_S
    reader = KafkaConsumer(bootstrap_servers=brokers, group_id=None, enable_auto_commit=False)
    try:
        reader.assign(places)
        reader.seek_to_beginning()
        while missing:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Kafka does not give back the end of {sorted(missing)}")
            for place, batch in reader.poll(timeout_ms=500).items():
                for record in batch:
                    headers = dict(record.headers)
                    if headers.get(END) == mark:
                        missing.discard(place)
                    elif END not in headers:
                        found[place.topic].append(_position(record, headers))
    finally:
        reader.close()
    return found


def _position(record: Any, headers: dict[str, bytes]) -> Position:
    message_id = "?"
    with contextlib.suppress(ValueError, KeyError):
        message_id = json.loads(record.value)["id"]
    return Position(
        id=message_id,
        partition=record.partition,
        offset=record.offset,
        ms=record.timestamp,
        key=None if record.key is None else record.key.decode(),
        headers={name: (value or b"").decode(errors="replace") for name, value in headers.items()},
    )
