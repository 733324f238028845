"""What the commands print: a consumer whose output is gone ends as it would have ended, and ids stay whole."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rebound_celery.operate.cli.printing import Column, print_rows

#: What `celery rebound consume` does last, in a process of its own, because it takes stdout away.
PROGRAM = """
from rebound_celery.consumer.offset_tracker import OffsetTracker
from rebound_celery.operate.cli.consume_all import print_stats
print_stats(OffsetTracker())
raise SystemExit(7)
"""


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("open_output", [closed_pipe, full_disk])
def test_the_exit_status_is_that_of_the_work(open_output: object) -> None:
    assert callable(open_output)
    output = open_output()
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(output)

    assert (done.returncode, done.stderr) == (7, "")


def test_an_id_is_in_one_line_of_a_pipe_however_long_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    ids = ["orders-dlq:3:" + "a" * length for length in (20, 60, 250)]

    print_rows([Column("DIED", short=True), Column("ID", whole=True), Column("FOR")], [("1s", i, "x") for i in ids])

    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [["1s", i, "x"] for i in ids]
