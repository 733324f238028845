"""Kafka's topics and HTTP receivers in memory: destinations as the delivery knows them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

from ..clock import Clock
from ..destinations import Delivered, Failed, Outcome, Rejected, Unavailable
from ..errors import InvalidSettingError
from ..message import Message
from ..message.address import HttpAddress, KafkaAddress
from ..message.headers import kafka_headers, own_headers


class KafkaRecord(NamedTuple):
    """A record of a topic, with the fields of kafka-python's ConsumerRecord."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class MemoryTopics:
    """Topics in memory. A topic that is not named has one partition and exists from its first record on.

    Attributes:
        is_away: True is an outage: nothing is delivered, and no attempt is used up.

    Args:
        clock: tells the records' time.
        partitions: topic -> number of partitions.
    """

    def __init__(self, clock: Clock, partitions: Mapping[str, int]) -> None:
        self.is_away = False
        self._clock = clock
        self._partitions = partitions
        self._records: dict[str, list[KafkaRecord]] = defaultdict(list)

    def names(self) -> list[str]:
        """The topics that have records."""
        return [name for name, records in self._records.items() if records]

    def records(self, topic: str) -> list[KafkaRecord]:
        """All records of a topic, in the order in which they were produced."""
        return list(self._records.get(topic, ()))

    def produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        partition: int | None = None,
    ) -> KafkaRecord:
        """Append a record. The key decides the partition, unless it is given.

        Raises:
            InvalidSettingError: if the topic has no such partition.
        """
        count = self._partitions.get(topic, 1)
        if partition is not None and partition not in range(count):
            raise InvalidSettingError("partition", partition, f"the topic {topic} has {count}; see `topics`")
        records = self._records[topic]
        if partition is None:
            partition = len(records) % count if key is None else crc32(key) % count
        offset = sum(record.partition == partition for record in records)
        record = KafkaRecord(topic, partition, offset, self._clock.now_ms(), key, value, list(headers))
        records.append(record)
        return record

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        return [self._deliver(message) for message in messages]

    def _deliver(self, message: Message) -> Outcome:
        address = message.target
        assert isinstance(address, KafkaAddress)
        if self.is_away:
            return Unavailable(f"{address}: the test has taken Kafka away")
        try:
            record = self.produce(address.topic, message.key, message.value, kafka_headers(message), address.partition)
        except InvalidSettingError as error:
            return Rejected(f"{address}: {error}")
        return Delivered(f"{address}[{record.partition}]@{record.offset}")

    def close(self) -> None: ...


class Post(NamedTuple):
    """A request that was delivered over HTTP. The headers are those of the caller and of rebound."""

    url: str
    body: bytes
    headers: dict[str, str]


class MemoryReceivers:
    """HTTP receivers in memory.

    Attributes:
        answer: is called with each Post; returns the status, or raises for a receiver that does not answer. Both that
            and each status other than 2xx fail the attempt.
        posts: what was posted, failed attempts too.
    """

    def __init__(self) -> None:
        self.answer: Callable[[Post], int] = lambda _post: 200
        self.posts: list[Post] = []

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        return [self._deliver(message) for message in messages]

    def _deliver(self, message: Message) -> Outcome:
        address = message.target
        assert isinstance(address, HttpAddress)
        headers = {name: (value or b"").decode("utf-8", "replace") for name, value in message.headers}
        post = Post(address.url, message.value or b"", {**headers, **dict(own_headers(message))})
        self.posts.append(post)
        try:
            status = self.answer(post)
        except Exception as error:  # noqa: BLE001 - a test's receiver that does not answer
            # As over HTTP: rebound cannot tell a receiver that is away from one that fails.
            return Failed(f"{address}: {error!r}")
        if 200 <= status < 300:
            return Delivered(f"{address} {status}")
        return Failed(f"{address} answered {status}")

    def close(self) -> None: ...
