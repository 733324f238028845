"""Handlers for `celery rebound consume`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rebound_celery import Record


def picky(record: Record) -> None:
    """Fail twice on `twice`, always on `never`; say each call."""
    word = (record.value or b"").decode()
    print(f"handled {word} attempt {record.attempt}", flush=True)
    if word == "never" or (word == "twice" and record.attempt < 3):
        raise ValueError(f"{word} is refused")


def in_order(record: Record) -> None:
    """Write the beginning and the end of each call to the file CALLS: key, number, attempt. Some numbers fail once."""
    number = int(record.value or b"0")
    name = f"{(record.key or b'').decode()} {number} {record.attempt}"
    with Path(os.environ["CALLS"]).open("a", buffering=1) as calls:
        calls.write(f"begin {name}\n")
        time.sleep(0.005)
        failed = number % 7 == 2 and record.attempt == 1
        calls.write(f"{'failed' if failed else 'ok'} {name}\n")
    if failed:
        raise ValueError(f"{name} is refused")


def journaled(record: Record) -> None:
    """Write the beginning and the end of each call to the file CALLS; every fifth record fails.

    The first record is slow: it takes until the file SLOW_MAY_END exists.
    """
    with Path(os.environ["CALLS"]).open("a", buffering=1) as calls:
        calls.write(f"begin {record.offset} {time.monotonic():.3f}\n")
        if record.value == b"slow":
            while not Path(os.environ["SLOW_MAY_END"]).exists():
                time.sleep(0.05)
        # Calls of different lengths end one after the other, not all at once.
        time.sleep(0.1 + record.offset * 37 % 20 / 100)
        calls.write(f"end {record.offset} {time.monotonic():.3f}\n")
    if record.offset % 5 == 1:
        raise ValueError("every fifth record fails")


def crashing(record: Record) -> None:
    """Write each call to the file CALLS. End the process in the call of the record `crash`, once."""
    with Path(os.environ["CALLS"]).open("a", buffering=1) as calls:
        calls.write(f"begin {record.offset} {time.monotonic():.3f}\n")
        if record.value == b"crash":
            try:
                Path(os.environ["CRASHED"]).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os._exit(66)
        calls.write(f"end {record.offset} {time.monotonic():.3f}\n")
