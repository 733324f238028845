"""Delivers many messages as one batch: send them all, decide for each what follows, store what waits again.

This runs in the pool's process. What it returns tells the worker's parent how each message ended.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from msgspec.structs import replace

from ..clock import Clock
from ..config import Settings
from ..destinations import Delivered, Destination, Failed, Outcome, Rejected, Unavailable, Undelivered, exception_of
from ..errors import NotStoredError
from ..message import Message
from ..policy import Drop, Failure, Retry, decide, outage_delay_s
from ..policy.decide import DRAW, Draw
from ..stopping import is_stopping
from .delivery import Delivery
from .lanes import is_slow
from .log_fields import log_fields, named
from .outage_mode import OutageMode, is_failure

logger = logging.getLogger(__name__)


class End(StrEnum):
    """How a delivery ended for the worker."""

    #: The destination has the message.
    DONE = "done"
    #: The message was given up: its dead letter is written.
    DEAD = "dead"
    #: A rule of the message's policy drops it: nothing is kept of it.
    DROPPED = "dropped"
    #: The same task waits again in Redis, with what has changed.
    AGAIN = "again"
    #: Nothing could be settled: the broker's message goes back to its queue.
    BACK = "back"


class Result(NamedTuple):
    """How one delivery ended.

    Attributes:
        end: what the worker does about it.
        text: where the message is, or why it is not there; for people.
        traceback: of a dead letter, the stack trace of the failure, where there is one.
    """

    end: End
    text: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch of deliveries needs of the world.

    Attributes:
        destinations: by the kind of address that they serve.
        settings: the app's.
        store: stores deliveries that wait again; raises NotStoredError. None where nothing can wait: what is not
            delivered then is not kept.
        by: who delivers, for the history of a message: the worker's name.
        clock: tells the time.
        draw: returns a random number from 0 to 1, for the jitter of delays.
        outage_mode: the circuit breakers of destinations; None if the app has none.
    """

    destinations: Mapping[str, Destination]
    settings: Settings
    store: Callable[[Sequence[Delivery]], object] | None
    by: str
    clock: Clock
    draw: Draw = DRAW
    outage_mode: OutageMode | None = None

    def deliver(self, deliveries: Sequence[Delivery]) -> list[Result]:
        """Deliver messages and settle them; one result for each, in their order.

        Nothing that a destination does makes it raise.
        """
        results: dict[int, Result] = {}
        waiting: dict[int, tuple[Delivery, str]] = {}
        unsent = dict(enumerate(deliveries))
        # The second round writes dead letters that the first round made.
        for _ in range(2):
            given_up: dict[int, Delivery] = {}
            outcomes, held = self._send_unless_held(unsent)
            for index, outcome in outcomes.items():
                delivery = unsent[index]
                if isinstance(outcome, Delivered):
                    results[index] = _delivered(delivery, outcome)
                    continue
                after = self._hold(delivery) if index in held else self._after(delivery, outcome)
                if isinstance(after, Result):
                    results[index] = after
                    continue
                is_given_up = after.message.reason is not None and delivery.message.reason is None
                if is_given_up and self._sends_now(after):
                    given_up[index] = after
                else:
                    waiting[index] = after, self.settings.redact.text(str(outcome.error))
            unsent = given_up
        self._store_again(waiting, results)
        return [results[index] for index in range(len(deliveries))]

    def _sends_now(self, dead: Delivery) -> bool:
        """Whether this job writes a dead letter that it has made, or stores it again for the next job.

        A job has one time-out of a slow destination, not two; and when the worker stops, it begins nothing more.
        """
        return self.store is None or not (is_slow(dead.lane) or is_stopping())

    def _send_unless_held(self, deliveries: Mapping[int, Delivery]) -> tuple[dict[int, Outcome], Collection[int]]:
        """Send; returns the outcomes, and which deliveries wait because the breaker of their destination is open."""
        if self.outage_mode is None:
            return self._send(deliveries), ()
        lanes = {index: self.outage_mode.lane_of(one.message) for index, one in deliveries.items()}
        closed = self.outage_mode.held(set(lanes.values()))
        unsent = {index for index, lane in lanes.items() if lane in closed} if closed else set()
        outcomes = self._send({index: one for index, one in deliveries.items() if index not in unsent})
        opened = self.outage_mode.report([(lanes[index], outcome) for index, outcome in outcomes.items()])
        held = {index for index, outcome in outcomes.items() if lanes[index] in opened and is_failure(outcome)}
        for index in unsent:
            outcomes[index] = Unavailable(f"the circuit breaker of {lanes[index]} is open")
        for lane, count in Counter(lanes[index] for index in held | unsent).items():
            logger.info(
                "%d messages wait, because the circuit breaker of %s is open",
                count,
                lane,
                extra={"event": "held", "lane": lane, "messages": count},
            )
        return outcomes, held | unsent

    def _hold(self, delivery: Delivery) -> Delivery:
        """The same attempt again, once the breaker of its destination lets it through: this was no try."""
        return replace(delivery, due_ms=self.clock.now_ms() + round(self.settings.outage_delay * 1000))

    def _send(self, deliveries: Mapping[int, Delivery]) -> dict[int, Outcome]:
        by_kind: dict[str, list[int]] = defaultdict(list)
        for index, delivery in deliveries.items():
            by_kind[delivery.message.target.kind].append(index)
        outcomes: dict[int, Outcome] = {}
        for kind, indices in by_kind.items():
            try:
                answers = self.destinations[kind].send([deliveries[index].message for index in indices])
            except Exception as error:
                # A fault of rebound's or of a library's: the messages must not pay for it.
                logger.exception("unexpected error while delivering to %s", kind, extra={"event": "delivery_error"})
                answers = [Unavailable(f"{kind}: {error!r}")] * len(indices)
            outcomes.update(zip(indices, answers, strict=True))
        return outcomes

    def _after(self, delivery: Delivery, outcome: Undelivered) -> Delivery | Result:
        """What is delivered next, and when: the same attempt, the next attempt, or a dead letter at once.

        A result means that the message is dropped.
        """
        message = delivery.message
        if isinstance(outcome, Unavailable) or message.reason is not None:
            return self._after_outage(delivery, outcome)
        now_ms = self.clock.now_ms()
        failure = self.settings.redact.failure(_failure_of(outcome))
        decision = decide(
            message.policy,
            message.attempt,
            failure,
            first_failed_at_ms=message.first_failed_at,
            now_ms=now_ms,
            error=exception_of(outcome),
            draw=self.draw,
        )
        if isinstance(decision, Drop):
            return _dropped(message, decision, failure)
        _log_failure(message, decision, failure, now_ms)
        return replace(
            delivery,
            message=self.settings.redact.dead_letter(message.failed(failure, decision, now_ms=now_ms, by=self.by)),
            due_ms=decision.due_ms if isinstance(decision, Retry) else now_ms,
            tries=delivery.tries + 1,
        )

    def _after_outage(self, delivery: Delivery, outcome: Undelivered) -> Delivery:
        """The same attempt again, after a delay that grows with each try."""
        message, settings = delivery.message, self.settings
        delay_s = outage_delay_s(delivery.tries, settings.outage_delay, settings.outage_max_delay)
        _log_outage(message, outcome, delay_s)
        due_ms = self.clock.now_ms() + round(delay_s * 1000)
        return replace(delivery, due_ms=due_ms, tries=delivery.tries + 1)

    def _store_again(self, waiting: Mapping[int, tuple[Delivery, str]], results: dict[int, Result]) -> None:
        if not waiting:
            return
        try:
            if self.store is not None:
                self.store([delivery for delivery, _ in waiting.values()])
        except NotStoredError as error:
            for index, (delivery, _) in waiting.items():
                logger.warning(
                    "%s goes back to its queue, for it could not be stored again: %s",
                    named(delivery.message),
                    error,
                    extra={"event": "not_stored", **log_fields(delivery.message)},
                )
                results[index] = Result(End.BACK, str(error))
        else:
            results.update((index, Result(End.AGAIN, error)) for index, (_, error) in waiting.items())


def _failure_of(outcome: Failed | Rejected) -> Failure:
    seen = Failure.of(exception_of(outcome))
    if isinstance(outcome, Rejected):
        return Failure(seen.exception_class, seen.message, permanent=True)
    return Failure(seen.exception_class, seen.message, retry_after_s=outcome.retry_after_s)


def dead_letter_text(message: Message) -> str:
    """Why a message was given up: the reason and the last error, as `AsyncResult`, events and Flower show them."""
    return str(message.reason) if message.failure is None else f"{message.reason}: {message.failure}"


def _delivered(delivery: Delivery, outcome: Delivered) -> Result:
    message = delivery.message
    if message.reason is None:
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "delivered %s: %s", named(message), outcome.where, extra={"event": "delivered", **log_fields(message)}
            )
        return Result(End.DONE, outcome.where)
    text = dead_letter_text(message)
    logger.warning(
        "%s; its dead letter is at %s: %s",
        named(message),
        outcome.where,
        text,
        extra={"event": "dead_letter_written", **log_fields(message)},
    )
    return Result(End.DEAD, text, message.failure.stacktrace if message.failure is not None else "")


def _dropped(message: Message, decision: Drop, failure: Failure) -> Result:
    logger.warning(
        "%s failed with %s; it is dropped: %s",
        named(message),
        failure,
        decision.reason,
        extra={"event": "dropped", **log_fields(message)},
    )
    return Result(End.DROPPED, f"dropped ({decision.reason}): {failure}")


def _log_failure(message: Message, decision: object, failure: Failure, now_ms: int) -> None:
    if isinstance(decision, Retry):
        logger.warning(
            "%s failed with %s; attempt %d follows in %.1f s",
            named(message),
            failure,
            decision.attempt,
            (decision.due_ms - now_ms) / 1000,
            extra={"event": "failed", **log_fields(message)},
        )
    else:
        logger.warning(
            "%s failed with %s; it is given up",
            named(message),
            failure,
            extra={"event": "given_up", **log_fields(message)},
        )


def _log_outage(message: Message, outcome: Undelivered, delay_s: float) -> None:
    if message.reason is not None and not isinstance(outcome, Unavailable):
        logger.critical(
            "the dead letter %s is refused by its destination, stays scheduled and is tried again in %.1f s: %s",
            named(message),
            delay_s,
            outcome.error,
            extra={"event": "dead_letter_refused", **log_fields(message)},
        )
        return
    logger.log(
        logging.WARNING if message.reason is None else logging.CRITICAL,
        "%s is tried again in %.1f s, for its destination is away: %s",
        named(message),
        delay_s,
        outcome.error,
        extra={"event": "outage", **log_fields(message)},
    )
