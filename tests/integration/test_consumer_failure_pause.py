"""A consumer on a broker whose handler fails all the time, and then works again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rebound_celery.message import Record
from tests.integration.test_consumer import Fixture
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka


@pytest.fixture
def fix(kafka_brokers: str) -> Iterator[Fixture]:
    with contextlib.ExitStack() as stack:
        yield Fixture(kafka_brokers, stack)


def test_a_consumer_stops_fetching_while_most_records_fail_and_tries_one_at_a_time(
    fix: Fixture, topic: str, produce: Callable[..., Any], tmp_path: Any
) -> None:
    is_away = threading.Event()
    is_away.set()
    handled: list[tuple[float, int]] = []

    def handler(record: Record) -> None:
        handled.append((time.monotonic(), record.origin.offset))
        if is_away.is_set():
            raise ConnectionError("no database")

    produce(topic, [(None, b"%d" % n, []) for n in range(2_000)])
    options = {"count": 20, "pause": 0.5, "max_pause": 1}
    health = tmp_path / "health"
    consumer = fix.start(topic, handler, max_in_flight=50, failure_pause=options, health_file=health)
    wait_until(lambda: len(handled) >= 20, timeout=30)
    time.sleep(1)
    wait_until(lambda: "most records fail with builtins.ConnectionError" in health.read_text(), timeout=10)
    before = len(handled)
    time.sleep(3)
    tried = len(handled) - before

    assert before <= 150, "what was in memory is handled"
    assert 1 <= tried <= 5, "one at a time"

    is_away.clear()
    wait_until(lambda: consumer.stats().total == 2_000, timeout=30)
    assert len({offset for _, offset in handled}) <= 2_000
    assert consumer.stats().retried <= 160, "the rest was not tried in vain"
