"""RetryRequest: the arguments of `schedule_retry` in one typed value, and the message that is made from it."""

from __future__ import annotations

import copy
import pickle
import traceback
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from kombu.utils import json as kombu_json

from rebound_celery import InvalidSettingError, Rebound, RetryPolicy, RetryRequest, Settings
from rebound_celery.message import PastAttempt
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.policy import Failure

NOW_MS = 1_700_000_000_000


def message_of(**arguments: Any) -> Any:
    message, _ = RetryRequest.from_mapping({"destination": "kafka://orders", **arguments}).to_message(
        Settings(), NOW_MS
    )
    return message


def test_a_request_is_a_value_that_does_not_change() -> None:
    request = RetryRequest(destination="kafka://orders", value=b"v")

    with pytest.raises(AttributeError):
        request.value = b"w"  # type: ignore[misc]
    assert request == copy.copy(request) == pickle.loads(pickle.dumps(request))


def test_a_failed_attempt_becomes_the_next_one_with_its_due_time_and_its_history() -> None:
    request = RetryRequest(destination="kafka://orders", attempt=2, base_delay=5, error=ValueError("bad"))

    message, due_ms = request.to_message(Settings(), NOW_MS)

    assert (message.attempt, message.reason, due_ms) == (3, None, NOW_MS + 10_000)
    assert message.failure == Failure("ValueError", "bad")
    (past,) = message.history
    assert past == PastAttempt(2, NOW_MS, "ValueError: bad", past.by)
    assert past.by.startswith("schedule_retry@")


def test_a_last_attempt_becomes_a_dead_letter_that_is_due_at_once() -> None:
    message, due_ms = RetryRequest(destination="kafka://orders", max_retries=0).to_message(Settings(), NOW_MS)

    assert (message.attempt, message.reason, due_ms) == (1, "retries-exhausted", NOW_MS)
    assert (message.failure, message.history[0].error) == (None, "")


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [
        ({}, RetryPolicy(7, 9)),
        ({"max_retries": 2}, RetryPolicy(2, 9)),
        ({"base_delay": 1.5}, RetryPolicy(7, 1.5)),
        ({"policy": RetryPolicy(1, 2)}, RetryPolicy(1, 2)),
    ],
)
def test_what_a_request_leaves_open_of_the_policy_the_settings_say(
    arguments: dict[str, Any], policy: RetryPolicy
) -> None:
    request = RetryRequest(destination="kafka://orders", **arguments)

    message, _ = request.to_message(Settings(max_retries=7, base_delay=9), NOW_MS)

    assert message.policy == policy


@pytest.mark.parametrize("other", [{"max_retries": 3}, {"base_delay": 5}])
def test_a_policy_and_its_parts_are_not_taken_together(other: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettingError, match="give it, or max_retries and base_delay, not both"):
        message_of(policy=RetryPolicy(), **other)


@pytest.mark.parametrize("policy", [3, "exponential", (3, 5)])
def test_what_is_no_policy_is_refused(policy: Any) -> None:
    with pytest.raises(InvalidSettingError, match=r"^policy=.*it is a RetryPolicy"):
        message_of(policy=policy)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_retires": 3}, "max_retires=3 cannot be used: there is no such argument; did you mean 'max_retries'?"),
        ({"header": {}}, "did you mean 'headers'?"),
        ({"messagedata": 1}, "did you mean 'message_data'?"),
        ({"destinaton": "kafka://x"}, "did you mean 'destination'?"),
        ({"xyzzy": 1}, "xyzzy=1 cannot be used: there is no such argument"),
        ({7: 1}, "7=1 cannot be used: there is no such argument"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_that_exists(arguments: Any, text: str) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        RetryRequest.from_mapping({"destination": "kafka://orders", **arguments})

    assert text in str(refused.value)
    assert ("did you mean" in str(refused.value)) == ("did you mean" in text)


def test_a_request_without_destination_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="destination"):
        RetryRequest.from_mapping({"value": 1})


@pytest.mark.parametrize("arguments", [None, 7, "kafka://orders", b"x", ["destination"], RetryRequest])
def test_what_is_no_mapping_is_refused(arguments: Any) -> None:
    with pytest.raises(InvalidSettingError, match="give a mapping or a RetryRequest"):
        RetryRequest.from_mapping(arguments)


def test_the_value_has_two_names_but_is_given_once() -> None:
    assert message_of(value=b"v").value == message_of(message_data=b"v").value == b"v"
    assert message_of(message_data=None).value is None
    with pytest.raises(InvalidSettingError, match="give it, or message_data, not both"):
        message_of(value=b"v", message_data=b"v")


@pytest.mark.parametrize(
    ("value", "stored", "content_type"),
    [
        (None, None, None),
        (b"", b"", None),
        (b"\x00\xff", b"\x00\xff", None),
        (bytearray(b"a"), b"a", None),
        (memoryview(b"a"), b"a", None),
        ("", b"", "text/plain; charset=utf-8"),
        ("é", "é".encode(), "text/plain; charset=utf-8"),
        ({"a": [1, None, "é"]}, '{"a":[1,null,"é"]}'.encode(), "application/json"),
        (0, b"0", "application/json"),
        (False, b"false", "application/json"),
        ([], b"[]", "application/json"),
    ],
)
def test_each_kind_of_value_becomes_bytes(value: Any, stored: bytes | None, content_type: str | None) -> None:
    message = message_of(value=value)

    assert (message.value, message.content_type) == (stored, content_type)
    assert type(message.value) in (bytes, type(None))


@pytest.mark.parametrize("error", [7, ["x"], b"bytes", ValueError])
def test_an_error_that_is_neither_exception_nor_text_is_refused(error: Any) -> None:
    with pytest.raises(InvalidSettingError, match=r"^error=.*give an exception, a text, or None"):
        message_of(error=error)


def test_dead_letters_go_to_the_topic_of_that_name_or_stay_in_redis() -> None:
    assert message_of(destination="kafka://k:9092/orders").dead_destination == KafkaAddress("orders-dlq", "k:9092")
    assert message_of(destination="http://receiver/").dead_destination == DEAD_SET
    assert message_of(dead_destination="http://receiver/").dead_destination == HttpAddress("http://receiver/")
    assert message_of(destination={"topic": "orders", "partition": 3}).destination == KafkaAddress("orders", None, 3)


def test_requests_without_id_have_ids_of_their_own() -> None:
    assert len({message_of().id for _ in range(1_000)}) == 1_000
    assert message_of(id="order-7").id == "order-7"


AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UID = UUID("8c5d9a0e-4f0f-4b8e-9a56-2f0f8f4f7a11")


def test_values_are_carried_as_celery_carries_them() -> None:
    value = {"ref": UID, "total": Decimal("9.90"), "at": AT, "day": AT.date(), "name": "Žofie"}

    message = message_of(value=value)

    assert kombu_json.loads(message.value) == value
    assert message.content_type == "application/json"


@pytest.mark.parametrize(
    ("key", "stored"),
    [(42, b"42"), (UID, str(UID).encode()), (Decimal("1.50"), b"1.50"), (1.5, b"1.5"), (bytearray(b"k"), b"k")],
)
def test_ids_of_all_kinds_become_keys(key: Any, stored: bytes) -> None:
    assert message_of(key=key).key == stored


def test_numbers_and_uuids_become_ids_and_headers() -> None:
    message = message_of(id=UID, client_id=7, headers={"order": 42, "ref": UID})

    assert (message.id, message.client_id) == (str(UID), "7")
    assert message.headers == (("order", b"42"), ("ref", str(UID).encode()))


class Unwilling:
    """An object that breaks whoever looks at it."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__

    def __json__(self) -> object:
        raise RuntimeError("no JSON")


@pytest.mark.parametrize("field", ["value", "key", "id", "headers", "source", "client_id", "error", "delay", "attempt"])
def test_what_cannot_be_encoded_is_refused_by_the_name_of_its_field(field: str) -> None:
    given = {"x": Unwilling()} if field == "headers" else Unwilling()
    with pytest.raises(InvalidSettingError) as refused:
        message_of(**{field: given})

    assert refused.value.field == field


@pytest.mark.parametrize("wrong", ["no", "false", 0, None])
def test_whether_it_has_priority_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(InvalidSettingError, match=r"^is_priority="):
        message_of(is_priority=wrong)


@pytest.mark.parametrize("wrong", [{"value": {1, 2}}, {"key": True}, {"max_retries": 1000}, {"policy": 3}])
def test_a_refusal_shows_the_error_that_the_caller_had(wrong: dict[str, Any]) -> None:
    app = Celery("keeps", broker="redis://127.0.0.1:1", set_as_current=False)
    rebound = Rebound(app)
    cause = OSError("the shop is away")

    with pytest.raises(InvalidSettingError) as refused:
        rebound.schedule_retry("kafka://orders", error=cause, **wrong)
    (also,) = rebound.schedule_retries([{"destination": "kafka://orders", "error": cause, **wrong}])

    for fault in (refused.value, also):
        assert isinstance(fault, Exception)
        assert "the shop is away" in "".join(traceback.format_exception(fault))


def test_a_delay_says_when_the_first_delivery_comes_and_that_it_is_attempt_1() -> None:
    for delay, due_ms in ((0, NOW_MS), (90, NOW_MS + 90_000), (0.25, NOW_MS + 250)):
        message, due = RetryRequest(destination="http://shop/hook", delay=delay).to_message(Settings(), NOW_MS)

        assert (message.attempt, message.history, message.first_failed_at, due) == (1, (), None, due_ms)


@pytest.mark.parametrize("failed", [{"error": "away"}, {"attempt": 1}])
def test_with_a_failed_attempt_the_delay_takes_the_place_of_the_policys(failed: dict[str, Any]) -> None:
    request = RetryRequest(destination="kafka://orders", delay=0, **failed)

    message, due_ms = request.to_message(Settings(), NOW_MS)

    assert (message.attempt, due_ms, len(message.history)) == (2, NOW_MS, 1)


def test_a_dead_letter_has_no_delay() -> None:
    request = RetryRequest(destination="kafka://orders", delay=60, attempt=4, max_retries=3)

    message, due_ms = request.to_message(Settings(), NOW_MS)

    assert (message.reason, due_ms) == ("retries-exhausted", NOW_MS)


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), True, "5", 366 * 86_400, 10**400])
def test_a_delay_is_seconds_from_0_to_a_year(delay: Any) -> None:
    with pytest.raises(InvalidSettingError, match=r"^delay=.*from 0 to"):
        message_of(delay=delay)


@pytest.mark.parametrize(
    "arguments",
    [
        {"id": "a\ud800b"},
        {"key": "a\ud800b"},
        {"client_id": "a\ud800b"},
        {"source": "a\ud800b"},
        {"unique_key": "a\ud800b"},
        {"value": "a\ud800b"},
        {"value": ["a\ud800b"]},
        {"headers": {"colour": "a\ud800b"}},
        {"headers": {"a\ud800b": "red"}},
    ],
)
def test_half_a_surrogate_pair_is_refused(arguments: dict[str, Any]) -> None:
    (field,) = arguments
    request = RetryRequest(destination="kafka://orders", **arguments)

    with pytest.raises(InvalidSettingError, match=rf"^{field}=.* UTF-8 has no '\\ud800'.*: correct the text$"):
        _ = request.to_message(Settings(), NOW_MS), request.unique_rule
