"""A tracer provider for a test, and what it has got."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACESTATE = "vendor=t61rcWkgMzE,other=00f067aa0ba902b7"
#: The context as headers.
CONTEXT = {"traceparent": TRACEPARENT, "tracestate": TRACESTATE}
PAIRS = tuple((name, value.encode()) for name, value in CONTEXT.items())


class Spans:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        """Those whose name begins so, in the order in which they have ended."""
        return [span for span in self if span.name.startswith(name)]

    @property
    def names(self) -> list[str]:
        return [span.name for span in self]

    @property
    def traces(self) -> set[str]:
        """The ids of all traces."""
        return {f"{span.get_span_context().trace_id:032x}" for span in self}


@contextmanager
def traced(provider: TracerProvider | None = None) -> Iterator[Spans]:
    """Let the process have a tracer provider. OpenTelemetry lets a process set it once."""
    exporter = InMemorySpanExporter()
    provider = provider or TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    earlier = trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = None, Once()
    trace.set_tracer_provider(provider)
    try:
        yield Spans(exporter)
    finally:
        trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = earlier
        provider.shutdown()


def text_of(span: ReadableSpan) -> str:
    """The span in the form of `traceparent`."""
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent_of(span: ReadableSpan) -> str | None:
    """The parent's id; None for a root."""
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def id_of(span: ReadableSpan) -> str:
    return text_of(span).split("-")[2]


def linked(span: ReadableSpan) -> list[str]:
    """The ids of the spans to which a span has links."""
    return [f"{link.context.span_id:016x}" for link in span.links]
