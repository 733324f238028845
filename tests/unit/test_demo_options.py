from __future__ import annotations

import pytest
from click.testing import CliRunner

from rebound_celery.demo import options, run
from rebound_celery.demo.command import demo
from rebound_celery.demo.options import DemoOptions, parse_duration
from rebound_celery.errors import InvalidSettingError
from rebound_celery.policy import RetryPolicy

DEFAULTS = {
    "duration": "30",
    "failure_rate": "0.3",
    "always_fail_rate": "0.05",
    "rate": "50",
    "max_retries": "3",
    "base_delay": "1",
    "worker_pool": "threads",
    "drain": True,
    "flower": True,
    "exits": None,
    "json": False,
    "kafka": None,
    "redis": None,
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60", 60), ("60s", 60), ("2m", 120), ("1m30s", 90), ("1h", 3600), ("1h1m1s", 3661), ("0.5", 0.5), (" 5 ", 5)],
)
def test_a_duration_is_seconds_or_a_form_with_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "x", "1x", "30s1m", "1.2.3", "nan", "inf", "m", "9" * 400])
def test_any_other_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettingError, match="duration"):
        parse_duration(text)


def test_the_defaults_of_the_command_line_are_those_of_the_options() -> None:
    assert DemoOptions.read(**DEFAULTS) == DemoOptions()  # type: ignore[arg-type]


def test_what_is_given_is_read() -> None:
    given = {"max_retries": "0", "base_delay": "2.5", "kafka": "a:1, b", "redis": "cache:6380"}

    options = DemoOptions.read(**{**DEFAULTS, **given})  # type: ignore[arg-type]

    assert options.policy == RetryPolicy(0, 2.5)
    assert options.kafka == "a:1,b:9092"
    assert options.redis == "redis://cache:6380/0"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--duration", "soon"],
        ["--failure-rate", "1.5"],
        ["--worker-pool", "processes"],
        ["--failure-rate", "some"],
        ["--always-fail-rate", "-0.1"],
        ["--always-fail-rate", "nan"],
        ["--rate", "0"],
        ["--rate", "10001"],
        ["--max-retries", "101"],
        ["--max-retries", "-1"],
        ["--max-retries", "2.5"],
        ["--max-retries", "\u0663"],
        ["--base-delay", "0"],
        ["--base-delay", "3601"],
        ["--kafka", "kafka://x"],
        ["--redis", "http://x"],
    ],
    ids=" ".join,
)
def test_a_bad_value_is_one_line_that_names_the_option_and_exit_status_2(arguments: list[str]) -> None:
    answer = CliRunner().invoke(demo, arguments)

    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1
    assert answer.stderr.startswith(f"Error: {arguments[0]} ")


def test_a_pool_that_is_not_installed_is_one_line_that_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: None)

    answer = CliRunner().invoke(demo, ["--worker-pool", "gevent"])

    assert answer.exit_code == 2
    assert answer.stderr == (
        "Error: --worker-pool 'gevent' cannot be used: it is not installed; run: pip install gevent\n"
    )


@pytest.mark.parametrize(
    ("arguments", "worker_pool", "drain"),
    [
        ([], "threads", True),
        (["--drain"], "threads", True),
        (["--no-drain", "--pool", "solo"], "solo", False),
        (["--worker-pool", "prefork"], "prefork", True),
    ],
)
def test_the_demo_drains_unless_told_otherwise_and_knows_the_earlier_name_of_the_pool(
    arguments: list[str], worker_pool: str, drain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[DemoOptions] = []
    monkeypatch.setattr(run, "run", lambda options: ran.append(options) or 0)

    assert CliRunner().invoke(demo, arguments).exit_code == 0
    assert [(one.worker_pool, one.drain) for one in ran] == [(worker_pool, drain)]


@pytest.mark.parametrize(
    ("chosen", "on_terminal", "stays"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"json": True}, True, False),
        ({"flower": False}, True, False),
        ({"exits": True}, True, False),
        ({"exits": False}, False, True),
        ({"exits": False, "json": True}, True, True),
        ({"exits": False, "flower": False}, True, False),
    ],
)
def test_flower_stays_where_somebody_looks_at_it_or_where_that_is_asked_for(
    chosen: dict[str, bool], on_terminal: bool, stays: bool
) -> None:
    assert DemoOptions(**chosen).stays(on_terminal=on_terminal) is stays  # type: ignore[arg-type]
