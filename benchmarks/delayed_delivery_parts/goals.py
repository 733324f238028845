"""The goals of delayed delivery: a table of the rows, with the figures that each row must reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Direction(StrEnum):
    """The good side of a bound."""

    AT_LEAST = ">="
    AT_MOST = "<="


AT_LEAST = Direction.AT_LEAST
AT_MOST = Direction.AT_MOST

#: Names of figures: the row's own value, and that value divided by the peer's.
VALUE = "value"
RATIO = "ratio"


@dataclass(frozen=True)
class Limit:
    """One bound on one figure.

    Attributes:
        direction: whether good figures are above or below the bound.
        bound: the last good value.
        figure: `VALUE`, `RATIO`, or the name of one of the row's further figures.
        label: the figure's name for people; empty for `VALUE` and `RATIO`.
        unit: the figure's unit; empty for `VALUE` and `RATIO`.
    """

    direction: Direction
    bound: float
    figure: str = VALUE
    label: str = ""
    unit: str = ""

    def holds(self, figure: float) -> bool:
        return figure >= self.bound if self.direction is AT_LEAST else figure <= self.bound


@dataclass(frozen=True)
class Goal:
    """The title of a row, and the limits that it must meet.

    Attributes:
        title: a description of the row's value.
        unit: the unit of the value.
        limits: the bounds; all must hold. An empty sequence means that the row has no goal.
        source: the text of the agreed goal.
    """

    title: str
    unit: str
    limits: tuple[Limit, ...]
    source: str


_EIGHT_TIMES = Limit(AT_LEAST, 8, RATIO)
_AHEAD = Limit(AT_LEAST, 1, RATIO)

#: name -> the row, in the order of the printed table.
GOALS: Mapping[str, Goal] = {
    "schedule_retries": Goal(
        "schedule_retries, one process",
        "/s",
        (Limit(AT_LEAST, 40_000),),
        "40,000/s; asynq in Go reaches 16,500 to 35,600, a plain Go program 25,000 to 42,600",
    ),
    "consumer": Goal(
        "consumer that stores all its records as failed, one process",
        "/s",
        (Limit(AT_LEAST, 45_000),),
        "consumer storing failures, one process: 45,000/s",
    ),
    "consumer_store": Goal(
        "the consumer's path from a failed record to the stored retry, without Kafka and threads",
        "/s",
        (Limit(AT_LEAST, 45_000),),
        "consumer storing failures, one process: 45,000/s",
    ),
    "schedule_retry": Goal(
        "processor time of one schedule_retry call",
        "us",
        (Limit(AT_MOST, 95),),
        "95 us beside a bare redis-py ZADD (64 to 74 us) in the same run",
    ),
    "schedule_retry_event": Goal(
        "processor time of one schedule_retry call with the task-sent event",
        "us",
        (Limit(AT_MOST, 130),),
        "130 us with the event",
    ),
    "beside_dramatiq": Goal(
        "calls of schedule_retry beside dramatiq's delayed send",
        "/s",
        (_AHEAD,),
        "ahead of dramatiq in the same run",
    ),
    "beside_huey": Goal(
        "calls of schedule_retry beside huey's delayed send",
        "/s",
        (_AHEAD,),
        "ahead of huey in the same run",
    ),
    "threads": Goal(
        "eight threads that call schedule_retry at once",
        "/s",
        (Limit(AT_LEAST, 3, RATIO),),
        "3 times one thread: calls that wait share a round trip",
    ),
    "kafka": Goal(
        "one worker, confirmed deliveries to Kafka, kafka-python",
        "/s",
        (Limit(AT_LEAST, 12_000), _EIGHT_TIMES),
        "12,000/s; 8 times stock",
    ),
    "kafka_confluent": Goal(
        "one worker, confirmed deliveries to Kafka, confluent-kafka",
        "/s",
        (Limit(AT_LEAST, 16_000), _EIGHT_TIMES),
        "16,000/s; 8 times stock",
    ),
    "kafka_events": Goal(
        "one worker, confirmed deliveries to Kafka with task events, the better client",
        "/s",
        (Limit(AT_LEAST, 9_000),),
        "9,000/s (the better client)",
    ),
    "noop_deliveries": Goal(
        "one worker, deliveries to a destination that takes all at once",
        "/s",
        (Limit(AT_LEAST, 12_000),),
        "12,000/s",
    ),
    "noop_tasks": Goal(
        "one worker, due tasks that do nothing",
        "/s",
        (Limit(AT_LEAST, 12_000),),
        "12,000/s",
    ),
    "retry_lateness": Goal(
        "lateness of a retry to Kafka at 1,000 due/s, confirmation included, median",
        "ms",
        (
            Limit(AT_MOST, 15),
            Limit(AT_MOST, 50, "p99_ms", "99 of 100", "ms"),
            Limit(AT_LEAST, 0, "earliest_record_ms", "earliest", "ms"),
        ),
        "p50 15 ms, p99 50 ms, never early",
    ),
    "countdown_lateness": Goal(
        "lateness of a countdown at 500 due/s, median",
        "ms",
        # Due times are cut to whole milliseconds.
        (
            Limit(AT_MOST, 5),
            Limit(AT_MOST, 40, "p99_ms", "99 of 100", "ms"),
            Limit(AT_LEAST, -1, "min_ms", "earliest", "ms"),
        ),
        "p50 5 ms, p99 40 ms, never early",
    ),
    "starvation": Goal(
        "lateness of 20 countdowns beside a full queue of 20 ms tasks, median",
        "ms",
        (
            Limit(AT_MOST, 50, "p50_later_ms", "later than stock", "ms"),
            Limit(AT_MOST, 50, "max_later_ms", "worst, later than stock's", "ms"),
        ),
        "at most 50 ms later than with stock, median and worst",
    ),
    "lanes": Goal(
        "ten due messages of one lane behind many due of another, until Kafka has all ten",
        "s",
        (Limit(AT_MOST, 1.0),),
        "ten due messages behind 1,000,000 due of another lane: within 1 s",
    ),
    "breaker": Goal(
        "circuit breakers: deliveries a second while all is well",
        "1/s",
        (Limit(AT_LEAST, 0.9, RATIO),),
        "at least 0.9 of the rate without breakers",
    ),
    "outage": Goal(
        "an outage with 100,000 messages waiting: Redis commands a second beyond those of an idle worker",
        "1/s",
        (Limit(AT_MOST, 10), Limit(AT_LEAST, 0.9, RATIO)),
        "fewer than 10 commands a second; other destinations at full speed",
    ),
    "ordering": Goal(
        "order of keys: deliveries a second of retries that are the heads of their keys",
        "1/s",
        (Limit(AT_LEAST, 0.9, RATIO),),
        "at least 0.9 of the rate without an order",
    ),
    "workers": Goal(
        "four workers on one schedule: the smallest share, of a fair one",
        "",
        (Limit(AT_LEAST, 0.5), Limit(AT_MOST, 0, "twice", "delivered twice"), Limit(AT_MOST, 0, "missing", "missing")),
        "each delivered once; no worker idle while others are behind",
    ),
    "redis_memory": Goal(
        "Redis memory of a waiting retry, 200 random bytes in hex",
        "bytes",
        (Limit(AT_MOST, 500),),
        "500 bytes",
    ),
    "redis_enqueue": Goal(
        "Redis processor time to enqueue a message",
        "us",
        (Limit(AT_MOST, 6.5),),
        "6.5 us",
    ),
    "redis_claim": Goal(
        "Redis processor time to claim a message",
        "us",
        (Limit(AT_MOST, 7.0),),
        "7 us",
    ),
    "redis_settle": Goal(
        "Redis processor time to settle a message",
        "us",
        (Limit(AT_MOST, 3.5),),
        "3.5 us",
    ),
    "claim": Goal(
        "claim and settle a message with many waiting, beside 1,000 waiting",
        "us",
        (Limit(AT_MOST, 1.2, RATIO),),
        "the same within 20 % with 1,000,000 waiting as with 1,000",
    ),
    "idle": Goal(
        "idle worker: Redis commands, those of scripts included",
        "/s",
        (
            Limit(AT_MOST, 1.0, "more_than_stock", "more than stock", "/s"),
            Limit(AT_MOST, 1.0, "core_percent", "of a core", "%"),
        ),
        "at most stock's + 1 command a second; under 1 % of a core",
    ),
    "worker_memory": Goal(
        "worker memory that waiting messages take",
        "MB",
        (Limit(AT_MOST, 10),),
        "the same within 10 MB with 0, 100,000 and 1,000,000 waiting",
    ),
    "warm_stop": Goal(
        "warm stop of a worker while messages wait",
        "s",
        (Limit(AT_MOST, 3),),
        "under 3 s with 1,000,000 waiting",
    ),
    "pending_page": Goal(
        "operators: the first page of what waits, connection included",
        "ms",
        (
            Limit(AT_MOST, 50),
            Limit(AT_MOST, 50, "count_ms", "count of all", "ms"),
            Limit(AT_MOST, 50, "destination_ms", "count of one destination", "ms"),
        ),
        "first page and counts under 50 ms with 1,000,000 waiting",
    ),
    "pending_filter": Goal(
        "operators: a filter that reads all that waits",
        "s",
        (Limit(AT_MOST, 20), Limit(AT_MOST, 150, "peak_rss_mb", "memory", "MB")),
        "1,000,000 entries under 20 s with progress, 150 MB",
    ),
}
