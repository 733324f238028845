"""Gives Prometheus what was measured. `register` puts it on the page that a process has already, such as Flower's."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from .. import counters
from ..errors import ReboundError
from ..schedule.port import Measured, MeasuredLane
from . import definitions
from .definitions import COUNTER, HISTOGRAM, MAX_LANES, METRICS, OTHER_LANES, Metric
from .reading import Source

logger = logging.getLogger(__name__)


class Lag(Protocol):
    """Tells the lag of consumer groups; see `lag.ConsumerLag`."""

    def partitions(self) -> Iterable[tuple[str, str, int, int]]:
        """Group, topic, partition and lag, as they were found last."""


class ReboundCollector(Collector):
    """The metrics of an app's queues.

    Args:
        source: measures the queues.
        lag: tells the lag of consumer groups; None for none.
    """

    def __init__(self, source: Source, lag: Lag | None = None) -> None:
        self._source = source
        self._lag = lag
        self._was_up = True

    def describe(self) -> Iterable[Family]:
        """The metrics without values: a registry need not ask Redis when this is registered."""
        return [_family(metric, metric.labels) for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        """Measure all queues."""
        sheet = _Sheet()
        for queue, found in self._source.all():
            is_up = not isinstance(found, ReboundError)
            sheet.add(definitions.UP, {"queue": queue}, int(is_up))
            if isinstance(found, ReboundError):
                self._say_away(found)
                continue
            self._was_up = True
            _add_gauges(sheet, queue, found)
            _add_lanes(sheet, queue, found)
            _add_counters(sheet, queue, found)
            _add_histograms(sheet, queue, found)
        for group, topic, partition, behind in () if self._lag is None else self._lag.partitions():
            sheet.add(definitions.LAG, {"group": group, "topic": topic, "partition": str(partition)}, behind)
        yield from sheet.families()

    def close(self) -> None:
        """Close the connections to Redis. It may be used again; it connects anew."""
        self._source.close()

    def _say_away(self, error: ReboundError) -> None:
        if self._was_up:
            logger.warning("the metrics cannot be read: %s", error, extra={"event": "metrics_unreachable"})
        self._was_up = False


def register(
    app: Any, *, queues: Sequence[str] = (), registry: CollectorRegistry = REGISTRY, lag: Lag | None = None
) -> ReboundCollector:
    """Add the metrics of an app to a registry of `prometheus_client`'s; Flower's `/metrics` shows the default one.

    Args:
        app: the Celery app with `Rebound`.
        queues: further queues of the app, beside rebound's own.
        registry: the registry.
        lag: tells the lag of consumer groups.

    Raises:
        NotInstalledError: if the app has no `Rebound`.
    """
    from .. import registry as installed

    collector = ReboundCollector(Source(app, (installed.find(app).settings.queue, *queues)), lag)
    registry.register(collector)
    return collector


class _Sheet:
    """Samples, collected before the names of their labels are known: a setting may have added some."""

    def __init__(self) -> None:
        self._samples: dict[str, list[tuple[Mapping[str, str], Any]]] = {metric.name: [] for metric in METRICS}

    def add(self, metric: Metric, labels: Mapping[str, str], value: Any) -> None:
        self._samples[metric.name].append((labels, value))

    def families(self) -> Iterator[Family]:
        for metric in METRICS:
            samples = self._samples[metric.name]
            if not samples:
                continue
            more = {name for labels, _ in samples for name in labels} - set(metric.labels) if metric.takes_more else ()
            names = (*metric.labels, *sorted(more))
            given = [([labels.get(name, "") for name in names], value) for labels, value in samples]
            yield _family(metric, names, given)


def _family(metric: Metric, names: Sequence[str], samples: Iterable[tuple[Sequence[str], Any]] = ()) -> Family:
    if metric.kind == HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.text, labels=names)
        for values, (buckets, total) in samples:
            histogram.add_metric(values, buckets, total)
        return histogram
    kind = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.text, labels=names)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _add_gauges(sheet: _Sheet, queue: str, found: Measured) -> None:
    labels = {"queue": queue}
    sheet.add(definitions.OLDEST, labels, found.overdue_ms / 1000)
    sheet.add(definitions.UNCLAIMED, labels, found.unclaimed_ms / 1000)
    sheet.add(definitions.LEASED, labels, found.leased)
    sheet.add(definitions.BEHIND, labels, found.behind)
    sheet.add(definitions.KEPT, labels, found.dead)


def _add_lanes(sheet: _Sheet, queue: str, found: Measured) -> None:
    shown, others = _shown_lanes(found.lanes)
    rest = max(0, found.waiting - sum(lane.waiting for lane in shown))
    if others or rest:
        due, late = (sum(getattr(lane, name) for lane in others) for name in ("due", "late"))  # of our own class
        shown.append(MeasuredLane(OTHER_LANES, rest, due, late))
    for lane in shown:
        labels = {"queue": queue, "lane": lane.name}
        sheet.add(definitions.WAITING, labels, lane.waiting)
        sheet.add(definitions.DUE, labels, lane.due)
        sheet.add(definitions.OVERDUE, labels, lane.late)
        if lane.name == OTHER_LANES:
            continue
        sheet.add(definitions.PAUSED, labels, int(lane.is_paused))
        if lane.rate is not None:
            sheet.add(definitions.RATE, labels, lane.rate)
        if lane.breaker is not None:
            sheet.add(definitions.BREAKER, {**labels, "state": lane.breaker}, 1)


def _shown_lanes(lanes: Sequence[MeasuredLane]) -> tuple[list[MeasuredLane], list[MeasuredLane]]:
    """The lanes that have labels of their own, and the others."""

    def weight(lane: MeasuredLane) -> tuple[bool, bool, int]:
        return lane.breaker is not None, lane.is_paused or lane.rate is not None, lane.waiting

    ordered = sorted(lanes, key=weight, reverse=True)
    return ordered[:MAX_LANES], ordered[MAX_LANES:]


def _add_counters(sheet: _Sheet, queue: str, found: Measured) -> None:
    for name, value in found.counters.items():
        sheet.add(definitions.EVENTS, {"queue": queue, "event": name}, value)
    sheet.add(definitions.EXPIRIES, {"queue": queue}, found.counters.get("ran_out", 0))
    sheet.add(definitions.LOST, {"queue": queue}, found.counters.get("lost_workers", 0))
    for metric, name in (
        (definitions.DELIVERIES, counters.DELIVERIES),
        (definitions.RETRIES, counters.RETRIES),
        (definitions.DEAD_LETTERS, counters.DEAD_LETTERS),
    ):
        for text, value in found.tallies.get(name, {}).items():
            labels = counters.labels_of(text)
            if labels is not None and labels.keys() >= set(metric.labels[1:]):
                sheet.add(metric, {"queue": queue, **labels}, value)
    in_schedule = {"queue": queue, "reason": "in-schedule", "topic": ""}
    sheet.add(definitions.DEAD_LETTERS, in_schedule, found.counters.get("dead", 0))


def _add_histograms(sheet: _Sheet, queue: str, found: Measured) -> None:
    delays = found.tallies.get(counters.CLAIM_DELAY, {})
    total_ms = found.tallies.get(counters.CLAIM_DELAY_SUM, {}).get("", 0)
    sheet.add(definitions.SCHEDULING, {"queue": queue}, (_buckets(delays), total_ms / 1000))
    times: dict[str, dict[str, int]] = {}
    for text, value in found.tallies.get(counters.DELIVERY_TIME, {}).items():
        labels = counters.labels_of(text) or {}
        times.setdefault(labels.get("destination", ""), {})[labels.get("le", "")] = value
    sums = found.tallies.get(counters.DELIVERY_TIME_SUM, {})
    for destination, of_destination in times.items():
        _, _, name = counters.field(counters.DELIVERY_TIME_SUM, {"destination": destination}).partition("|")
        labels = {"queue": queue, "destination": destination}
        sheet.add(definitions.DELIVERY, labels, (_buckets(of_destination), sums.get(name, 0) / 1000))


def _buckets(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Cumulative counts with their bounds in seconds, of counts with bounds in milliseconds."""
    buckets, total = [], 0
    for bound_ms in counters.BOUNDS_MS:
        total += counts.get(str(bound_ms), 0)
        buckets.append((str(bound_ms / 1000), total))
    return [*buckets, ("+Inf", total + counts.get(counters.INFINITE, 0))]
