"""`celery rebound demo` with real processes, on the tests' broker and on the demo's own broker."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.processes import Process
from tests.waiting import wait_until

FIELDS = [
    "produced",
    "consumed",
    "succeeded",
    "retried",
    "delivered",
    "dead",
    "always_failing",
    "waiting",
    "lost",
    "duplicates",
    "duration_s",
]
DEMO = ("-m", "celery", "rebound", "demo")


def children_of(process: Process | subprocess.Popen[bytes]) -> dict[int, str]:
    """The processes that a process has started, by their ids, with their command lines."""
    lists = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = [int(pid) for one in lists for pid in one.read_text().split()]
    return {pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in pids}


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie, which in a container may stay for ever."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def summary_of(process: Process) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(process.output.strip().splitlines()[-1])
    return found


def flower_rows(url: str) -> list[dict[str, Any]]:
    """What Flower's tasks page asks for, newest last."""
    query = "draw=1&start=0&length=100&search[value]=&order[0][column]=0&order[0][dir]=asc&columns[0][data]=received"
    with urllib.request.urlopen(f"{url}/tasks/datatable?{query}", timeout=10) as answer:
        rows: list[dict[str, Any]] = json.load(answer)["data"]
    return rows


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo", "gevent", "eventlet"])
def test_a_drained_run_accounts_for_every_message(
    kafka_brokers: str, redis_url: str, read_topic: Callable[..., list[Any]], pool: str
) -> None:
    options = ["--duration", "6", "--rate", "40", "--max-retries", "2", "--json", "--no-flower"]
    options += ["--worker-pool", pool]
    done = subprocess.run(
        [sys.executable, *DEMO, *options, "--kafka", kafka_brokers, "--redis", redis_url],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert list(summary) == FIELDS
    assert 200 <= summary["produced"] <= 400, "a busy machine ends the producer late"
    assert (summary["waiting"], summary["lost"], summary["duplicates"]) == (0, 0, 0), done.stderr
    assert summary["dead"] == summary["always_failing"] > 0
    assert summary["succeeded"] + summary["dead"] == summary["produced"]
    assert summary["retried"] == summary["delivered"] == summary["consumed"] - summary["produced"]
    assert 6 <= summary["duration_s"] < 60

    # The same once more, from Kafka, without a line of the demo's own.
    topics = re.search(r"Topics left at .*: (\S+), (\S+), (\S+)", done.stderr)
    assert topics is not None
    _, dead_letters, results = topics.groups()
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in read_topic(results, summary["consumed"]):
        if record.value:
            call = json.loads(record.value)
            calls[call["id"]].append(call)
    assert sum(len(of_one) for of_one in calls.values()) == summary["consumed"]
    dead = {}
    for record in read_topic(dead_letters, summary["dead"]):
        if record.value:
            dead[json.loads(record.value)["id"]] = {name: value.decode() for name, value in record.headers}
    assert len(dead) == summary["dead"]
    for headers in dead.values():
        assert headers["rebound-attempt"] == "3"
        assert headers["rebound-reason"] == "retries-exhausted"
        assert headers["rebound-exception-class"] == "rebound_celery.demo.handler.PaymentDeclinedError"
        assert "was declined (attempt 3)" in headers["rebound-exception-message"]
    for message_id, of_one in calls.items():
        of_one.sort(key=lambda call: call["attempt"])
        assert [call["attempt"] for call in of_one] == list(range(1, len(of_one) + 1))
        assert [call["failed"] for call in of_one[:-1]] == [True] * (len(of_one) - 1)
        assert of_one[-1]["failed"] == (message_id in dead)
        assert message_id not in dead or len(of_one) == 3
        for number, (earlier, later) in enumerate(itertools.pairwise(of_one), 1):
            # Two processes each cut the time to whole milliseconds.
            assert later["at_ms"] - earlier["at_ms"] >= 1000 * 2 ** (number - 1) - 2

    # On a Redis of the user's own, nothing of the run stays behind.
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert [key for key in client.scan_iter() if "rebound" in key] == []
        assert client.hlen("unacked") == 0


def test_flower_shows_readable_rows_and_ctrl_c_leaves_nothing_running(run_process: Callable[..., Process]) -> None:
    process = run_process(*DEMO, "--duration", "60", "--base-delay", "60", "--json")
    process.wait_for_output("producing", timeout=60)
    flower = re.search(r"Flower is at (\S+)/tasks", process.output)
    assert flower is not None
    rows = wait_until(lambda: flower_rows(flower[1]), timeout=30)
    with urllib.request.urlopen(f"{flower[1]}/tasks", timeout=10) as answer:
        page = answer.read().decode()
    children = children_of(process)
    process.signal(signal.SIGINT)

    assert process.wait(timeout=40) == 0
    assert [command for pid, command in children.items() if is_running(pid)] == []
    assert len(children) == 5, children
    assert 'data-column="args"' in page
    assert 'data-column="exception"' in page
    assert rows[0]["name"] == "rebound.deliver"
    assert re.fullmatch(r"orders\[\d\]@\d+ attempt 2/4 -> kafka:orders", rows[0]["args"])
    assert rows[0]["kwargs"] == "{}"
    assert "customer" not in json.dumps(rows)
    # No retry was due yet: all of them wait, and are found in Redis.
    summary = summary_of(process)
    assert summary["lost"] == summary["delivered"] == summary["dead"] == 0
    assert summary["waiting"] >= summary["retried"] > 0


def test_a_killed_worker_is_named_and_a_killed_demo_takes_all_its_children_with_it(
    run_process: Callable[..., Process],
) -> None:
    bereft = run_process(*DEMO, "--duration", "60", "--json", "--no-flower", "--drain")
    killed = run_process(*DEMO, "--duration", "60", "--no-flower")
    for process in (bereft, killed):
        process.wait_for_output("producing", timeout=60)
    worker = next(pid for pid, command in children_of(bereft).items() if "worker" in command)
    children = children_of(killed)
    os.kill(worker, signal.SIGKILL)
    os.kill(killed.pid, signal.SIGKILL)

    wait_until(lambda: not any(map(is_running, children)), message="the children of a killed demo end")
    assert len(children) == 4
    assert bereft.wait(timeout=40) == 1
    assert f"the worker (pid {worker}) was ended by SIGKILL" in bereft.output
    assert list(summary_of(bereft)) == FIELDS


class Terminal:
    """The demo on a terminal of its own: 80 columns and 24 lines."""

    def __init__(self, *options: str) -> None:
        self._end, terminal = pty.openpty()
        os.set_blocking(self._end, False)
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        self.process = subprocess.Popen(
            [sys.executable, *DEMO, *options],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=environment,
            start_new_session=True,
        )
        os.close(terminal)
        self._written = b""

    @property
    def text(self) -> str:
        """All that was written so far, escape sequences included."""
        with contextlib.suppress(OSError):
            while read := os.read(self._end, 65536):
                self._written += read
        return self._written.decode()

    @property
    def left(self) -> str:
        """What was written after the panel was gone, or before it came."""
        return self.text.rpartition("\x1b[?1049l")[2]

    def wait_for(self, words: str) -> None:
        wait_until(lambda: words in self.text, timeout=60, message=lambda: f"{words} in {self.text}")

    def children(self) -> dict[int, str]:
        return children_of(self.process)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def on_terminal() -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*options: str) -> Terminal:
        started.append(Terminal(*options))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


def test_on_a_terminal_the_balance_stands_and_flower_stays_until_ctrl_c(
    on_terminal: Callable[..., Terminal],
) -> None:
    terminal = on_terminal("--duration", "2", "--max-retries", "1")
    terminal.wait_for("Flower stays at")
    flower = re.search(r"Flower stays at (\S+)/tasks until Ctrl-C", terminal.left)
    assert flower is not None
    rows = flower_rows(flower[1])
    children = terminal.children()
    terminal.process.send_signal(signal.SIGINT)

    assert terminal.process.wait(40) == 0
    assert any("worker" in command for command in children.values()), "Flower shows a worker that answers"
    assert not any("demo.consume" in command for command in children.values())
    assert not any(map(is_running, children))
    assert rows
    assert "╭─ rebound demo: producing" in terminal.text
    assert not set("╭│╰") & set(terminal.left)
    balance = r"^(\d+) produced = (\d+) succeeded \+ (\d+) dead \+ 0 waiting \+ 0 lost"
    numbers = re.search(balance, terminal.left, re.MULTILINE)
    assert numbers is not None
    assert int(numbers[1]) == int(numbers[2]) + int(numbers[3])
    assert terminal.text.count("\x1b[?25l") == terminal.text.count("\x1b[?25h"), "the cursor is back"


def test_a_second_ctrl_c_ends_all_at_once_and_leaves_nothing(
    on_terminal: Callable[..., Terminal], kafka_brokers: str, redis_url: str
) -> None:
    terminal = on_terminal("--base-delay", "60", "--no-flower", "--kafka", kafka_brokers, "--redis", redis_url)
    terminal.wait_for("producing, 2 of")
    children = terminal.children()
    terminal.process.send_signal(signal.SIGINT)
    terminal.process.send_signal(signal.SIGTERM)

    assert terminal.process.wait(20) == 130
    assert terminal.left.strip() == "Ended at once, without a balance."
    assert len(children) == 2
    assert not any(map(is_running, children))
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert [key for key in client.scan_iter() if "rebound" in key] == []


def test_a_closed_pipe_ends_it_quietly(kafka_brokers: str, redis_url: str) -> None:
    """As in `celery rebound demo 2>&1 | head -1`."""
    command = [sys.executable, *DEMO, "--no-flower", "--kafka", kafka_brokers, "--redis", redis_url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = iter(process.stdout)
    assert next(lines) == "starting ...\n"
    process.stdout.close()

    assert process.wait(40) == 1


def test_a_balance_that_cannot_be_written_is_an_error(kafka_brokers: str, redis_url: str) -> None:
    options = ("--duration", "1", "--max-retries", "0", "--json", "--no-flower")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, *DEMO, *options, "--kafka", kafka_brokers, "--redis", redis_url],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=90,
            check=False,
        )

    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "Error: the balance cannot be written to stdout: [Errno 28] No space left on device"
