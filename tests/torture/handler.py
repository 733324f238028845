"""The handler: it records the beginning and the end of each call. The plan decides its outcome."""

from __future__ import annotations

import json
import os
import time
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tests.torture.journal import DIRECTORY, PART, Journal
from tests.torture.plan import HANG_S, Fate, failures, fate

if TYPE_CHECKING:
    from rebound_celery import Record

#: The status of a process that ended itself.
CRASHED = 66

#: Set for the process whose memory is measured. It must live through the whole run.
WITNESS = "TORTURE_WITNESS"

_numbers = count(1)


class RefusedError(Exception):
    """The error that the handler raises on purpose."""


@cache
def _journal() -> Journal:
    return Journal("calls")


def handle(record: Record) -> None:
    message_id = json.loads(record.value or b"{}")["id"]
    call, journal = f"{os.getpid()}-{next(_numbers)}", _journal()
    journal.write(
        call=call,
        what="begin",
        ns=time.time_ns(),
        id=message_id,
        attempt=record.attempt,
        part=os.environ[PART],
        pid=os.getpid(),
        partition=record.partition,
        offset=record.offset,
    )
    kind = fate(message_id)
    if kind == Fate.HANG and record.attempt == 1:
        time.sleep(HANG_S)
    elif kind == Fate.CRASH and WITNESS not in os.environ and _is_first(message_id):
        journal.write(call=call, what="crash", ns=time.time_ns())
        os._exit(CRASHED)
    failed = record.attempt <= failures(message_id)
    journal.write(call=call, what="failed" if failed else "ok", ns=time.time_ns())
    if failed:
        raise RefusedError(f"{message_id} is refused (attempt {record.attempt})")


def _is_first(message_id: str) -> bool:
    """Return whether no process has crashed with this message before."""
    try:
        os.close(os.open(Path(os.environ[DIRECTORY], f"crashed-{message_id}"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
