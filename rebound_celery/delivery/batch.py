"""Delivers many messages as one batch: send them all, decide for each what follows, store what waits again.

This runs in the pool's process. What it returns tells the worker's parent how each message ended.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from msgspec.structs import replace

from ..clock import Clock
from ..config import Settings
from ..destinations import Delivered, Destination, Failed, Outcome, Rejected, Unavailable, Undelivered, exception_of
from ..errors import NotStoredError
from ..message import Message
from ..policy import Decision, Failure, Retry, decide, outage_delay_s
from ..stopping import is_stopping
from .delivery import Delivery
from .lanes import is_slow
from .log_fields import log_fields, named

#: For how long a batch tries to store what waits again, and the pause between two tries, in seconds.
_STORE_AGAIN_S = 10.0
_STORE_PAUSE_S = 0.5

#: Seconds before messages go back to their queue.
_BACK_PAUSE_S = 1.0

_NOTHING_FOLLOWS = "nothing follows, for it was delivered in the caller's process"

logger = logging.getLogger(__name__)


class End(StrEnum):
    """How a delivery ended for the worker."""

    #: The destination has the message.
    DONE = "done"
    #: The message was given up: its dead letter is written.
    DEAD = "dead"
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
    """

    destinations: Mapping[str, Destination]
    settings: Settings
    store: Callable[[Sequence[Delivery]], None] | None
    by: str
    clock: Clock

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
            for index, outcome in self._send(unsent).items():
                delivery = unsent[index]
                if isinstance(outcome, Delivered):
                    results[index] = _delivered(delivery, outcome)
                    continue
                after = self._after(delivery, outcome)
                is_given_up = after.message.reason is not None and delivery.message.reason is None
                if is_given_up and self._sends_now(after):
                    given_up[index] = after
                else:
                    waiting[index] = after, str(outcome.error)
            unsent = given_up
        self._store_again(waiting, results)
        return [results[index] for index in range(len(deliveries))]

    def _sends_now(self, dead: Delivery) -> bool:
        """Whether this job writes a dead letter that it has made, or stores it again for the next job.

        A job has one time-out of a slow destination, not two; and when the worker stops, it begins nothing more.
        """
        return self.store is None or not (is_slow(dead.lane) or is_stopping())

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

    def _after(self, delivery: Delivery, outcome: Undelivered) -> Delivery:
        """What is delivered next, and when: the same attempt, the next attempt, or a dead letter at once."""
        message = delivery.message
        if isinstance(outcome, Unavailable) or message.reason is not None:
            return self._after_outage(delivery, outcome)
        now_ms = self.clock.now_ms()
        failure = _failure_of(outcome)
        decision = decide(
            message.policy, message.attempt, failure, first_failed_at_ms=message.first_failed_at, now_ms=now_ms
        )
        _log_failure(message, decision, failure, self._what_follows(decision, now_ms))
        return replace(
            delivery,
            message=message.failed(failure, decision, now_ms=now_ms, by=self.by),
            due_ms=decision.due_ms if isinstance(decision, Retry) else now_ms,
            tries=delivery.tries + 1,
        )

    def _after_outage(self, delivery: Delivery, outcome: Undelivered) -> Delivery:
        """The same attempt again, after a delay that grows with each try."""
        message, settings = delivery.message, self.settings
        delay_s = outage_delay_s(delivery.tries, settings.outage_delay, settings.outage_max_delay)
        _log_outage(message, outcome, self._when_again(delay_s))
        due_ms = self.clock.now_ms() + round(delay_s * 1000)
        return replace(delivery, due_ms=due_ms, tries=delivery.tries + 1)

    def _what_follows(self, decision: Decision, now_ms: int) -> str:
        """What follows a failed attempt, for the log."""
        if not isinstance(decision, Retry):
            return "it is given up"
        if self.store is None:
            return _NOTHING_FOLLOWS
        return f"attempt {decision.attempt} follows in {(decision.due_ms - now_ms) / 1000:.1f} s"

    def _when_again(self, delay_s: float) -> str:
        return _NOTHING_FOLLOWS if self.store is None else f"it stays scheduled and is tried again in {delay_s:.1f} s"

    def _store_again(self, waiting: Mapping[int, tuple[Delivery, str]], results: dict[int, Result]) -> None:
        if not waiting:
            return
        try:
            self._store([delivery for delivery, _ in waiting.values()])
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

    def _store(self, deliveries: Sequence[Delivery]) -> None:
        """Store them, and try again for a while if Redis does not take them.

        What goes back is delivered again without a used attempt: a receiver that has failed gets another post.
        """
        if self.store is None:
            return
        give_up_at = self.clock.monotonic() + _STORE_AGAIN_S
        while True:
            try:
                self.store(deliveries)
            except NotStoredError:
                if is_stopping() or self.clock.monotonic() >= give_up_at:
                    raise
                self.clock.sleep(_STORE_PAUSE_S)
            else:
                return


def _failure_of(outcome: Failed | Rejected) -> Failure:
    seen = Failure.of(exception_of(outcome))
    if isinstance(outcome, Rejected):
        return Failure(seen.exception_class, seen.message, permanent=True)
    return Failure(seen.exception_class, seen.message, retry_after_s=outcome.retry_after_s)


def pause_before_back(results: Iterable[Result], clock: Clock) -> None:
    """Wait if one of these messages goes back to its queue, where it is due at once.

    Without a pause, a fault of this process alone would be met again at full speed.
    """
    if any(result.end == End.BACK for result in results) and not is_stopping():
        clock.sleep(_BACK_PAUSE_S)


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


def _log_failure(message: Message, decision: Decision, failure: Failure, what_follows: str) -> None:
    logger.warning(
        "%s failed with %s; %s",
        named(message),
        failure,
        what_follows,
        extra={"event": "failed" if isinstance(decision, Retry) else "given_up", **log_fields(message)},
    )


def _log_outage(message: Message, outcome: Undelivered, when_again: str) -> None:
    if message.reason is not None and not isinstance(outcome, Unavailable):
        logger.critical(
            "the dead letter %s is refused by its destination; %s: %s",
            named(message),
            when_again,
            outcome.error,
            extra={"event": "dead_letter_refused", **log_fields(message)},
        )
        return
    logger.log(
        logging.WARNING if message.reason is None else logging.CRITICAL,
        "the destination of %s is away; %s: %s",
        named(message),
        when_again,
        outcome.error,
        extra={"event": "outage", **log_fields(message)},
    )
