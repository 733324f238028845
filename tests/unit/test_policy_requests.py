"""The policy of a message that `schedule_retry` gets: the app's by destination, its own, and what rules do with it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery import Celery

from rebound_celery import (
    DeadLetter,
    Drop,
    ErrorRule,
    InvalidSettingError,
    Rebound,
    RetryAfter,
    RetryPolicy,
    RetryRequest,
    Settings,
)
from rebound_celery.message import Message
from rebound_celery.message.address import KafkaAddress

NOW_MS = 1_700_000_000_000

SETTINGS = Settings.read(
    {
        "rebound_policies": {
            "default": {"max_retries": 9, "base_delay": 4},
            "topics": {"orders*": {"kind": "linear"}, "listed": {"delays": [1, 2]}},
            "destinations": {
                "kafka://orders-eu": {"kind": "constant"},
                "https://api.example.com/*": {"max_retries": 1, "first_delay": 60},
            },
        }
    },
    {},
)


def made(destination: Any = "kafka://orders", settings: Settings = SETTINGS, **arguments: Any) -> tuple[Message, Any]:
    request = RetryRequest(destination=destination, **arguments)
    message, due_ms = request.to_message(settings, NOW_MS, draw=lambda: 0.25)
    return message, None if due_ms is None else due_ms - NOW_MS


@pytest.mark.parametrize(
    ("destination", "policy"),
    [
        ("kafka://orders", RetryPolicy(9, 4, "linear")),
        ("kafka://k1:9092/orders-us", RetryPolicy(9, 4, "linear")),
        ("kafka://orders-eu", RetryPolicy(9, 4, "constant")),
        ({"topic": "orders-eu", "partition": 3}, RetryPolicy(9, 4, "constant")),
        ("kafka://refunds", RetryPolicy(9, 4)),
        ("https://api.example.com/v1?a=b", RetryPolicy(1, 4, first_delay=60)),
        ("https://user:pass@api.example.com", RetryPolicy(1, 4, first_delay=60)),
        ("http://api.example.com/v1", RetryPolicy(9, 4)),
    ],
)
def test_a_message_has_the_policy_of_its_destination(destination: Any, policy: RetryPolicy) -> None:
    assert made(destination)[0].policy == policy


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [
        ({"max_retries": 2}, RetryPolicy(2, 4, "linear")),
        ({"base_delay": 1.5}, RetryPolicy(9, 1.5, "linear")),
        ({"policy": RetryPolicy(1, 2)}, RetryPolicy(1, 2)),
        ({"policy": {"jitter": "full"}}, RetryPolicy(9, 4, jitter="full")),
        ({"policy": {"delays": [7]}}, RetryPolicy(delays=[7])),
    ],
)
def test_what_a_message_says_itself_goes_before_the_policies_of_the_app(
    arguments: dict[str, Any], policy: RetryPolicy
) -> None:
    assert made(**arguments)[0].policy == policy


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"policy": {"max_retires": 3}},
            "policy['max_retires']=3 cannot be used: there is no such option",
        ),
        ({"policy": {"delays": [-1]}}, "policy['delays']=-1 cannot be used"),
        ({"policy": {"budget": 3}}, "policy['budget']=3 cannot be used: it is shorter than the delay before the first"),
        ({"policy": {}, "max_retries": 3}, "give it, or max_retries and base_delay, not both"),
        ({"policy": RetryPolicy(rules=[ErrorRule("a.b.NoError")])}, "rules[0].error='a.b.NoError' cannot be used"),
        ({"max_retries": True}, "max_retries=True cannot be used"),
        ({"base_delay": True}, "base_delay=True cannot be used"),
        ({"max_retries": 9.0}, "max_retries=9.0 cannot be used"),
        (
            {"destination": "kafka://listed", "base_delay": 5},
            "base_delay=5 cannot be used: the policy is a list of delays",
        ),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused_before_anything_is_stored(
    arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        made(**arguments)

    assert text in str(refused.value)


def test_the_policy_may_delay_the_first_delivery() -> None:
    hook = "https://api.example.com/v1"
    message, delay_ms = made(hook)

    assert (message.attempt, message.first_failed_at, message.history, delay_ms) == (1, None, (), 60_000)
    assert made(hook, delay=5)[1] == 5_000
    assert made(hook, error="no")[1] == 4_000, "then something has failed already"
    assert made(hook, attempt=1)[0].attempt == 2


@pytest.mark.parametrize(
    ("error", "delay_ms", "reason", "target"),
    [
        (KeyError("k"), 0, "rule", "broken"),
        (TimeoutError(), 2_000, None, "orders"),
        (RetryAfter(7), 7_000, None, "orders"),
        (DeadLetter("no", topic="parked"), 0, "no", "parked"),
        (DeadLetter("no"), 0, "no", "orders-dlq"),
        (OSError(), 4_000, None, "orders"),
        ("a text", 4_000, None, "orders"),
    ],
)
def test_rules_and_instructions_decide_about_the_error(
    error: Any, delay_ms: int, reason: str | None, target: str
) -> None:
    rules = [ErrorRule(KeyError, "dead-letter", dead_letter_topic="broken"), ErrorRule(TimeoutError, delay=2)]

    message, due_ms = made(policy=RetryPolicy(3, 4, rules=rules), error=error)

    assert (due_ms, message.reason, message.target) == (delay_ms, reason, KafkaAddress(target))
    assert message.failure is not None
    if reason is not None:
        assert type(error).__name__ in message.failure.stacktrace


def test_jitter_holds_for_the_first_retry_too() -> None:
    assert made(policy=RetryPolicy(3, 4, jitter="full"), error="no")[1] == 1_000


def test_what_is_dropped_is_not_stored(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    app = Celery("shop", broker="redis://127.0.0.1:1", set_as_current=False)
    rebound = Rebound(app)
    stored: list[Any] = []
    monkeypatch.setattr(rebound._publisher, "publish_messages", stored.extend)
    caplog.set_level(logging.WARNING, "rebound_celery")

    result = rebound.schedule_retry("kafka://orders", b"v", id="a", error=Drop("cancelled"))
    outcomes = rebound.schedule_retries(
        [
            {"destination": "kafka://orders", "id": "b", "error": "no"},
            {"destination": "kafka://orders", "id": "c", "error": Drop("cancelled")},
            {"destination": "nowhere"},
            {"destination": "kafka://orders", "id": "d", "error": "no"},
        ]
    )

    assert result.id == "a:1"
    assert [getattr(outcome, "id", None) for outcome in outcomes] == ["b:2", "c:1", None, "d:2"]
    assert [message.id for message, _, _ in stored] == ["b", "d"]
    dropped = [line.getMessage() for line in caplog.records if line.name == "rebound_celery.message.first_failure"]
    assert (
        dropped
        == ["a message for kafka:orders is dropped (cancelled): rebound_celery.policy.instructions.Drop: cancelled"] * 2
    )


def test_an_error_of_redis_is_given_to_the_stored_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rebound = Rebound(Celery("shop", broker="redis://127.0.0.1:1", set_as_current=False))

    def fail(messages: Any) -> None:
        raise InvalidSettingError("x", len(messages), "nothing")

    monkeypatch.setattr(rebound._publisher, "publish_messages", fail)

    outcomes = rebound.schedule_retries(
        [{"destination": "kafka://o", "id": "c", "error": Drop()}, {"destination": "kafka://o", "id": "d"}]
    )

    assert [type(outcome).__name__ for outcome in outcomes] == ["AsyncResult", "InvalidSettingError"]
