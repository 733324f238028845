"""The pure parts of the schedule: the stored form, the eta header, the keys, the scripts' own statements."""

from __future__ import annotations

import json
import re
import tracemalloc
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest
from kombu.exceptions import EncodeError

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
            "434d10c519f9057aa0e40d0c2c68286402194869c1c050d7c030041cfdc01480251d80d42325040d431d4da0"
            "086a8467e4179700057333f34029dd500fe8bf98522383c464a5589c710e321729d28b805cf2633d39350798"
            "4080910e3413183de0b8378cd55100862610c70200"
        ),
        TASK,
    ),
    "dated": (
        (
            "434d10c519f9057aa0e40d0c2c68286402194869c1c050d7c030041cfdc01480251d80d42325040d431d4da0"
            "086a8467e4179700057333f34029dd500fe8bf98522383c464501a0779ae5a291e9cf1e2e38161969258920a"
            "2a2f803ae2e3c131021606274daccea9c59970408e434a3945402ef9492739350798ca8029076826d0c9e004"
            "6418aba3008c12208e0500"
        ),
        DATED,
    ),
    "bare": (
        "ab56f200bb0f92204a80fe03fb3d13c800a700b02a1da50090a2a4fc94caf8d4bce4fc1460f8410dd0510a024a81022f1600",
        DECODED,
    ),
    "binary": (
        (
            "ab564a02fbd803ec4a48b22801fa121c02994006381d80d5ea2805801425e5a754c6a7e625e7a7004311e825"
            "9043cd4c40de09024a0383b181752a0300"
        ),
        {**BINARY, "properties": {"body_encoding": "base64"}},
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_stored_form_of_version_2_never_changes(name: str):
    text, message = GOLDEN[name]

    assert stored.decode(bytes.fromhex("02" + "0011223344556677" + text)) == message


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


def test_what_is_encoded_is_decoded_with_a_new_nonce_each_time():
    first, second = stored.encode(MESSAGE), stored.encode(MESSAGE)

    assert stored.decode(first) == stored.decode(second) == DECODED
    assert stored.nonce(first) != stored.nonce(second)


def test_body_that_is_no_text_stays_base64():
    decoded = stored.decode(stored.encode(BINARY))

    assert (decoded["body"], decoded["properties"]["body_encoding"]) == ("gAWVAA==", "base64")


def test_unknown_version_is_told_apart_from_damage():
    whole = stored.encode(MESSAGE)

    with pytest.raises(stored.UnknownVersionError):
        stored.decode(b"\x01" + whole[1:])
    for damaged in (b"", whole[:5], whole[:-1], whole[:-4]):
        with pytest.raises((ValueError, stored.UnknownVersionError)):
            stored.decode(damaged)
    with pytest.raises(ValueError):
        stored.decode(whole[:1] + whole[1:9] + b"\xff\xff\xff")


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
    size = len(stored._decompress(whole[9:]))

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


def test_only_tasks_are_parked():
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

    every = [keys.messages, keys.dead, keys.wake, *keys.all_waiting()]

    assert len(set(every)) == 5
    assert all(key.startswith("app:") and "{orders}" in key for key in every)
    assert "app:" + keys.wake_unprefixed == keys.wake


def test_each_script_declares_every_key_it_touches():
    """No script builds a key's name: on a clustered server that would fail."""
    for script in files("rebound_celery.schedule.store").joinpath("scripts").iterdir():
        source = script.read_text("utf-8")

        assert source.startswith("-- ")
        assert "-- KEYS[1]" in source
        assert "-- Returns" in source
        for key in re.findall(r"redis\.call\('[A-Z]+', ([^,)]+)", source):
            assert key.startswith("KEYS["), f"{script.name}: {key}"


@pytest.mark.parametrize("text", ["plain", 'quotes " and \\', "% %(id)s %%", "\0id", "Größe \U0001f600", "\ud800"])
def test_a_stencil_makes_what_encode_makes(text: str) -> None:
    sample = {**TASK, "headers": {**TASK["headers"], "per%cent": "50 %"}}
    message = {
        **sample,
        "body": f'["{text}"]',
        "headers": {**sample["headers"], "id": text, "eta": None, "retries": 7},
        "properties": {**sample["properties"], "correlation_id": text, "priority": 9},
    }
    stencil = stored.Template(sample, ("id", "eta", "retries"), ("correlation_id", "priority"))
    values = {"id": text, "eta": None, "retries": 7, "correlation_id": text, "priority": 9}

    made = stencil.encode({name: json.dumps(value) for name, value in values.items()}, message["body"])

    assert stored.decode(made) == stored.decode(stored.encode(message)) == message
    assert stored.nonce(made) != stored.nonce(stencil.encode(dict.fromkeys(values, "0"), ""))


def test_what_redis_could_not_hold_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_MAX_TEXT", 5000)

    with pytest.raises(EncodeError, match=r"a message of \d,\d+ bytes is too large for Redis, whose values have 5,000"):
        stored.encode({**TASK, "body": "x" * 5000})
