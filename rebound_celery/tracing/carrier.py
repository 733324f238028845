"""The context of a trace in headers, and a span as a text."""

from __future__ import annotations

import re

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter

from ..message.record import Headers

#: A span as it is stored, in the form of `traceparent`, whatever the app's propagators are.
_SPAN_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

#: Baggage is no place in a trace.
_BAGGAGE = "baggage"


class _Getter(Getter[Headers]):
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        found = [(value or b"").decode("utf-8", "replace") for name, value in carrier if name.lower() == key.lower()]
        return found or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name for name, _ in carrier]


class _Setter(Setter[list[tuple[str, bytes | None]]]):
    def set(self, carrier: list[tuple[str, bytes | None]], key: str, value: str) -> None:
        carrier.append((key, value.encode("utf-8", "replace")))


_getter, _setter = _Getter(), _Setter()


def context_of(headers: Headers) -> Context:
    """Return the context that headers carry, with the app's propagators; an empty one if they carry none."""
    return propagate.extract(headers, Context(), _getter) if headers else Context()


def has_context(headers: Headers) -> bool:
    """Whether headers name a place in a trace. It may be one that nobody can read: it is the caller's."""
    if not headers:
        return False
    fields = propagate.get_global_textmap().fields
    return any((lower := name.lower()) in fields and lower != _BAGGAGE for name, _ in headers)


def with_context(headers: Headers, context: Context) -> Headers:
    """Return headers with what carries the context. Names that they have already are left as they are."""
    added: list[tuple[str, bytes | None]] = []
    propagate.inject(added, context, _setter)
    given = {name.lower() for name, _ in headers}
    return (*headers, *(pair for pair in added if pair[0].lower() not in given))


def text_of(span: trace.SpanContext) -> str:
    """Return a span as a text."""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def links_to(text: str | None) -> list[trace.Link]:
    """Return a link to the span of a text; none where the text names none."""
    found = _SPAN_FORM.fullmatch(text) if text else None
    if found is None:
        return []
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    span = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
    return [trace.Link(span)] if span.is_valid else []
