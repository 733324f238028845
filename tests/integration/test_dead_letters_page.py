"""The page about dead letters: its commands print what it says, its snippets run, and its tables name what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from click.testing import CliRunner

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.dead_letters import ReplayResult
from rebound_celery.jobs import Job
from rebound_celery.message import codec, foreign
from rebound_celery.message.address import DEAD_SET, HttpAddress
from rebound_celery.operate.cli.commands import rebound as command
from rebound_celery.policy import Failure
from rebound_celery.schedule.port import DeadEntry, open_schedule
from rebound_celery.selection import DeadLetterView
from tests.acceptance.apps.worker import close_redis_connections
from tests.integration.test_operators_page import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dead_letters.md").read_text()
#: Each command, such as `dlq ls`, and the lines that it prints.
COMMANDS = re.findall(r"```console\n\$ celery -A shop rebound ([^\n]*)\n(.*?)```", PAGE, re.DOTALL)


#: The id of a job.
JOB = "3f2a7c90d1"


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    """The shop of the page: two dead letters in Redis."""
    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False))
    now_ms = SYSTEM_CLOCK.now_ms()

    def hook(number: int, url: str, attempt: int, reason: str, failure: Failure) -> Message:
        return Message(
            f"hook-{number}",
            b'{"hook":%d}' % number,
            HttpAddress(url),
            attempt,
            RetryPolicy(3, 5),
            b"customer-%d" % number,
            (("trace", b"abc"),),
            DEAD_SET,
            reason,
            failure,
        )

    refused, gone = Failure("shop.errors.Refused", "503"), Failure("shop.errors.Gone", "410")
    first = hook(1, "https://user:password@shop.example/hook?token=1", 4, "retries-exhausted", refused)
    second = hook(2, "https://other.example/hook", 2, "rejected", gone)
    with open_schedule(rebound.app, "rebound") as schedule:
        schedule.keep_dead(
            [
                DeadEntry(message.task_id, message.reason or "", codec.encode(message), now_ms - ago_ms)
                for message, ago_ms in ((first, 3_600_000), (second, 3_540_000))
            ]
        )
    yield rebound
    rebound.close()
    close_redis_connections()


def test_the_commands_print_what_the_page_says(rebound: Rebound) -> None:
    assert len(COMMANDS) == 10
    for line, printed in COMMANDS:
        jobs = rebound.jobs.list().entries
        job = jobs[0].id if jobs else ""
        done = CliRunner().invoke(
            command,
            shlex.split(line.replace(JOB, job)),
            obj=SimpleNamespace(app=rebound.app),
            env={"COLUMNS": "120"},
        )

        assert done.exit_code == 0, done.output
        assert without_ids(done.stdout) == without_ids(printed), line


def without_ids(text: str) -> list[str]:
    return plain(re.sub(r"[0-9a-f-]{36}|\b[0-9a-f]{10}\b", "ID", text))


def test_the_snippets_run(rebound: Rebound) -> None:
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)):
        exec(compile(snippet, f"docs/dead_letters.md, snippet {number}", "exec"), {"app": rebound.app})
    assert rebound.dead_letters.count() == 1


def rows(text: str) -> list[str]:
    """The first column of the table that follows a text."""
    table = PAGE.partition(text)[2].partition("|---|")[2].partition("\n")[2].partition("\n\n")[0]
    return [row.split(" | ")[0] for row in table.splitlines()]


def test_the_tables_have_the_keys_of_the_json() -> None:
    def keys(text: str) -> set[str]:
        return set(re.findall(r"`(\w+)`", " ".join(rows(text))))

    assert keys("Keys of a dead letter") == set(DeadLetterView(id="a").to_dict())
    assert keys("Keys of a replay") == set(ReplayResult().to_dict())
    assert keys("Keys of a job") == {"action", *Job.__struct_fields__}


def test_the_tables_of_commands_and_programs_are_complete() -> None:
    groups: Any = command.commands
    assert {row.split(" dlq ")[1].split("`")[0].split(" ")[0] for row in rows("same as the commands")} == set(
        groups["dlq"].commands
    )
    assert set(re.findall(r"`jobs (\w+)", " ".join(rows("jobs pause 3f2a7c90d1")))) == set(groups["jobs"].commands)
    programs = {foreign.SPRING, foreign.CONNECT, foreign.STREAMS, foreign.SMALLRYE, foreign.SHARE_GROUP}
    assert set(re.findall(r"`([a-z-]+)`", " ".join(rows("leaves its headers out")))) == programs | {
        "rebound",
        "unknown",
    }
