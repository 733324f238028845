"""The metrics that rebound exports: the one list of them, from which the page and the collector take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GAUGE = "gauge"
COUNTER = "counter"
HISTOGRAM = "histogram"

#: A message is late if it has been due for longer than this, in milliseconds.
LATE_MS = 30_000


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as Prometheus sees it.

    Attributes:
        name: its name. A counter's has `_total` in the output.
        kind: GAUGE, COUNTER or HISTOGRAM.
        text: what it tells.
        labels: the names of its labels.
        takes_more: whether the app's setting `rebound_metrics_labels` adds labels to it.
    """

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()
    takes_more: bool = False

    @property
    def shown_name(self) -> str:
        """The name in queries."""
        return f"{self.name}_total" if self.kind == COUNTER else self.name


_LANE = ("queue", "lane")

UP = Metric(
    "rebound_up", GAUGE, "1 if Redis answered this scrape. Without an answer there is nothing else.", ("queue",)
)
WAITING = Metric("rebound_waiting", GAUGE, "Messages that wait in a lane, due or not.", _LANE)
DUE = Metric("rebound_due", GAUGE, "Messages of a lane that are due and wait for a worker.", _LANE)
OVERDUE = Metric("rebound_overdue", GAUGE, "Messages of a lane that have been due for more than 30 s.", _LANE)
OLDEST = Metric(
    "rebound_oldest_due_age_seconds",
    GAUGE,
    "For how long the first due message has waited for a worker; 0 if none does. Paused lanes do not count.",
    ("queue",),
)
UNCLAIMED = Metric(
    "rebound_unclaimed_seconds",
    GAUGE,
    "For how long messages are due and no worker has claimed any. Some seconds mean that none works.",
    ("queue",),
)
LEASED = Metric("rebound_leased", GAUGE, "Messages that workers hold.", ("queue",))
BEHIND = Metric("rebound_behind", GAUGE, "Messages that wait behind an earlier one of their key.", ("queue",))
KEPT = Metric("rebound_dead_letters_kept", GAUGE, "Dead letters that Redis keeps.", ("queue",))
PAUSED = Metric(
    "rebound_lane_paused",
    GAUGE,
    "1 if a lane is paused: by hand, by its breaker, or because its endpoint is disabled.",
    _LANE,
)
RATE = Metric("rebound_lane_rate", GAUGE, "Messages a second that may be delivered; only of lanes with a rate.", _LANE)
BREAKER = Metric(
    "rebound_lane_breaker",
    GAUGE,
    "1 for the state of a lane's circuit breaker: open, probing or draining. Closed ones are left out.",
    (*_LANE, "state"),
)
LAG = Metric(
    "rebound_consumer_lag",
    GAUGE,
    "Records of a partition that a consumer group has not committed. Only with --lag.",
    ("group", "topic", "partition"),
)
DELIVERIES = Metric(
    "rebound_deliveries",
    COUNTER,
    "Messages that were sent to a kind of destination (kafka, http, dead-set), by result (delivered, failed, rejected, "
    "unavailable) and by what they were (retry, dead-letter).",
    ("queue", "destination", "result", "message"),
    takes_more=True,
)
RETRIES = Metric(
    "rebound_retries",
    COUNTER,
    "Retries that were delivered, by the attempt that they began.",
    ("queue", "attempt"),
    takes_more=True,
)
DEAD_LETTERS = Metric(
    "rebound_dead_letters",
    COUNTER,
    "Dead letters that were written, by reason and by the topic that the record came from (empty if it did not come "
    "from Kafka). The reason in-schedule is of those that the schedule wrote itself.",
    ("queue", "reason", "topic"),
    takes_more=True,
)
EVENTS = Metric(
    "rebound_schedule_events",
    COUNTER,
    "What happened to messages in the schedule; docs/architecture.md has the events.",
    ("queue", "event"),
)
EXPIRIES = Metric("rebound_lease_expiries", COUNTER, "Leases that ended before their message was settled.", ("queue",))
LOST = Metric(
    "rebound_lost_workers",
    COUNTER,
    "Workers whose leases ran out, and processes of a worker's pool that died with deliveries.",
    ("queue",),
)
SCHEDULING = Metric(
    "rebound_scheduling_latency_seconds",
    HISTOGRAM,
    "For how long messages were due until a worker claimed them. Pauses and rates of lanes count too.",
    ("queue",),
)
DELIVERY = Metric(
    "rebound_delivery_latency_seconds",
    HISTOGRAM,
    "How long a destination took to answer. Messages that are sent together have the same time.",
    ("queue", "destination"),
)

#: All of them, in the order of the output.
METRICS = (
    UP,
    WAITING,
    DUE,
    OVERDUE,
    OLDEST,
    UNCLAIMED,
    LEASED,
    BEHIND,
    KEPT,
    PAUSED,
    RATE,
    BREAKER,
    DELIVERIES,
    RETRIES,
    DEAD_LETTERS,
    EVENTS,
    EXPIRIES,
    LOST,
    SCHEDULING,
    DELIVERY,
    LAG,
)

#: The lane of those that have no place of their own; see MAX_LANES.
OTHER_LANES = "other"
#: How many lanes are exported: those with breakers, pauses and rates first, and then those in which most waits.
MAX_LANES = 100

BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
