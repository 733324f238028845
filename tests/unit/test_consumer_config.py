"""A consumer's configuration: the values that it accepts and refuses, and the settings that follow from them."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest

from rebound_celery.config import Settings
from rebound_celery.consumer import ConsumerConfig
from rebound_celery.consumer.connection import kafka_options
from rebound_celery.errors import InvalidSettingError
from rebound_celery.policy import RetryPolicy


def handle(record: object) -> None: ...


def handle_in_pieces(record: object) -> Any:
    yield


async def handle_async_in_pieces(record: object) -> Any:
    yield


def handle_nothing() -> None: ...


def handle_two(key: object, value: object) -> None: ...


def config(**fields: Any) -> ConsumerConfig:
    return ConsumerConfig(**{"group": "g", "topics": "orders", "handler": handle, **fields})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("group", ""),
        ("group", None),
        ("topics", ""),
        ("topics", []),
        ("topics", "a b"),
        ("topics", 3),
        ("topics", b"orders"),
        ("topics", re.compile(rb"orders")),
        ("handler", None),
        ("handler", "module:function"),
        ("handler", handle_in_pieces),
        ("handler", handle_async_in_pieces),
        ("handler", handle_nothing),
        ("handler", handle_two),
        ("handler", functools.partial(handle, None)),
        ("brokers", ""),
        ("brokers", "host:port"),
        ("max_retries", 101),
        ("max_retries", -1),
        ("max_retries", True),
        ("base_delay", 0),
        ("base_delay", 3601),
        ("base_delay", float("nan")),
        ("policy", 3),
        ("dead_letter_topic", "a/b"),
        ("retry_topic", "."),
        ("on_unreadable", "ignore"),
        ("on_unreadable", None),
        ("ordering", "partition"),
        ("ordering", True),
        ("after_dead_letter", "stop"),
        ("after_dead_letter", "hold"),
        ("dead_letter_topic", "orders"),
        ("concurrency", 0),
        ("concurrency", 1.5),
        ("concurrency", True),
        ("max_in_flight", 0),
        ("commit_interval", 0),
        ("commit_interval", float("inf")),
        ("stop_timeout", -1),
        ("stop_timeout", "5"),
        ("stats_interval", -0.1),
        ("kafka_options", ["acks"]),
    ],
)
def test_a_wrong_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        config(**{field: value})
    assert caught.value.field == field
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        "group_id",
        "bootstrap_servers",
        "enable_auto_commit",
        "auto_commit_interval_ms",
        "key_deserializer",
        "value_deserializer",
        "consumer_timeout_ms",
        "default_offset_commit_callback",
        "kafka_client",
        "no_such_option",
    ],
)
def test_an_option_that_breaks_the_promise_or_does_not_exist_is_refused(option: str) -> None:
    with pytest.raises(InvalidSettingError, match=option):
        config(kafka_options={option: "x"})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("session_timeout_ms", "abc"),
        ("session_timeout_ms", -5),
        ("max_poll_records", True),
        ("fetch_max_wait_ms", None),
        ("check_crcs", "yes"),
        ("auto_offset_reset", "latst"),
        ("isolation_level", "committed"),
        ("security_protocol", "tls"),
        ("api_version", "x"),
    ],
)
def test_a_value_that_kafka_python_fails_with_or_takes_for_another_is_refused(option: str, value: object) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        config(kafka_options={option: value})
    assert option in caught.value.field
    assert repr(value) in str(caught.value)


def test_a_misspelt_security_protocol_of_the_app_is_refused_and_does_not_mean_plaintext() -> None:
    settings = Settings(kafka_options={"security_protocol": "tls"})
    with pytest.raises(InvalidSettingError, match=r"rebound_kafka_options.*security_protocol.*'SASL_SSL'"):
        kafka_options(config(), settings)


def test_the_policy_is_given_once() -> None:
    with pytest.raises(InvalidSettingError, match="not both"):
        config(policy=RetryPolicy(), max_retries=0)
    with pytest.raises(InvalidSettingError, match="not both"):
        config(policy=RetryPolicy(), base_delay=1)


def test_what_is_not_given_comes_from_the_app_and_zero_is_given() -> None:
    settings = Settings(max_retries=7, base_delay=9.0, kafka_brokers=("k:1",))
    assert config().policy_for(settings) == RetryPolicy(7, 9.0)
    assert config(max_retries=0).policy_for(settings) == RetryPolicy(0, 9.0)
    assert config(policy=RetryPolicy(1, 1)).policy_for(settings) == RetryPolicy(1, 1)
    assert config().brokers_for(settings) == ("k:1",)
    assert config(brokers="a,b:2").brokers_for(settings) == ("a:9092", "b:2")


def test_limits_are_allowed() -> None:
    config(stop_timeout=0, stats_interval=0, concurrency=1, max_in_flight=1, max_retries=100, base_delay=3600)
    config(handler=functools.partial(handle))
    config(handler=lambda record, *more, log=None: None)
    config(handler=print)
    config(handler=[].append)


def test_topics_are_names_without_repetition_and_the_retry_topic_is_read_too() -> None:
    assert config(topics=["a", "b", "a"]).topic_names() == ("a", "b")
    assert config(topics="a", retry_topic="r").topic_names() == ("a", "r")
    assert config(topics=["a", "r"], retry_topic="r").topic_names() == ("a", "r")
    assert config().topic_pattern("-dlq") is None


@pytest.mark.parametrize(
    ("pattern", "fields", "read", "not_read"),
    [
        (re.compile("orders.*"), {}, ["orders", "orders-eu"], ["orders-dlq", "orders-eu-dlq", "my-orders"]),
        (re.compile("a|b"), {}, ["a", "b"], ["a-dlq", "b-dlq", "ab", "b2"]),
        (re.compile(".*"), {"dead_letter_topic": "grave"}, ["a", "graves", "a-dlq.x"], ["grave", "a-dlq"]),
        (re.compile("a.*"), {"retry_topic": "later"}, ["a1", "later"], ["later2", "a-dlq", "later-dlq"]),
        (re.compile("ORDERS", re.IGNORECASE), {}, ["orders", "Orders"], ["orders-dlq"]),
        (re.compile("(?i)orders"), {}, ["ORDERS"], ["orders-dlq"]),
        (re.compile("orders  # all of them", re.VERBOSE), {}, ["orders"], ["orders-dlq"]),
    ],
)
def test_a_pattern_reads_whole_names_and_no_dead_letters(
    pattern: re.Pattern[str], fields: dict[str, str], read: list[str], not_read: list[str]
) -> None:
    text = config(topics=pattern, **fields).topic_pattern("-dlq")
    assert text is not None
    # kafka-python uses re.match.
    assert [name for name in read + not_read if re.match(text, name)] == read
