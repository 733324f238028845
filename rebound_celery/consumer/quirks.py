"""What kafka-python 3.0.12 does that its users have to mend."""

from __future__ import annotations

from kafka import KafkaConsumer

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
