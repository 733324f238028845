"""The health file: it is whole at every moment, a stalled process does not renew it, and its errors end no process."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from rebound_celery import health
from rebound_celery.health import HealthFile
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "worker.health"


def test_content_tells_the_state_and_since_when(path: Path) -> None:
    file = HealthFile(str(path))
    file.report(health.WAITING, "Redis is away")
    first = json.loads(path.read_text())
    file.report(health.WAITING, "still")

    second = json.loads(path.read_text())
    assert first == {"state": "waiting", "since": first["since"], "detail": "Redis is away", "pid": os.getpid()}
    assert second == {**first, "detail": "still"}


def test_time_of_change_is_that_of_the_last_report_of_a_well_process(path: Path) -> None:
    file = HealthFile(path)
    file.report(health.OK)
    well_at = path.stat().st_mtime
    file.report(health.STALLED, "nothing helps")

    assert path.stat().st_mtime == well_at
    assert json.loads(path.read_text())["state"] == "stalled"
    wait_until(lambda: file.report(health.OK) or path.stat().st_mtime > well_at)


def test_reader_never_sees_half_a_file(path: Path) -> None:
    file = HealthFile(path)
    file.report(health.OK)
    ended = threading.Event()

    def write() -> None:
        for number in range(500):
            file.report(health.OK, "x" * number * 40)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not ended.is_set():
        assert json.loads(path.read_text())["state"] == "ok"
    writer.join()
    assert list(path.parent.iterdir()) == [path]


def test_file_that_cannot_be_written_is_said_once_and_nothing_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = HealthFile(tmp_path / "missing" / "worker.health")
    for _ in range(3):
        file.report(health.OK)
    file.remove()

    assert caplog.text.count("cannot be written") == 1


def test_full_disk_leaves_no_second_file(path: Path) -> None:
    """A file without a byte can still be made on a full disk."""
    file = HealthFile(path)
    file.report(health.OK)
    whole = path.read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        file.report(health.WAITING, "Redis is away")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)

    assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == whole


def test_removed_file_stays_away(path: Path) -> None:
    file = HealthFile(path)
    file.report(health.OK)
    file.remove()
    file.report(health.OK)
    file.remove()

    assert not path.exists()
    HealthFile(None).report(health.OK)
    HealthFile(None).remove()


def test_probes_of_the_documentation_say_yes_and_no(path: Path) -> None:
    """The very lines of docs/operations.md."""
    from tests.unit.test_readme import ROOT

    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    lines = [line.split("command: ")[1] for line in text.splitlines() if "command: [" in line]
    alive, ready = [json.loads(line.replace("/run/rebound/worker.health", str(path))) for line in lines[:2]]

    def status(command: list[str]) -> int:
        return subprocess.run(command, check=False, capture_output=True).returncode

    assert (status(alive), status(ready)) != (0, 0)
    file = HealthFile(path)
    file.report(health.WAITING)
    assert (status(alive), status(ready) == 0) == (0, False)
    file.report(health.OK)
    assert (status(alive), status(ready)) == (0, 0)
    file.report(health.STALLED)
    assert (status(alive), status(ready) == 0) == (0, False)
    os.utime(path, (1, 1))
    assert status(alive) != 0
