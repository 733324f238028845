"""`celery rebound pending` in the process of the test: what it prints, and its exit statuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from rebound_celery import Rebound
from rebound_celery.jobs.step import step_id
from rebound_celery.operate.cli.commands import rebound as command
from rebound_celery.selection import Filter
from tests.acceptance.apps.worker import close_redis_connections
from tests.integration.test_dead_letters import keep_dead
from tests.integration.test_jobs import hooks


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False))
    yield rebound
    rebound.close()
    close_redis_connections()


def run(rebound: Rebound, *arguments: str, columns: int = 120) -> Result:
    runner = CliRunner(env={"COLUMNS": str(columns)})
    return runner.invoke(command, list(arguments), obj=SimpleNamespace(app=rebound.app))


def test_a_retry_is_not_moved_to_celerys_list_and_the_command_says_so(rebound: Rebound) -> None:
    rebound.schedule_retry("kafka://orders", b"x", id="r1", delay=600)

    moved = run(rebound, "pending", "to-celery", "r1")
    dry = run(rebound, "pending", "to-celery", "r1", "--dry-run")
    as_json = run(rebound, "pending", "to-celery", "r1", "--json")
    everything = run(rebound, "pending", "to-celery", "--all")

    why = "Error: 'r1' is a retry, no Celery task: it cannot be moved\n"
    assert (moved.exit_code, moved.stdout, moved.stderr) == (4, "0 moved to Celery's list\n", why)
    assert (dry.exit_code, dry.stdout, dry.stderr) == (4, "0 would be moved to Celery's list\n", why)
    assert as_json.exit_code == 4
    found = json.loads(as_json.stdout)
    assert (found["matched"], found["missed"], found["refused"], found["kept"]) == (0, 0, {"r1": "retry"}, 1)
    assert (everything.exit_code, everything.stdout) == (0, "0 moved to Celery's list\n")
    assert "1 stay: they are retries or dead letters, or steps of jobs, and no Celery tasks" in everything.stderr
    assert rebound.pending.count() == 1


def test_the_step_of_a_job_is_not_moved_to_celerys_list_beside_a_task_of_the_app(rebound: Rebound) -> None:
    keep_dead(rebound, *hooks(1))
    step = step_id(rebound.jobs.start(source="redis", filter=Filter()))
    rebound.app.send_task("shop.charge", (1,), countdown=3_600, queue="rebound", task_id="mine")

    named = run(rebound, "pending", "to-celery", step)
    everything = run(rebound, "pending", "to-celery", "--all")

    assert (named.exit_code, named.stdout) == (4, "0 moved to Celery's list\n")
    assert named.stderr == f"Error: {step!r} is a step of a job, no task of the app: it cannot be moved\n"
    assert everything.stdout == "1 moved to Celery's list\n"
    assert "1 stay" in everything.stderr
    assert [view.id for view in rebound.pending.iterate()] == [step]


def test_the_arguments_of_tasks_are_listed_where_they_are_asked_for(rebound: Rebound) -> None:
    rebound.app.send_task("shop.charge", (42,), {"colour": "red"}, countdown=3_600, task_id="t1")
    rebound.app.send_task("shop.charge", ("x" * 100,), countdown=3_600, task_id="t2")
    listing = ("pending", "ls", "--queue", "celery")

    table = run(rebound, *listing, "--arguments", columns=80)
    narrow = run(rebound, *listing, "--arguments", columns=40)

    assert "42" not in run(rebound, *listing).stdout
    assert table.stdout.splitlines()[0].split() == ["DUE", "ATTEMPT", "ID", "TO", "ARGUMENTS"]
    for columns, done in ((80, table), (40, narrow)):
        assert all(len(line.rstrip()) <= columns for line in done.stdout.splitlines())
        assert "(42,) {'colour': 'red'}" in done.stdout
        assert done.stdout.count("x") == 100
