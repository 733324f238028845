"""The pure parts of the schedule: the stored form, the eta header, the keys, the scripts' own statements."""

from __future__ import annotations

import re
import tracemalloc
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest
from kombu.exceptions import EncodeError

from rebound_celery.errors import UnknownVersionError
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.transport import celery_form as stored
from rebound_celery.schedule.transport import eta

#: As kombu hands it over, and as it comes out again: text in place of base64, and no delivery tag.
MESSAGE: dict[str, Any] = {
    "body": "W10=",
    "headers": {"task": "t", "id": "i", "eta": None},
    "properties": {"body_encoding": "base64", "delivery_tag": "d"},
}
DECODED = {**MESSAGE, "body": "[]", "properties": {"body_encoding": None}}


#: A task's message as Celery makes it, and as it comes out again.
TASK: dict[str, Any] = {
    "body": "[[1], {}, {}]",
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {
        "lang": "py",
        "task": "shop.charge",
        "id": "i",
        "shadow": None,
        "eta": "2026-01-01T00:00:00+00:00",
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": "i",
        "parent_id": None,
        "argsrepr": "(1,)",
        "kwargsrepr": "{}",
        "origin": "gen1@host",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        "mine": [1.5, "\u20ac"],
    },
    "properties": {
        "correlation_id": "i",
        "reply_to": "r",
        "delivery_mode": 2,
        "priority": 3,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "body_encoding": None,
    },
}
BINARY = {**MESSAGE, "body": "gAWVAA=="}
DATED = {**TASK, "headers": {**TASK["headers"], "at": datetime(2026, 1, 1, tzinfo=UTC)}}

#: Written by this version; a change of what is usual, of the dictionary or of the compression would make it unreadable.
GOLDEN = {
    "task": (
        (
            "430dc0e28cfc023da0e222a0ddd050cc04329002d1c050d7c030041c6ec0a0c3128020f54841050c4150f0a1"
            "0654467e7109503037330fe8c568433d531da598522383c464a5589c41083217290c8b805c2a0422d04c6080"
            "83c3d230564701189a401c0b00"
        ),
        TASK,
    ),
    "dated": (
        (
            "430dc0e28cfc023da0e222a0ddd050cc04329002d1c050d7c030041c6ec0a0c3128020f54841050c4150f0a1"
            "0654467e7109503037330fe8c568433d531da598522383c46425605427968082201e9c56e2e3813e4e492c49"
            "05e54ea08ef8f8b2c49cd254b030384eb13aa716673c801c87141145402e1562026826d0c9e008318cd55100"
            "460910c70200"
        ),
        DATED,
    ),
    "bare": (
        ("ab56f2400e40a0756007670219e0a003abd2510a0029424b4550a920a014c831b100"),
        DECODED,
    ),
    "binary": (
        ("ab564a02a7100fe460045a0a76762690010e40b05a1da50090221c6909e8f720a034d0590dac531900"),
        {**BINARY, "properties": {"body_encoding": "base64"}},
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_stored_form_of_version_1_never_changes(name: str):
    text, message = GOLDEN[name]

    assert stored.decode(bytes.fromhex("01" + text)) == message


@pytest.mark.parametrize("message", [TASK, DATED], ids=["task", "dated"])
def test_message_of_celerys_form_comes_out_as_it_was(message: dict[str, Any]):
    assert stored.decode(stored.encode(message)) == message


@pytest.mark.parametrize("missing", ["headers", "properties", "content-type"])
def test_message_of_another_form_comes_out_as_it_was(missing: str):
    """What the stored form leaves out of a task's message is not added to one that never had it."""
    message = {**TASK, missing: {"strange": 1}} if missing in ("headers", "properties") else dict(TASK)
    if missing == "content-type":
        del message["content-type"]

    assert stored.decode(stored.encode(message)) == message


@pytest.mark.parametrize("body", ["", "\n", "a\nb", "\ud800", "\u20ac" * 5000, None, {"a": [1]}])
def test_any_body_comes_out_as_it_was(body: Any):
    assert stored.decode(stored.encode({**TASK, "body": body}))["body"] == body


def test_headers_that_a_task_changes_are_its_own():
    first = stored.decode(stored.encode(TASK))
    first["headers"]["stamps"]["mine"] = 1
    first["headers"]["timelimit"][0] = 5

    assert stored.decode(stored.encode(TASK)) == TASK


def test_what_is_encoded_is_decoded():
    assert stored.decode(stored.encode(MESSAGE)) == DECODED


def test_body_that_is_no_text_stays_base64():
    decoded = stored.decode(stored.encode(BINARY))

    assert (decoded["body"], decoded["properties"]["body_encoding"]) == ("gAWVAA==", "base64")


def test_unknown_version_is_told_apart_from_damage():
    whole = stored.encode(MESSAGE)

    with pytest.raises(UnknownVersionError):
        stored.decode(b"\x02" + whole[1:])
    for damaged in (b"", whole[:5], whole[:-1], whole[:-4]):
        with pytest.raises((ValueError, UnknownVersionError)):
            stored.decode(damaged)
    with pytest.raises(ValueError):
        stored.decode(whole[:1] + b"\xff\xff\xff")


def test_form_that_expands_without_bound_is_damaged_and_takes_no_memory(monkeypatch: pytest.MonkeyPatch):
    """A few kilobytes in Redis can be as many megabytes."""
    bomb = stored.encode({**TASK, "body": "0" * 10_000_000})
    monkeypatch.setattr(stored, "_MAX_TEXT", 100_000)

    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="expands to more than 100000 bytes"):
            stored.decode(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(bomb) < 50_000
    assert peak < 500_000


def test_form_that_is_as_large_as_may_be_is_read(monkeypatch: pytest.MonkeyPatch):
    whole = stored.encode({**TASK, "body": "0" * 10_000})
    size = len(stored._decompress(whole[1:]))

    monkeypatch.setattr(stored, "_MAX_TEXT", size)
    assert stored.decode(whole)["body"] == "0" * 10_000
    monkeypatch.setattr(stored, "_MAX_TEXT", size - 1)
    with pytest.raises(ValueError, match="expands"):
        stored.decode(whole)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-01T00:00:00+00:00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T02:00:00+02:00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T00:00:00", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_eta_is_read_in_any_zone_and_as_utc_without_one(text: str, moment: datetime):
    message = {"headers": {"task": "t", "id": "i", "eta": text}}

    assert eta.due_ms_of(message) == moment.timestamp() * 1000


def test_due_time_is_rounded_up_never_down():
    message = {"headers": {"task": "t", "id": "i", "eta": "2026-01-01T00:00:00.000001+00:00"}}

    assert eta.due_ms_of(message) == datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000 + 1


@pytest.mark.parametrize("value", [None, 5, "soon", "99999-01-01T00:00:00", "", [], "2026-13-01"])
def test_eta_that_cannot_be_read_is_none(value: Any):
    assert eta.due_ms_of({"headers": {"task": "t", "id": "i", "eta": value}}) is None


def test_only_tasks_wait():
    assert eta.due_ms_of({"headers": {"eta": "2999-01-01T00:00:00"}}) is None
    assert eta.due_ms_of({"headers": None}) is None
    assert eta.due_ms_of({}) is None


def test_hidden_eta_is_given_back_to_the_request():
    headers: dict[str, Any] = {"eta": "2026-01-01T00:00:00"}
    request = type("Request", (), {"_request_dict": headers})()

    eta.hide(headers)
    assert headers["eta"] is None

    eta.give_back(request=request)
    assert headers == {"eta": "2026-01-01T00:00:00"}


def test_all_keys_of_a_queue_share_one_hash_tag_and_the_prefix():
    keys = QueueKeys("app:", "orders", (0, 3))

    every = [keys.messages, keys.leased, keys.leases, keys.claims, keys.unconfirmed, keys.limits, keys.next, keys.wake]
    every += [keys.stats, keys.dead, keys.dead_times, keys.waiting("0"), keys.waiting("3a"), keys.lanes(0)]
    every += [keys.claimed, keys.answer("q"), keys.breakers, keys.outcomes("a"), keys.configured]
    every += [keys.unique, keys.unique_times]

    assert len(set(every)) == 21
    assert all(key.startswith("app:") and "{orders}" in key for key in every)
    assert "app:" + keys.wake_unprefixed == keys.wake


def test_each_script_says_what_it_touches_and_makes_no_key():
    """On a clustered server a key that is not in KEYS could be elsewhere."""
    for script in files("rebound_celery.schedule.store").joinpath("scripts").iterdir():
        source = script.read_text("utf-8")

        assert source.startswith("-- ")
        if script.name not in {"common.lua", "chained.lua", "counted.lua"}:  # they are put before others
            assert "-- KEYS[1]" in source
            assert "-- Returns" in source
        made = re.findall(r"redis\.call\('[A-Z]+', ([^,)]+)", source)
        assert made
        assert not [key for key in made if "'" in key or ".." in key], script.name


def test_what_redis_could_not_hold_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_MAX_TEXT", 5000)

    with pytest.raises(EncodeError, match=r"a message of \d,\d+ bytes is too large for Redis, whose values have 5,000"):
        stored.encode({**TASK, "body": "x" * 5000})
