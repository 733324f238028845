"""Makes spans: of attempts, of waits, and of deliveries.

The parent of each span is the context in the message's own headers, so all of them are in one trace, side by side. A
link leads to the attempt before. A fault of the app's tracing is logged, and stops no message.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode

from ..message import Message, Record
from .attributes import ERROR_TYPE, OUTCOME, Named, name_of, of_attempt, of_delivery, of_failure, of_place, of_wait
from .carrier import context_of, has_context, links_to, text_of, with_context

#: The longest description of a span's status, in characters.
_MOST_CHARACTERS = 500
_NS_PER_MS = 1_000_000

logger = logging.getLogger(__name__)


def _failed(what: str) -> None:
    """Log a fault of the app's tracing; call it in an `except` block."""
    logger.warning("%s is not traced", what, exc_info=True, extra={"event": "not_traced"})


class Tracer:
    """Makes the spans of rebound.

    Args:
        tracer: of the app's tracer provider.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def attempt(self, record: Record, group: str) -> Attempt:
        """Return the span of an attempt. Within its `with` block, its context is the current one."""
        return Attempt(self._tracer, record, group)

    def of_caller(self, message: Message) -> Message:
        """Return a message that a caller schedules, with the caller's current span, if there is one.

        Its context goes into the headers, unless the caller gave another context. The next attempt has a link to it.
        """
        try:
            span = trace.get_current_span().get_span_context()
            if not span.is_valid:
                return message
            return _stamped(message, contexts.get_current(), message.previous_span or text_of(span))
        except Exception:  # noqa: BLE001 - whatever it is, the message is stored
            _failed(f"the caller of message {message.id}")
            return message

    def wait(self, message: Message, queue: str, since_ms: int | None, now_ms: int) -> Message:
        """Make the span of a wait that ends now. Return the message; without a context, it gets that of this span.

        Args:
            message: what has waited.
            queue: the queue in which it has waited.
            since_ms: when it was stored, in Unix milliseconds; None if that is not known.
            now_ms: the time in Unix milliseconds.
        """
        try:
            context = context_of(message.headers)
            span = self._start(
                of_wait(message, queue), context, message.previous_span, SpanKind.CLIENT, since_ms or now_ms
            )
            span.end(max(now_ms, since_ms or 0) * _NS_PER_MS)
            return _stamped(message, trace.set_span_in_context(span, context), message.previous_span)
        except Exception:  # noqa: BLE001 - whatever it is, the message is delivered
            _failed(f"the wait of message {message.id}")
            return message

    def delivery(self, message: Message) -> Sent | None:
        """Begin the span of a delivery; None if it cannot be made."""
        try:
            named, context = of_delivery(message), context_of(message.headers)
            return Sent(message, self._start(named, context, message.previous_span, SpanKind.CLIENT))
        except Exception:  # noqa: BLE001 - whatever it is, the message is delivered
            _failed(f"the delivery of message {message.id}")
            return None

    def _start(
        self, named: Named, context: Context, previous: str | None, kind: SpanKind, start_ms: int | None = None
    ) -> trace.Span:
        return self._tracer.start_span(
            named.name,
            context,
            kind,
            named.attributes,
            links_to(previous),
            None if start_ms is None else start_ms * _NS_PER_MS,
        )


class Attempt:
    """The span of an attempt; see `Tracer.attempt`."""

    def __init__(self, tracer: trace.Tracer, record: Record, group: str) -> None:
        self._tracer = tracer
        self._record = record
        self._group = group
        self._span: trace.Span = trace.INVALID_SPAN
        self._token: Any = None
        self._has_ended = False
        self._context = Context()

    def __enter__(self) -> Self:
        record = self._record
        try:
            name, attributes = of_attempt(record, self._group)
            context = context_of(record.headers)
            self._span = self._tracer.start_span(
                name, context, SpanKind.CONSUMER, attributes, links_to(record.previous_span)
            )
            self._context = trace.set_span_in_context(self._span, context)
            self._token = contexts.attach(self._context)
        except Exception:  # noqa: BLE001 - whatever it is, the handler is called
            _failed(f"the attempt of {record.origin}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        try:
            if self._token is not None:
                contexts.detach(self._token)
            if kind is not None:
                self._span.set_status(Status(StatusCode.ERROR))
                self._span.set_attribute(ERROR_TYPE, name_of(kind))
            if not self._has_ended:
                self._span.end()
        except Exception:  # noqa: BLE001 - the handler has done its work
            _failed(f"the attempt of {self._record.origin}")

    def dropped(self) -> None:
        """Note that the handler has failed, and that the record is dropped."""
        self._span.set_attribute(OUTCOME, "drop")

    def failed(self, message: Message) -> Message:
        """Note what follows the attempt. Return the message with this span as the attempt before.

        Args:
            message: the retry or the dead letter. Its failure is redacted. Without a failure, the handler was not
                called, because the first delivery is delayed: no span tells of it.
        """
        failure = message.failure
        if failure is None:
            self._has_ended = True
            return message
        try:
            self._span.set_attribute(OUTCOME, "retry" if message.reason is None else "dead-letter")
            self._span.set_attribute(ERROR_TYPE, failure.exception_class or "_OTHER")
            self._span.set_status(Status(StatusCode.ERROR, str(failure)[:_MOST_CHARACTERS]))
            span = self._span.get_span_context()
            return _stamped(message, self._context, text_of(span)) if span.is_valid else message
        except Exception:  # noqa: BLE001 - whatever it is, the message is stored
            _failed(f"the attempt of {self._record.origin}")
            return message


class Sent:
    """The span of a delivery that was begun."""

    def __init__(self, message: Message, span: trace.Span) -> None:
        self._message = message
        self._span = span

    @property
    def text(self) -> str:
        """The span as a text, for `Message.previous_span`."""
        return text_of(self._span.get_span_context())

    def delivered(self, where: str) -> None:
        """End it: the destination has confirmed the message."""
        try:
            self._span.set_attributes(of_place(self._message, where))
            self._span.end()
        except Exception:  # noqa: BLE001 - the message is delivered
            _failed(f"the delivery of message {self._message.id}")

    def failed(self, error_type: str, text: str, status: int | None = None) -> None:
        """End it: the message is not delivered.

        Args:
            error_type: the class of the error.
            text: why, redacted.
            status: the status of the HTTP answer, if there was one.
        """
        try:
            self._span.set_attributes(of_failure(error_type, status))
            self._span.set_status(Status(StatusCode.ERROR, text[:_MOST_CHARACTERS]))
            self._span.end()
        except Exception:  # noqa: BLE001 - what follows does not depend on it
            _failed(f"the delivery of message {self._message.id}")


def _stamped(message: Message, context: Context, previous_span: str | None) -> Message:
    """Return a message with the attempt before, and with a context in its headers if it has none."""
    headers = message.headers if has_context(message.headers) else with_context(message.headers, context)
    return replace(message, headers=headers, previous_span=previous_span)
