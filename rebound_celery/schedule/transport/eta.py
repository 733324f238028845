"""The `eta` header: when it makes a message wait, and how a task still sees it once the message is delivered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

#: The header that keeps the eta of a delivered message. With `eta` itself Celery would hold the message once more, by
#: the worker's clock and outside its prefetch limit.
ETA_HEADER = "rebound-eta"


def moment_of(message: dict[str, Any]) -> datetime | None:
    """The eta of a Celery message; None if it is no task or has no eta that can be read."""
    headers = message.get("headers")
    if not isinstance(headers, dict) or not headers.get("task") or not headers.get("id"):
        return None
    eta = headers.get("eta")
    if not isinstance(eta, str):
        return None
    try:
        moment = datetime.fromisoformat(eta)
    except (ValueError, OverflowError):
        return None
    # Celery takes an eta without a zone for UTC, whatever the app's time zone.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def due_ms(moment: datetime) -> int:
    """The first Unix millisecond that is not before this moment."""
    return -int(-moment.timestamp() * 1000 // 1)


def due_ms_of(message: dict[str, Any]) -> int | None:
    """When a Celery message is due, in Unix milliseconds; None if it is no task or has no eta that can be read."""
    moment = moment_of(message)
    try:
        return None if moment is None else due_ms(moment)
    except (ValueError, OverflowError):
        return None


def hide(headers: dict[str, Any]) -> None:
    """Make a message one that Celery runs at once."""
    if headers.get("eta") is not None:
        headers[ETA_HEADER] = headers["eta"]
    headers["eta"] = None


def give_back(request: Any = None, **_: Any) -> None:
    """Let a task see its eta (a receiver of `task_received`). Celery has read the message by then."""
    headers = getattr(request, "_request_dict", None)  # of celery: a request of another class may have none
    if headers and ETA_HEADER in headers:
        headers["eta"] = headers.pop(ETA_HEADER)
