"""Spans of OpenTelemetry for attempts, waits and deliveries.

Spans are made where the process has a tracer provider. OpenTelemetry is imported only where the process has imported it
already: otherwise nothing has set a provider.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tracer import Sent as Sent
    from .tracer import Tracer as Tracer

_API = "opentelemetry.trace"
#: The key by which instrumentations of OpenTelemetry are told to do nothing.
_SUPPRESS = "suppress_instrumentation"

_modules = sys.modules
_look: Callable[[], Tracer | None] | None = None


def find(*, wanted: bool) -> Tracer | None:
    """Return what makes spans; None where spans are not wanted, or no tracer provider is set.

    Call this for each piece of work: an app may set its provider after rebound was made, and after a fork.

    Args:
        wanted: the setting `rebound_tracing`.
    """
    if not wanted or (api := _modules.get(_API)) is None:
        return None
    # Of opentelemetry. Its public function takes ten times as long as this where there is no provider.
    if _look is not None and api.__dict__.get("_TRACER_PROVIDER", api) is None:
        return None
    return _find()


def _find() -> Tracer | None:
    global _look
    if _look is None:
        from .provider import look

        _look = look
    return _look()


def keep_contexts() -> None:
    """Let no instrumentation of an HTTP client make spans in this thread.

    It would send the context of its own span in place of the one that a message has.
    """
    context = _modules.get("opentelemetry.context")
    if context is not None:
        context.attach(context.set_value(_SUPPRESS, True))
