"""`celery rebound dlq ...`: tables and JSON, exit statuses, narrow terminals, and what is asked before."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from rebound_celery import Rebound
from rebound_celery.dead_letters import Replay, ReplayResult
from rebound_celery.errors import UnreachableError
from rebound_celery.operate.cli.commands import rebound as command
from rebound_celery.operate.cli.replaying import _Watch
from rebound_celery.operate.cli.signals import StoppedBySignal
from rebound_celery.policy import Failure
from rebound_celery.selection import Filter, Progress
from tests.integration.test_dead_letters import (
    IN_REDIS,
    Produce,
    _apps_leave_no_connection,
    alone,
    dead,
    keep_dead,
    letter,
    rebound,
    topics,
)

__all__ = ["_apps_leave_no_connection", "alone", "rebound", "topics"]


def run(rebound: Rebound, *arguments: str, columns: int = 120, **options: Any) -> Result:
    runner = CliRunner(env={"COLUMNS": str(columns)})
    return runner.invoke(command, ["dlq", *arguments], obj=SimpleNamespace(app=rebound.app), **options)


def test_letters_are_listed_as_a_table_and_as_json(alone: Rebound) -> None:
    keep_dead(alone, IN_REDIS, replace(IN_REDIS, id="second", headers=(("rebound-replays", b"2"),)))

    table = run(alone, "ls", "--source", "redis")

    assert table.exit_code == 0
    head, first, second = table.stdout.splitlines()
    assert head.split() == ["DIED", "ATTEMPTS", "ID", "FOR", "REASON", "ERROR"]
    assert "order-7:dead" in first
    assert "http://127.0.0.1:1/hook" in first
    assert "secret" not in table.stdout
    assert "4, replayed 2" in second
    lines = run(alone, "ls", "--source", "redis", "--json", "--limit", "1")
    (view,) = map(json.loads, lines.stdout.splitlines())
    assert (view["id"], view["reason"]) == ("order-7:dead", "rejected")
    assert "stacktrace" not in view
    after = lines.stderr.split("--after ")[1].strip()
    (rest,) = run(alone, "ls", "--source", "redis", "--json", "--after", after).stdout.splitlines()
    assert json.loads(rest)["message_id"] == "second"


def test_a_row_fits_40_columns_and_steers_no_terminal(alone: Rebound) -> None:
    evil = replace(IN_REDIS, id="\x1b[31m" + "x" * 60, failure=Failure("E", "\x1b]0;title\x07[bold]" + "y" * 300))
    keep_dead(alone, evil)

    listed = run(alone, "ls", "--source", "redis", columns=40)
    shown = run(alone, "show", evil.id, columns=40)

    assert listed.exit_code == 0
    assert all(len(line) <= 40 for line in listed.stdout.splitlines())
    assert "\x1b" not in listed.stdout
    assert shown.exit_code == 0
    assert all(len(line) <= 40 for line in shown.stdout.splitlines())
    assert "\x1b" not in shown.stdout


def test_one_letter_is_shown_with_all_that_is_known(alone: Rebound) -> None:
    keep_dead(alone, IN_REDIS)

    shown = run(alone, "show", "order-7", "--value")

    assert shown.exit_code == 0
    for text in ("order-7:dead", "shop.errors.Refused: no such customer", "base64:AP8=", "Traceback", "celery@a"):
        assert text in shown.stdout
    assert "secret" not in shown.stdout
    assert json.loads(run(alone, "show", "order-7", "--json").stdout)["stacktrace"] == "Traceback"
    missing = run(alone, "show", "nothing-dlq")
    assert (missing.exit_code, missing.stdout) == (4, "")
    assert "there is no dead letter under 'nothing-dlq'" in missing.stderr


def test_what_is_away_or_missing_is_one_line(alone: Rebound, rebound: Rebound, topics: tuple[str, str]) -> None:
    away = run(alone, "ls")
    assert away.exit_code == 1
    assert "For those in Redis alone, give --source redis" in away.stderr
    assert "Error: cannot reach Kafka" in away.stderr
    missing = run(rebound, "ls", "--source", "no-such-dlq")
    assert missing.exit_code == 2
    assert missing.stderr.startswith("Error: source='no-such-dlq' cannot be used: Kafka has no topic with this name")
    empty = run(rebound, "ls", "--source", topics[1])
    assert (empty.exit_code, empty.stdout, empty.stderr) == (0, "", "There are no dead letters.\n")
    assert run(rebound, "ls", "--source", topics[1], "--reason", "x").stderr == "No dead letter fits.\n"
    assert run(rebound, "ls", "--attempt", "x").exit_code == 2


def test_letters_of_a_topic_are_listed_and_replayed(
    rebound: Rebound, topics: tuple[str, str], produce: Produce
) -> None:
    topic, dlq = topics
    dead(produce, *(letter(number, topic) for number in range(4)))

    lines = run(rebound, "ls", "--source", dlq, "--json", "--exception", "ValueError").stdout.splitlines()
    assert {json.loads(line)["message_id"] for line in lines} == {"m1", "m3"}
    dry = run(rebound, "replay", "--source", dlq, "--all", "--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, "4 would be replayed\n")
    some = run(rebound, "replay", "--source", dlq, "--exception", "ValueError", "--json")
    assert json.loads(some.stdout) == {
        "action": "replay",
        "dry_run": False,
        "read": 4,
        "total": json.loads(some.stdout)["total"],
        "matched": 2,
        "replayed": 2,
        "parked": 0,
        "repeated": 0,
        "left": 0,
        "problems": [],
        "unknown": [],
        "waiting": 0,
        "unclaimed_ms": 0,
        "position": json.loads(some.stdout)["position"],
        "done": True,
    }
    rest = run(rebound, "replay", "--source", dlq, "--all")
    assert rest.stdout.splitlines() == [
        "2 replayed",
        "2 left out: replayed before (see --again), gone, or waiting under the same id",
    ]


def test_a_letter_is_found_by_its_place_as_logs_have_it(
    rebound: Rebound, topics: tuple[str, str], produce: Produce
) -> None:
    topic, dlq = topics
    dead(produce, letter(1, topic), partition=2)
    produce(topic, [(None, b"alive", [])], 0)

    for place in (f"{dlq}:2:0", f"{dlq}[2]@0", f"kafka:{dlq}[2]@0", f"kafka://{dlq}[2]@0", f"{dlq}/2/0"):
        shown = run(rebound, "show", place, "--json")
        assert json.loads(shown.stdout)["id"] == f"{dlq}:2:0"
        assert shown.stderr == ""
    failed = run(rebound, "show", f"{topic}[0]@0")
    assert f"{topic}:0:0 seems to be a record of {topic}, and no dead letter" in failed.stderr
    assert f"dlq ls --source {dlq}" in failed.stderr
    assert run(rebound, "replay", f"{dlq}[2]@0", "--dry-run").stdout == "1 would be replayed\n"


def test_what_cannot_be_replayed_is_said(rebound: Rebound, topics: tuple[str, str], produce: Produce) -> None:
    produce(topics[1], [(b"k", b"v", [])], 0)

    result = run(rebound, "replay", f"{topics[1]}:0:0", "nothing")

    assert result.exit_code == 4
    assert "1 cannot be replayed, and stay where they are" in result.stderr
    assert "give a target" in result.stderr
    assert "no dead letter under 'nothing'" in result.stderr
    assert run(rebound, "replay", f"{topics[1]}:0:0", "--target", f"kafka://{topics[0]}").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("replay",), "say which dead letters are meant: give IDs, switches such as --topic, or --all"),
        (("replay", "--all"), "give --source too"),
        (("replay", "x", "--source", "redis"), "leave out --source"),
        (("replay", "x", "--all"), "IDs say which dead letters are meant: leave out --all, or leave out the IDs"),
        (("replay", "x", "--topic", "a", "--all"), "leave out --topic and --all, or leave out the IDs"),
        (
            ("replay", "--source", "redis", "--key", "a", "--header", "b", "--reason", "c", "--all"),
            "--all means all dead letters: leave it out, or leave out --key, --reason and --header",
        ),
        (("purge", "x", "--limit", "1"), "IDs say which dead letters are meant: leave out --limit, or leave out the"),
        (("replay", "--all", "--source", "redis", "--target", "ftp://x"), "target='ftp://x'"),
        (("purge", "--up-to", "a:0:1", "--all"), "--up-to says all: leave out IDs, --source, --all"),
        (("purge", "--up-to", "a:0:1", "--limit", "1"), "--up-to says all"),
        (("purge", "--up-to", "a:0:1", "--source", "redis"), "--up-to says all"),
        (("purge", "--source", "a-dlq", "--all", "--limit", "1", "--yes"), "limit=1 cannot be used: Kafka cannot"),
        (("purge", "--up-to", "x", "--yes"), "up_to='x'"),
        (("edit", "x", "--value", "a", "--value-file", "-"), "not both"),
        (("edit", "order-7", "--header", "x"), "give it as name=value"),
        (("edit", "order-7"), "nothing is changed"),
        (("import", "/no/such/file"), "No such file"),
    ],
)
def test_wrong_switches_are_named(alone: Rebound, arguments: tuple[str, ...], text: str) -> None:
    keep_dead(alone, IN_REDIS)

    result = run(alone, *arguments)

    assert result.exit_code == 2
    assert text in result.output
    assert alone.dead_letters.count() == 1


def test_a_letter_is_edited_and_sent(alone: Rebound) -> None:
    keep_dead(alone, IN_REDIS)

    edited = run(alone, "edit", "order-7", "--value", "new", "--drop-header", "a", "--header", "b=2", "--json")

    assert edited.exit_code == 0
    message = alone.pending.message(json.loads(edited.stdout)["task_id"])
    assert message is not None
    assert (message.value, message.headers[0]) == (b"new", ("b", b"2"))
    piped = run(alone, "edit", "order-7", "--value-file", "-", input=b"\x00piped")
    message = alone.pending.message(piped.stdout.split()[-1])
    assert message is not None
    assert message.value == b"\x00piped"
    assert run(alone, "edit", "nothing", "--value", "x").exit_code == 4


def test_a_purge_asks_before(alone: Rebound) -> None:
    keep_dead(alone, *(replace(IN_REDIS, id=f"m{number}") for number in range(3)))

    asked = run(alone, "purge", "--source", "redis", "--all")
    assert (asked.exit_code, alone.dead_letters.count()) == (2, 3)
    assert "Remove 3 dead letters for good (redis: all)? Give --yes" in asked.stderr
    assert run(alone, "purge", "--source", "redis", "--all", "--dry-run").stdout == "3 would be removed\n"
    assert run(alone, "purge", "m0").stdout == "1 removed\n"
    assert run(alone, "purge", "m0").exit_code == 4
    done = run(alone, "purge", "--source", "redis", "--reason", "rejected", "--yes", "--json")
    assert json.loads(done.stdout)["changed"] == 2


def test_exported_letters_are_imported(alone: Rebound, tmp_path: Path) -> None:
    keep_dead(alone, IN_REDIS, replace(IN_REDIS, id="second"))
    file = tmp_path / "letters.jsonl"

    exported = run(alone, "export", "--source", "redis")
    assert exported.stderr == "2 exported\n"
    assert run(alone, "export", "--source", "redis", "--output", str(file)).stdout == ""
    assert file.read_text() == exported.stdout
    run(alone, "purge", "--source", "redis", "--all", "--yes")
    assert run(alone, "import", str(file)).stdout == "2 imported\n"
    assert run(alone, "import", input=exported.stdout).stdout == "2 imported\n"
    assert alone.dead_letters.count() == 2
    broken = run(alone, "import", input=exported.stdout + "{\n")
    assert broken.exit_code == 2
    assert "Error: line 3='{\\n' cannot be used: it is no JSON" in broken.stderr


def with_one_key(*numbers: int) -> list[Any]:
    return [letter(number, "orders", key=b"k", dead_destination=IN_REDIS.dead_destination) for number in numbers]


def test_a_replay_that_nobody_delivers_says_so_and_sleeps(alone: Rebound, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_dead(alone, *with_one_key(1, 2, 3))
    begun, looks = time.monotonic(), 0
    step = Replay.step

    def counted(replay: Replay) -> ReplayResult:
        nonlocal looks
        looks += 1
        result = step(replay)
        if time.monotonic() - begun > 5:
            raise StoppedBySignal(130)
        return result

    monkeypatch.setattr(Replay, "step", counted)

    stopped = run(alone, "replay", "--source", "redis", "--all")

    assert stopped.exit_code == 130
    assert looks < 20
    said, end = stopped.stderr.splitlines()
    assert re.fullmatch(
        r"2 dead letters wait until earlier ones with their keys are delivered: no worker has claimed anything for "
        r"3 s; start one: celery -A <app> worker -Q rebound\. The replay goes on then; Ctrl-C ends it",
        said,
    )
    assert end.startswith("Stopped. Until then: 1 replayed. 2 wait for earlier ones with their keys. Once those")


def test_the_bar_of_a_replay_counts_what_is_done() -> None:
    now_s, told, shown = [0.0], [], []

    def show(progress: Progress, note: str = "") -> None:
        shown.append((progress.read, progress.total, progress.changed, note))

    clock: Any = SimpleNamespace(monotonic=lambda: now_s[0])
    watched: Any = show
    watch = _Watch(watched, "celery worker", told.append, clock)
    blocked = ReplayResult(read=10, total=12, matched=9, replayed=3, repeated=1, left=1, waiting=4)
    for now_s[0] in (0.0, 9.0, 10.0, 11.0, 75.0):
        watch(blocked)
    watch(ReplayResult(read=12, total=12, matched=11, replayed=9, repeated=1, left=1))

    assert shown[0] == (6, 12, 3, ", 4 wait")
    assert shown[-1] == (12, 12, 9, "")
    assert [text.split(": ")[1].split(";")[0] for text in told] == [
        "none was delivered for 10 s",
        "none was delivered for 75 s",
    ]


def test_a_replay_that_redis_ends_says_how_far_it_came(alone: Rebound, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_dead(alone, *with_one_key(1, 2))
    step, results = Replay.step, iter([True, False])

    def failing(replay: Replay) -> ReplayResult:
        if next(results):
            return step(replay)
        raise UnreachableError("Redis", "redis://h", "gone")

    monkeypatch.setattr(Replay, "step", failing)

    ended = run(alone, "replay", "--source", "redis", "--all")

    assert ended.exit_code == 1
    assert "Until then: 1 replayed." in ended.stderr
    assert "Error: cannot reach Redis" in ended.stderr


def test_a_program_whose_replay_nobody_delivers_is_warned(
    alone: Rebound, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_dead(alone, *with_one_key(1, 2))
    begun, step = time.monotonic(), Replay.step

    def until(replay: Replay) -> ReplayResult:
        if time.monotonic() - begun > 5:
            raise StoppedBySignal(130)
        return step(replay)

    monkeypatch.setattr(Replay, "step", until)

    with pytest.raises(StoppedBySignal), caplog.at_level("WARNING"):
        alone.dead_letters.replay(filter=Filter(), source="redis")

    (record,) = [record for record in caplog.records if record.__dict__.get("event") == "unclaimed"]
    assert "1 dead letters wait until earlier ones with their keys" in record.getMessage()
    assert "worker -Q rebound" in record.getMessage()
