"""Prints pages of entries, as a table or as JSON lines, and says how to continue.

Commands import it in their bodies, as `printing`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.operate.cli.output import say
from rebound_celery.operate.cli.printing import Column, output_may_close, plain, print_json, print_rows
from rebound_celery.operate.cli.progress import Watched, progress_bar

#: How many entries are read at once.
_PAGE = 500


class Page(Protocol):
    """A page of entries."""

    @property
    def entries(self) -> Sequence[Any]:
        """The entries."""

    @property
    def next(self) -> str | None:
        """Where the next page begins; None at the end."""


class Listing(NamedTuple):
    """How entries of one kind are listed.

    Attributes:
        columns: the columns of the table.
        row: returns the row of an entry, from the entry and the time in Unix milliseconds.
        to_dict: returns the JSON of an entry.
        no_match: printed if no entry matches the filter.
        nothing: printed if there are no entries.
    """

    columns: tuple[Column, ...]
    row: Callable[[Any, int], tuple[str, ...]]
    to_dict: Callable[[Any], dict[str, Any]]
    no_match: str
    nothing: str


def print_pages(
    listing: Listing,
    read: Callable[[str | None, int, Watched], Page],
    after: str | None,
    limit: int | None,
    *,
    as_json: bool,
    is_filtered: bool,
    on_none: Callable[[], None] = lambda: None,
) -> None:
    """Print pages until `limit` entries are printed, all for None. If more follow, print how to continue to stderr.

    Args:
        listing: how the entries are listed.
        read: reads a page, from where it begins, how many entries it has at most, and what is called with its progress.
        after: where to begin; None means at the beginning.
        limit: the largest number of entries.
        as_json: whether JSON lines are printed.
        is_filtered: whether a filter is given, so that pages may take long.
        on_none: called if there are no entries.
    """
    # It stays None where the reader of the output is gone.
    printed: int | None = None
    next_page = None
    with output_may_close():
        printed, next_page = _print(listing, read, after, limit, as_json=as_json, is_filtered=is_filtered)
    if printed == 0:
        on_none()
    if next_page is not None:
        say(f"More follow: --after {plain(shlex.quote(next_page))}", err=True)


def _print(
    listing: Listing,
    read: Callable[[str | None, int, Watched], Page],
    after: str | None,
    limit: int | None,
    *,
    as_json: bool,
    is_filtered: bool,
) -> tuple[int, str | None]:
    """Print pages; returns how many entries were printed, and where the next page begins, None at the end."""
    printed = 0
    while limit is None or printed < limit:
        count = _PAGE if limit is None else min(_PAGE, limit - printed)
        with progress_bar("found", shown=is_filtered) as watched:
            page = read(after, count, watched)
        if as_json:
            for entry in page.entries:
                print_json(listing.to_dict(entry))
        elif page.entries:
            now_ms = SYSTEM_CLOCK.now_ms()
            print_rows(listing.columns, [listing.row(entry, now_ms) for entry in page.entries], header=not printed)
        printed += len(page.entries)
        after = page.next
        if after is None:
            break
    if not printed and not as_json:
        say(listing.no_match if is_filtered else listing.nothing, err=True)
    return printed, after
