"""A disabled HTTP endpoint in the commands: each says so and how it is enabled, and `endpoints` enables it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from celery import Celery

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.message.address import DEAD_SET, HttpAddress, endpoint_lane
from rebound_celery.operate.doctor import examine
from rebound_celery.schedule.port import HealthReport, open_schedule
from tests.acceptance.apps.worker import close_redis_connections
from tests.integration.test_pending_commands import run
from tests.scheduling import now_ms

URL = "https://shop.example/hook"
LANE = endpoint_lane(f"{URL}")


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    """A shop with one message for an endpoint that has answered 410. A worker has put it into the endpoint's lane."""
    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False))
    address = HttpAddress(f"{URL}?token=hunter2")
    message = Message("gone-1", b"{}", address, 1, RetryPolicy(3, 5), dead_destination=DEAD_SET)
    rebound.store([(message, SYSTEM_CLOCK.now_ms() + 3_600_000)])
    with open_schedule(rebound.app, "rebound") as schedule:
        schedule.report_health([HealthReport(URL, failures=1, gone="it answered 410 Gone")])
        schedule.pause(LANE, now_ms() + 300_000)
    yield rebound
    rebound.close()
    close_redis_connections()


def test_every_command_says_that_the_endpoint_is_disabled_and_how_it_is_enabled(rebound: Rebound) -> None:
    how = f"celery rebound endpoints enable {URL}\n"

    lanes = run(rebound, "lanes", "ls", columns=160)
    listed = run(rebound, "pending", "ls", columns=160)
    narrow = run(rebound, "pending", "ls", columns=60)
    shown = run(rebound, "pending", "show", "gone-1", columns=200)
    due = run(rebound, "pending", "run-now", "gone-1")
    everything = run(rebound, "pending", "run-now", "--all", "--dry-run")
    stats = run(rebound, "stats")

    assert "disabled since " in lanes.stdout
    assert "it answered 410 Gone" in lanes.stdout
    assert "pause ends" not in lanes.stdout
    assert "it answered 410 Gone" in listed.stdout
    assert f"disabled: {URL}" in narrow.stdout
    assert "it answered 410 Gone. To enable it: " + how in shown.stdout
    assert due.stdout == "1 due now\n"
    for told in (lanes, due, everything):
        assert told.stderr.startswith(f"{URL} is disabled since ")
        assert told.stderr.endswith(how)
    assert "endpoints disabled:  1 (celery rebound endpoints ls)" in stats.stdout
    assert not any("hunter2" in each.output for each in (lanes, listed, narrow, shown, due, stats))


def test_json_has_it_under_stable_keys(rebound: Rebound) -> None:
    (endpoint,) = rebound.endpoints
    assert endpoint.disabled_at is not None
    since_ms = round(endpoint.disabled_at.timestamp() * 1000)

    rows = [json.loads(line) for line in run(rebound, "lanes", "ls", "--json").stdout.splitlines()]
    shown = json.loads(run(rebound, "pending", "show", "gone-1", "--json").stdout)
    due = json.loads(run(rebound, "pending", "run-now", "gone-1", "--json").stdout)
    stats = json.loads(run(rebound, "stats", "--json").stdout)
    (listed,) = [json.loads(line) for line in run(rebound, "endpoints", "ls", "--json").stdout.splitlines()]

    found = {row["lane"]: (row["disabled_since_ms"], row["disabled_reason"]) for row in rows}
    assert found == {LANE: (since_ms, "it answered 410 Gone"), "http:shop.example:443": (None, None)}
    assert (shown["disabled_since_ms"], shown["disabled_reason"]) == (since_ms, "it answered 410 Gone")
    assert due["disabled"] == [URL]
    assert stats["disabled_endpoints"] == 1
    assert listed == {
        "url": URL,
        "waiting": 0,
        "failures": 1,
        "failing_since_ms": listed["failing_since_ms"],
        "slow_until_ms": None,
        "disabled_since_ms": since_ms,
        "disabled_reason": "it answered 410 Gone",
    }


def test_the_lane_of_a_disabled_endpoint_is_not_resumed(rebound: Rebound) -> None:
    resumed = run(rebound, "lanes", "resume", LANE)
    host = run(rebound, "lanes", "resume", URL)

    assert (resumed.exit_code, resumed.stdout) == (4, "")
    assert resumed.stderr.startswith(f"Error: {URL} is disabled since ")
    assert "it answered 410 Gone, and workers pause its lane again. To enable it: celery rebound" in resumed.stderr
    assert rebound.lanes.get(LANE) is not None
    assert host.exit_code == 0
    assert f"{URL} is disabled since " in host.stderr


def test_an_endpoint_is_disabled_listed_and_enabled(rebound: Rebound) -> None:
    table = run(rebound, "endpoints", "ls", columns=160)
    enabled = run(rebound, "endpoints", "enable", f"{URL}?token=hunter2")
    again = run(rebound, "endpoints", "enable", f"{URL}s")
    none = run(rebound, "endpoints", "ls")
    disabled = run(rebound, "endpoints", "disable", URL, "--reason", "they are moving")
    near = run(rebound, "endpoints", "enable", f"{URL}s")
    wrong = run(rebound, "endpoints", "enable", "kafka://orders")
    as_json = run(rebound, "endpoints", "enable", URL, "--json")

    assert "it answered 410 Gone" in table.stdout
    assert table.stderr.endswith(f"celery rebound endpoints enable {URL}\n")
    assert enabled.stdout == f"{URL} is enabled; 0 that waited for it are delivered when they are due\n"
    assert (again.exit_code, again.stdout) == (4, "")
    assert f"Error: {URL}s was neither disabled nor failing" in again.stderr
    assert (none.exit_code, none.stdout, none.stderr) == (0, "", "No endpoint fails or is disabled.\n")
    assert f"{URL} is disabled since " in disabled.stdout
    assert "they are moving; what comes for it waits" in disabled.stdout
    assert f"did you mean {URL}?" in near.stderr
    assert wrong.exit_code == 2
    assert json.loads(as_json.stdout)["disabled_since_ms"] is None
    assert rebound.lanes.get(LANE) is None


def test_a_list_of_endpoints_fits_a_narrow_terminal(rebound: Rebound) -> None:
    narrow = run(rebound, "endpoints", "ls", columns=40)

    assert all(len(line) <= 40 for line in narrow.stdout.splitlines())
    assert URL in narrow.stdout


def test_the_doctor_counts_them(rebound: Rebound) -> None:
    (finding,) = [each for each in examine(rebound.app, patience_s=0.1, kafka=False) if each.subject == "endpoints"]

    assert finding.text.startswith(f"1 HTTP endpoints are disabled, and what comes for them waits: {URL}")
