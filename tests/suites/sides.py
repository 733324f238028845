"""One run of a suite on one side: stock, or ours."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import local_redis

from . import install_schedule, plugin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STOCK, OURS = "stock", "ours"

_ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a test: `passed`, `failed` or `skipped`. An expected failure counts as skipped."""

    outcome: str
    reason: str = ""


@dataclasses.dataclass
class Run:
    """The outcomes of a run by test, and the number of calls that stored messages in the schedule."""

    outcomes: dict[str, Outcome]
    enqueues: int = 0

    def count(self) -> dict[str, int]:
        """Return the number of tests with each outcome."""
        all_of_them = [each.outcome for each in self.outcomes.values()]
        return {outcome: all_of_them.count(outcome) for outcome in ("passed", "failed", "skipped")}


@dataclasses.dataclass(frozen=True)
class Side:
    """One suite with one transport, in its own folder. Each run appends to its log."""

    suite: str
    name: str
    python: Path
    folder: Path
    log: Path
    timeout_s: float

    def run(self, tests: Sequence[str], expression: str | None = None) -> Run:
        """Run these files or tests on their own empty Redis. `expression` is pytest's `-k`.

        Each file runs in its own process. The suites share one worker in a session, and a test that breaks this worker
        would break all other tests.
        """
        command = [str(self.python), "-m", "pytest", "-p", "tests.suites.plugin", "-p", "no:cacheprovider", "-v"]
        command += ["-k", expression] if expression else []
        with tempfile.TemporaryDirectory() as scratch, local_redis() as server, self.log.open("ab") as log:
            outcomes, enqueues = Path(scratch, "outcomes"), Path(scratch, "enqueues")
            environment = {
                **self._environment(server.port),
                plugin.OUTCOMES: str(outcomes),
                install_schedule.ENQUEUES: str(enqueues),
            }
            for _, of_a_file in groupby(sorted(tests), lambda test: test.partition("::")[0]):
                whole = [*command, *of_a_file]
                subprocess.run(whole, check=False, cwd=self.folder, env=environment, stdout=log, stderr=log)
            return Run(_read(outcomes), enqueues.stat().st_size if enqueues.exists() else 0)

    def _environment(self, port: int) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("REBOUND_", "CELERY_"))}
        paths = [_ROOT, *([Path(__file__).parent / "startup"] if self.name == OURS else [])]
        return {
            **kept,
            "PATH": os.pathsep.join([str(self.python.parent), kept["PATH"]]),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "TEST_BROKER": f"redis://127.0.0.1:{port}/0",
            "TEST_BACKEND": f"redis://127.0.0.1:{port}/0",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(port),
            "REDIS_6379_TCP": str(port),
            install_schedule.SUITE: self.suite,
            plugin.TIMEOUT: str(self.timeout_s),
        }


def _read(file: Path) -> dict[str, Outcome]:
    if not file.exists():
        return {}
    lines = map(json.loads, file.read_text().splitlines())
    return {line["test"]: Outcome(line["outcome"], line["reason"]) for line in lines}
