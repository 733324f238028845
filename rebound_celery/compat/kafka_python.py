"""What kafka-python 3.0.12 does that its users have to mend."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.record.default_records import DefaultRecordBatch

#: Seconds that a poll waits at least for Kafka's answer, however late a heartbeat is.
_SHORTEST_WAIT_S = 0.05


def calm(consumer: KafkaConsumer) -> None:
    """Keep polls from spinning while Kafka does not answer; to be called once.

    A poll waits no longer than until the next heartbeat, and not at all while one is overdue: with a broker that hangs
    it goes round as fast as it can, and each round leaves a callback on the unanswered request, some 10 MB a second.
    Heartbeats have a loop of their own, so nothing is gained by not waiting.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    time_to_next_poll = getattr(coordinator, "time_to_next_poll", None)
    if time_to_next_poll is not None:
        coordinator.time_to_next_poll = lambda: max(time_to_next_poll(), _SHORTEST_WAIT_S)  # type: ignore[union-attr]


def unstick(consumer: KafkaConsumer) -> None:
    """Let paused partitions that were resumed have their records back; to be called before each poll.

    Records that were fetched and parsed before a pause are parked, and put back only while no other partition is in
    line. The one in line stays there after its last record was taken, so the parked ones wait for good, and while they
    are parked, their partition is not fetched: it has a lag, and no records come. (Fetcher.fetched_records tests for
    None where it means "used up".)
    """
    fetcher = getattr(consumer, "_fetcher", None)
    in_line = getattr(fetcher, "_next_partition_records", None)
    if in_line is not None and not in_line:
        fetcher._next_partition_records = None  # type: ignore[union-attr]  # noqa: SLF001


def finish_joins(consumer: KafkaConsumer) -> None:
    """Let what a poll began of joining the group be finished by a later one; to be called once.

    A poll that ends before the group's answer leaves the join under way. If the answer comes between two polls,
    kafka-python throws it away and joins anew, and so on, generation after generation. And if it joined because it
    leads the group and its topics have changed, it takes itself for joined as soon as it has dealt out the partitions:
    it never takes its own, sends no heartbeat, and does not learn that the group goes on without it.
    """
    coordinator: Any = getattr(consumer, "_coordinator", None)
    need_rejoin = getattr(coordinator, "need_rejoin", None)
    join = getattr(coordinator, "_do_join_and_sync_async", None)
    complete = getattr(coordinator, "_on_join_complete_async", None)
    if need_rejoin is None or join is None or complete is None:
        return
    #: The answer that no poll has taken yet, and the generation that it is of.
    untaken: list[tuple[Any, Any]] = []

    async def join_once() -> Any:
        if untaken:
            generation, assignment = untaken.pop()
            # Still a member of it? Else the group has another answer.
            if generation == coordinator._generation:  # noqa: SLF001
                return assignment
        assignment = await join()
        untaken[:] = [(coordinator._generation, assignment)]  # noqa: SLF001
        return assignment

    async def take(*arguments: Any) -> Any:
        untaken.clear()
        return await complete(*arguments)

    coordinator.need_rejoin = lambda: need_rejoin() or coordinator.rejoining
    coordinator._do_join_and_sync_async = join_once  # noqa: SLF001
    coordinator._on_join_complete_async = take  # noqa: SLF001


def positions(consumer: KafkaConsumer) -> dict[TopicPartition, int]:
    """Where fetching goes on in each assigned partition, as far as that is known.

    `consumer.position` would ask Kafka for what is not known, and wait for the answer.
    """
    found = {}
    for partition in consumer.assignment():
        state = consumer._subscription.assignment.get(partition)  # noqa: SLF001
        position = None if state is None else state.position
        if position is not None:
            found[partition] = position.offset
    return found


class _Lenient(bytearray):
    """Bytes whose text is read as Java's Kafka client reads it: what is no UTF-8 becomes U+FFFD."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _Lenient(part) if isinstance(key, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:  # noqa: ARG002
        return super().decode(encoding, "replace")


def read_any_header_name() -> None:
    """Let records through that have a header whose name is no UTF-8; for all consumers of the process, once.

    Kafka takes such records, and kafka-python raises for them: each poll fails, and the partition stands still for
    good.
    """
    read = DefaultRecordBatch._read_msg  # noqa: SLF001
    if getattr(read, "rebound", False):
        return

    def read_leniently(batch: Any) -> Any:
        try:
            return read(batch)
        except UnicodeDecodeError:
            # It has not moved on yet, so the same record is read again.
            batch._buffer = _Lenient(batch._buffer)  # noqa: SLF001
            return read(batch)

    read_leniently.rebound = True  # type: ignore[attr-defined]
    DefaultRecordBatch._read_msg = read_leniently  # noqa: SLF001
