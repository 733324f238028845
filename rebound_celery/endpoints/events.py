"""Tells operators that an HTTP endpoint was disabled: with a POST to their URL, and with an event of Celery's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol

from celery.result import AsyncResult

from ..config import Settings
from ..requests import RetryRequest
from ..schedule.port import Health

#: The type of the event: in the body of the POST, and with dashes for the event of Celery's.
DISABLED = "endpoint.disabled"


class _Rebound(Protocol):
    app: Any

    @property
    def settings(self) -> Settings: ...

    def schedule(self, request: RetryRequest) -> AsyncResult: ...


def tell_disabled(rebound: _Rebound, endpoint: str, health: Health) -> None:
    """Tell that an endpoint was disabled.

    The POST is a message like any other: it is retried, and signed by the options of its URL.
    """
    at = datetime.fromtimestamp(health.disabled_ms / 1000, UTC)
    failing_since = datetime.fromtimestamp((health.since_ms or health.disabled_ms) / 1000, UTC)
    data = {
        "endpoint": endpoint,
        "reason": health.reason,
        "failures": health.failures,
        "failing_since": failing_since.isoformat(),
    }
    url = rebound.settings.operator_url
    if url is not None:
        rebound.schedule(
            RetryRequest(
                destination=url,
                value={"type": DISABLED, "timestamp": at.isoformat(), "data": data},
                id=f"{DISABLED}:{health.disabled_ms}:{endpoint}",
                max_retries=20,
                delay=0,
                source="rebound",
            )
        )
    with rebound.app.events.default_dispatcher() as dispatcher:
        dispatcher.send("rebound-endpoint-disabled", **data)
