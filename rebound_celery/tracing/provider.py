"""The tracer of the process's tracer provider. Of OpenTelemetry this imports only what is imported already."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry import trace

if TYPE_CHECKING:
    from .tracer import Tracer

#: The version of the semantic conventions that the names of spans and attributes follow.
_SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

#: The provider that was seen last, and what makes spans with it. A process sets its provider once.
_seen: tuple[object, Tracer | None] = (None, None)


def look() -> Tracer | None:
    """Return what makes spans with the provider of the process; None if there is none, or if it makes no spans."""
    global _seen
    provider = trace.get_tracer_provider()
    seen, tracer = _seen
    if seen is not provider:
        tracer = _tracer_of(provider)
        _seen = provider, tracer
    return tracer


def _tracer_of(provider: trace.TracerProvider) -> Tracer | None:
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    tracer = provider.get_tracer("rebound_celery", version("rebound-celery"), schema_url=_SCHEMA_URL)
    # The SDK's provider makes such a tracer if OTEL_SDK_DISABLED is set.
    if isinstance(tracer, trace.NoOpTracer):
        return None
    from .tracer import Tracer

    return Tracer(tracer)
