"""The page for operators: its commands print what it says, its snippets run, and its tables name what there is."""

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
from rebound_celery.message import Origin
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.operate.cli.commands import rebound as command
from rebound_celery.pending import QueueStats
from rebound_celery.policy import Failure
from rebound_celery.schedule.port import Breaker
from rebound_celery.selection import FILTER_FIELDS, ActionResult, PendingView
from tests.acceptance.apps.worker import close_redis_connections

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operators.md").read_text()
#: Each command, such as `pending ls --topic orders`, and the lines that it prints.
COMMANDS = re.findall(r"```console\n\$ celery -A shop rebound ([^\n]*)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    """The shop of the page: two retries to Kafka and one to a URL, due in an hour."""
    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False))
    now_ms = SYSTEM_CLOCK.now_ms()
    timeout = Failure("shop.errors.ShopTimeout", "no answer within 5 s")

    def order(number: int, attempt: int) -> Message:
        return Message(
            f"order-{number}",
            b'{"order": %4d}' % number,
            KafkaAddress("orders"),
            attempt,
            RetryPolicy(3, 5),
            b"customer-%d" % number,
            (("tenant", b"acme"),),
            KafkaAddress("orders-dlq"),
            failure=timeout,
            group="billing",
            origin=Origin("orders", 3, 805 + number, now_ms),
            first_failed_at=now_ms - 120_000,
        )

    hook = Message(
        "hook-1",
        b"{}",
        HttpAddress("https://user:password@shop.example/hook?token=1"),
        2,
        RetryPolicy(3, 5),
        dead_destination=DEAD_SET,
        failure=Failure("shop.errors.Refused", "503"),
    )
    due_ms = now_ms + 3_600_000
    rebound.store([(order(7, 2), due_ms), (order(8, 3), due_ms + 1), (hook, due_ms + 2)])
    yield rebound
    rebound.close()
    close_redis_connections()


def plain(text: str) -> list[str]:
    """Lines without what changes from one call to the next: times, durations and the widths of columns."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", "DATE", text)
    text = re.sub(r"\b\d+(d|h|min|s)( \d+(h|min|s))?\b", "DURATION", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_the_commands_print_what_the_page_says(rebound: Rebound) -> None:
    assert len(COMMANDS) == 13
    for line, printed in COMMANDS:
        done = CliRunner().invoke(
            command, shlex.split(line), obj=SimpleNamespace(app=rebound.app), env={"COLUMNS": "120"}
        )

        assert done.exit_code == 0, done.output
        assert plain(done.stdout) == plain(printed), line


def test_the_snippets_run(rebound: Rebound) -> None:
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)):
        exec(compile(snippet, f"docs/operators.md, snippet {number}", "exec"), {"app": rebound.app})
    assert rebound.pending.count() == 3


def keys_after(text: str) -> set[str]:
    """The keys in the first column of the table that follows a text."""
    table = PAGE.partition(text)[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    return {key for row in table.splitlines() for key in re.findall(r"`(\w+)`", row.split(" | ")[0])}


def test_the_tables_have_the_keys_of_the_json() -> None:
    view = PendingView(id="a", queue="q", kind="retry", due_ms=1)

    assert keys_after("Keys of an entry") == set(view.to_dict())
    assert keys_after("Keys of a change") == set(ActionResult(action="cancel").to_dict())
    stats = PAGE.partition("Keys of the stats:")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", stats)) == set(QueueStats.__struct_fields__)
    lane = PAGE.partition("Keys of a lane:")[2].partition("\n\n")[0]
    breaker: Any = Breaker.__dataclass_fields__
    own = {
        "lane",
        "waiting",
        "next_due_ms",
        "paused_until_ms",
        "disabled_since_ms",
        "disabled_reason",
        "rate",
        "breaker",
    }
    assert set(re.findall(r"`(\w+)`", lane)) == own | (set(breaker) - {"lane"})


def test_the_table_of_switches_is_complete() -> None:
    table = PAGE.partition("| switch |")[2].partition("\n\n")[0]

    assert set(re.findall(r"`--([a-z-]+)", table)) == {name.replace("_", "-") for name in FILTER_FIELDS}


def test_the_table_of_commands_is_complete() -> None:
    table = PAGE.partition("| command |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`celery -A shop rebound ((?:pending|lanes|endpoints) [a-z-]+|stats)", table))

    groups: Any = command.commands
    expected = {f"{group} {name}" for group in ("pending", "lanes", "endpoints") for name in groups[group].commands}
    assert named == expected | {"stats"}
