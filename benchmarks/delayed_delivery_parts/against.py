"""Runs the same rows in another checkout, and gives their values for the ratio."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_SCRIPT = Path("benchmarks", "delayed_delivery.py")

#: Rows of checkouts that print another form: the row there, and where in it the figure lies that is our row's value.
_EARLIER: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "schedule_retries": ("schedule_retries", ("figures", "schedule_retries")),
    "consumer_store": ("schedule_retries", ("figures", "store")),
    "schedule_retry": ("schedule_retry", ("figures", "cpu_us", "schedule_retry")),
    "idle": ("idle", ("figures", "commands_per_s")),
    "claim": ("claim", ("figures", "us_per_message", "many")),
}


class OtherCheckoutError(Exception):
    """The benchmark of the other checkout does not run."""


class OtherCheckout:
    """Another checkout of this repository. Its benchmark runs in a separate process.

    Args:
        directory: the checkout.
        python: the Python that runs it. It imports this repository's modules from `directory`, which is first on its
            path, and the other packages from its own environment.
        options: the options of this run for the other run.
        progress: a function that takes each line of progress.
    """

    def __init__(self, directory: Path, python: str, options: Sequence[str], progress: Callable[[str], None]) -> None:
        self._directory = directory
        self._python = python
        self._progress = progress
        help_text = self._run("--help").stdout
        # An earlier checkout has no such option, and prints JSON alone.
        self._has_table = "--json" in help_text
        known = [option for option in options if option.partition("=")[0] in help_text]
        self._options = [*known, *(["--json"] if self._has_table else [])]
        self._help = help_text

    def values(self, rows: Sequence[str]) -> dict[str, float]:
        """Return the values of the rows that the other checkout has and could measure."""
        names = {row: row if self._has_table else _EARLIER.get(row, (row, ()))[0] for row in rows}
        # The help of the other benchmark lists its rows, with commas between them.
        there = sorted({name for name in names.values() if name in self._words})
        if not there:
            return {}
        done = self._run(*self._options, f"--only={','.join(there)}")
        found = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
        values = {row: self._value(row, found[name]) for row, name in names.items() if name in found}
        return {row: value for row, value in values.items() if value is not None}

    @property
    def _words(self) -> set[str]:
        return {word.strip(",:;.") for word in self._help.split()}

    def _value(self, row: str, there: Any) -> float | None:
        path = ("value",) if self._has_table else _EARLIER.get(row, ("", ("value",)))[1]
        for name in path:
            there = there.get(name) if isinstance(there, dict) else None
        return None if there is None else float(there)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self._directory), "COLUMNS": "200"}
        done = subprocess.run(
            [self._python, str(_SCRIPT), *arguments],
            cwd=self._directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        for line in done.stderr.splitlines():
            self._progress(f"  {self._directory.name}: {line.strip()}")
        # Status 1: some rows could not be measured, but the others could.
        if done.returncode not in {0, 1} or not done.stdout:
            last_words = "".join(done.stderr.strip().splitlines()[-1:])
            raise OtherCheckoutError(f"{self._directory / _SCRIPT} ended with {done.returncode}: {last_words}")
        return done
