"""`celery rebound pending`, `lanes` and `stats` as processes: what they print, where, and how they end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.message import Origin
from rebound_celery.message.address import KafkaAddress
from rebound_celery.policy import Failure
from rebound_celery.selection import Filter
from tests.acceptance.apps.worker import close_redis_connections
from tests.processes import ROOT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND = (sys.executable, "-m", "celery", "-A", "tests.acceptance.apps.orders", "rebound")
LATER_MS = 4_000_000_000_000


def message(number: int, topic: str = "orders", error: str = "no answer within 5 s") -> Message:
    return Message(
        id=f"{number:08d}-5314-4782-99ca-855c2c1842c8",
        value=b'{"order": %d}' % number,
        destination=KafkaAddress(topic),
        attempt=2,
        policy=RetryPolicy(3, 5),
        key=b"customer-%d" % number,
        headers=(("tenant", b"acme"),),
        failure=Failure("myapp.errors.ShopTimeout", error),
        origin=Origin(topic, 3, number, 1),
        first_failed_at=1_000_000_000_000,
    )


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    rebound = Rebound(Celery("orders", broker=redis_url, set_as_current=False))
    yield rebound
    rebound.close()
    close_redis_connections()


@pytest.fixture
def environment(redis_url: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return {**environment, "ORDERS_REDIS": redis_url, "PYTHONPATH": str(ROOT), "TZ": "UTC"}


@pytest.fixture
def run(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run("pending", "ls", columns=40)` runs a command to its end."""

    def run(*arguments: str, columns: int | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        changed = {} if columns is None else {"COLUMNS": str(columns)}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*COMMAND, *arguments],
            env={**environment, **changed},
            cwd=ROOT,
            text=True,
            timeout=60,
            check=False,
            **options,
        )
        assert "Traceback" not in (done.stderr or ""), done.stderr
        return done

    return run


def test_a_list_fits_the_terminal_and_never_cuts_an_id(rebound: Rebound, run: Any) -> None:
    hostile = "no answer \x1b[31m\r\n\x07 \u202e within 5 s, because the shop is closed for the night"
    rebound.store([(message(n, error=hostile), LATER_MS + n) for n in range(2)])
    first, second = (view.id for view in rebound.pending.list().entries)

    narrow = run("pending", "ls", columns=40)
    assert narrow.returncode == 0
    assert all(len(line) <= 40 for line in narrow.stdout.splitlines())
    lines = [line.strip() for line in narrow.stdout.splitlines()]
    assert first in lines
    assert second in lines
    for columns in (80, 120):
        table = run("pending", "ls", columns=columns).stdout.splitlines()
        assert len(table) == 3
        assert table[0].split()[:4] == ["DUE", "ATTEMPT", "ID", "TO"]
        assert all(len(line.rstrip()) <= columns for line in table)
        assert first in table[1]
        assert "2/4" in table[1]
        assert "kafka://orders" in table[1]
    whole = run("pending", "ls").stdout
    assert "myapp.errors.ShopTimeout: no answer \\x1b[31m\\r \\x07 \\u202e within 5 s, because" in whole
    assert not any(sign in whole for sign in ("\x1b", "\r", "\x07", "\u202e"))


def test_json_has_the_keys_of_the_views_one_object_a_line(rebound: Rebound, run: Any) -> None:
    rebound.store([(message(n, ("orders", "bills")[n % 2]), LATER_MS + n) for n in range(7)])

    done = run("pending", "ls", "--json", "--topic", "or*", "--header", "tenant=ac*", "--limit", "3")

    found = [json.loads(line) for line in done.stdout.splitlines()]
    expected = rebound.pending.list(Filter(topic="orders"), limit=3)
    assert found == [view.to_dict() for view in expected.entries]
    assert done.stderr == f"More follow: --after {expected.next}\n"
    rest = run("pending", "ls", "--json", "--topic", "or*", "--after", expected.next)
    assert (len(rest.stdout.splitlines()), rest.stderr) == (1, "")
    assert len(run("pending", "ls", "--all", "--json", "--limit", "2").stdout.splitlines()) == 7
    shown = json.loads(run("pending", "show", found[0]["id"], "--json", "--value").stdout)
    assert shown == {**found[0], "value": '{"order": 0}', "value_base64": "eyJvcmRlciI6IDB9"}


def test_one_entry_is_shown_with_all_that_is_known_and_its_value_only_if_asked_for(rebound: Rebound, run: Any) -> None:
    rebound.store([(message(1), LATER_MS)])
    identity = message(1).id

    text = run("pending", "show", identity).stdout
    for part in ("orders[3]@1", "customer-1", "myapp.errors.ShopTimeout: no answer", "2/4", "acme"):
        assert part in text
    assert '{"order": 1}' not in text
    narrow = run("pending", "show", identity, "--value", columns=40).stdout
    assert 'value: {"order": 1}' in narrow
    assert all(len(line) <= 40 for line in narrow.splitlines())


def test_actions_say_what_they_have_done_and_what_they_did_not_find(rebound: Rebound, run: Any) -> None:
    rebound.store([(message(n, ("orders", "bills")[n % 2]), LATER_MS + n) for n in range(8)])
    first = message(0).id

    moved = run("pending", "reschedule", "--due", "2096-10-02T07:06:40Z", first, "unknown", "--json")
    assert moved.returncode == 4
    assert json.loads(moved.stdout) == {
        "action": "reschedule",
        "dry_run": False,
        "matched": 1,
        "changed": 1,
        "missed": 0,
        "leased": [],
        "unknown": ["unknown"],
        "refused": {},
        "disabled": [],
        "kept": 0,
    }
    assert moved.stderr.startswith("Error: nothing waits under 'unknown'")
    assert run("pending", "run-now", first).stdout == "1 due now\n"
    refused = run("pending", "cancel", "--topic", "bills")
    assert refused.returncode == 2
    assert "Cancel 4 waiting messages (topic=bills)? Give --yes" in refused.stderr
    assert run("pending", "cancel", "--topic", "bills", "--dry-run").stdout == "4 would be cancelled\n"
    assert rebound.pending.count() == 8
    assert run("pending", "cancel", "--topic", "bills", "--yes").stdout == "4 cancelled\n"
    assert run("pending", "cancel", first).stdout == "1 cancelled\n", "what is named by its id needs no --yes"
    assert run("pending", "cancel", "--topic", "bills", "--yes").stdout == "0 cancelled\n"
    assert rebound.pending.count() == 3


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("pending", "ls", "--topic", "nobody"), 0, "No waiting message matches.\n"),
        (("pending", "ls"), 0, "Nothing waits.\n"),
        (("pending", "show", "nothing"), 4, "Error: nothing waits under 'nothing': it was delivered"),
        (("pending", "ls", "--due-from", "soon"), 2, "Error: --due-from='soon' cannot be used: it is a date such as"),
        (("pending", "ls", "--after", "x"), 2, "Error: after='x' cannot be used"),
        (("pending", "run-now"), 2, "say which messages are meant: give IDs, switches such as --topic, or --all"),
        (("pending", "run-now", "a", "--all"), 2, "IDs say which messages are meant: leave out --all, or leave out"),
        (
            ("pending", "run-now", "--topic", "a", "--all"),
            2,
            "--all means all messages: leave it out, or leave out",
        ),
        (("pending", "cancel", "a", "--limit", "1"), 2, "leave out --limit, or leave out the IDs"),
        (
            ("pending", "ls", "--queue", "rebuond"),
            0,
            "The queue 'rebuond' is unknown: nothing is stored in it, and",
        ),
        (("pending", "ls", "--queue", "rebuond"), 0, "did you mean rebound?"),
        (("pending", "ls", "--queue", "zzz"), 0, "the app's queues are "),
        (("pending", "ls", "--queue", "celery"), 0, "Nothing waits.\n"),
        (("pending", "show", "a", "--queue", "zzz"), 4, "The queue 'zzz' is unknown"),
        (("pending", "reschedule", "--due", "soon", "a"), 2, "Error: --due='soon' cannot be used"),
        (("lanes", "ls"), 0, "Nothing waits, and no lane has a pause or a rate.\n"),
        (("lanes", "pause", "orders", "--for", "1h"), 2, "Error: destination='orders' cannot be used"),
        (("lanes", "pause", "kafka://orders", "--for", "x"), 2, "Error: --for='x' cannot be used"),
        (("lanes", "rate", "kafka://orders", "x"), 2, "Error: NUMBER='x' cannot be used"),
        (("lanes", "rate", "kafka://orders", "0"), 2, "Error: per_second=0.0 cannot be used"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    run: Any, redis_url: str, arguments: tuple[str, ...], status: int, text: str
) -> None:
    done = run(*arguments)

    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("pending", "ls"), ("pending", "cancel", "x"), ("lanes", "ls"), ("lanes", "resume", "kafka:a"), ("stats",)],
)
def test_redis_that_is_away_is_said_in_one_line(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    environment["ORDERS_REDIS"] = "redis://127.0.0.1:1/0"
    done = subprocess.run(
        [*COMMAND, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: cannot reach Redis at redis://127.0.0.1:1/0: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("json_or_not", [(), ("--json",)], ids=["table", "json"])
def test_a_closed_pipe_ends_a_list_quietly(rebound: Rebound, run: Any, json_or_not: tuple[str, ...]) -> None:
    rebound.store([(message(n), LATER_MS + n) for n in range(3000)])
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run("pending", "ls", "--all", *json_or_not, stdout=writer)
    finally:
        os.close(writer)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_an_error(rebound: Rebound, run: Any) -> None:
    rebound.store([(message(n), LATER_MS + n) for n in range(3)])
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = run("pending", "ls", stdout=full)

    assert (done.returncode, done.stderr) == (1, "Error: the output cannot be written: No space left on device\n")


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, environment: dict[str, str], *arguments: str, columns: int = 40) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env={**environment, "COLUMNS": str(columns), "TERM": "xterm"},
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        self.text = ""

    def says(self, text: str) -> bool:
        try:
            self.text += os.read(self._master, 100_000).decode()
        except BlockingIOError:
            pass
        except OSError:
            return text in self.text
        return text in self.text

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def ended(self) -> int:
        wait_until(lambda: self.says("\0") or self.process.poll() is not None, timeout=60)
        self.says("\0")
        os.close(self._master)
        return self.process.wait(5)


def test_a_person_is_asked_before_many_are_removed(rebound: Rebound, environment: dict[str, str]) -> None:
    rebound.store([(message(n), LATER_MS + n) for n in range(5)])
    for answer, status, left in (("n", 2, 5), ("y", 0, 0)):
        terminal = Terminal(environment, "pending", "cancel", "--topic", "orders", columns=80)
        wait_until(lambda: terminal.says("Cancel 5 waiting messages (topic=orders)?"), timeout=60)  # noqa: B023
        terminal.type(f"{answer}\n")

        assert terminal.ended() == status, terminal.text
        assert rebound.pending.count() == left


def test_progress_is_shown_on_a_terminal_and_ctrl_c_ends_it_cleanly(
    rebound: Rebound, environment: dict[str, str]
) -> None:
    rebound.store([(message(n), LATER_MS + n) for n in range(40_000)])
    terminal = Terminal(environment, "pending", "reschedule", "--due", "2097-01-01", "--attempt", "2")
    wait_until(lambda: terminal.says("rescheduled: "), timeout=60)
    os.killpg(terminal.process.pid, signal.SIGINT)

    assert terminal.ended() == 130
    assert "Stopped. Until then: " in terminal.text
    assert "Traceback" not in terminal.text
    moved = rebound.pending.count(filter=Filter(due_from_ms=LATER_MS + 10**6))
    assert 0 < moved < 40_000
    assert rebound.pending.count() == 40_000


def test_lanes_are_paused_limited_and_listed(rebound: Rebound, run: Any) -> None:
    rebound.store([(message(n), LATER_MS + n) for n in range(3)])

    assert run("lanes", "pause", "kafka://orders", "--for", "10min").stdout == (
        "kafka:orders is paused for 10min; 3 wait in it\n"
    )
    changed = json.loads(run("lanes", "rate", "https://shop.example/x", "5", "--json").stdout)
    assert changed == {
        "lane": "http:shop.example:443",
        "waiting": 0,
        "next_due_ms": None,
        "paused_until_ms": None,
        "rate": 5.0,
        "breaker": None,
        "disabled_since_ms": None,
        "disabled_reason": None,
    }
    table = run("lanes", "ls", columns=100).stdout.splitlines()
    assert table[0].split() == ["WAITING", "NEXT", "DUE", "LANE", "PAUSE", "RATE", "BREAKER"]
    assert [line.split()[0] for line in table[1:]] == ["0", "3"]
    assert "pause ends in " in table[2]
    narrow = run("lanes", "ls", columns=40).stdout
    assert all(len(line) <= 40 for line in narrow.splitlines())
    (_, orders) = map(json.loads, run("lanes", "ls", "--json").stdout.splitlines())
    assert orders["next_due_ms"] == LATER_MS
    assert abs(orders["paused_until_ms"] - (time.time() + 600) * 1000) < 60_000
    assert run("lanes", "resume", "kafka:orders").stdout == "kafka:orders is not paused any more; 3 wait in it\n"
    lane = rebound.lanes.get("kafka:orders")
    assert lane is not None
    assert lane.paused_until_ms is None
    assert run("lanes", "rate", "https://shop.example/x", "none").returncode == 0
    assert rebound.lanes.get("https://shop.example/x") is None


def test_a_lane_that_is_unknown_is_changed_and_said_to_be_unknown(rebound: Rebound, run: Any) -> None:
    rebound.store([(message(n), LATER_MS + n) for n in range(3)])

    paused = run("lanes", "pause", "kafka://ordres", "--for", "10min")
    again = run("lanes", "rate", "kafka://ordres", "5", "--json")
    resumed = run("lanes", "resume", "http:other:80")

    assert paused.returncode == resumed.returncode == 0
    assert paused.stdout == "kafka:ordres is paused for 10min; 0 wait in it\n"
    assert paused.stderr == (
        "Nothing waits in kafka:ordres now, and it had neither pause nor rate: did you mean kafka:orders? "
        "The change holds for messages that come later.\n"
    )
    assert again.stderr == ""
    assert resumed.stderr.endswith("is the name right? There was no pause to end.\n")


def test_stats_have_the_numbers_of_the_queue(rebound: Rebound, run: Any) -> None:
    rebound.store([(message(1), LATER_MS), (message(2), 1)])

    found = json.loads(run("stats", "--json").stdout)
    assert found["overdue_ms"] > 0
    assert {name: found[name] for name in ("queue", "waiting", "leased", "behind", "dead", "lanes", "counters")} == {
        "queue": "rebound",
        "waiting": 2,
        "leased": 0,
        "behind": 0,
        "dead": 0,
        "lanes": {"kafka:orders": 2},
        "counters": {"stored": 2},
    }
    text = run("stats", columns=40).stdout
    assert "waiting: 2" in text
    assert "due, not delivered: since " in text


def test_ordinary_tasks_are_listed_and_cancelled(rebound: Rebound, run: Any, environment: dict[str, str]) -> None:
    program = "from tests.acceptance.apps.orders import ship; print(ship.apply_async((7,), countdown=1000).id)"
    identity = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()

    (found,) = map(
        json.loads, run("pending", "ls", "--queue", "celery", "--json", "--task", "*.ship").stdout.splitlines()
    )
    assert (found["id"], found["kind"], found["task"]) == (identity, "task", "tests.acceptance.apps.orders.ship")
    assert found["args"] is None
    assert "(7,)" in run("pending", "show", identity, "--queue", "celery").stdout
    assert run("pending", "cancel", identity, "--queue", "celery").stdout == "1 cancelled\n"
