"""What the doctor says of consumers' options, and of what a Kafka broker tells of itself."""

from __future__ import annotations

from typing import Any

import pytest
from kafka import codec

from rebound_celery.config import Settings
from rebound_celery.operate.doctor_kafka import check_codecs, check_kafka, check_options
from rebound_celery.operate.finding import NOTE, PROBLEM, WARNING

DAY_MS = 24 * 3_600_000


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 2_000},
        {"group_instance_id": "a", "max_poll_interval_ms": 900_000},
    ],
)
def test_nothing_is_said_of_good_options(options: dict[str, Any]) -> None:
    assert list(check_options(options)) == []


@pytest.mark.parametrize(
    ("options", "level", "said"),
    [
        ({"session_timeout_ms": 3_000}, PROBLEM, "heartbeat_interval_ms=3000 is not below session_timeout_ms=3000"),
        ({"session_timeout_ms": 6_000}, WARNING, "set it to 2000 or less"),
        ({"max_poll_interval_ms": 30_000}, PROBLEM, "is below session_timeout_ms=45000"),
        (
            {"max_poll_interval_ms": 10_000, "session_timeout_ms": 10_000},
            WARNING,
            "max_poll_interval_ms=10000: a rebalance",
        ),
        ({"request_timeout_ms": 400}, PROBLEM, "must lie between fetch_max_wait_ms=500"),
        ({"auto_offset_reset": "latest"}, WARNING, "leave it at earliest"),
        ({"session_timeout_ms": "long"}, PROBLEM, "no number of milliseconds"),
        ({"session_timeout_ms": True}, PROBLEM, "no number of milliseconds"),
        ({"session_timeout": 5}, PROBLEM, "no option 'session_timeout'"),
    ],
)
def test_each_bad_option_is_said_with_its_cure(options: dict[str, Any], level: str, said: str) -> None:
    (finding,) = check_options(options)

    assert (finding.level, finding.subject) == (level, "consumers")
    assert said in finding.text


def test_missing_codecs_are_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, there in (("snappy", True), ("lz4", False), ("zstd", False)):
        monkeypatch.setattr(codec, f"has_{name}", lambda there=there: there)

    (finding,) = check_codecs()

    assert (finding.level, finding.subject) == (NOTE, "codecs")
    assert "compresses with lz4, zstd cannot be read here" in finding.text
    assert 'pip install "kafka-python[lz4,snappy,zstd]"' in finding.text

    monkeypatch.setattr(codec, "has_lz4", lambda: True)
    monkeypatch.setattr(codec, "has_zstd", lambda: True)
    assert list(check_codecs()) == []


class Admin:
    """Kafka's admin client, as far as the doctor asks it: two topics on three brokers, and all is well."""

    def __init__(self) -> None:
        self.broker = {
            "auto.create.topics.enable": "false",
            "group.min.session.timeout.ms": "6000",
            "group.max.session.timeout.ms": "1800000",
        }
        topic = {"retention.ms": str(7 * DAY_MS), "min.insync.replicas": "2", "cleanup.policy": "delete"}
        self.topics = {"orders": dict(topic), "orders-dlq": {**topic, "retention.ms": "-1"}}
        self.copies = 3

    def list_topics(self) -> list[str]:
        return list(self.topics)

    def describe_cluster(self) -> dict[str, Any]:
        return {"brokers": [{"broker_id": 1}]}

    def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        partitions = [{"replica_nodes": list(range(self.copies))}]
        return [{"name": name, "partitions": partitions} for name in names]

    def describe_configs(self, resources: list[Any], **_: Any) -> dict[str, Any]:
        found = {r.name: self.topics.get(r.name, self.broker) for r in resources}
        return {"any": {name: {key: {"value": v} for key, v in values.items()} for name, values in found.items()}}

    def close(self) -> None: ...


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Admin:
    admin = Admin()
    monkeypatch.setattr("kafka.KafkaAdminClient", lambda **_: admin)
    return admin


def examine(options: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    return [(f.level, f.text) for f in check_kafka(Settings(), ["orders"], options or {})]


def test_nothing_is_said_of_a_good_broker(admin: Admin) -> None:
    assert examine() == []


def test_topic_that_does_not_exist_is_named_with_near_matches(admin: Admin) -> None:
    findings = [(f.level, f.text) for f in check_kafka(Settings(), ["order"], {})]

    assert findings[0] == (WARNING, "there is no topic order; there is orders and orders-dlq")


@pytest.mark.parametrize("session_ms", [5_999, 1_800_001])
def test_session_that_the_broker_refuses(admin: Admin, session_ms: int) -> None:
    ((level, text),) = examine({"session_timeout_ms": session_ms})

    assert level == PROBLEM
    assert "6000 to 1800000" in text


@pytest.mark.parametrize(
    ("copies", "least", "said"),
    [
        (1, "1", "only one copy of orders, orders-dlq"),
        (3, "1", "orders has min.insync.replicas=1"),
        (3, "3", "nothing can be written"),
    ],
)
def test_copies_of_a_topic(admin: Admin, copies: int, least: str, said: str) -> None:
    admin.copies = copies
    for configs in admin.topics.values():
        configs["min.insync.replicas"] = least

    findings = examine()

    assert findings
    assert {level for level, _ in findings} == {WARNING}
    assert said in findings[0][1]


@pytest.mark.parametrize(
    ("topic", "name", "value", "said"),
    [
        ("orders", "retention.ms", str(DAY_MS), "orders keeps records for 24 h"),
        ("orders-dlq", "retention.ms", str(3 * DAY_MS), "dead letters are gone after that"),
        ("orders", "cleanup.policy", "compact,delete", "orders is compacted"),
    ],
)
def test_what_a_topic_does_not_keep(admin: Admin, topic: str, name: str, value: str, said: str) -> None:
    admin.topics[topic][name] = value

    ((level, text),) = examine()

    assert level == WARNING
    assert said in text


@pytest.mark.parametrize(("creates", "level"), [("false", PROBLEM), (None, WARNING), ("true", None)])
def test_missing_dead_letter_topic(admin: Admin, creates: str | None, level: str | None) -> None:
    del admin.topics["orders-dlq"]
    admin.broker.pop("auto.create.topics.enable")
    if creates is not None:
        admin.broker["auto.create.topics.enable"] = creates

    assert [found for found, _ in examine()] == ([] if level is None else [level])


def test_broker_that_tells_nothing_of_itself_is_no_problem(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    from kafka.errors import KafkaConnectionError

    def refuse(*_: Any, **__: Any) -> None:
        raise KafkaConnectionError("socket disconnected")

    monkeypatch.setattr(admin, "describe_configs", refuse)

    assert examine({"session_timeout_ms": 1}) == []
