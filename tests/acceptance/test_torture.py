"""The short form of the torture run: random kills, stops and network faults, without a lost message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

#: Seconds for all: start, a minute of chaos, healing and balancing.
DEADLINE_S = 150


def test_nothing_is_lost_whatever_is_killed_stopped_or_cut_off(tmp_path: Path) -> None:
    """The long form, on Apache Kafka: `python -m tests.torture --minutes 30 --seed 1`."""
    options = ("--minutes", "1.2", "--seed", "5", "--kafka", "embedded", "--rate", "40", "--drain", "60")

    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", *options, "--keep-logs", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    print(done.stderr)  # pytest shows it for a failed test only
    figures = json.loads(done.stdout)
    assert done.returncode == 0
    assert figures["lost"] == figures["undrained"] == 0
    assert figures["handled"] + figures["dead"] >= figures["produced"] > 500
    assert figures["duplicates"] <= figures["duplicate_bound"]
    assert figures["kills"] >= 5
