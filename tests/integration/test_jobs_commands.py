"""`celery rebound jobs` and `dlq replay --job`: tables and JSON, exit statuses, narrow terminals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from rebound_celery import Rebound
from rebound_celery.embedded import free_port
from rebound_celery.operate.cli.commands import rebound as command
from rebound_celery.selection import Filter
from tests.acceptance.apps.worker import close_redis_connections
from tests.integration.test_dead_letters import alone, keep_dead
from tests.integration.test_jobs import hooks, make_steps

__all__ = ["alone"]


@pytest.fixture(autouse=True)
def _apps_leave_no_connection() -> Iterator[None]:
    yield
    close_redis_connections()


def run(rebound: Rebound, *arguments: str, columns: int = 120) -> Result:
    runner = CliRunner(env={"COLUMNS": str(columns)})
    return runner.invoke(command, list(arguments), obj=SimpleNamespace(app=rebound.app))


def test_a_replay_by_the_workers_is_started_shown_and_steered(alone: Rebound) -> None:
    keep_dead(alone, *hooks(3))

    begun = run(alone, "dlq", "replay", "--source", "redis", "--reason", "rejected", "--job", "--json")

    assert begun.exit_code == 0, begun.output
    job = json.loads(begun.stdout)
    assert (job["state"], job["filter"], job["total"]) == ("running", {"reason": "rejected"}, 3)
    shown = run(alone, "jobs", "show", job["id"])
    assert "reason=rejected" in shown.stdout
    assert "read:" in shown.stdout
    for action, state in (("pause", "paused"), ("resume", "running"), ("abort", "aborted")):
        done = run(alone, "jobs", action, job["id"])
        assert (done.exit_code, done.stdout) == (0, f"Job {job['id']} is {state}. Stored so far: 0\n")
    assert alone.dead_letters.count() == 3


def test_jobs_are_listed_in_pages_and_on_40_columns(alone: Rebound) -> None:
    assert run(alone, "jobs", "ls").stderr == "There are no jobs.\n"
    keep_dead(alone, *hooks(3))
    started = [alone.jobs.start(source="redis", filter=Filter(text="\x1b[31m" + "x" * 200)) for _ in range(3)]

    lines = run(alone, "jobs", "ls", "--json", "--limit", "2")
    names = [json.loads(line)["id"] for line in lines.stdout.splitlines()]
    assert lines.stderr.startswith(f"More follow: --after {names[-1]}")
    rest = run(alone, "jobs", "ls", "--json", "--after", names[-1])
    assert {*names, json.loads(rest.stdout)["id"]} == set(started)
    for arguments in (("jobs", "ls"), ("jobs", "show", started[0])):
        narrow = run(alone, *arguments, columns=40)
        assert narrow.exit_code == 0
        assert max(map(len, narrow.stdout.splitlines())) <= 40
        assert "\x1b" not in narrow.stdout


def test_what_is_unknown_or_over_is_one_line(alone: Rebound, redis_url: str) -> None:
    job = alone.jobs.start(source="redis", filter=Filter())
    make_steps(alone, job)

    for arguments, status, text in (
        (("jobs", "show", "nothing"), 4, "there is no job with this id"),
        (("jobs", "pause", "nothing"), 4, "there is no job with this id"),
        (("jobs", "abort", job), 4, "it is done, and cannot be aborted"),
        (("dlq", "replay", "order-7", "--job"), 2, "--job needs switches or --all"),
        (("dlq", "replay", "--all", "--job"), 2, "--source"),
        (("dlq", "replay", "--all", "--source", "orders-dlq", "--job"), 1, "cannot reach Kafka"),
    ):
        done = run(alone, *arguments)
        assert (done.exit_code, text in done.stderr, done.stdout) == (status, True, ""), (arguments, done.stderr)
        assert len(done.stderr.splitlines()) == 1 or status == 2
    away = Rebound(Celery("shop", broker=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False))
    gone = run(away, "jobs", "ls")
    assert (gone.exit_code, gone.stderr.startswith("Error: cannot reach Redis")) == (1, True)
