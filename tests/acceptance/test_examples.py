"""The examples run with the command in their first lines, end by themselves, and print the promised lines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))

#: What a reader is to see, in this order.
PROMISED = {
    "01_consumer_with_policy": ["attempt 1 of orders", "attempt 2 of orders", "attempt 3 of orders", '"Retried'],
    "02_schedule_retry_from_celery": ["key=b'order-42'", "currency: EUR", "rebound-attempt: 2"],
    "03_webhook": ["-> 500", "-> 500", "-> 200", "delivered"],
    "04_replay_dead_letters": ["attempt 1", "reason: retries-exhausted", "ValueError", "attempt 1", "trace"],
    "05_countdowns_without_kafka": ["time for tea", "will run remind('the dentist') at 20"],
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_by_the_command_in_its_first_lines(example: Path) -> None:
    """It exits with 0, shows what it promises in that order, and complains of nothing."""
    text = example.read_text()
    command = re.findall(r"^ *(python examples/\S+)$", text, re.MULTILINE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REBOUND_", "CELERY_"))}

    assert command == [f"python examples/{example.name}"]
    done = subprocess.run(
        [sys.executable, *command[0].split()[1:]],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    position = 0
    for promise in PROMISED[example.stem]:
        found = done.stdout.find(promise, position)
        assert found >= 0, f"{promise!r} is missing in\n{done.stdout}"
        position = found + len(promise)
    # The log line of a dead letter is part of what 04 shows.
    noise = [line for line in done.stderr.splitlines() if "it becomes a dead letter: retries-exhausted" not in line]
    assert noise == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short(example: Path) -> None:
    """One reads it without scrolling: under 60 lines."""
    assert len(example.read_text().splitlines()) < 60


def test_every_example_has_a_promise() -> None:
    """A new example must say here what it shows."""
    assert sorted(PROMISED) == [path.stem for path in EXAMPLES]


def test_the_example_of_tests_passes_by_the_command_in_its_first_lines() -> None:
    """It has the fixture from the installed package."""
    text = (ROOT / "examples" / "test_orders.py").read_text()
    (command,) = re.findall(r"^pytest (examples/\S+)$", text, re.MULTILINE)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert "3 passed" in done.stdout, done.stdout + done.stderr
