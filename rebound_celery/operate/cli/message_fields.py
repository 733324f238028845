"""The parts of a message that its page shows, for what waits and for dead letters alike.

Commands import it in their bodies, as `printing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rebound_celery.operate.cli.printing import at
from rebound_celery.selection import DeadLetterView, PendingView


def bytes_text(written: Mapping[str, Any], name: str) -> str | None:
    """The text of bytes as `bytes_to_dict` writes them: in base64 where they are no UTF-8; None if there are none."""
    text: str | None = written[name]
    if text is not None:
        return text
    encoded: str | None = written[f"{name}_base64"]
    return None if encoded is None else f"base64:{encoded}"


def header_fields(written: Mapping[str, Any]) -> dict[str, str | None]:
    """A field for each header."""
    return {f"header {each['name']}": each["value"] or each["value_base64"] for each in written["headers"]}


def history_fields(view: PendingView | DeadLetterView, now_ms: int) -> dict[str, str | None]:
    """A field for each attempt that failed."""
    return {
        f"failure {number}": f"attempt {past.attempt}, {at(past.failed_at_ms, now_ms)}, {past.by}: {past.error}"
        for number, past in enumerate(view.history, start=1)
    }
