"""How the commands show dead letters: a row of a list, one with all that is known of it, and what a replay did."""

from __future__ import annotations

import json

from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.dead_letters import Letter, ReplayResult
from rebound_celery.operate.cli.message_fields import bytes_text, header_fields, history_fields
from rebound_celery.operate.cli.output import say
from rebound_celery.operate.cli.pages import Listing
from rebound_celery.operate.cli.printing import Column, at, from_now, plain, print_fields, print_json
from rebound_celery.selection import DeadLetterView, bytes_to_dict

_COLUMNS = (
    Column("DIED", short=True),
    Column("ATTEMPTS", short=True),
    Column("ID", whole=True),
    Column("FOR"),
    Column("REASON"),
    Column("ERROR", least_width=110),
)


def _row(view: DeadLetterView, now_ms: int) -> tuple[str, ...]:
    attempts = "?" if view.attempts is None else str(view.attempts)
    return (
        from_now(view.died_ms, now_ms) or "?",
        f"{attempts}, replayed {view.replays}" if view.replays else attempts,
        view.id,
        view.destination_text or ("?" if view.origin is None else view.origin.topic),
        view.reason or view.problem or f"by {view.written_by}",
        "" if view.failure is None else str(view.failure),
    )


#: How `dlq ls` lists dead letters.
LETTERS = Listing(
    _COLUMNS,
    _row,
    lambda view: view.to_dict(stack=False),
    no_match="No dead letter fits.",
    nothing="There are no dead letters.",
)


def print_letter(letter: Letter, *, with_value: bool, as_json: bool) -> None:
    """Print one dead letter.

    Args:
        letter: the dead letter.
        with_value: whether the value is printed.
        as_json: whether one JSON object is printed.
    """
    view = letter.view
    value = bytes_to_dict("value", letter.value)
    written = view.to_dict()
    if as_json:
        print_json({**written, **(value if with_value else {})})
        return
    now_ms = SYSTEM_CLOCK.now_ms()
    fields = {
        "id": view.id,
        "message": view.message_id,
        "kept in": view.kept_in,
        "place": None if view.partition is None else f"partition {view.partition}, offset {view.offset}",
        "written by": view.written_by,
        "died": at(view.died_ms, now_ms),
        "attempts": None if view.attempts is None else str(view.attempts),
        "replays": str(view.replays) if view.replays else None,
        "for": view.destination_text,
        "origin": None if view.origin is None else str(view.origin),
        "group": view.group,
        "key": bytes_text(written, "key"),
        "size": None if view.size_bytes is None else f"{view.size_bytes:,} bytes",
        "reason": view.reason,
        "problem": view.problem,
        "error": None if view.failure is None else str(view.failure),
        "first failed": at(view.first_failed_at_ms, now_ms),
        "source": view.source,
        "client": view.client_id,
        **header_fields(written),
    }
    fields |= history_fields(view, now_ms)
    if with_value:
        fields["value"] = bytes_text(value, "value")
    print_fields(fields)
    if written["stacktrace"]:
        for line in written["stacktrace"].splitlines():
            print_fields({"stack": line})


def print_replay(result: ReplayResult, *, as_json: bool) -> None:
    """Print what a replay did, or would do."""
    if as_json:
        say(json.dumps(result.to_dict()))
    elif result.dry_run:
        say(f"{result.replayed:,} would be replayed")
        if result.parked:
            say(f"{result.parked:,} would be parked: they were replayed too often")
    else:
        say(f"{result.replayed:,} replayed")
        if result.parked:
            say(f"{result.parked:,} parked: they were replayed too often")
        if result.repeated:
            say(f"{result.repeated:,} left out: replayed before (see --again), gone, or waiting under the same id")
    if result.left:
        say(f"{result.left:,} cannot be replayed, and stay where they are:", err=True)
        for problem in result.problems:
            say(f"  {plain(problem)}", err=True)
