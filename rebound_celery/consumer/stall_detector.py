"""Detects partitions that have a lag but bring no records, and tries to make kafka-python fetch from them again.

kafka-python 3.0.7 and 3.0.8 had such stalls. The only sign was a growing lag.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from ..clock import SYSTEM_CLOCK, Clock
from ..compat.kafka_python import positions

#: How long a partition may have a lag without bringing a record, in seconds. Each remedy has the same time to help.
STALL_TIMEOUT_S = 10.0

#: How long the loop waits for the end offsets of the partitions, in milliseconds. Without an answer, no partition
#: counts as stalled.
_TIMEOUT_MS = 2_000

#: The number of remedies that are tried before the consumer is reported as stalled.
_REMEDIES = 2
#: The number of further tries before the KafkaConsumer is replaced again.
_REPLACE_EVERY = 6

logger = logging.getLogger(__name__)


class FetchState(Enum):
    """The result of a check."""

    OK = "ok"
    #: The KafkaConsumer must be replaced by a new one, which does not keep its state.
    REPLACE = "replace"
    #: No remedy helped.
    STALLED = "stalled"


class StallDetector:
    """Checks the positions of one consumer. It stays the same when the KafkaConsumer is replaced as a remedy."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        #: Partitions that had a lag in the last check -> the position, and the time since when it has not changed.
        self._behind: dict[Any, tuple[int, float]] = {}
        #: Partitions of the last remedy -> the position at that time.
        self._stalled: dict[Any, int] = {}
        self._tried = 0

    @property
    def detail(self) -> str:
        """The stalled partitions in one line; the empty text if there are none."""
        return f"{_names(self._stalled)}: there is a lag, and no record comes" if self._stalled else ""

    def reset(self) -> None:
        """Start all times again. Call this if the consumer could not fetch until now."""
        self._behind = {}

    def check(self, consumer: KafkaConsumer, exempt: Collection[Any]) -> FetchState:
        """Check once, and try the next remedy if one is needed. The loop's thread calls this between two polls.

        Args:
            consumer: the KafkaConsumer to check.
            exempt: partitions that cannot stall now: they are paused, or have records in flight.
        """
        now = self._clock.monotonic()
        at, assigned = positions(consumer), consumer.assignment()
        if not assigned:
            # The consumer is joining its group, or the group has more consumers than partitions.
            return FetchState.OK
        self._clear_if_helped(at, assigned)
        quiet = {partition: offset for partition, offset in at.items() if partition not in exempt}
        ends = _ends(consumer, quiet)
        # Tansu may return an end offset that is too low. Then a stall is detected late. It never returns one too high.
        self._behind = {
            partition: (offset, self._since(partition, offset, now))
            for partition, offset in quiet.items()
            if ends.get(partition, 0) > offset
        }
        stalled = {p: offset for p, (offset, since) in self._behind.items() if now - since >= STALL_TIMEOUT_S}
        if stalled:
            return self._remedy(consumer, stalled, ends)
        return FetchState.STALLED if self._tried > _REMEDIES else FetchState.OK

    def _since(self, partition: Any, offset: int, now: float) -> float:
        before, since = self._behind.get(partition, (None, now))
        return since if before == offset else now

    def _clear_if_helped(self, at: Mapping[Any, int], assigned: Collection[Any]) -> None:
        # A partition without a position counts as not moved. A partition that is not assigned has another owner.
        left = {p: offset for p, offset in self._stalled.items() if p in assigned and at.get(p, offset) == offset}
        if self._stalled and not left:
            moved = {partition for partition in self._stalled if partition in assigned}
            if moved:
                logger.warning("records come again from %s", _names(moved), extra={"event": "fetch_back"})
            self._stalled, self._tried = {}, 0

    def _remedy(self, consumer: KafkaConsumer, stalled: Mapping[Any, int], ends: Mapping[Any, int]) -> FetchState:
        self._behind = {}
        self._stalled = dict(stalled)
        self._tried += 1
        lag = sum(ends[partition] - offset for partition, offset in stalled.items())
        what = f"{_names(stalled)}: there is a lag of {lag}, and no record came for {STALL_TIMEOUT_S * self._tried:g} s"
        fields = {"partitions": _names(stalled)}
        if self._tried == 1:
            logger.warning("%s; fetching starts again", what, extra={"event": "fetch_stalled", **fields})
            for partition, offset in stalled.items():
                consumer.seek(partition, offset)
        elif self._tried % _REPLACE_EVERY == _REMEDIES:
            logger.error("%s; the KafkaConsumer is replaced", what, extra={"event": "fetch_renewed", **fields})
            return FetchState.REPLACE
        elif self._tried == _REMEDIES + 1:
            logger.critical(
                "%s, and no remedy helps: restart this consumer", what, extra={"event": "fetch_dead", **fields}
            )
        return FetchState.STALLED if self._tried > _REMEDIES else FetchState.OK


def _ends(consumer: KafkaConsumer, partitions: Collection[Any]) -> dict[Any, int]:
    """Return the end offsets of the partitions. It is empty if Kafka does not answer in time."""
    if not partitions:
        return {}
    try:
        return dict(consumer.end_offsets(list(partitions), timeout_ms=_TIMEOUT_MS))
    except (KafkaError, KeyError, AttributeError) as error:
        # kafka-python raises KeyError or AttributeError for a partition that does not exist in Kafka.
        logger.debug("Kafka has not returned the end offsets: %r", error)
        return {}


def _names(partitions: Collection[tuple[str, int]]) -> str:
    return ", ".join(f"{topic}[{number}]" for topic, number in sorted(partitions))
