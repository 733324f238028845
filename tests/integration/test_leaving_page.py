"""The page about leaving rebound: its steps, in their order, leave nothing in Redis, and stock Celery runs the rest."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from celery import Celery
from click.testing import CliRunner
from msgspec.structs import replace
from redis import Redis

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.message import codec
from rebound_celery.message.address import DEAD_SET, HttpAddress
from rebound_celery.operate.cli.commands import rebound as command
from rebound_celery.policy import Failure
from rebound_celery.schedule.port import DeadEntry, open_schedule
from tests.acceptance.apps.worker import close_redis_connections
from tests.integration.test_operators_page import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.processes import Process

PAGE = (Path(__file__).parents[2] / "docs" / "leaving.md").read_text()
COMMANDS = re.findall(r"```console\n\$ celery -A shop rebound ([^\n]*)\n(.*?)```", PAGE, re.DOTALL)
LOOK, REMOVE = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)

#: An app that has never heard of rebound.
PLAIN_APP = """
import os
from celery import Celery
app = Celery("shop", broker=os.environ["SHOP_REDIS"])
@app.task(name="shop.charge")
def charge(order):
    print(f"charged {order}", flush=True)
@app.task(name="shop.thank")
def thank(_):
    print("thanked", flush=True)
"""


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    """The shop of the page: a retry and a dead letter for a URL."""
    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False))

    def hook(number: int) -> Message:
        url = HttpAddress(f"https://shop.example/hook?token={number}")
        failure = Failure("shop.errors.Refused", "503")
        return Message(f"hook-{number}", b"{}", url, 2, RetryPolicy(3, 5), dead_destination=DEAD_SET, failure=failure)

    rebound.store([(hook(1), SYSTEM_CLOCK.now_ms() + 3_600_000)])
    dead = replace(hook(2), reason="retries-exhausted")
    with open_schedule(rebound.app, "rebound") as schedule:
        letter = DeadEntry(dead.task_id, "retries-exhausted", codec.encode(dead), SYSTEM_CLOCK.now_ms())
        schedule.keep_dead([letter])
    yield rebound
    rebound.close()
    close_redis_connections()


def run(line: str, app: Celery) -> str:
    done = CliRunner().invoke(command, shlex.split(line), obj=SimpleNamespace(app=app), env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_steps_of_the_page_lose_nothing_and_leave_nothing(
    rebound: Rebound,
    redis_url: str,
    run_process: Callable[..., Process],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    app = rebound.app
    thank = app.signature("shop.thank")
    app.send_task("shop.charge", (1,), countdown=3_600, link=thank)
    moved = app.send_task("shop.charge", (2,), countdown=3_600)
    rebound.pending.reschedule("+2s", moved.id, queue="celery")

    for line, printed in COMMANDS:
        assert plain(run(line, app)) == plain(printed), line
        if line.startswith("pending run-now"):
            # As its delivery would.
            assert rebound.pending.cancel("hook-1").changed == 1

    (exported,) = (tmp_path / "dead-letters.jsonl").read_text().splitlines()
    assert json.loads(exported)["value_base64"] == "e30="
    (tmp_path / "plain_shop.py").write_text(PLAIN_APP)
    worker = run_process(
        *("-m", "celery", "-A", "plain_shop", "--workdir", str(tmp_path), "worker", "-P", "solo", "--loglevel=INFO"),
        env={"SHOP_REDIS": redis_url, "PYTHONPATH": str(tmp_path)},
    )
    worker.wait_for_output("charged 2", timeout=60)
    assert "charged 1" not in worker.output, "it is due in an hour"
    worker.stop()
    with Redis.from_url(redis_url) as redis:
        shell = {**os.environ, "REDIS": redis_url}
        looked = subprocess.run(["sh", "-c", LOOK], env=shell, check=True, capture_output=True, text=True).stdout
        assert set(looked.split()) <= {"0"}
        subprocess.run(["sh", "-c", REMOVE], env=shell, check=True, capture_output=True)
        assert redis.keys("*rebound*") == []


def test_a_task_that_was_moved_back_keeps_its_id_its_callbacks_and_its_due_time(
    rebound: Rebound, redis_url: str, run_process: Callable[..., Process], tmp_path: Path
) -> None:
    app = rebound.app
    task = app.send_task("shop.charge", (1,), countdown=3_600, link=app.signature("shop.thank"))
    kept = app.send_task("shop.charge", (2,), countdown=3_600)
    rebound.pending.reschedule("+1s", task.id, queue="celery")

    assert rebound.pending.to_celery(task.id, queue="celery").changed == 1

    (tmp_path / "plain_shop.py").write_text(PLAIN_APP)
    worker = run_process(
        *("-m", "celery", "-A", "plain_shop", "--workdir", str(tmp_path), "worker", "-P", "solo", "--loglevel=INFO"),
        env={"SHOP_REDIS": redis_url, "PYTHONPATH": str(tmp_path)},
    )
    worker.wait_for_output("thanked", timeout=60)
    assert task.id in worker.output
    assert [view.id for view in rebound.pending.iterate(queue="celery")] == [kept.id]
