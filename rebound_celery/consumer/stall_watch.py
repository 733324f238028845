"""Notices partitions that have a lag and yield nothing, and sets their fetching going again, or reports it.

kafka-python 3.0.7 and 3.0.8 had such stalls, and its users saw no more than a growing lag.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from ..compat.kafka_python import positions

#: Seconds between two looks.
LOOK_S = 3.0
#: Seconds that a partition may have a lag without yielding anything, and that each remedy has to show its effect.
PATIENCE_S = 10.0

#: How long the loop waits for Kafka to say where the partitions end. Whoever does not answer has no stalled partitions.
_ASK_MS = 2_000

#: Which remedies were tried before the consumer is reported; it is then made anew at each so many-th further one.
_REMEDIES = 2
_RENEW_EACH = 6

logger = logging.getLogger(__name__)


class Verdict(Enum):
    """What a look found."""

    WELL = "well"
    #: The consumer is to be made anew: only so is everything that kafka-python knows forgotten.
    RENEW = "renew"
    #: Nothing helped.
    STALLED = "stalled"


class StallWatch:
    """Watches the positions of one consumer; it outlives the KafkaConsumer, which is made anew as a remedy."""

    def __init__(self) -> None:
        #: Where each partition stands that had a lag in the last look, and since when.
        self._behind: dict[Any, tuple[int, float]] = {}
        #: Where the partitions stood that the last remedy was for, and how many there were.
        self._stuck: dict[Any, int] = {}
        self._tried = 0

    @property
    def detail(self) -> str:
        """The partitions that nothing helped, or the empty text."""
        return f"{_names(self._stuck)}: there is a lag, and no record comes" if self._stuck else ""

    def excuse(self) -> None:
        """Whatever was seen until now says nothing."""
        self._behind = {}

    def look(self, consumer: KafkaConsumer, exempt: Collection[Any]) -> Verdict:
        """Look once, and do what is to be done; between two polls, in the loop's thread.

        Args:
            exempt: partitions that need not yield anything now: paused, or with records in flight.
        """
        now = time.monotonic()
        at, assigned = positions(consumer), consumer.assignment()
        if not assigned:
            # It joins its group, or there are more consumers than partitions.
            return Verdict.WELL
        self._see_what_helped(at, assigned)
        quiet = {partition: offset for partition, offset in at.items() if partition not in exempt}
        ends = _ends(consumer, quiet)
        # Tansu tells ends below the truth, so a stall there may be seen late; too high they are never.
        self._behind = {
            partition: (offset, self._since(partition, offset, now))
            for partition, offset in quiet.items()
            if ends.get(partition, 0) > offset
        }
        stalled = {p: offset for p, (offset, since) in self._behind.items() if now - since >= PATIENCE_S}
        if stalled:
            return self._remedy(consumer, stalled, ends)
        return Verdict.STALLED if self._tried > _REMEDIES else Verdict.WELL

    def _since(self, partition: Any, offset: int, now: float) -> float:
        before, since = self._behind.get(partition, (None, now))
        return since if before == offset else now

    def _see_what_helped(self, at: Mapping[Any, int], assigned: Collection[Any]) -> None:
        # A partition without a position is still on its way to one; one that is not assigned is another consumer's.
        left = {p: offset for p, offset in self._stuck.items() if p in assigned and at.get(p, offset) == offset}
        if self._stuck and not left:
            moved = {partition for partition in self._stuck if partition in assigned}
            if moved:
                logger.warning("records come again from %s", _names(moved), extra={"event": "fetch_back"})
            self._stuck, self._tried = {}, 0

    def _remedy(self, consumer: KafkaConsumer, stalled: Mapping[Any, int], ends: Mapping[Any, int]) -> Verdict:
        self._behind = {}
        self._stuck = dict(stalled)
        self._tried += 1
        lag = sum(ends[partition] - offset for partition, offset in stalled.items())
        where = f"{_names(stalled)}: there is a lag of {lag}, and no record came for {PATIENCE_S * self._tried:g} s"
        fields = {"partitions": _names(stalled)}
        if self._tried == 1:
            logger.warning("%s; fetching begins anew", where, extra={"event": "fetch_stalled", **fields})
            for partition, offset in stalled.items():
                consumer.seek(partition, offset)
        elif self._tried % _RENEW_EACH == _REMEDIES:
            logger.error("%s; the consumer is made anew", where, extra={"event": "fetch_renewed", **fields})
            return Verdict.RENEW
        elif self._tried == _REMEDIES + 1:
            logger.critical(
                "%s, and nothing helps: restart this consumer", where, extra={"event": "fetch_dead", **fields}
            )
        return Verdict.STALLED if self._tried > _REMEDIES else Verdict.WELL


def _ends(consumer: KafkaConsumer, partitions: Collection[Any]) -> dict[Any, int]:
    """Where the partitions end, as far as Kafka says so in time."""
    if not partitions:
        return {}
    try:
        return dict(consumer.end_offsets(list(partitions), timeout_ms=_ASK_MS))
    except (KafkaError, KeyError, AttributeError) as error:
        # The last two are kafka-python's, for a partition that Kafka knows nothing of.
        logger.debug("Kafka does not say where the partitions end: %r", error)
        return {}


def _names(partitions: Collection[tuple[str, int]]) -> str:
    return ", ".join(f"{topic}[{number}]" for topic, number in sorted(partitions))
