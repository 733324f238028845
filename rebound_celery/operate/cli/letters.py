"""Prints dead letters: pages as a table or as JSON lines, one with all that is known of it, and what a replay did."""

from __future__ import annotations

import json
from collections.abc import Callable

import click

from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.dead_letters import DeadLetterPage, Letter, ReplayResult
from rebound_celery.operate.cli.output import say
from rebound_celery.operate.cli.printing import Column, at, from_now, plain, print_fields, print_json, print_rows
from rebound_celery.operate.cli.progress import Watched, progress_bar
from rebound_celery.selection import DeadLetterView, bytes_to_dict

#: How many rows are read at once.
_PAGE = 500

_COLUMNS = (
    Column("DIED", short=True),
    Column("ATTEMPTS", short=True),
    Column("ID", whole=True),
    Column("FOR"),
    Column("REASON"),
    Column("ERROR", least_width=110),
)

Read = Callable[[str | None, int, Watched], DeadLetterPage]


def print_letters(read: Read, after: str | None, limit: int | None, *, as_json: bool, is_filtered: bool) -> str | None:
    """Print pages until `limit` rows are printed, all for None; returns where to go on, None at the end.

    Args:
        read: reads a page, from where it begins, how many rows it has at most, and what is called with its progress.
        after: where to begin.
        limit: the largest number of rows.
        as_json: whether JSON lines are printed.
        is_filtered: whether a filter is given, so that pages may take long.
    """
    printed = 0
    while limit is None or printed < limit:
        count = _PAGE if limit is None else min(_PAGE, limit - printed)
        with progress_bar("found", shown=is_filtered) as watched:
            page = read(after, count, watched)
        if as_json:
            for view in page.entries:
                print_json(view.to_dict(stack=False))
        elif page.entries:
            now_ms = SYSTEM_CLOCK.now_ms()
            print_rows(_COLUMNS, [_row(view, now_ms) for view in page.entries], header=not printed)
        printed += len(page.entries)
        after = page.next
        if after is None:
            break
    if not printed and not as_json:
        click.echo("No dead letter fits." if is_filtered else "There are no dead letters.", err=True)
    return after


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
        "key": written["key"] or (written["key_base64"] and f"base64:{written['key_base64']}"),
        "size": None if view.size_bytes is None else f"{view.size_bytes:,} bytes",
        "reason": view.reason,
        "problem": view.problem,
        "error": None if view.failure is None else str(view.failure),
        "first failed": at(view.first_failed_at_ms, now_ms),
        "source": view.source,
        "client": view.client_id,
        **{f"header {each['name']}": each["value"] or each["value_base64"] for each in written["headers"]},
    }
    for number, past in enumerate(view.history, start=1):
        fields[f"failure {number}"] = (
            f"attempt {past.attempt}, {at(past.failed_at_ms, now_ms)}, {past.by}: {past.error}"
        )
    if with_value:
        text = value["value"]
        fields["value"] = text if text is not None else value["value_base64"] and f"base64:{value['value_base64']}"
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
