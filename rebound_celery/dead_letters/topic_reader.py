"""Reads dead letter topics with kafka-python: from any place, in the order of time, up to where they end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from ..clock import SYSTEM_CLOCK, Clock
from ..compat.kafka_python import WatchedClient, release_set_aside_records
from ..compat.kafka_records import read_all_records
from ..config import Settings
from ..errors import UnreachableError
from ..kafka_common import near_matches, shared_options
from .errors import NoTopicError

_TIMEOUT_MS = 8_000
#: How many records of a partition, and how many bytes, are in memory before no more of it is fetched.
_AHEAD = 500
_AHEAD_BYTES = 2_000_000
#: A fetch of one partition, in bytes, and of all partitions together.
_PARTITION_BYTES = 1_000_000
_FETCH_BYTES = 8_000_000
#: Without a record for so long, Kafka counts as away, in seconds.
_PATIENCE_S = 20.0
#: Behind what was the end at the beginning, so many fetches without a record are the end.
_IDLE = 3


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "bootstrap_servers": list(settings.kafka_brokers),
        "bootstrap_timeout_ms": _TIMEOUT_MS,
        **shared_options(settings.kafka_options),
        **settings.kafka_connection(),
    }


@contextmanager
def _connected(settings: Settings, make: Callable[..., Any], **options: Any) -> Iterator[Any]:
    """A client of kafka-python's, which is closed at the end.

    Raises:
        UnreachableError: if no broker answers.
    """
    watched = WatchedClient()
    try:
        client = make(**_options(settings), **options, kafka_client=watched)
    except BaseException as error:
        reason = watched.reason(error)
        watched.close()
        if isinstance(error, KafkaError | OSError):
            raise _unreachable(settings, reason) from error
        raise
    try:
        yield client
    finally:
        client.close()


def _unreachable(settings: Settings, reason: BaseException | str) -> UnreachableError:
    return UnreachableError("Kafka", ",".join(settings.kafka_brokers), reason)


@contextmanager
def topics_of(settings: Settings, clock: Clock = SYSTEM_CLOCK) -> Iterator[Topics]:
    """Connect to the app's Kafka.

    Raises:
        UnreachableError: if no broker answers.
    """
    read_all_records()
    with _connected(
        settings,
        KafkaConsumer,
        client_id="rebound-dead-letters",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        # Kafka Streams writes dead letters in its transactions.
        isolation_level="read_committed",
        metrics_enabled=False,
        fetch_max_wait_ms=100,
        fetch_max_bytes=_FETCH_BYTES,
        max_partition_fetch_bytes=_PARTITION_BYTES,
    ) as consumer:
        yield Topics(consumer, settings, clock)


class Topics:
    """The topics of the app's Kafka."""

    def __init__(self, consumer: Any, settings: Settings, clock: Clock) -> None:
        self._consumer = consumer
        self._settings = settings
        self._clock = clock

    def names(self) -> list[str]:
        """The topics whose names end with the app's suffix of dead letter topics."""
        suffix = self._settings.dead_letter_suffix
        return sorted(name for name in self._all() if name.endswith(suffix) and name != suffix)

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """For each partition the offset of its first record, and the one behind its last.

        Raises:
            NoTopicError: if there is no such topic.
        """
        partitions = [TopicPartition(topic, number) for number in sorted(self._partitions(topic))]
        try:
            begins, ends = self._consumer.beginning_offsets(partitions), self._consumer.end_offsets(partitions)
        except KafkaError as error:
            raise _unreachable(self._settings, error) from error
        return {each.partition: (begins[each], ends[each]) for each in partitions}

    def ends(self, topic: str) -> dict[int, int]:
        """For each partition the offset behind its last record, whatever the broker answers if it is asked for that.

        Raises:
            NoTopicError: if there is no such topic.
        """
        bounds = self.bounds(topic)
        parts = {TopicPartition(topic, number): _Part(end, end) for number, (_, end) in bounds.items()}
        self._assign(parts)
        give_up_at = self._clock.monotonic() + _TIMEOUT_MS / 1000
        while any(part.highwater is None for part in parts.values()) and self._clock.monotonic() < give_up_at:
            self._fetch(parts)
        return {where.partition: max(part.end, part.highwater or 0) for where, part in parts.items()}

    def records(
        self,
        topic: str,
        positions: Mapping[int, int],
        bounds: Mapping[int, tuple[int, int]],
        ends: Mapping[int, int] | None = None,
    ) -> Iterator[Any]:
        """Give the records of a topic, the earliest first, up to those that are there now.

        Of one partition they come in the order of their offsets.

        Args:
            topic: the topic.
            positions: partition -> where to begin; other partitions begin with their first record.
            bounds: the topic's, as `bounds` has just told them.
            ends: partition -> where to end; other partitions are left out. None means that all are read.

        Raises:
            UnreachableError: if Kafka does not answer any more.
        """
        parts = {
            TopicPartition(topic, number): part
            for number, (begin, end) in bounds.items()
            if begin < end
            and not (part := _Part(max(begin, positions.get(number, 0)), end, _stop(ends, number))).is_behind_stop
        }
        self._assign(parts)
        last_s = self._clock.monotonic()
        while parts:
            if all(part.ahead for part in parts.values()):
                where, part = min(parts.items(), key=lambda item: (item[1].ahead[0].timestamp, item[0].partition))
                yield part.taken()
                last_s = self._clock.monotonic()
            else:
                self._fetch(parts)
                if self._clock.monotonic() - last_s > _PATIENCE_S:
                    raise _unreachable(self._settings, f"no record of {topic} for {_PATIENCE_S:g} s")
            for where in [where for where, part in parts.items() if part.is_over]:
                del parts[where]

    def record(self, topic: str, partition: int, offset: int) -> Any | None:
        """The record at a place; None if there is none, or no more."""
        bounds = self.bounds(topic).get(partition)
        if bounds is None or offset < bounds[0]:
            return None
        where = TopicPartition(topic, partition)
        self._consumer.assign([where])
        self._consumer.seek(where, offset)
        part = _Part(offset, max(bounds[1], offset + 1) if bounds[0] < bounds[1] else 0)
        give_up_at = self._clock.monotonic() + _TIMEOUT_MS / 1000
        while part.position < part.end and not part.ahead and self._clock.monotonic() < give_up_at:
            self._fetch({where: part})
        found = part.ahead[0] if part.ahead else None
        return found if found is not None and found.offset == offset else None

    def _assign(self, parts: Mapping[TopicPartition, _Part]) -> None:
        self._consumer.assign(list(parts))
        for where, part in parts.items():
            self._consumer.seek(where, part.position)

    def _fetch(self, parts: Mapping[TopicPartition, _Part]) -> None:
        full = [where for where, part in parts.items() if part.is_full]
        if full:
            self._consumer.pause(*full)
        release_set_aside_records(self._consumer)
        try:
            found = self._consumer.poll(timeout_ms=200, max_records=_AHEAD)
        finally:
            if full:
                self._consumer.resume(*full)
        for where, records in found.items():
            if (part := parts.get(where)) is not None:
                part.add(records)
                part.idle = 0
        for where, part in parts.items():
            if where in full:
                continue
            part.idle += not found
            part.position = max(part.position, self._consumer.position(where) or 0)
            if part.highwater is None:
                part.highwater = self._consumer.highwater(where)

    def _partitions(self, topic: str) -> set[int]:
        found = self._consumer.partitions_for_topic(topic) if topic in self._all() else None
        if not found:
            raise NoTopicError(topic, near_matches(topic, self._all()))
        return set(found)

    def _all(self) -> set[str]:
        try:
            return set(self._consumer.topics())
        except KafkaError as error:
            raise _unreachable(self._settings, error) from error


def _stop(ends: Mapping[int, int] | None, partition: int) -> int | None:
    return None if ends is None else ends.get(partition, 0)


class _Part:
    """A partition that is read.

    Attributes:
        position: where the next fetch begins.
        end: where it ended at the beginning. Some brokers tell an end that is too low.
        highwater: where it ended at the first fetch. With a transaction that is open, nothing can be read up to there.
        idle: how many fetches in a row had no record.
        stop: records from this offset on are left out; None if none is.
        ahead: the records that are fetched, and not given yet.
    """

    __slots__ = ("ahead", "end", "highwater", "idle", "position", "size_bytes", "stop")

    def __init__(self, position: int, end: int, stop: int | None = None) -> None:
        self.stop = stop
        self.position = position
        self.end = end
        self.highwater: int | None = None
        self.idle = 0
        self.ahead: deque[Any] = deque()
        self.size_bytes = 0

    def add(self, records: Iterable[Any]) -> None:
        for record in records:
            if self.stop is not None and record.offset >= self.stop:
                continue
            self.ahead.append(record)
            self.size_bytes += len(record.value or b"")

    def taken(self) -> Any:
        record = self.ahead.popleft()
        self.size_bytes -= len(record.value or b"")
        return record

    @property
    def is_full(self) -> bool:
        return len(self.ahead) >= _AHEAD or self.size_bytes >= _AHEAD_BYTES

    @property
    def is_behind_stop(self) -> bool:
        return self.stop is not None and self.position >= self.stop

    @property
    def is_over(self) -> bool:
        if self.is_behind_stop and not self.ahead:
            return True
        if self.ahead or self.highwater is None or self.position < self.end:
            return False
        return self.position >= self.highwater or self.idle >= _IDLE


def delete_records(settings: Settings, topic: str, before: Mapping[int, int]) -> None:
    """Delete the records of partitions of a topic before these offsets.

    Raises:
        UnreachableError: if Kafka does not answer, or refuses.
    """
    with _connected(settings, KafkaAdminClient, request_timeout_ms=_TIMEOUT_MS) as admin:
        try:
            admin.delete_records({TopicPartition(topic, number): offset for number, offset in before.items()})
        except KafkaError as error:
            raise _unreachable(settings, f"it does not delete records of {topic}: {error!r}") from error
