"""`celery rebound consume --ordering key`: kills of consumers and workers break no key's order and lose no record."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rebound_celery.embedded import create_topics
from tests.processes import Process
from tests.waiting import wait_until

APP = ("-m", "celery", "-A", "tests.acceptance.apps.orders")
KEYS = 12
NUMBERS = 60


class Calls:
    """The journal that the handler writes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[tuple[str, str, int]]:
        """What, key and number of each line, in their order."""
        text = self._path.read_text() if self._path.exists() else ""
        complete = text[: text.rfind("\n") + 1]
        parts = (line.split() for line in complete.splitlines())
        return [(what, key, int(number)) for what, key, number, _attempt in parts]

    def done(self) -> dict[str, set[int]]:
        """The numbers of each key that were handled with success."""
        found: dict[str, set[int]] = defaultdict(set)
        for what, key, number in self.lines():
            if what == "ok":
                found[key].add(number)
        return found

    def begun_too_early(self) -> list[str]:
        """The calls that began before an earlier record of their key had succeeded once."""
        done: dict[str, set[int]] = defaultdict(set)
        wrong = []
        for what, key, number in self.lines():
            if what == "ok":
                done[key].add(number)
            elif what == "begin" and len(done[key] & set(range(number))) < number:
                missing = min(set(range(number)) - done[key])
                wrong.append(f"{key}: {number} was begun before {missing} had ended")
        return wrong


@pytest.fixture
def start(
    run_process: Callable[..., Process], redis_url: str, kafka_brokers: str, tmp_path: Path
) -> Callable[..., Process]:
    environment = {
        "ORDERS_REDIS": redis_url,
        "REBOUND_KAFKA_BROKERS": kafka_brokers,
        "REBOUND_LEASE": "3",
        "CALLS": str(tmp_path / "calls"),
    }

    def start(*arguments: str) -> Process:
        return run_process(*APP, *arguments, env=environment)

    return start


def test_order_of_each_key_survives_kills_of_consumers_and_workers(
    start: Callable[..., Process],
    kafka_brokers: str,
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
    tmp_path: Path,
) -> None:
    topic, calls = make_topic(4), Calls(tmp_path / "calls")
    create_topics(kafka_brokers, {f"{topic}-dlq": 1})

    def consume() -> Process:
        return start(
            *("rebound", "consume", "--topic", topic, "--group", f"{topic}-group", "--ordering", "key"),
            *("--handler", "tests.acceptance.apps.handlers:in_order", "--base-delay", "1", "--wait"),
            *("--option", "session_timeout_ms=6000", "--option", "heartbeat_interval_ms=500"),
        )

    def work() -> Process:
        return start("worker", "-P", "threads", "-c", "2", "-l", "WARNING", "--without-gossip", "--without-mingle")

    consumers, worker = [consume(), consume()], work()
    for first in range(0, NUMBERS, 15):
        numbers = range(first, first + 15)
        produce(topic, [(b"k%d" % key, b"%d" % number, []) for number in numbers for key in range(KEYS)])
        before = len(calls.lines())
        wait_until(lambda before=before: len(calls.lines()) > before + 40, timeout=60)  # type: ignore[misc]
        victim = first // 15 % 2
        consumers[victim].signal(signal.SIGKILL)
        worker.signal(signal.SIGKILL)
        time.sleep(0.2)
        consumers[victim], worker = consume(), work()

    expected = {f"k{key}": set(range(NUMBERS)) for key in range(KEYS)}
    wait_until(lambda: calls.done() == expected, timeout=120, message=lambda: consumers[0].output)
    assert calls.begun_too_early() == []
