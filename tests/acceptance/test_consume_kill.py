"""The records that are handled again after a kill: those in handlers, and those that ended just before it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Process
from tests.waiting import wait_until

APP = ("-m", "celery", "-A", "tests.acceptance.apps.orders")
RECORDS = 400
KILLS = 3
#: The default, and the exit status of a handler that ends its process.
CONCURRENCY, CRASHED = 8, 66
#: A record that ended this long before a kill is committed, in seconds. Idle machines need 0.03 s. How many records end
#: in this time depends on the load: the torture run counts them.
COMMITTED_AFTER_S = 0.5


class Calls:
    """The journal that the handler writes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, what: str) -> Counter[int]:
        """How often each offset was begun, or ended."""
        return Counter(offset for name, offset, _ in self._lines() if name == what)

    def ended_before(self, moment: float) -> set[int]:
        """The offsets whose calls had ended at this time of the monotonic clock, which all processes share."""
        return {offset for name, offset, at in self._lines() if name == "end" and at < moment}

    def _lines(self) -> list[tuple[str, int, float]]:
        text = self._path.read_text() if self._path.exists() else ""
        complete = text[: text.rfind("\n") + 1]
        return [(name, int(offset), float(at)) for name, offset, at in map(str.split, complete.splitlines())]


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "calls")


@pytest.fixture
def consume(
    run_process: Callable[..., Process], redis_url: str, kafka_brokers: str, tmp_path: Path
) -> Callable[..., Process]:
    def start(topic: str, handler: str = "journaled") -> Process:
        return run_process(
            *(*APP, "rebound", "consume", "--topic", topic, "--group", f"{topic}-group", "--max-retries", "1"),
            *("--handler", f"tests.acceptance.apps.handlers:{handler}", "--base-delay", "3600"),
            *("--option", "session_timeout_ms=6000", "--option", "heartbeat_interval_ms=500"),
            env={
                "ORDERS_REDIS": redis_url,
                "REBOUND_KAFKA_BROKERS": kafka_brokers,
                "CALLS": str(tmp_path / "calls"),
                "SLOW_MAY_END": str(tmp_path / "slow-may-end"),
                "CRASHED": str(tmp_path / "crashed"),
            },
        )

    return start


@pytest.mark.parametrize(
    "first",
    [
        b"quick",
        pytest.param(
            b"slow",
            marks=pytest.mark.skipif(
                "REBOUND_TEST_KAFKA" not in os.environ, reason="the embedded broker keeps no metadata of commits"
            ),
        ),
    ],
)
def test_killed_consumer_repeats_what_was_in_its_handlers_and_little_more(
    consume: Callable[..., Process],
    calls: Calls,
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
    tmp_path: Path,
    first: bytes,
) -> None:
    """Also where one slow record keeps its partition from being committed past it."""
    topic = make_topic(1)
    produce(topic, [(None, first, []), *((None, b"quick", []) for _ in range(RECORDS - 1))])
    must_not_repeat: Counter[int] = Counter()
    unfinished = 0

    for kill in range(1, KILLS + 1):
        consumer = consume(topic)
        wait_until(lambda kill=kill: len(calls.of("end")) >= kill * 80, timeout=60, message=lambda c=consumer: c.output)  # type: ignore[misc]
        time.sleep(0.07 * kill)  # the kill is not tied to the end of a call
        killed_at = time.monotonic()
        consumer.signal(signal.SIGKILL)
        consumer.wait(10)
        unfinished = (calls.of("begin") - calls.of("end")).total()
        begun = calls.of("begin")
        for offset in calls.ended_before(killed_at - COMMITTED_AFTER_S):
            must_not_repeat.setdefault(offset, begun[offset])
    Path(tmp_path, "slow-may-end").touch()
    consumer = consume(topic)
    wait_until(lambda: len(calls.of("end")) == RECORDS, timeout=90, message=lambda: consumer.output)
    consumer.signal(signal.SIGTERM)

    assert consumer.wait(40) == 0, consumer.output
    begun = calls.of("begin")
    assert {offset: begun[offset] for offset in must_not_repeat} == must_not_repeat
    assert len(must_not_repeat) > RECORDS / 3
    assert unfinished >= KILLS, "the kills found handlers at work"


def test_consumer_that_crashes_in_a_backlog_repeats_a_bounded_part_of_it(
    consume: Callable[..., Process], calls: Calls, make_topic: Callable[..., str], produce: Callable[..., Any]
) -> None:
    """However long Kafka takes for the first commits, and however fast the handlers are."""
    topic = make_topic(1)
    at = 240
    produce(topic, [(None, b"crash" if offset == at else b"quick", []) for offset in range(RECORDS)])

    assert consume(topic, "crashing").wait(60) == CRASHED
    consumer = consume(topic, "crashing")
    wait_until(lambda: len(calls.of("end")) == RECORDS, timeout=90, message=lambda: consumer.output)
    consumer.stop()

    # The first ones, a quarter of those that were handled since the assignment, and those in handlers.
    assert sum(times - 1 for times in calls.of("begin").values()) <= at // 4 + 3 * CONCURRENCY


def test_stopped_consumer_repeats_nothing(
    consume: Callable[..., Process], calls: Calls, make_topic: Callable[..., str], produce: Callable[..., Any]
) -> None:
    topic = make_topic(1)
    produce(topic, [(None, b"quick", []) for _ in range(RECORDS)])

    for stop in range(1, KILLS + 1):
        consumer = consume(topic)
        wait_until(lambda stop=stop: len(calls.of("end")) >= stop * 80, timeout=60, message=lambda c=consumer: c.output)  # type: ignore[misc]
        consumer.signal(signal.SIGTERM)
        assert consumer.wait(40) == 0, consumer.output
    consumer = consume(topic)
    wait_until(lambda: len(calls.of("end")) == RECORDS, timeout=90, message=lambda: consumer.output)
    consumer.stop()

    assert set(calls.of("begin").values()) == {1}
