"""docker-compose.yml, as far as it can be tried without Docker: its commands and health checks run as processes."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from rebound_celery.config import PREFIX, Settings
from rebound_celery.embedded import free_port
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import Process

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["worker", "consumer", "flower"]

#: A Celery command takes its app from the folder that the image has it in.
WORKDIR = str(ROOT / "examples")


def as_python(words: list[str], changes: dict[str, str]) -> list[str]:
    """A command of the file as arguments of this Python, with some of its words replaced."""
    words = [changes.get(word, word) for word in words]
    if words[0] == "celery":
        return ["-m", "celery", "--workdir", WORKDIR, *words[1:]]
    assert words[0] == "python"
    return [f"{WORKDIR}/{word}" if word.endswith(".py") else word for word in words[1:]]


def test_every_part_is_there_and_says_whether_it_is_well() -> None:
    """Kafka, Redis, worker, consumer and Flower, each with a health check."""
    assert sorted(SERVICES) == sorted(["kafka", "redis", *OURS])
    assert [name for name, service in SERVICES.items() if "test" not in service.get("healthcheck", {})] == []


def test_parts_wait_until_what_they_need_is_well() -> None:
    """Worker, consumer and Flower start when the health checks of Kafka and Redis succeed."""
    healthy = {"condition": "service_healthy"}

    assert [SERVICES[name]["depends_on"] for name in OURS] == [{"kafka": healthy, "redis": healthy}] * 3


def test_each_store_keeps_its_data_in_a_volume_of_its_own() -> None:
    """What Kafka and Redis write lies in named volumes, and they do write it there."""
    kafka, redis = SERVICES["kafka"], SERVICES["redis"]

    assert sorted(COMPOSE["volumes"]) == ["kafka-data", "redis-data"]
    assert kafka["volumes"] == [f"kafka-data:{kafka['environment']['KAFKA_LOG_DIRS']}"]
    assert redis["volumes"] == ["redis-data:/data"]
    assert " ".join(redis["command"]).startswith("redis-server --appendonly yes")


def test_kafka_is_found_where_the_parts_look_for_it() -> None:
    """The advertised listeners are the address in the parts' environment, and the published port."""
    advertised = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")

    assert f"INTERNAL://{SERVICES['worker']['environment']['REBOUND_KAFKA_BROKERS']}" in advertised
    assert "EXTERNAL://localhost:9092" in advertised
    assert SERVICES["kafka"]["ports"] == ["127.0.0.1:9092:9092"]


@pytest.mark.parametrize("name", OURS)
def test_environment_names_settings_that_exist(name: str) -> None:
    """A misspelt REBOUND_ variable would be read by nobody; these also have values that can be used."""
    environment = SERVICES[name]["environment"]
    ours = {variable: value for variable, value in environment.items() if variable.startswith("REBOUND_")}
    known = {(PREFIX + setting.name).upper() for setting in fields(Settings)}

    settings = Settings.read({}, ours)

    assert set(ours) <= known
    assert settings.kafka_brokers == ("kafka:19092",)
    assert environment["CELERY_BROKER_URL"] == "redis://redis:6379/0"


def test_image_is_built_from_files_that_exist() -> None:
    """The Dockerfile is where the file says, and so is all that it copies."""
    build = SERVICES["worker"]["build"]
    dockerfile = ROOT / build["context"] / build["dockerfile"]
    copied = [line.split()[1:-1] for line in dockerfile.read_text().splitlines() if line.startswith("COPY")]

    assert copied
    assert [path for paths in copied for path in paths if not (ROOT / path).exists()] == []


def test_commands_and_health_checks_work(
    kafka_brokers: str,
    redis_url: str,
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
    read_topic: Callable[..., list[Any]],
    run_process: Callable[..., Process],
) -> None:
    """Started as the file says, all become healthy; an order is handled, and one that fails becomes a dead letter."""
    topic, port = make_topic(), str(free_port())
    make_topic(1, f"{topic}-dlq")
    changes = {
        "orders": topic,
        "shop": f"shop-{topic}",
        "worker@worker": f"worker@{topic}",
        "--port=5555": f"--port={port}",
    }
    environment = {
        **SERVICES["worker"]["environment"],
        "CELERY_BROKER_URL": redis_url,
        "REBOUND_KAFKA_BROKERS": kafka_brokers,
        "REBOUND_BASE_DELAY": "1",
    }
    # The embedded broker lets a member in after half of its session time-out.
    quick = ["--option", "session_timeout_ms=6000", "--option", "heartbeat_interval_ms=2000"]

    parts = {}
    for name in OURS:
        command = as_python(SERVICES[name]["command"], changes) + (quick if name == "consumer" else [])
        parts[name] = run_process(*command, env=environment)

    def is_healthy(name: str) -> bool:
        assert parts[name].is_running, parts[name].tail()
        kind, *words = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD"
        check = [word.replace("localhost:5555", f"localhost:{port}") for word in as_python(words, changes)]
        probe = run_process(*check, env=environment)
        wait_until(lambda: not probe.is_running, timeout=30, message=f"the health check of {name} ends")
        return probe.returncode == 0

    # The embedded broker cannot describe a group, as the consumer's check asks; Apache Kafka can.
    checked = OURS if "REBOUND_TEST_KAFKA" in os.environ else ["worker", "flower"]
    for name in checked:
        wait_until(lambda name=name: is_healthy(name), timeout=60, message=lambda name=name: parts[name].tail())
    produce(topic, [(b"1", b"an order", []), (b"2", b"please fail", [])])
    dead = read_topic(f"{topic}-dlq", 1, timeout=30)

    assert [letter.value for letter in dead] == [b"please fail"]
    assert dict(dead[0].headers)["rebound-attempt"] == b"3"
    assert parts["consumer"].output.count(": an order") == 1
    assert parts["consumer"].output.count(": please fail") == 3
