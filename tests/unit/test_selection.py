"""Filters and views: what fits, what is refused, and that JSON, queries and switches mean the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery.errors import InvalidSettingError
from rebound_celery.message import Message, Origin, PastAttempt
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.policy import Failure, RetryPolicy
from rebound_celery.selection import (
    FILTER_FIELDS,
    NO_FILTER,
    DeadLetterView,
    Filter,
    PendingView,
    duration_text,
    read_duration_s,
    read_time_ms,
)

NOW_MS = 1_900_000_000_000

WAITING = PendingView.of_message(
    Message(
        id="m1",
        value=b"secret",
        destination=KafkaAddress("orders"),
        attempt=2,
        policy=RetryPolicy(3, 5),
        key=b"customer-7",
        headers=(("tenant", b"acme"), ("empty", None), ("raw", b"\xff")),
        failure=Failure("myapp.errors.ShopTimeout", "no answer within 5 s"),
        history=(PastAttempt(1, NOW_MS - 60_000, "myapp.errors.ShopTimeout: no answer", "consumer shop@host"),),
        group="shop",
        origin=Origin("incoming", 3, 812, NOW_MS - 90_000),
        first_failed_at=NOW_MS - 60_000,
    ),
    id="m1:2",
    queue="rebound",
    kind="retry",
    due_ms=NOW_MS + 5_000,
    lane="kafka:orders",
    attempt=2,
    max_retries=3,
)
DEAD = DeadLetterView(
    id="m2:dead",
    message_id="m2",
    reason="retries-exhausted",
    died_ms=NOW_MS - 3_600_000,
    attempts=4,
    failure=Failure("ValueError", "Bad Price", "Traceback ..."),
    destination=HttpAddress("https://user:password@shop.example/orders?token=1"),
)
TASK = PendingView(id="t1", queue="celery", kind="task", due_ms=NOW_MS, task="shop.tasks.send_mail", attempt=1)


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({}, "waiting dead task"),
        ({"topic": "orders"}, "waiting"),
        ({"topic": "inc*"}, "waiting"),
        ({"topic": "Orders"}, ""),
        ({"key": "customer-7"}, "waiting"),
        ({"key": "customer-*"}, ""),
        ({"destination": "kafka://orders"}, "waiting"),
        ({"destination": "https://shop.example/*"}, "dead"),
        ({"destination": "https://shop.example"}, "dead"),
        ({"exception": "ShopTimeout"}, "waiting"),
        ({"exception": "myapp.errors.*"}, "waiting"),
        ({"exception": "*Error"}, "dead"),
        ({"exception": "Timeout"}, ""),
        ({"reason": "retries-*"}, "dead"),
        ({"attempt": 2}, "waiting"),
        ({"attempt": "4"}, "dead"),
        ({"attempt": 1}, "task"),
        ({"due_from": "now"}, "waiting task"),
        ({"due_from": "+5s", "due_to": "+10min"}, "waiting"),
        ({"due_to": NOW_MS}, "task"),
        ({"died_from": "-2h"}, "dead"),
        ({"died_to": "-2h"}, ""),
        ({"older_than": "1min"}, "waiting dead"),
        ({"younger_than": 60}, "waiting"),
        ({"older_than": "2min", "younger_than": "1h"}, "dead"),
        ({"header": "tenant"}, "waiting"),
        ({"header": ["tenant=ac*", "empty"]}, "waiting"),
        ({"header": ["tenant=ac*", "other"]}, ""),
        ({"header": "empty=*"}, ""),
        ({"header": "raw=*"}, "waiting"),
        ({"text": "NO ANSWER"}, "waiting"),
        ({"text": "bad price"}, "dead"),
        ({"text": "shoptimeout: no"}, "waiting"),
        ({"task": "shop.*"}, "task"),
        ({"topic": "orders", "attempt": 3}, ""),
    ],
)
def test_a_filter_means_what_fits_every_field(fields: dict[str, Any], fits: str) -> None:
    chosen = Filter.parse(fields, NOW_MS)

    views = {"waiting": WAITING, "dead": DEAD, "task": TASK}
    assert [name for name, view in views.items() if chosen.matches(view, NOW_MS)] == fits.split()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"topic": ""}, "topic='' cannot be used: it is a text"),
        ({"topic": "a b"}, "topic='a b' cannot be used: it fits no topic"),
        ({"destination": "orders"}, "destination='orders' cannot be used: it fits no destination"),
        ({"attempt": 0}, "attempt=0 cannot be used: it is a whole number from 1"),
        ({"attempt": "two"}, "attempt='two' cannot be used"),
        ({"attempt": True}, "attempt=True cannot be used"),
        ({"due_from": "tomorrow"}, "due_from='tomorrow' cannot be used: it is a date such as"),
        ({"due_from": "10min"}, "due_from='10min' cannot be used"),
        ({"due_from": 10**18}, "cannot be used: it is a date"),
        ({"due_from": "+1h", "due_to": "now"}, "due_to=1900000000000 cannot be used: it is before"),
        ({"older_than": "-2h"}, "older_than='-2h' cannot be used"),
        ({"older_than": "2h", "younger_than": "1h"}, "younger_than=3600.0 cannot be used"),
        ({"older_than": float("nan")}, "older_than=nan cannot be used"),
        ({"header": "=x"}, "header='=x' cannot be used"),
        ({"header": 5}, "header=5 cannot be used"),
        ({"header": [5]}, "cannot be used"),
        ({"key": 5}, "key=5 cannot be used"),
        ({"key": "base64:!"}, "what follows base64: is base64"),
        ({"topics": "orders"}, "topics='orders' cannot be used: the fields of a filter are topic, key"),
    ],
)
def test_a_wrong_field_is_refused_with_its_name_and_value(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        Filter.parse(fields, NOW_MS)

    assert text in str(caught.value)


def test_a_command_names_its_own_switch_in_an_error() -> None:
    with pytest.raises(InvalidSettingError, match="--due-to="):
        Filter.parse({"due_from": 5, "due_to": 4}, NOW_MS, shown=lambda name: f"--{name.replace('_', '-')}")


_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="="), min_size=1, max_size=20)
_TEXTS = st.text(min_size=1, max_size=20)
_TIMES = st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)).map(sorted)
_AGES = st.tuples(st.floats(0, 10**6), st.floats(0, 10**6)).map(sorted)


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    due, died, age = draw(_TIMES), draw(_TIMES), draw(_AGES)
    fields: dict[str, Any] = {
        "topic": draw(st.sampled_from(["orders", "or*", "*", "o?ders"])),
        "key": draw(st.binary() | _TEXTS.map(lambda text: text.encode("utf-8", "replace"))),
        "destination": draw(st.sampled_from(["kafka://orders", "https://*", "*shop*", "dead-set"])),
        "exception": draw(_TEXTS),
        "reason": draw(_TEXTS),
        "attempt": draw(st.integers(1, 101)),
        "due_from_ms": due[0],
        "due_to_ms": due[1],
        "died_from_ms": died[0],
        "died_to_ms": died[1],
        "older_than_s": age[0],
        "younger_than_s": age[1],
        "header": tuple(draw(st.lists(st.tuples(_NAMES, st.none() | st.text(max_size=20)), max_size=3))),
        "text": draw(_TEXTS),
        "task": draw(_TEXTS),
    }
    return Filter(**{name: value for name, value in fields.items() if draw(st.booleans())})


@given(filters())
def test_a_filter_comes_back_from_json_as_it_was(chosen: Filter) -> None:
    written = json.loads(json.dumps(chosen.to_dict()))

    assert set(written) <= set(FILTER_FIELDS)
    assert Filter.parse(written, NOW_MS) == chosen
    assert (written == {}) == chosen.is_empty


@given(filters(), filters(), st.sampled_from([WAITING, DEAD, TASK]))
def test_more_fields_never_mean_more_messages(one: Filter, other: Filter, view: PendingView | DeadLetterView) -> None:
    both = {**one.to_dict(), **other.to_dict()}
    try:
        narrower = Filter.parse(both, NOW_MS)
    except InvalidSettingError:
        return  # the fields of the one contradict those of the other

    if narrower.matches(view, NOW_MS):
        assert other.matches(view, NOW_MS)
    assert NO_FILTER.matches(view, NOW_MS)


@given(st.dictionaries(st.sampled_from(FILTER_FIELDS), st.none() | st.booleans() | st.integers() | st.text()))
def test_whatever_is_asked_for_is_a_filter_or_a_plain_error(values: dict[str, Any]) -> None:
    try:
        chosen = Filter.parse(values, NOW_MS)
    except InvalidSettingError:
        return

    for view in (WAITING, DEAD, TASK):
        assert isinstance(chosen.matches(view, NOW_MS), bool)
    assert str(chosen)


def test_the_view_of_a_waiting_message_is_json_with_stable_keys() -> None:
    written = json.loads(json.dumps(WAITING.to_dict()))

    assert "secret" not in str(written)
    assert written == {
        "disabled_since_ms": None,
        "disabled_reason": None,
        "id": "m1:2",
        "message_id": "m1",
        "queue": "rebound",
        "kind": "retry",
        "due_ms": NOW_MS + 5_000,
        "leased": False,
        "lease_end_ms": None,
        "lane": "kafka:orders",
        "priority": 0,
        "losses": 0,
        "attempt": 2,
        "max_retries": 3,
        "tries": 0,
        "dead_destination": None,
        "args": None,
        "kwargs": None,
        "destination": "kafka://orders",
        "origin": {"topic": "incoming", "partition": 3, "offset": 812, "timestamp_ms": NOW_MS - 90_000},
        "group": "shop",
        "key": "customer-7",
        "key_base64": "Y3VzdG9tZXItNw==",
        "headers": [
            {"name": "tenant", "value": "acme", "value_base64": "YWNtZQ=="},
            {"name": "empty", "value": None, "value_base64": None},
            {"name": "raw", "value": None, "value_base64": "/w=="},
        ],
        "reason": None,
        "exception": "myapp.errors.ShopTimeout",
        "error": "no answer within 5 s",
        "first_failed_at_ms": NOW_MS - 60_000,
        "history": [
            {
                "attempt": 1,
                "failed_at_ms": NOW_MS - 60_000,
                "error": "myapp.errors.ShopTimeout: no answer",
                "by": "consumer shop@host",
            }
        ],
        "source": None,
        "client_id": None,
        "size_bytes": 6,
        "task": None,
        "problem": None,
    }


def test_the_view_of_a_dead_letter_shows_no_secret_of_its_url() -> None:
    written = DEAD.to_dict()

    assert written["destination"] == "https://shop.example/orders"
    assert written["kept_in"] == "redis"
    assert written["stacktrace"] == "Traceback ..."
    assert "stacktrace" not in DEAD.to_dict(stack=False)
    assert {"password", "token"}.isdisjoint(str(written).replace("/", " ").split())
    assert DeadLetterView(id="x", destination=DEAD_SET).to_dict()["destination"] == "dead-set"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), (1.5, 1.5), ("10min", 600), ("10m", 600), ("2h", 7200), ("1d 2h", 93_600), ("1h30min", 5400)],
)
def test_durations_are_read(text: object, seconds: float) -> None:
    assert read_duration_s("age", text) == seconds


@pytest.mark.parametrize("value", ["", "h", "1y", "-1", "1e3", "٣s", "1" * 60, None, True, [], "200000000h"])
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(InvalidSettingError, match=r"^age="):
        read_duration_s("age", value)


@pytest.mark.parametrize(
    ("value", "time_ms"),
    [
        ("now", NOW_MS),
        ("+10min", NOW_MS + 600_000),
        ("-2h", NOW_MS - 7_200_000),
        (str(NOW_MS), NOW_MS),
        ("2030-03-17T17:46:40Z", NOW_MS),
        ("2030-03-17 17:46:40", NOW_MS),
        ("2030-03-17T19:46:40+02:00", NOW_MS),
    ],
)
def test_times_are_read(value: object, time_ms: int) -> None:
    assert read_time_ms("due", value, NOW_MS) == time_ms


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.4, "0s"), (59, "59s"), (60, "1min"), (7505, "2h 5min"), (90_000, "1d 1h")]
)
def test_durations_are_written_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
