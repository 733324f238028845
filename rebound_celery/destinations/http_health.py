"""Keeps the health of HTTP endpoints: one that fails for days, or that is gone, is sent nothing, and what comes waits.

An endpoint is a URL without user and query. What is for one that is disabled, or wants to be left alone, waits in a
lane of its own, so that other endpoints of its host go on.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from ..clock import SYSTEM_CLOCK, Clock
from ..message import Message
from ..message.address import HttpAddress, endpoint_lane
from ..redaction import NO_REDACTION, Redactor
from ..schedule.port import Health, HealthReport, Schedule
from . import Delivered, Destination, Failed, Held, Outcome, Rejected, Underway

#: Answers that say that the endpoint is gone, and those that say that it has too much to do.
_GONE = 410
_SLOW = frozenset({429, 502, 503, 504})

#: For how long the lane of a disabled endpoint is paused. Then some of what waits looks again: a pause that was set
#: just when the endpoint was enabled must not stay.
_PAUSE_MS = 300_000

#: Seconds for which an endpoint that was well is not asked about again.
_TRUSTED_S = 2.0
_MOST_TRUSTED = 10_000

logger = logging.getLogger(__name__)

#: Called with the name of an endpoint that was disabled, and why.
Tell = Callable[[str, Health], None]


class DisableAfter(Protocol):
    """After how many seconds of nothing but failures the endpoint of an address is disabled; 0 for never."""

    def __call__(self, address: HttpAddress) -> float: ...


@dataclass(slots=True)
class _Seen:
    """What was seen of an endpoint in one job."""

    took: bool = False
    failures: int = 0
    alone_s: float | None = None
    gone: str = ""
    disable_after_s: float = 0.0

    def add(self, outcome: Outcome, *, backs_off: bool) -> None:
        if isinstance(outcome, Delivered):
            self.took = True
        elif isinstance(outcome, Rejected):
            self.failures += 1
        elif isinstance(outcome, Failed):
            self.failures += 1
            if outcome.status == _GONE:
                self.gone = "it answered 410 Gone"
            elif outcome.status in _SLOW and (backs_off or outcome.retry_after_s is not None):
                self.alone_s = max(self.alone_s or 0.0, outcome.retry_after_s or 0.0)


@dataclass(slots=True)
class _Known:
    """What this process knows without asking: endpoints that were well, and when, by the monotonic clock."""

    well: dict[str, float] = field(default_factory=dict)


class HealthyEndpoints:
    """A destination that sends through another one, and nothing to endpoints that are disabled or left alone.

    While Redis is away, everything is sent.

    Args:
        inner: sends.
        open_schedule: opens the schedule of rebound's queue.
        disable_after: says for how long the endpoint of an address may fail.
        tell: is told of an endpoint that was disabled.
        redact: decides the part of an error's text that is logged.
        backs_off: whether an endpoint that has too much to do is left alone also where it does not say for how long.
            Not where its host has a circuit breaker, which then sees that it fails, and when it is well again.
        clock: tells the time.
    """

    def __init__(
        self,
        inner: Destination,
        open_schedule: Callable[[], AbstractContextManager[Schedule]],
        disable_after: DisableAfter,
        tell: Tell,
        redact: Redactor = NO_REDACTION,
        *,
        backs_off: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._backs_off = backs_off
        self._inner = inner
        self._open = open_schedule
        self._disable_after = disable_after
        self._tell = tell
        self._redact = redact
        self._clock = clock
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._schedule: Schedule | None = None
        self._known = _Known()

    def send(self, messages: Sequence[Message]) -> list[Outcome | Underway]:
        """Send each message; see `Destination.send`."""
        endpoints = [_endpoint_of(message) for message in messages]
        held = self._hold(set(endpoints))
        sent = [index for index, endpoint in enumerate(endpoints) if endpoint not in held]
        outcomes: dict[int, Outcome | Underway] = {
            index: held[endpoint] for index, endpoint in enumerate(endpoints) if endpoint in held
        }
        outcomes.update(zip(sent, self._inner.send([messages[index] for index in sent]), strict=True))
        seen: dict[str, _Seen] = defaultdict(_Seen)
        for index in sent:
            outcome = outcomes[index]
            if isinstance(outcome, Underway):
                outcome.outcome.add_done_callback(partial(self._on_end, messages[index]))
            else:
                self._see(seen, messages[index], outcome)
        gone = self._report(seen)
        for index in sent:
            outcome = outcomes[index]
            if endpoints[index] in gone and isinstance(outcome, Failed) and outcome.status == _GONE:
                outcomes[index] = gone[endpoints[index]]
        return [outcomes[index] for index in range(len(messages))]

    def close(self) -> None:
        self._inner.close()
        with self._lock:
            self._disconnect()

    def _hold(self, endpoints: set[str]) -> Mapping[str, Held]:
        """The endpoints to which nothing is sent now, and what its messages do."""
        now = self._clock.monotonic()
        asked = [name for name in endpoints if now - self._known.well.get(name, -_TRUSTED_S) >= _TRUSTED_S]
        found = self._ask(lambda schedule: schedule.health(asked)) if asked else []
        if found is None:
            return {}
        held: dict[str, Held] = {}
        pauses: list[tuple[str, int]] = []
        now_ms = self._clock.now_ms()
        untold = [name for name, health in zip(asked, found, strict=True) if 0 < health.tell_ms <= now_ms]
        for name, health in zip(asked, found, strict=True):
            if health.disabled_ms:
                held[name] = _held(name, health)
                pauses.append((name, now_ms + _PAUSE_MS))
            elif health.slow_until_ms > now_ms:
                held[name] = Held(f"{name} wants to be left alone", 0.0, endpoint_lane(name))
                pauses.append((name, health.slow_until_ms))
            elif not health.failures:
                if len(self._known.well) >= _MOST_TRUSTED:
                    self._known.well.clear()
                self._known.well[name] = now
        if pauses and self._ask(lambda schedule: _pause(schedule, pauses)) is None:
            return {}
        if untold:
            self._tell_late(untold)
        return held

    def _see(self, seen: dict[str, _Seen], message: Message, outcome: Outcome) -> None:
        address = message.target
        assert isinstance(address, HttpAddress)
        name = address.parts.endpoint
        # What was well, and takes a message, is no news.
        if isinstance(outcome, Delivered) and name not in seen and name in self._known.well:
            return
        # A refusal without an answer is rebound's own, and says nothing of the endpoint.
        if not isinstance(outcome, Delivered | Failed) and not (isinstance(outcome, Rejected) and outcome.status):
            return
        seen[name].add(outcome, backs_off=self._backs_off)
        if not isinstance(outcome, Delivered):
            seen[name].disable_after_s = self._disable_after(address)

    def _on_end(self, message: Message, ended: Future[Outcome]) -> None:
        if not ended.cancelled() and ended.exception() is None:
            seen: dict[str, _Seen] = defaultdict(_Seen)
            self._see(seen, message, ended.result())
            self._report(seen)

    def _report(self, seen: Mapping[str, _Seen]) -> Mapping[str, Held]:
        """Tell Redis what endpoints answered; returns those that are disabled now."""
        if not seen:
            return {}
        reports = [
            HealthReport(
                name,
                one.took,
                one.failures,
                None if one.alone_s is None else round(one.alone_s * 1000),
                round(one.disable_after_s * 1000),
                one.gone if one.disable_after_s else "",
                tells=True,
            )
            for name, one in seen.items()
        ]
        found = self._ask(lambda schedule: schedule.report_health(reports))
        disabled: dict[str, Held] = {}
        for name, health in zip(seen, found or [Health()] * len(seen), strict=True):
            if health.failures:
                self._known.well.pop(name, None)
            if health.disabled_ms:
                disabled[name] = _held(name, health)
            if health.is_telling:
                self._say(name, health)
        return disabled

    def _say(self, name: str, health: Health) -> None:
        logger.error(
            "the endpoint %s is disabled: %s; what comes for it waits",
            name,
            health.reason,
            extra={"event": "endpoint_disabled", "endpoint": name},
        )
        try:
            self._tell(name, health)
        except Exception as error:  # noqa: BLE001 - the endpoint is disabled all the same
            extra: dict[str, object] = {"event": "not_told", "endpoint": name}
            self._redact.log(logger, "nobody was told of it yet", error=error, extra=extra)
        else:
            self._ask(lambda schedule: schedule.report_health([HealthReport(name, has_told=True)]))

    def _tell_late(self, names: Sequence[str]) -> None:
        """Tell of endpoints that somebody has disabled who ended before it told."""
        found = self._ask(lambda schedule: schedule.report_health([HealthReport(name, tells=True) for name in names]))
        for name, health in zip(names, found or [], strict=False):
            if health.is_telling:
                self._say(name, health)

    def _ask(self, question: Callable[[Schedule], list[Health] | None]) -> list[Health] | None:
        """Ask Redis; None while it is away."""
        with self._lock:
            try:
                if self._schedule is None:
                    self._schedule = self._stack.enter_context(self._open())
                return question(self._schedule)
            except Exception as error:  # noqa: BLE001 - whatever Redis says, deliveries go on
                self._disconnect()
                logger.warning("the health of endpoints is not known: %s", error, extra={"event": "no_health"})
                return None

    def _disconnect(self) -> None:
        self._schedule = None
        # The connection may be broken.
        with suppress(Exception):
            self._stack.close()


def _endpoint_of(message: Message) -> str:
    address = message.target
    assert isinstance(address, HttpAddress)
    return address.parts.endpoint


def _held(name: str, health: Health) -> Held:
    return Held(f"the endpoint {name} is disabled: {health.reason}", 0.0, endpoint_lane(name))


def _pause(schedule: Schedule, pauses: Sequence[tuple[str, int]]) -> list[Health]:
    for name, until_ms in pauses:
        schedule.pause(endpoint_lane(name), until_ms)
    return []
