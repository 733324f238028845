"""Delivers many messages as one batch: send them all, decide for each what follows, store what waits again.

This runs in the pool's process. What it returns tells the worker's parent how each message ended.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from functools import partial
from typing import Protocol
from uuid import uuid4

from msgspec.structs import replace

from .. import tracing
from ..clock import Clock
from ..config import Settings
from ..destinations import (
    Delivered,
    Destination,
    Failed,
    Held,
    Outcome,
    Rejected,
    Unavailable,
    Undelivered,
    Underway,
    exception_of,
)
from ..errors import NotStoredError
from ..policy import Drop, Retry, decide, outage_delay_s
from ..policy.decide import DRAW, Draw
from ..schedule.port import Hold, Tally
from ..stopping import is_stopping
from .delivery import Delivery
from .ended import failure_of
from .lanes import is_slow
from .log_fields import log_fields, named
from .outage_mode import OutageMode
from .outcome_log import log_failure, log_held, log_outage, log_unsettled
from .result import End, Result, Results, delivered, dropped
from .sending import send
from .spans import attempted, end_waits
from .tallies import Sent, tally_of

#: For how long a batch tries to store what waits again, and the pause between two tries, in seconds.
_STORE_AGAIN_S = 10.0
_STORE_PAUSE_S = 0.5

logger = logging.getLogger(__name__)

#: Seconds after the time in which an outcome should be there. Then the delivery is made again, for its process is gone.
_UNDERWAY_MARGIN_S = 5.0


class Store(Protocol):
    """See `Publisher.publish`."""

    def __call__(
        self, deliveries: Sequence[Delivery], /, *, hold: Hold | None = None, tally: Tally | None = None
    ) -> object: ...


class Gone(Protocol):
    """See `Chains.gone`."""

    def __call__(self, task_ids: Sequence[str], *, dead: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch of deliveries needs of the world.

    Attributes:
        destinations: by the kind of address that they serve.
        settings: the app's.
        store: stores deliveries that wait again, or are held while they are under way; raises NotStoredError. None
            where nothing can wait: what is not delivered then is not kept.
        by: who delivers, for the history of a message: the worker's name.
        clock: tells the time.
        gone: is told the task ids of messages that have ended and for which others have waited, and whether they are
            dead letters; raises NotStoredError.
        draw: returns a random number from 0 to 1, for the jitter of delays.
        outage_mode: the circuit breakers of destinations; None if the app has none.
        waits: whether every outcome is waited for. Otherwise a delivery whose destination takes long to answer is
            stored again, and its outcome is stored when it is there.
    """

    destinations: Mapping[str, Destination]
    settings: Settings
    store: Store | None
    by: str
    clock: Clock
    gone: Gone
    draw: Draw = DRAW
    outage_mode: OutageMode | None = None
    waits: bool = False

    def deliver(self, deliveries: Sequence[Delivery]) -> Results:
        """Deliver messages and settle them; one result for each, in their order.

        Nothing that a destination does makes it raise.
        """
        tracer = tracing.find(wanted=self.settings.tracing)
        deliveries = end_waits(tracer, deliveries, self.settings.queue, self.clock)
        results: dict[int, Result] = {}
        waiting: dict[int, tuple[Delivery, str]] = {}
        underway: dict[int, Underway] = {}
        held_underway: dict[int, tuple[Delivery, str]] = {}
        sent: list[Sent] = []
        unsent = dict(enumerate(deliveries))
        # The second round writes dead letters that the first round made.
        for _ in range(2):
            given_up: dict[int, Delivery] = {}
            began = self.clock.monotonic()
            outcomes, held = send(
                unsent,
                self.destinations,
                self.outage_mode,
                self.settings.redact,
                waits=self.waits or self.store is None,
                tracer=tracer,
            )
            sent.append(Sent(unsent, outcomes, round((self.clock.monotonic() - began) * 1000)))
            for index, outcome in outcomes.items():
                delivery = unsent[index]
                if delivery.ended is not None:
                    delivery = replace(delivery, ended=None)
                if isinstance(outcome, Underway):
                    underway[index] = outcome
                    due_ms = self.clock.now_ms() + round((outcome.within_s + _UNDERWAY_MARGIN_S) * 1000)
                    held_underway[index] = replace(delivery, due_ms=due_ms), outcome.error
                    continue
                if isinstance(outcome, Delivered):
                    results[index] = delivered(delivery, outcome)
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
        self._leave_chains(deliveries, results)
        self._store_again(waiting, results, tally=tally_of(sent, waiting, self.settings.metrics_labels))
        # Until the outcome is there, the message is in this process's hands, and does not wait.
        hold = Hold(f"underway:{uuid4().hex}", self.clock.now_ms())
        self._store_again(held_underway, results, hold)
        for index, outcome in underway.items():
            if results[index].end == End.AGAIN:
                settle = partial(self._settle_later, held_underway[index][0], hold.token)
                outcome.outcome.add_done_callback(settle)
        in_order = Results(results[index] for index in range(len(deliveries)))
        settled = {index for index, result in results.items() if result.end not in (End.AGAIN, End.BACK)}
        in_order.tally = tally_of(sent, settled, self.settings.metrics_labels)
        return in_order

    def _sends_now(self, dead: Delivery) -> bool:
        """Whether this job writes a dead letter that it has made, or stores it again for the next job.

        A job has one time-out of a slow destination, not two; and when the worker stops, it begins nothing more.
        """
        return self.store is None or not (is_slow(dead.lane) or is_stopping())

    def _settle_later(self, delivery: Delivery, token: str, future: Future[Outcome]) -> None:
        """Store the outcome of a delivery whose job has ended, for another job to settle it.

        If the message was removed meanwhile, or stored anew, the outcome is of no use any more.
        """
        if future.cancelled():
            return
        outcome = Unavailable(repr(error)) if (error := future.exception()) else future.result()
        try:
            is_held = self.outage_mode is not None and self.outage_mode.holds_after(delivery.message, outcome)
            now_ms = self.clock.now_ms()
            message = attempted(delivery) if isinstance(outcome, Failed | Rejected) else delivery.message
            ended = replace(delivery, message=message, ended=self._kept(outcome), due_ms=now_ms)
            self._store([self._hold(delivery) if is_held else ended], Hold(token, now_ms, ends=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, the delivery is due again by itself
            log_unsettled(delivery.message, outcome, error)

    def _kept(self, outcome: Outcome) -> Outcome:
        """What is stored of an outcome: its error is redacted."""
        redact = self.settings.redact
        if isinstance(outcome, Delivered) or not redact.is_on:
            return outcome
        return replace_fields(outcome, error=redact.text(str(outcome.error)))

    def _hold(self, delivery: Delivery) -> Delivery:
        """The same attempt again, once the breaker of its destination lets it through: this was no try."""
        return replace(delivery, due_ms=self.clock.now_ms() + round(self.settings.outage_delay * 1000))

    def _after(self, delivery: Delivery, outcome: Undelivered) -> Delivery | Result:
        """What is delivered next, and when: the same attempt, the next attempt, or a dead letter at once.

        A result means that the message is dropped.
        """
        message = delivery.message
        if isinstance(outcome, Held):
            return self._after_holding(delivery, outcome)
        if isinstance(outcome, Unavailable) or message.reason is not None:
            return self._after_outage(delivery, outcome)
        now_ms = self.clock.now_ms()
        failure = self.settings.redact.failure(failure_of(outcome))
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
            return dropped(message, decision, failure)
        log_failure(message, decision, failure, now_ms, is_kept=self.store is not None)
        following = attempted(delivery).failed(failure, decision, now_ms=now_ms, by=self.by)
        return replace(
            delivery,
            message=self.settings.redact.dead_letter(following),
            due_ms=decision.due_ms if isinstance(decision, Retry) else now_ms,
            tries=delivery.tries + 1,
        )

    def _after_outage(self, delivery: Delivery, outcome: Undelivered) -> Delivery:
        """The same attempt again, after a delay that grows with each try."""
        message, settings = delivery.message, self.settings
        delay_s = outage_delay_s(delivery.tries, settings.outage_delay, settings.outage_max_delay)
        log_outage(message, outcome, settings.redact.text(str(outcome.error)), delay_s, is_kept=self.store is not None)
        due_ms = self.clock.now_ms() + round(delay_s * 1000)
        return replace(delivery, due_ms=due_ms, tries=delivery.tries + 1)

    def _leave_chains(self, deliveries: Sequence[Delivery], results: dict[int, Result]) -> None:
        """Let those go on that have waited for what is a dead letter now, or is dropped."""
        for end in (End.DEAD, End.DROPPED):
            ended = [index for index, result in results.items() if result.end == end and deliveries[index].chained]
            if not ended:
                continue
            try:
                self.gone([deliveries[index].task_id for index in ended], dead=end == End.DEAD)
            except NotStoredError as error:
                results.update((index, Result(End.BACK, str(error))) for index in ended)

    def _after_holding(self, delivery: Delivery, outcome: Held) -> Delivery:
        """The same attempt again, where its destination wants it to wait."""
        log_held(delivery.message, outcome)
        due_ms = self.clock.now_ms() + round(outcome.delay_s * 1000)
        return replace(delivery, due_ms=due_ms, held_in=outcome.lane)

    def _store_again(
        self,
        waiting: Mapping[int, tuple[Delivery, str]],
        results: dict[int, Result],
        hold: Hold | None = None,
        tally: Tally | None = None,
    ) -> None:
        if not waiting:
            return
        try:
            self._store([delivery for delivery, _ in waiting.values()], hold, tally)
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

    def _store(self, deliveries: Sequence[Delivery], hold: Hold | None = None, tally: Tally | None = None) -> None:
        """Store them, and try again for a while if Redis does not take them.

        What goes back is delivered again without a used attempt: a receiver that has failed gets another post.
        """
        if self.store is None:
            return
        since_ms = None if tracing.find(wanted=self.settings.tracing) is None else self.clock.now_ms()
        for delivery in deliveries:
            delivery.since_ms = since_ms
        give_up_at = self.clock.monotonic() + _STORE_AGAIN_S
        while True:
            try:
                self.store(deliveries, hold=hold, tally=tally)
            except NotStoredError:
                if is_stopping() or self.clock.monotonic() >= give_up_at:
                    raise
                self.clock.sleep(_STORE_PAUSE_S)
            else:
                return
