"""The spans of deliveries: of the waits before them, and of the deliveries themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..clock import Clock
from ..destinations import Delivered, Failed, Held, Outcome, Rejected, Unavailable, Underway, exception_of
from ..message import Message
from ..redaction import Redactor
from .delivery import Delivery

if TYPE_CHECKING:
    from ..tracing import Sent, Tracer


def end_waits(tracer: Tracer | None, deliveries: Sequence[Delivery], queue: str, clock: Clock) -> Sequence[Delivery]:
    """Make the span of each wait that ends now. Return the deliveries, each with a context in its headers.

    Args:
        tracer: makes spans; None makes none.
        deliveries: what has waited. One that has ended already has waited only to be settled, so it has no span.
        queue: the queue in which they have waited.
        clock: tells the time.
    """
    if tracer is None:
        return deliveries
    now_ms = clock.now_ms()
    return [
        replace(one, message=tracer.wait(one.message, queue, one.since_ms, now_ms)) if one.ended is None else one
        for one in deliveries
    ]


def attempted(delivery: Delivery) -> Message:
    """Return the message of a delivery that was an attempt: the next attempt has a link to it."""
    message = delivery.message
    return message if delivery.span is None else replace(message, previous_span=delivery.span)


class SentSpans:
    """The spans of deliveries that are sent together: one for each.

    Args:
        tracer: makes spans.
        deliveries: by the number under which their outcomes are told.
        redact: decides the part of an error's text that a span keeps.
    """

    def __init__(self, tracer: Tracer, deliveries: Mapping[int, Delivery], redact: Redactor) -> None:
        self._redact = redact
        self._spans: dict[int, Sent] = {}
        for index, delivery in deliveries.items():
            span = tracer.delivery(delivery.message)
            if span is not None:
                self._spans[index] = span
                delivery.span = span.text

    def end(self, outcomes: Mapping[int, Outcome | Underway]) -> None:
        """End the span of each delivery whose outcome is known; the others end when theirs is there."""
        for index, span in self._spans.items():
            outcome = outcomes[index]
            if isinstance(outcome, Underway):
                outcome.outcome.add_done_callback(partial(self._end_later, span))
            else:
                self._end(span, outcome)

    def _end_later(self, span: Sent, future: Future[Outcome]) -> None:
        if not future.cancelled():
            self._end(span, Unavailable(repr(error)) if (error := future.exception()) else future.result())

    def _end(self, span: Sent, outcome: Outcome) -> None:
        if isinstance(outcome, Delivered):
            span.delivered(outcome.where)
        elif not isinstance(outcome, Held):
            # A message that is held was not sent: no span tells of it.
            error = type(exception_of(outcome))
            status = outcome.status if isinstance(outcome, Failed | Rejected) else None
            text = self._redact.text(str(outcome.error))
            span.failed(f"{error.__module__}.{error.__qualname__}", text, status)
