"""`celery rebound policy show` and `policy test`: timetables and outcomes, and what they refuse."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery import RetryPolicy, Settings
from rebound_celery.operate.cli.commands import rebound
from rebound_celery.operate.cli.policy import duration
from rebound_celery.policy.timetable import timetable
from tests.unit.test_policy_options import policies

NOW_MS = 1_700_000_000_000

POLICIES = {
    "topics": {"orders*": {"kind": "linear", "max_retries": 2, "base_delay": 90}},
    "destinations": {"https://api.example.com/*": {"delays": [1, 7200], "first_delay": 3}},
    "default": {
        "jitter": "equal",
        "rules": [
            {"error": "LookupError", "then": "dead-letter", "dead_letter_topic": "broken"},
            {"error": "TimeoutError", "delay": 2},
            {"error": "ArithmeticError", "then": "drop"},
        ],
    },
}
APP = SimpleNamespace(
    main="fake",
    rebound=SimpleNamespace(settings=Settings.read({"rebound_policies": POLICIES, "rebound_base_delay": 4}, {})),
)


def run(*arguments: str, app: Any = APP) -> Result:
    return CliRunner().invoke(rebound, ["policy", *arguments], obj=SimpleNamespace(app=app))


def table_of(*arguments: str) -> list[list[str]]:
    result = run("show", *arguments)
    assert result.exit_code == 0, result.output
    return [[line[:12].strip(), line[12:36].strip(), line[36:56].strip()] for line in result.stdout.splitlines()]


def test_show_prints_the_timetable_of_the_policy_that_fits() -> None:
    head, columns, *rows = table_of("--topic", "orders-eu")

    assert "".join(head).startswith('topics."orders*"')
    assert columns == ["attempt", "delay", "since the first"]
    assert rows[:4] == [
        ["1", "0 s", "0 s"],
        ["2", "45 s to 1 min 30 s", "1 min 30 s"],
        ["3", "1 min 30 s to 3 min", "4 min 30 s"],
        ["dead letter", "retries-exhausted", "4 min 30 s"],
    ]
    assert ["".join(row).split(":")[0] for row in rows[4:]] == ["rule 1", "rule 2", "rule 3"]


def test_show_knows_destinations_and_the_first_delay() -> None:
    _, _, *rows = table_of("--destination", "https://user:secret@api.example.com/v1?token=x")

    assert [row[1] for row in rows[:3]] == ["3 s", "0.5 s to 1 s", "1 h to 2 h"]
    assert rows[2][2] == "2 h 1 s"


def test_show_prints_json_too() -> None:
    told = json.loads(run("show", "--json").stdout)

    assert told["entry"] == "default"
    assert RetryPolicy.from_wire(told["policy"]) == APP.rebound.settings.policies.default
    assert [row["longest_s"] for row in told["timetable"]] == [0, 4, 8, 16, 0]
    assert told["timetable"][-1]["reason"] == "retries-exhausted"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["OSError"], "default, attempt 1: attempt 2 follows in 4 s; no rule is for it"),
        (["OSError", "--attempt", "4"], "it becomes a dead letter: retries-exhausted; no rule is for it"),
        (["KeyError"], "it becomes a dead letter in broken: rule; rule 1 is for it: LookupError: dead-letter"),
        (
            ["TimeoutError", "--attempt", "3"],
            "attempt 3: attempt 4 follows in 2 s; rule 2 is for it: TimeoutError: retry",
        ),
        (["ZeroDivisionError"], "it is dropped, without a dead letter; rule 3 is for it: ArithmeticError: drop"),
        (["OSError", "--cause", "ValueError", "--cause", "json.JSONDecodeError"], "attempt 2 follows in 4 s; no rule"),
        (["OSError", "--cause", "ValueError", "--cause", "KeyError"], "it becomes a dead letter in broken: rule"),
        (["UnicodeDecodeError", "--topic", "orders"], 'topics."orders*", attempt 1: attempt 2 follows in 1 min 30 s'),
    ],
)
def test_test_says_what_an_exception_would_get(arguments: list[str], text: str) -> None:
    result = run("test", *arguments)

    assert result.exit_code == 0, result.output
    assert text in result.stdout


def test_test_knows_the_age_of_a_message_and_prints_json(tmp_path: Path) -> None:
    file = tmp_path / "policies.toml"
    file.write_text("default.budget = 60")

    fresh, old = (
        json.loads(run("test", "OSError", "--file", str(file), "--age", age, "--json").stdout) for age in ("56", "56.1")
    )

    assert fresh == {"entry": "default", "rule": None, "then": "retry", "delay_s": 4.0, "attempt": 2}
    assert old == {
        "entry": "default",
        "rule": None,
        "then": "dead-letter",
        "reason": "budget-exhausted",
        "dead_letter_topic": None,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "--file", "no-such-file.toml"], "--file='no-such-file.toml' cannot be used: the file cannot be read"),
        (["show", "--destination", "ftp://x"], "--destination='ftp://x' cannot be used"),
        (["test", "json.NoSuchError"], "EXCEPTION='json.NoSuchError' cannot be used: it cannot be imported"),
        (["test", "OSError", "--cause", "7"], "--cause='7' cannot be used"),
        (["test", "rebound_celery.RetryAfter"], "EXCEPTION='rebound_celery.RetryAfter' cannot be used: what follows"),
        (["test", "OSError", "--cause", "rebound_celery.Drop"], "--cause='rebound_celery.Drop' cannot be used"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], said: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_topic_and_destination_are_not_taken_together() -> None:
    result = run("show", "--topic", "a", "--destination", "kafka://a")

    assert (result.exit_code, "give --topic or --destination, not both" in result.stderr) == (2, True)


def test_an_app_without_rebound_says_so_unless_a_file_is_given(tmp_path: Path) -> None:
    file = tmp_path / "policies.toml"
    file.write_text("[default]\nmax_retries = -1\n")
    app = SimpleNamespace(main="plain")

    assert "'plain' has no Rebound" in run("show", app=app).stderr
    assert f"{file}, line 2: default.max_retries=-1 cannot be used" in run("show", "--file", str(file), app=app).stderr


@given(policies())
def test_a_timetable_has_every_attempt_and_never_goes_back(policy: RetryPolicy) -> None:
    *rows, end = timetable(policy, NOW_MS)

    assert [row.attempt for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) <= policy.attempts
    assert end.reason == ("retries-exhausted" if len(rows) == policy.attempts else "budget-exhausted")
    for row, later in pairwise(rows):
        assert later.at_ms >= row.at_ms
        assert 0 <= later.least_s <= later.longest_s <= policy.longest_delay_s
        assert policy.budget is None or later.after_s <= policy.budget


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.25, "0.25 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3661, "1 h 1 min"),
        (90_061, "1 d 1 h"),
        (86_400, "1 d"),
    ],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_every_duration_has_a_text() -> None:
    @given(st.floats(0, 1e9))
    def check(seconds: float) -> None:
        assert duration(seconds)

    check()
