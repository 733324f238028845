"""`rebound_celery.testing.in_memory`: an app without servers, whose time the test moves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, current_app
from celery.signals import task_postrun

from rebound_celery import (
    ConsumerConfig,
    DeadLetter,
    Drop,
    ErrorRule,
    InvalidSettingError,
    Rebound,
    Record,
    RetryAfter,
    RetryPolicy,
    schedule_retry,
)
from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.errors import DeadLetterLimitError, NotInstalledError, ReboundError
from rebound_celery.selection import Filter
from rebound_celery.testing import InMemory, in_memory
from rebound_celery.testing.clock import ManualClock

NOW_MS = 1_700_000_000_000


class Shop:
    """An app with a consumer whose handler notes each call and raises what the test says."""

    def __init__(self, **fields: Any) -> None:
        self.app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
        self.rebound = Rebound(self.app)
        self.seen: list[tuple[float, int]] = []
        self.errors: list[BaseException] = []

        @self.rebound.consumer("orders", group="billing", **fields)
        def bill(record: Record) -> None:
            self.seen.append(((SYSTEM_CLOCK.now_ms() - NOW_MS) / 1000, record.attempt))
            if self.errors:
                raise self.errors.pop(0)

    def run(self, **options: Any) -> Any:
        return in_memory(self.app, now_ms=NOW_MS, **options)


def test_retries_come_at_the_times_of_the_policy_and_end_as_a_dead_letter() -> None:
    shop = Shop(policy=RetryPolicy(max_retries=3, base_delay=60))
    shop.errors = [ValueError("no price") for _ in range(4)]

    with shop.run() as memory:
        memory.produce("orders", b"one", key="k", headers={"h": "1"})
        assert shop.seen == [], "nothing is consumed before time passes"
        memory.run()
        assert [(waiting.message.attempt, waiting.due_in_s) for waiting in memory.waiting()] == [(2, 60.0)]
        memory.advance(seconds=59)
        assert len(shop.seen) == 1
        memory.advance(minutes=10)

        assert shop.seen == [(0, 1), (60, 2), (180, 3), (420, 4)]
        (dead,) = memory.records("orders-dlq")
        assert (dead.value, dead.key, dead.headers, dead.attempt) == (b"one", b"k", (("h", b"1"),), 4)
        assert memory.headers("orders-dlq")[0]["rebound-reason"] == "retries-exhausted"
        assert memory.waiting() == []
        stats = memory.stats("billing")
        assert (stats.retried, stats.dead, stats.succeeded) == (3, 1, 0)
        with pytest.raises(InvalidSettingError, match=r"group='others' .* no consumer has it; there are: billing"):
            memory.stats("others")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda memory: memory.advance("5"), "seconds='5' cannot be used: it is a number"),
        (lambda memory: memory.advance(minutes="x"), "minutes='x' cannot be used: it is a number"),
        (lambda memory: memory.advance(hours=float("nan")), "hours=nan cannot be used: it is a number"),
        (lambda memory: memory.advance(-1), "seconds=-1 cannot be used: time does not go back"),
        (lambda memory: memory.consume(None), "config=None cannot be used: it is a ConsumerConfig"),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[Any], object], text: str) -> None:
    with Shop().run() as memory, pytest.raises(InvalidSettingError) as refused:
        call(memory)

    assert str(refused.value).startswith(text)


def test_what_a_handler_raises_holds_as_with_servers() -> None:
    shop = Shop(policy=RetryPolicy(rules=(ErrorRule("TimeoutError", delay=7),)))
    shop.errors = [RetryAfter(3600), TimeoutError(), DeadLetter("no such customer"), Drop("cancelled")]

    with shop.run() as memory:
        memory.produce("orders", None)
        memory.advance(hours=2)
        memory.produce("orders", None)
        memory.run()

        assert shop.seen == [(0, 1), (3600, 2), (3607, 3), (7200, 1)]
        assert memory.headers("orders-dlq")[0]["rebound-reason"] == "no such customer"
        assert memory.stats("billing").dropped == 1


def test_an_outage_of_kafka_uses_up_no_attempt() -> None:
    shop = Shop(policy=RetryPolicy(max_retries=1, base_delay=1))
    shop.errors = [ValueError()]

    with shop.run() as memory:
        memory.produce("orders", b"")
        memory.kafka.is_away = True
        memory.advance(hours=1)
        assert len(shop.seen) == 1
        memory.kafka.is_away = False
        memory.advance(minutes=2)

    assert [attempt for _, attempt in shop.seen] == [1, 2]


def test_http_deliveries_get_the_answers_of_the_test() -> None:
    shop = Shop()
    answers: list[Any] = [503, OSError("away"), 204]

    def answer(_post: Any) -> int:
        status = answers.pop(0)
        if isinstance(status, Exception):
            raise status
        return int(status)

    with shop.run() as memory:
        memory.http.answer = answer
        shop.rebound.schedule_retry("https://example.com/hook", {"n": 1}, key="k", delay=0, headers={"h": "1"})
        memory.advance(hours=1)

        assert [post.headers["rebound-attempt"] for post in memory.http.posts] == ["1", "2", "3"]
        assert memory.http.posts[0].url == "https://example.com/hook"
        assert memory.http.posts[0].body == b'{"n":1}'
        assert memory.http.posts[0].headers["h"] == "1"
        memory.http.answer = lambda _post: 500
        schedule_retry("https://example.com/hook", b"", max_retries=0, delay=0)
        memory.advance(hours=1)
        assert [letter.reason for letter in shop.rebound.dead_set] == ["retries-exhausted"]
        assert (len(shop.rebound.dead_set), memory.schedule.counts().dead) == (1, 1)


def test_a_dead_letter_in_redis_is_replayed() -> None:
    shop = Shop()

    with shop.run() as memory:
        memory.http.answer = lambda _post: 500
        schedule_retry("https://example.com/hook", b"", max_retries=0, delay=0)
        memory.advance(hours=1)
        memory.http.answer = lambda _post: 200
        assert shop.rebound.dead_letters.replay(filter=Filter(), source="redis").replayed == 1
        memory.run()

        assert [post.headers.get("rebound-replays") for post in memory.http.posts] == [None, "1"]
        assert (shop.rebound.dead_letters.count(), memory.schedule.stats()["revived"]) == (0, 1)


def test_a_receiver_that_is_away_uses_up_attempts_as_over_http() -> None:
    shop = Shop()

    def away(_post: Any) -> int:
        raise OSError("away")

    with shop.run() as memory:
        memory.http.answer = away
        schedule_retry("https://example.com/hook", b"", max_retries=2, delay=0)
        memory.advance(hours=1)

        assert (len(memory.http.posts), len(memory.waiting())) == (3, 0)
        assert [letter.reason for letter in shop.rebound.dead_set] == ["retries-exhausted"]


def test_a_partition_that_is_not_there_is_refused_as_by_kafka() -> None:
    shop = Shop()

    with shop.run() as memory:
        with pytest.raises(InvalidSettingError, match=r"^partition=9 cannot be used: the topic orders has "):
            memory.produce("orders", b"one", partition=9)
        schedule_retry({"topic": "orders", "partition": 9}, b"two", delay=0)
        memory.advance(hours=1)

        assert memory.records("orders") == []
        assert [headers["rebound-reason"] for headers in memory.headers("orders-dlq")] == ["rejected"]


def test_time_does_not_go_back() -> None:
    with Shop().run() as memory:
        for seconds in (-1, float("nan")):
            with pytest.raises(InvalidSettingError, match=r"^seconds="):
                memory.advance(seconds)


def test_failures_of_other_consumers_come_back_too() -> None:
    shop = Shop()

    with shop.run() as memory:
        record = memory.produce("orders", b"one")
        shop.rebound.handle_failure(record, ValueError(), group="stock")
        asyncio.run(shop.rebound.handle_failure_async(record, ValueError(), group="billing"))
        memory.advance(minutes=1)

        assert len(memory.records("orders")) == 3
    assert [attempt for _, attempt in shop.seen] == [1, 2], "the retry for another group is skipped"


def test_later_records_of_a_key_wait_behind_one_that_is_tried_again() -> None:
    shop = Shop()
    seen: list[tuple[float, bytes | None, int]] = []
    errors = [ValueError(), ValueError(), DeadLetter("never"), ValueError()]

    def handle(record: Record) -> None:
        seen.append(((SYSTEM_CLOCK.now_ms() - NOW_MS) / 1000, record.value, record.attempt))
        if (record.key == b"a" and record.value in (b"a0", b"a2")) and errors:
            raise errors.pop(0)

    policy = RetryPolicy(base_delay=60, jitter="none", first_delay=0)
    with shop.run() as memory:
        memory.consume(ConsumerConfig(group="g", topics="keyed", handler=handle, ordering="key", policy=policy))
        for number in range(4):
            memory.produce("keyed", f"a{number}", key="a")
            memory.produce("keyed", f"b{number}", key="b")
        memory.run()
        (chain,) = shop.rebound.chains.page()
        assert (chain.name, chain.state, chain.behind) == ("g/keyed/0/a", "sent", 3)
        assert [value for _, value, _ in seen] == [b"a0", b"b0", b"b1", b"b2", b"b3"]
        memory.advance(hours=1)

        of_a = [entry for entry in seen if (entry[1] or b"").startswith(b"a")]
        assert of_a == [
            (0, b"a0", 1),
            (60, b"a0", 2),
            (180, b"a0", 3),
            (180, b"a1", 1),
            (180, b"a2", 1),
            (240, b"a2", 2),
            (240, b"a3", 1),
        ]
        assert [record.value for record in memory.records("keyed-dlq")] == [b"a0"]
        assert shop.rebound.chains.page() == memory.waiting() == []
        stats = memory.stats("g")
        assert (stats.succeeded, stats.retried, stats.dead) == (7, 3, 1)


def test_a_dead_letter_can_hold_its_key_until_it_is_released() -> None:
    shop = Shop()
    seen: list[bytes | None] = []

    def handle(record: Record) -> None:
        seen.append(record.value)
        if record.value == b"0":
            raise DeadLetter("never")

    with shop.run() as memory:
        memory.consume(
            ConsumerConfig(group="g", topics="keyed", handler=handle, ordering="key", after_dead_letter="hold")
        )
        for number in range(3):
            memory.produce("keyed", str(number), key="a")
        memory.advance(hours=1)
        assert seen == [b"0"]
        (chain,) = shop.rebound.chains.page()
        assert (chain.state, chain.behind) == ("held", 2)

        assert shop.rebound.chains.release(chain.name) == 3
        memory.run()

        assert seen == [b"0", b"1", b"2"]
        assert shop.rebound.chains.page() == []


def test_the_handler_is_called_with_celery_s_task_signals() -> None:
    shop = Shop()
    shop.errors = [ValueError()]
    told: list[str] = []

    def on_end(state: str, **_: Any) -> None:
        told.append(state)

    task_postrun.connect(on_end)
    try:
        with shop.run() as memory:
            memory.produce("orders", b"")
            memory.advance(minutes=1)
    finally:
        task_postrun.disconnect(on_end)

    assert told == ["RETRY", "SUCCESS"]


def test_unique_messages_replace_each_other() -> None:
    shop = Shop()

    with shop.run() as memory:
        for how in ("keep", "replace", "extend"):
            for number in range(3):
                shop.rebound.schedule_retry(
                    "kafka://later", how + str(number), delay=10 + number, unique_key=how, unique=how
                )
        waiting = {waiting.message.value: waiting.due_in_s for waiting in memory.waiting()}

    assert waiting == {b"keep0": 10.0, b"replace2": 10.0, b"extend2": 12.0}


def test_a_paused_lane_waits() -> None:
    shop = Shop()

    with shop.run() as memory:
        shop.rebound.schedule_retry("kafka://later", b"", delay=1)
        (lane,) = memory.schedule.lanes()
        memory.schedule.pause(lane.name, NOW_MS + 60_000)
        memory.advance(seconds=59)
        assert memory.records("later") == []
        memory.advance(seconds=1)
        assert len(memory.records("later")) == 1


def test_async_handlers_and_patterns_and_partitions() -> None:
    import re

    shop = Shop()
    values: list[bytes | None] = []

    async def handle(record: Record) -> None:
        await asyncio.sleep(0)
        values.append(record.value)

    with shop.run(topics={"orders-eu": 4}) as memory:
        memory.consume(ConsumerConfig(group="g", topics=re.compile("orders-.*"), handler=handle))
        places = {memory.produce("orders-eu", str(n), key=n % 3).partition for n in range(9)}
        memory.produce("orders-dlq", b"not this one")
        memory.run()

    assert sorted(values) == [str(n).encode() for n in range(9)]
    assert len(places) > 1
    assert "rebound-async-handler" not in [thread.name for thread in threading.enumerate()]


def test_a_limit_on_dead_letters_reaches_the_test() -> None:
    shop = Shop(max_retries=0, dead_letter_limit=1)
    shop.errors = [ValueError(), ValueError()]

    with shop.run() as memory:
        memory.produce("orders", b"1")
        memory.produce("orders", b"2")
        with pytest.raises(DeadLetterLimitError):
            memory.run()


def test_a_handler_that_feeds_itself_is_said() -> None:
    shop = Shop()

    with shop.run() as memory:
        memory.consume(
            ConsumerConfig(group="g", topics="loop", handler=lambda record: memory.produce("loop", record.value))
        )
        memory.produce("loop", b"")
        with pytest.raises(ReboundError, match="its own topic"):
            memory.run()


def test_all_is_as_before_when_it_ends() -> None:
    shop = Shop()
    before = current_app.main
    publisher = shop.rebound.dead_set

    with shop.run():
        assert (current_app.main, SYSTEM_CLOCK.now_ms()) == ("shop", NOW_MS)

    assert current_app.main == before
    assert abs(SYSTEM_CLOCK.now_ms() / 1000 - time.time()) < 60
    with pytest.raises(Exception, match=r"127\.0\.0\.1:1|refused"):
        len(publisher)
    with shop.run() as memory:
        assert memory.waiting() == [], "nothing is left of the last time"


def test_an_app_that_cannot_run_in_memory_is_refused() -> None:
    app = Celery("plain", broker="memory://", set_as_current=False)

    with pytest.raises(NotInstalledError), in_memory(app):
        pass
    Rebound(app, clock=ManualClock(0))
    with pytest.raises(ReboundError, match="clock of its own"), in_memory(app):
        pass


def test_the_fixture_gives_it(request: pytest.FixtureRequest) -> None:
    if not request.config.pluginmanager.hasplugin("rebound-celery"):
        pytest.skip("installed before it had this entry point: pip install -e .")
    start: Callable[..., InMemory] = request.getfixturevalue("rebound_in_memory")
    shop = Shop()

    memory = start(shop.app, now_ms=NOW_MS)
    memory.produce("orders", b"")
    memory.run()

    assert shop.seen == [(0, 1)]


def test_pytest_loads_only_the_fixture() -> None:
    """Every pytest run of everyone who has rebound-celery installed loads this module."""
    code = "import sys, rebound_celery_pytest; print([n for n in ('celery', 'rebound_celery') if n in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
