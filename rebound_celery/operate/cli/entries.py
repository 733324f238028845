"""How the commands show what waits: a row of a list, and one entry with all that is known of it."""

from __future__ import annotations

from typing import Any

from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.message import Message
from rebound_celery.message.address import policy_names
from rebound_celery.operate.cli.endpoints import enable_text, since_text
from rebound_celery.operate.cli.message_fields import bytes_text, header_fields, history_fields
from rebound_celery.operate.cli.pages import Listing
from rebound_celery.operate.cli.printing import Column, at, from_now, print_fields, print_json
from rebound_celery.selection import PendingView, bytes_to_dict

_COLUMNS = (
    Column("DUE", short=True),
    Column("ATTEMPT", short=True),
    Column("ID", whole=True),
    Column("TO"),
    Column("ERROR", least_width=100),
)


def _row(view: PendingView, now_ms: int) -> tuple[str, ...]:
    due = f"held, {from_now(view.lease_end_ms, now_ms)}" if view.leased else from_now(view.due_ms, now_ms)
    return due, _attempt(view), view.id, _target(view), _error(view)


def _attempt(view: PendingView) -> str:
    if view.attempt is None:
        return "?"
    return str(view.attempt) if view.max_retries is None else f"{view.attempt}/{view.max_retries + 1}"


def _target(view: PendingView) -> str:
    """Where it goes, or what it is."""
    if view.kind == "dead-letter":
        return f"dead: {view.reason}"
    if view.disabled_since_ms is not None:
        return f"disabled: {view.destination_text}"
    return view.task or view.destination_text or view.kind


def _error(view: PendingView) -> str:
    if view.problem is not None:
        return view.problem
    if view.disabled_since_ms is not None:
        return f"the endpoint is {since_text(view.disabled_since_ms, view.disabled_reason)}"
    return "" if view.failure is None else str(view.failure)


def _disabled(view: PendingView) -> str:
    """Since when its endpoint is disabled, and how it is enabled. A dead letter goes elsewhere than the message."""
    address = view.dead_destination if view.kind == "dead-letter" else view.destination
    url = str(address and policy_names(address)[1])
    return f"{since_text(view.disabled_since_ms, view.disabled_reason)}. To enable it: {enable_text(url)}"


#: How `pending ls` lists what waits.
PENDING = Listing(_COLUMNS, _row, PendingView.to_dict, no_match="No waiting message matches.", nothing="Nothing waits.")


def _arguments(view: PendingView) -> str:
    """The arguments of a Celery task: `(42,)`, or `(42,) {'colour': 'red'}`."""
    return " ".join(text for text in (view.args, None if view.kwargs == "{}" else view.kwargs) if text)


#: The same with the arguments of Celery tasks.
PENDING_WITH_ARGUMENTS = Listing(
    (*_COLUMNS[:-1], Column("ARGUMENTS", folds=True), _COLUMNS[-1]),
    lambda view, now_ms: (*_row(view, now_ms)[:-1], _arguments(view), _error(view)),
    PendingView.to_dict,
    no_match=PENDING.no_match,
    nothing=PENDING.nothing,
)


def print_entry(view: PendingView, message: Message | None, *, with_value: bool, as_json: bool) -> None:
    """Print one entry.

    Args:
        view: the entry.
        message: its message, for the value; None if it is not wanted or cannot be read.
        with_value: whether the value is printed.
        as_json: whether one JSON object is printed.
    """
    value = bytes_to_dict("value", None if message is None else message.value)
    if as_json:
        print_json({**view.to_dict(), **(value if with_value else {})})
        return
    now_ms = SYSTEM_CLOCK.now_ms()
    fields = _fields(view.to_dict(), view, now_ms)
    fields |= history_fields(view, now_ms)
    if with_value:
        fields["value"] = bytes_text(value, "value")
    print_fields(fields)


def _fields(written: dict[str, Any], view: PendingView, now_ms: int) -> dict[str, str | None]:
    """The names and texts of an entry, in their order."""
    origin = None if view.origin is None else str(view.origin)
    return {
        "id": view.id,
        "message": view.message_id,
        "queue": view.queue,
        "kind": view.kind,
        "due": at(view.due_ms, now_ms),
        "held until": at(view.lease_end_ms, now_ms),
        "attempt": _attempt(view),
        "lane": view.lane,
        "destination": view.destination_text,
        "dead letter to": written["dead_destination"],
        "origin": origin,
        "group": view.group,
        "key": bytes_text(written, "key"),
        "size": None if view.size_bytes is None else f"{view.size_bytes:,} bytes",
        "task": view.task,
        "arguments": view.args,
        "keyword arguments": view.kwargs,
        "reason": view.reason,
        "error": None if view.failure is None and view.problem is None else view.problem or str(view.failure),
        "endpoint": None if view.disabled_since_ms is None else _disabled(view),
        "first failed": at(view.first_failed_at_ms, now_ms),
        "stored again": str(view.tries) if view.tries else None,
        "lost workers": str(view.losses) if view.losses else None,
        "source": view.source,
        "client": view.client_id,
        **header_fields(written),
    }
