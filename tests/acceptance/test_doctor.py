"""`celery rebound doctor`: it reports every risk of a lost message, and nothing if there is none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import Process

Doctor = "Callable[..., tuple[int, list[dict[str, Any]]]]"


@pytest.fixture
def server(tmp_path: Any) -> Any:
    with RedisServer(aof_dir=tmp_path / "aof") as server:
        yield server


@pytest.fixture
def surroundings(server: RedisServer, kafka_brokers: str) -> dict[str, str]:
    return {"ORDERS_REDIS": server.url, "REBOUND_KAFKA_BROKERS": kafka_brokers}


@pytest.fixture
def examine(run_process: Callable[..., Process], surroundings: dict[str, str]) -> Doctor:
    """Run the doctor: its exit status and what it found that is not well."""

    def run(*options: str, **environment: str) -> tuple[int, list[dict[str, Any]]]:
        process = run_process(
            *("-m", "celery", "-A", "tests.acceptance.apps.orders", "rebound", "doctor", "--json", *options),
            env={**surroundings, **environment},
        )
        status = process.wait(60)
        (line,) = [line for line in process.output.splitlines() if line.startswith("[")]
        return status, [finding for finding in json.loads(line) if finding["level"] not in ("ok", "note")]

    return run


def test_all_is_well(examine: Doctor, run_process: Callable[..., Process], surroundings: dict[str, str], topic: str):
    worker = run_process(
        *("-m", "celery", "-A", "tests.acceptance.apps.orders", "worker", "-P", "threads", "-l", "INFO"),
        env=surroundings,
    )
    worker.wait_for_output(" ready.", timeout=60)

    status, findings = examine("--topic", topic)

    assert status == 0
    # Tansu does not say whether it creates topics; Apache Kafka does, and it does. Both have one broker only.
    assert [f for f in findings if "does not say" not in f["text"] and "only one copy" not in f["text"]] == []
    assert "maxmemory-policy" not in worker.output
    worker.stop()


def test_what_is_wrong_is_said_with_its_cure(
    examine: Doctor, run_process: Callable[..., Process], server: RedisServer, surroundings: dict[str, str]
):
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
    stranger = run_process(
        *("-m", "celery", "-b", server.url, "worker", "-Q", "rebound", "-P", "solo", "-l", "INFO", "-n", "stranger@x"),
        env=surroundings,
    )
    stranger.wait_for_output(" ready.", timeout=60)

    status, findings = examine("--topic", "no-such-topic", "--option", "session_timeout_ms=3000", REBOUND_LEASE="2")

    stranger.stop()
    texts = {(finding["level"], finding["subject"]): "" for finding in findings}
    for finding in findings:
        texts[finding["level"], finding["subject"]] += finding["text"] + "\n"
    assert status == 1
    assert "allkeys-lru" in texts["problem", "redis"]
    assert "set it to noeviction" in texts["problem", "redis"]
    assert "appendonly yes" in texts["warning", "redis"]
    assert "stranger@x consumes the queue rebound without knowing rebound.deliver" in texts["problem", "workers"]
    assert "without delayed delivery" in texts["problem", "workers"]
    assert "there is no topic no-such-topic" in texts["warning", "kafka"]
    assert "set it to 1000 or less" in texts["problem", "consumers"]
    assert "rebound_lease=2 s" in texts["warning", "task"]


def test_a_worker_warns_once_of_a_redis_that_may_throw_messages_away(
    run_process: Callable[..., Process], server: RedisServer, surroundings: dict[str, str]
):
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "volatile-ttl")
    worker = run_process(
        *("-m", "celery", "-A", "tests.acceptance.apps.orders", "worker", "-P", "solo", "-l", "INFO"),
        env=surroundings,
    )
    worker.wait_for_output("maxmemory-policy volatile-ttl", timeout=60)
    worker.stop()

    assert worker.output.count("maxmemory-policy") == 1


def test_servers_that_are_away_are_problems_within_seconds(examine: Doctor):
    status, findings = examine(
        ORDERS_REDIS="redis://127.0.0.1:1/0", REBOUND_KAFKA_BROKERS="127.0.0.1:1", REBOUND_LEASE="30"
    )

    assert status == 1
    assert {finding["subject"] for finding in findings} == {"redis", "workers", "kafka"}
    assert all("127.0.0.1:1" in finding["text"] for finding in findings if finding["subject"] != "workers")
