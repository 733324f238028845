"""Tells the circuit breakers of lanes how deliveries ended, and what follows from their answers in this process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field

from ..clock import Clock
from ..config import Settings
from ..destinations import Failed, Held, Outcome, Unavailable
from ..errors import ReboundError
from ..limits import BreakerOptions
from ..message import Message
from ..schedule.port import BreakerChange, BreakerRules, LaneReport, Schedule
from .lanes import RatedLanes, has_breaker
from .plainly import FAULTS

#: A lane without failures is reported at most so often, in seconds.
_REPORT_S = 1.0

#: So long, in seconds, a process goes by what it heard of an open breaker: it may be closed by hand at any time.
_HEARD_S = 2.0

#: Seconds beside the time-outs of a delivery until a probe counts as lost.
_SPARE_S = 10.0

#: What the schedule raises while Redis is away.
_FAULTS = (*FAULTS, ReboundError)

#: How many lanes are remembered.
_LANES = 4096

logger = logging.getLogger(__name__)


def rules_of(settings: Settings) -> BreakerRules:
    """The options of the app's circuit breakers as the schedule takes them."""
    options = settings.breaker or BreakerOptions()
    return BreakerRules(
        share=options.share,
        count=options.count,
        window_ms=round(options.window * 1000),
        probe_ms=round(options.probe * 1000),
        max_probe_ms=round(options.max_probe * 1000),
        wait_ms=round((max(settings.http_timeout, settings.kafka_timeout) + _SPARE_S) * 1000),
        drain_rate=0.0 if options.drain_rate is None else options.drain_rate,
    )


def is_failure(outcome: Outcome) -> bool:
    """Whether an outcome speaks against the destination, and not against the message."""
    return isinstance(outcome, Unavailable) or (isinstance(outcome, Failed) and not outcome.is_about_message)


@dataclass(slots=True)
class _Lane:
    """What this process knows of a lane.

    Attributes:
        answered: how many deliveries were answered since the last report.
        failed: how many failed.
        error: the last failure.
        reported_at: when it was last reported, by the monotonic clock.
        was_unsent: whether a message was moved to another lane unsent. If it was the probe, another one must go out.
        held_until: until when nothing is sent, by the monotonic clock.
        is_closed: whether its breaker was closed at the last report.
    """

    answered: int = 0
    failed: int = 0
    error: str = ""
    reported_at: float = -1e9
    was_unsent: bool = False
    held_until: float = -1e9
    is_closed: bool = True


@dataclass(slots=True)
class _Process:
    """What belongs to one process: its connection, and what it has heard."""

    pid: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    stack: ExitStack = field(default_factory=ExitStack)
    schedule: Schedule | None = None
    lanes: dict[str, _Lane] = field(default_factory=dict)
    is_away: bool = False


class OutageMode:
    """Reports how deliveries ended, and tells which lanes are open. It is safe for threads and forks.

    A lane with failures is reported after each batch. One without is reported once a second, so that a healthy
    destination costs nothing.

    Args:
        read_settings: gives the app's settings.
        lanes: the lanes of messages.
        open_schedule: opens the schedule of rebound's queue.
        clock: tells the time.
    """

    def __init__(
        self,
        read_settings: Callable[[], Settings],
        lanes: RatedLanes,
        open_schedule: Callable[[], AbstractContextManager[Schedule]],
        clock: Clock,
    ) -> None:
        self._read_settings = read_settings
        self._lanes = lanes
        self._open = open_schedule
        self._clock = clock
        self._process = _Process(os.getpid())

    def lane_of(self, message: Message) -> str:
        """The lane in which a message waits."""
        return self._lanes.of(message)[0]

    def held(self, lanes: Iterable[str]) -> set[str]:
        """Those of these lanes whose breaker is known to be open: a message of theirs cannot be a probe."""
        known, now = self._own().lanes, self._clock.monotonic()
        return {lane for lane in lanes if (one := known.get(lane)) is not None and one.held_until > now}

    def report(self, outcomes: Collection[tuple[str, Outcome]]) -> set[str]:
        """Tell how deliveries ended, each with its lane; returns the lanes whose breakers are open now.

        It never raises: while Redis is away, deliveries go on without breakers.
        """
        process = self._own()
        with process.lock:
            touched = self._count(process, outcomes)
            now = self._clock.monotonic()
            due = [
                name
                for name in touched
                if (lane := process.lanes[name]).failed
                or lane.was_unsent
                or not lane.is_closed
                or now - lane.reported_at >= _REPORT_S
            ]
            if not due:
                return set()
            try:
                changes = self._send(process, due)
            except _FAULTS as error:
                self._lose_connection(process, error)
                return set()
            process.is_away = False
            return {name for name, change in zip(due, changes, strict=True) if _heard(process, name, change, now)}

    def holds_after(self, message: Message, outcome: Outcome) -> bool:
        """Tell how one delivery ended; returns whether its message waits for an open breaker without a used attempt."""
        lane = self.lane_of(message)
        return lane in self.report([(lane, outcome)]) and is_failure(outcome)

    def close(self) -> None:
        """Close the connection of this process. It may be used again; it connects anew."""
        process = self._own()
        with process.lock:
            process.schedule = None
            with suppress(*_FAULTS):
                process.stack.close()

    def _own(self) -> _Process:
        if self._process.pid != os.getpid():
            # The socket and the lock belong to the parent: dropping them closes nothing of the parent's.
            self._process.stack.pop_all()
            self._process = _Process(os.getpid())
        return self._process

    def _count(self, process: _Process, outcomes: Iterable[tuple[str, Outcome]]) -> list[str]:
        if len(process.lanes) > _LANES:
            process.lanes.clear()
        touched: dict[str, None] = {}
        redact = self._read_settings().redact.text
        for name, outcome in outcomes:
            # What its destination holds says nothing of the host; but if it was the probe, it is none any more.
            if not has_breaker(name) or (isinstance(outcome, Held) and outcome.lane is None):
                continue
            lane = process.lanes.get(name)
            if lane is None:
                lane = process.lanes[name] = _Lane()
            touched[name] = None
            if isinstance(outcome, Held):
                lane.was_unsent = True
            elif is_failure(outcome):
                lane.failed += 1
                lane.error = redact(str(outcome.error))  # type: ignore[union-attr]
            else:
                lane.answered += 1
        return list(touched)

    def _send(self, process: _Process, names: Iterable[str]) -> list[BreakerChange]:
        if process.schedule is None:
            process.schedule = process.stack.enter_context(self._open())
        lanes = process.lanes
        reports = [LaneReport(name, lanes[name].answered, lanes[name].failed, lanes[name].error) for name in names]
        return process.schedule.report(reports, rules_of(self._read_settings()))

    def _lose_connection(self, process: _Process, error: BaseException) -> None:
        process.schedule = None
        with suppress(*_FAULTS):
            process.stack.close()
        if not process.is_away:
            process.is_away = True
            logger.warning(
                "circuit breakers are not told how deliveries end, because Redis does not answer: %s",
                error,
                extra={"event": "breaker_report_failed"},
            )


def _heard(process: _Process, name: str, change: BreakerChange, now: float) -> bool:
    """Remember the answer to a report; returns whether the breaker is open."""
    lane, breaker = process.lanes[name], change.breaker
    error, lane.answered, lane.failed, lane.error, lane.was_unsent = lane.error, 0, 0, "", False
    lane.reported_at, lane.is_closed = now, breaker is None
    _log(name, change, error)
    if breaker is None or breaker.state != "open":
        lane.held_until = now
        return False
    rest_s = _HEARD_S if breaker.until_ms is None else (breaker.until_ms - change.now_ms) / 1000
    lane.held_until = now + min(rest_s, _HEARD_S)
    return True


def _log(lane: str, change: BreakerChange, error: str) -> None:
    """Tell what a report of this process has changed. Other processes do not tell it too."""
    breaker = change.breaker
    if change.event == "opened" and breaker is not None:
        logger.warning(
            "circuit breaker of %s opened: %d of %d deliveries failed; the next probe is in %.1f s: %s",
            lane,
            breaker.failed,
            breaker.total,
            breaker.interval_s,
            error,
            extra={"event": "breaker_opened", "lane": lane, "failed": breaker.failed, "total": breaker.total},
        )
    elif change.event == "probe-failed" and breaker is not None:
        logger.warning(
            "circuit breaker of %s stays open: the probe failed; the next probe is in %.1f s: %s",
            lane,
            breaker.interval_s,
            error,
            extra={"event": "breaker_probe_failed", "lane": lane},
        )
    elif change.event == "draining" and breaker is not None:
        logger.warning(
            "circuit breaker of %s: the probe was delivered; the lane drains at %.4g messages a second",
            lane,
            breaker.drain_rate or 0.0,
            extra={"event": "breaker_draining", "lane": lane, "drain_rate": breaker.drain_rate},
        )
    elif change.event == "closed":
        logger.warning("circuit breaker of %s closed", lane, extra={"event": "breaker_closed", "lane": lane})
