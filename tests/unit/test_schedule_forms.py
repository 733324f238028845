"""The pure parts of the schedule: the stored form, the eta header, the keys, the scripts' own statements."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest

from rebound_celery.schedule import eta, stored
from rebound_celery.schedule.keys import QueueKeys

#: As kombu hands it over, and as it comes out again: text in place of base64, and no delivery tag.
MESSAGE: dict[str, Any] = {
    "body": "W10=",
    "headers": {"task": "t", "id": "i", "eta": None},
    "properties": {"body_encoding": "base64", "delivery_tag": "d"},
}
DECODED = {**MESSAGE, "body": "[]", "properties": {"body_encoding": None}}


#: Written by the first version; a change of the dictionary or the compression's form would make it unreadable.
GOLDEN = "ab4694a5e0a48bf073353cad95800312ecf04c1013929cc0fa813c34cf62b70600"


def test_stored_form_of_version_1_never_changes():
    assert stored.decode(bytes.fromhex("01" + "0011223344556677" + GOLDEN)) == DECODED


def test_what_is_encoded_is_decoded_with_a_new_nonce_each_time():
    first, second = stored.encode(MESSAGE), stored.encode(MESSAGE)

    assert stored.decode(first) == stored.decode(second) == DECODED
    assert stored.nonce(first) != stored.nonce(second)


def test_body_that_is_no_text_stays_base64():
    binary = {**MESSAGE, "body": "gAWVAA=="}

    assert stored.decode(stored.encode(binary))["body"] == "gAWVAA=="
    assert stored.decode(stored.encode(binary))["properties"]["body_encoding"] == "base64"


def test_unknown_version_is_told_apart_from_damage():
    whole = stored.encode(MESSAGE)

    with pytest.raises(stored.UnknownVersionError):
        stored.decode(b"\x02" + whole[1:])
    for damaged in (b"", whole[:5]):
        with pytest.raises((ValueError, stored.UnknownVersionError)):
            stored.decode(damaged)
    with pytest.raises(ValueError):
        stored.decode(whole[:1] + whole[1:9] + b"\xff\xff\xff")


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
    for script in files("rebound_celery.schedule").joinpath("scripts").iterdir():
        source = script.read_text("utf-8")

        assert source.startswith("-- ")
        assert "-- KEYS[1]" in source
        assert "-- Returns" in source
        for key in re.findall(r"redis\.call\('[A-Z]+', ([^,)]+)", source):
            assert key.startswith("KEYS["), f"{script.name}: {key}"
