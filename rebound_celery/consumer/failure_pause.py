"""Pauses a consumer while most of its records fail for the same reason: then the fault is not in the records."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from ..clock import Clock
from ..errors import InvalidSettingError
from ..message import Record
from ..policy.causes import instruction_of
from ..policy.instructions import DeadLetter, Drop

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePauseOptions:
    """When a consumer pauses, and for how long; for `ConsumerConfig.failure_pause`.

    Attributes:
        share: it pauses if at least this share of the calls of the handler within the window ended with exceptions of
            one class; above 0, at most 1.
        count: and if at least so many did; 1 to 100,000.
        window: the window, in seconds; 1 to 3600.
        pause: seconds until one record is tried; 0.1 to 3600. The time doubles each time that record fails.
        max_pause: the longest such time, in seconds; from `pause` to 86,400.

    Raises:
        InvalidSettingError: naming the option, its value, and what is allowed.
    """

    share: float = 0.5
    count: int = 20
    window: float = 30.0
    pause: float = 5.0
    max_pause: float = 300.0

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= 100_000:
            raise InvalidSettingError("failure_pause.count", self.count, "it is a whole number from 1 to 100,000")
        _check("share", self.share, 0, 1, "a number above 0, at most 1", above=True)
        _check("window", self.window, 1, 3600, "a number of seconds from 1 to 3600")
        _check("pause", self.pause, 0.1, 3600, "a number of seconds from 0.1 to 3600")
        _check("max_pause", self.max_pause, self.pause, 86_400, "a number of seconds from `pause` to 86,400")

    @classmethod
    def read(cls, value: object) -> FailurePauseOptions | None:
        """Read the field `failure_pause`; None means that the consumer never pauses.

        Raises:
            InvalidSettingError: naming the field or the option, its value, and what is allowed.
        """
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, bool):
            return cls() if value else None
        if not isinstance(value, Mapping):
            raise InvalidSettingError("failure_pause", value, "it is True, False, or a mapping of its options")
        names = [option.name for option in fields(cls)]
        for option in value:
            if option not in names:
                raise InvalidSettingError(f"failure_pause.{option}", value[option], f"the options: {', '.join(names)}")
        return cls(**value)


def _check(name: str, value: object, least: float, most: float, rule: str, *, above: bool = False) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or (above and value == least):  # type: ignore[operator]
        raise InvalidSettingError(f"failure_pause.{name}", value, f"it is {rule}")


class FailurePause:
    """Counts the outcomes of a handler, and says when no record may be fetched.

    When most calls fail for the same reason, it is closed for a time. Then one record may be fetched. If it fails,
    it is closed for twice as long; if it succeeds, the consumer goes on.

    Args:
        options: when it closes, and for how long.
        group: the consumer group, for log lines.
        clock: tells the time.
    """

    def __init__(self, options: FailurePauseOptions, group: str, clock: Clock) -> None:
        self._options = options
        self._group = group
        self._clock = clock
        self._lock = threading.Lock()
        #: When each call ended, and the class of its exception; None for a success.
        self._calls: deque[tuple[float, str | None]] = deque()
        self._reasons: Counter[str] = Counter()
        self._until: float | None = None
        self._interval = options.pause
        #: Whether the next outcome is that of the record that is tried.
        self.is_probing = False
        self._probes = 0
        #: Why it is closed; None if it is not.
        self.reason: str | None = None

    def watch(self, handler: Callable[[Record], object]) -> Callable[[Record], object]:
        """The handler, with its outcomes counted. Handler threads call it."""

        def watched(record: Record) -> object:
            try:
                value = handler(record)
            except Exception as error:
                # These say what becomes of the record, so the handler has done its work.
                is_failure = not isinstance(instruction_of(error), DeadLetter | Drop)
                self._ended(f"{type(error).__module__}.{type(error).__qualname__}" if is_failure else None)
                raise
            self._ended(None)
            return value

        return watched

    def closes(self, *, is_busy: bool) -> bool:
        """Whether no record may be fetched now. The loop asks it before each poll.

        Args:
            is_busy: whether records are in memory. They are waited for, as long again as the time itself, so that the
                next outcome is that of the record that is tried.
        """
        with self._lock:
            if self._until is None:
                return False
            if self.is_probing:
                # Without an outcome the record was not for this group, or its partition was lost.
                if self._probes and not is_busy:
                    self._probes = 0
                return self._probes > 0
            # A handler that hangs must not keep the consumer closed.
            if self._clock.monotonic() < self._until + (self._interval if is_busy else 0.0):
                return True
            self.is_probing, self._probes = True, 0
            return False

    def fetched(self, count: int) -> None:
        """So many records were fetched."""
        with self._lock:
            if self.is_probing:
                self._probes += count

    def _ended(self, reason: str | None) -> None:
        with self._lock:
            if self._until is not None:
                if self.is_probing and self._probes:
                    self._end_probe(reason)
                return
            now, options = self._clock.monotonic(), self._options
            self._calls.append((now, reason))
            if reason is not None:
                self._reasons[reason] += 1
            while self._calls[0][0] < now - options.window:
                _, old = self._calls.popleft()
                if old is not None:
                    self._reasons[old] -= 1
            if reason is None:
                return
            failed, total = self._reasons[reason], len(self._calls)
            if failed >= options.count and failed >= options.share * total:
                self.reason = reason
                self._interval = options.pause
                self._close(f"{failed} of {total} calls of the handler failed with {reason}")

    def _end_probe(self, reason: str | None) -> None:
        self.is_probing = False
        if reason is not None:
            self.reason = reason
            self._interval = min(2 * self._interval, self._options.max_pause)
            self._close(f"the record that was tried failed with {reason}")
            return
        self._until = self.reason = None
        logger.warning(
            "the consumer of group %s goes on: a record was handled",
            self._group,
            extra={"event": "consumer_resumed", "group": self._group},
        )

    def _close(self, why: str) -> None:
        self._until = self._clock.monotonic() + self._interval
        self._calls.clear()
        self._reasons.clear()
        logger.warning(
            "the consumer of group %s pauses for %.1f s: %s",
            self._group,
            self._interval,
            why,
            extra={"event": "consumer_paused", "group": self._group, "exception": self.reason},
        )
