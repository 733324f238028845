"""A handler whose errors are in the policies of a test."""

from __future__ import annotations

from rebound_celery import Record


class OutOfStockError(Exception):
    """There is nothing left to ship."""


def ship(record: Record) -> None:
    """Raise the error that the record names; say that it was shipped otherwise."""
    if record.data == "stock":
        raise RuntimeError("not shipped") from OutOfStockError("none left")
    if record.data == "lookup":
        raise KeyError("no such order")
    if record.data == "other":
        raise ValueError("something else")
    print(f"shipped {record.data}", flush=True)
