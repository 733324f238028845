"""`celery rebound dlq` as processes: what is listed, and replays that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from celery import Celery

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.message import Origin, codec
from rebound_celery.message.address import DEAD_SET, KafkaAddress
from rebound_celery.message.headers import kafka_headers
from rebound_celery.policy import Failure
from rebound_celery.schedule.port import DeadEntry, open_schedule
from rebound_celery.selection import Filter
from tests.acceptance.apps.worker import close_redis_connections
from tests.processes import ROOT, Process
from tests.waiting import wait_until

COMMAND = ("-m", "celery", "-A", "tests.acceptance.apps.orders", "rebound", "dlq")

COUNT = 3_000


def letter(number: int, topic: str, dead: Any) -> Message:
    return Message(
        id=f"m{number}",
        value=b'{"number": %d}' % number,
        destination=KafkaAddress(topic),
        attempt=4,
        policy=RetryPolicy(3, 5),
        # A few keys come often, many once, and some records have none.
        key=None if number % 7 == 0 else b"often-%d" % (number % 5) if number % 3 == 0 else b"once-%d" % number,
        dead_destination=dead,
        reason="retries-exhausted",
        failure=Failure("myapp.errors.ShopTimeout", "no answer within 5 s"),
        origin=Origin(topic, 3, number, 1),
    )


@pytest.fixture
def environment(redis_url: str, kafka_brokers: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    more = {"ORDERS_REDIS": redis_url, "REBOUND_KAFKA_BROKERS": kafka_brokers, "PYTHONPATH": str(ROOT), "TZ": "UTC"}
    return environment | more


@pytest.fixture
def rebound(redis_url: str, kafka_brokers: str) -> Iterator[Rebound]:
    rebound = Rebound(Celery("orders", broker=redis_url, set_as_current=False), kafka_brokers=kafka_brokers)
    yield rebound
    rebound.close()
    close_redis_connections()


@pytest.fixture
def topic(make_topic: Callable[..., str]) -> str:
    """The name of a new topic with one partition, whose order is that of the deliveries."""
    return make_topic(1)


def run(environment: dict[str, str], *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *COMMAND, *arguments],
        env=environment | more,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def numbers_by_key(records: list[Any]) -> dict[bytes, list[int]]:
    found: defaultdict[bytes, list[int]] = defaultdict(list)
    for record in records:
        found[record.key or b""].append(json.loads(record.value)["number"])
    return found


def replay_and_kill(environment: dict[str, str], source: str, kills: int, stored: Callable[[], int]) -> None:
    """Replay all letters of a source with a command that is killed some times after it has stored something."""
    for _ in range(kills):
        before = stored()
        with Process(*COMMAND, "replay", "--source", source, "--all", "--rate", "2000", env=environment) as process:
            wait_until(lambda before=before: stored() > before or not process.is_running, timeout=60, interval=0.005)
            process.kill()
    end = run(environment, "replay", "--source", source, "--all", "--json")
    assert end.returncode == 0, end.stderr
    result = json.loads(end.stdout)
    assert (result["left"], result["done"]) == (0, True)


def test_a_killed_replay_of_a_topic_goes_on_without_a_loss_a_copy_or_another_order(
    rebound: Rebound,
    environment: dict[str, str],
    topic: str,
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
    read_topic: Callable[..., list[Any]],
    run_process: Callable[..., Process],
) -> None:
    dlq = make_topic(3, f"{topic}-dlq")
    letters = [letter(number, topic, KafkaAddress(dlq)) for number in range(COUNT)]
    produce(dlq, [(each.key, each.value, kafka_headers(each)) for each in letters])
    worker = run_process(
        "-m", "celery", "-A", "tests.acceptance.apps.orders", "worker", "-c", "2", "-l", "INFO", env=environment
    )
    worker.wait_for_output(" ready.", timeout=60)

    def stored() -> int:
        with open_schedule(rebound.app, "rebound") as schedule:
            return int(schedule.stats().get("revived", 0))

    replay_and_kill(environment, dlq, 4, stored)

    records = read_topic(topic, COUNT, timeout=60)
    by_key = numbers_by_key(records)
    assert sorted(number for numbers in by_key.values() for number in numbers) == list(range(COUNT))
    for key, numbers in by_key.items():
        if key:
            assert all(one < next_ for one, next_ in pairwise(numbers)), key
    assert stored() == COUNT


def test_a_killed_replay_of_redis_neither_loses_nor_doubles_a_letter(
    rebound: Rebound, environment: dict[str, str], topic: str
) -> None:
    with open_schedule(rebound.app, "rebound") as schedule:
        schedule.keep_dead(
            [
                DeadEntry(each.task_id, "rejected", codec.encode(each), 1_700_000_000_000 + number)
                for number, each in enumerate(letter(number, topic, DEAD_SET) for number in range(COUNT))
                if each.key is None or each.key.startswith(b"once")
            ]
        )
    count = rebound.dead_letters.count()

    replay_and_kill(environment, "redis", 3, lambda: count - rebound.dead_letters.count())

    assert rebound.dead_letters.count() == 0
    waiting = list(rebound.pending.iterate(Filter()))
    assert len(waiting) == len({view.message_id for view in waiting}) == count


def test_letters_are_listed_by_a_process_on_a_narrow_terminal_and_into_a_closed_pipe(
    rebound: Rebound,
    environment: dict[str, str],
    topic: str,
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
) -> None:
    dlq = make_topic(2, f"{topic}-dlq")
    letters = [letter(number, topic, KafkaAddress(dlq)) for number in range(300)]
    produce(dlq, [(each.key, each.value, kafka_headers(each)) for each in letters])

    wide = run(environment, "ls", "--source", dlq, "--limit", "2")
    assert wide.returncode == 0, wide.stderr
    assert "retries-exhausted" in wide.stdout
    assert wide.stderr.startswith("More follow: --after kafka:")
    narrow = run(environment, "ls", "--source", dlq, COLUMNS="40")
    assert max(map(len, narrow.stdout.splitlines())) <= 40
    assert run(environment, "show", f"{dlq}:0:0", "--value").stdout.count("number") == 1
    piped = subprocess.run(
        f"{sys.executable} {' '.join(COMMAND)} ls --source {dlq} --all --json | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    line, status = piped.stdout.splitlines()
    assert json.loads(line)["kept_in"] == dlq
    assert (status, piped.stderr) == ("0", ""), piped.stderr


def test_ctrl_c_ends_a_replay_and_says_how_to_go_on(rebound: Rebound, environment: dict[str, str], topic: str) -> None:
    with open_schedule(rebound.app, "rebound") as schedule:
        stored = codec.encode(letter(1, topic, DEAD_SET))
        schedule.keep_dead([DeadEntry(f"m{number}:dead", "rejected", stored, number) for number in range(100)])
    with Process(*COMMAND, "replay", "--source", "redis", "--all", "--rate", "1", env=environment) as process:
        wait_until(lambda: rebound.dead_letters.count() < 100, timeout=30)
        began = time.monotonic()
        process.signal(signal.SIGINT)

        assert process.wait(20) == 130
        assert time.monotonic() - began < 10
        assert "the same command goes on" in process.output
        assert "Traceback" not in process.output
