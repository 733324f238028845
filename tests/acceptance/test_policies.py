"""Policies from a TOML file, in processes: a consumer, a plain worker, and the commands that explain them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Process

APP = ("-m", "celery", "-A", "tests.acceptance.apps.orders")

POLICIES = """
[default]
kind = "constant"
base_delay = 1
max_retries = 1

[[default.rules]]
error = "tests.acceptance.apps.policies.OutOfStockError"
then = "dead-letter"
dead_letter_topic = "{topic}-stock"

[[default.rules]]
error = "LookupError"
then = "drop"
"""


@pytest.fixture
def environment(redis_url: str, kafka_brokers: str, topic: str, tmp_path: Path) -> dict[str, str]:
    """The environment of all processes: the servers, and the file with the policies."""
    file = tmp_path / "policies.toml"
    file.write_text(POLICIES.format(topic=topic))
    return {"ORDERS_REDIS": redis_url, "REBOUND_KAFKA_BROKERS": kafka_brokers, "REBOUND_POLICIES": str(file)}


def consume(topic: str, handler: str, *options: str) -> tuple[str, ...]:
    return (
        *(*APP, "rebound", "consume", "--topic", topic, "--group", f"{topic}-group"),
        *("--handler", f"tests.acceptance.apps.policies:{handler}", "--option", "session_timeout_ms=6000", *options),
    )


def headers(record: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}


def test_each_error_gets_what_the_file_says(
    run_process: Callable[..., Process],
    environment: dict[str, str],
    topic: str,
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
    read_topic: Callable[..., Any],
) -> None:
    make_topic(name=f"{topic}-dlq")
    make_topic(name=f"{topic}-stock")
    run_process(*APP, "worker", "-P", "threads", "-c", "2", "-l", "INFO", env=environment)
    consumer = run_process(*consume(topic, "ship", "--deserializer", "json"), env=environment)
    produce(topic, [(b"k", value, []) for value in (b'"stock"', b'"lookup"', b'"other"', b"\xff", b'"fine"')])

    letters = {letter.value: headers(letter) for letter in read_topic(f"{topic}-dlq", 2, timeout=60)}
    (stock,) = read_topic(f"{topic}-stock", 1, timeout=30)
    consumer.wait_for_output("shipped fine", timeout=30)
    consumer.signal(signal.SIGTERM)

    assert consumer.wait(40) == 0
    assert letters[b'"other"']["rebound-reason"] == "retries-exhausted"
    assert letters[b'"other"']["rebound-attempt"] == "2"
    assert letters[b"\xff"]["rebound-reason"] == "undecodable"
    assert (stock.value, headers(stock)["rebound-reason"]) == (b'"stock"', "rule")
    for line in ('"DeadMessages": 3', '"DroppedMessages": 1', '"RetriedMessages": 1', '"SuccessfulMessages": 1'):
        assert line in consumer.output


def test_a_consumer_at_its_limit_ends_with_status_3_and_leaves_the_rest_of_the_topic(
    run_process: Callable[..., Process],
    environment: dict[str, str],
    topic: str,
    produce: Callable[..., Any],
) -> None:
    produce(topic, [(b"k", b"\xff", [])] * 30, 0)
    options = ("--deserializer", "json", "--dead-letter-limit", "5", "--concurrency", "1")

    for start in (0, 5):
        consumer = run_process(*consume(topic, "ship", *options), env=environment)

        assert consumer.wait(60) == 3
        assert (
            f"dead_letter_limit=5 is exceeded: 5 in a row are dead letters, and {topic}[0]@{start + 5}"
            in consumer.output
        )
        assert '"DeadMessages": 5' in consumer.output


def test_the_commands_explain_the_file_and_name_the_line_of_a_mistake(
    run_process: Callable[..., Process], environment: dict[str, str], topic: str
) -> None:
    policy = (*APP, "rebound", "policy")
    shown = run_process(*policy, "show", "--json", env=environment)
    error = "tests.acceptance.apps.policies.OutOfStockError"
    tested = run_process(*policy, "test", error, env=environment)

    assert (shown.wait(60), tested.wait(60)) == (0, 0)
    told = json.loads(shown.output.strip().splitlines()[-1])
    assert [row["longest_s"] for row in told["timetable"]] == [0, 1, 0]
    assert f"it becomes a dead letter in {topic}-stock: rule; rule 1 is for it: {error}" in tested.output

    file = Path(environment["REBOUND_POLICIES"])
    file.write_text(file.read_text().replace("max_retries = 1", "max_retires = 1"))
    for command in (consume(topic, "ship"), (*policy, "show"), (*APP, "worker", "-P", "solo")):
        refused = run_process(*command, env=environment)
        assert refused.wait(60) != 0
        assert f"{file}, line 5: default.max_retires=1 cannot be used" in refused.output
        assert "did you mean 'max_retries'?" in refused.output
