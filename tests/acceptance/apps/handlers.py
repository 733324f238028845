"""Handlers for `celery rebound consume`."""

from __future__ import annotations

from rebound_celery import Record


def picky(record: Record) -> None:
    """Fail twice on `twice`, always on `never`; say each call."""
    word = (record.value or b"").decode()
    print(f"handled {word} attempt {record.attempt}", flush=True)
    if word == "never" or (word == "twice" and record.attempt < 3):
        raise ValueError(f"{word} is refused")
