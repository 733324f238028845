"""What kafka-python 3.0.12 does that its users have to mend."""

from __future__ import annotations

from kafka import KafkaConsumer


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
