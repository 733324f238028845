"""The Kafka destination without a broker: its options, its clients, and its outcomes when no broker answers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError

from rebound_celery.destinations import Unavailable
from rebound_celery.destinations.kafka import KafkaDestination, check_options
from rebound_celery.destinations.kafka.destination import _Kind
from rebound_celery.destinations.kafka.kafka_python import KafkaPythonClient
from rebound_celery.destinations.kafka.options import translate
from rebound_celery.embedded import free_port
from rebound_celery.errors import ClientNotInstalledError, InvalidSettingError
from rebound_celery.message import Message
from rebound_celery.message.address import KafkaAddress
from rebound_celery.policy import RetryPolicy

CLIENTS = ("kafka-python", "confluent")

MESSAGE = Message(id="m", value=b"v", destination=KafkaAddress("orders"), attempt=1, policy=RetryPolicy(3, 1))


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class _Producer:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed_within: float | None = None

    def close(self, timeout: float) -> None:
        self.closed_within = timeout
        if self.error is not None:
            raise self.error


def test_a_producer_that_cannot_finish_keeps_no_other_open() -> None:
    """As when Kafka hangs while the worker stops: what is not confirmed is delivered again."""
    producers: list[Any] = [_Producer(KafkaTimeoutError("Timeout waiting for future")), _Producer()]
    destination = KafkaDestination(["localhost:9092"], {}, 20)
    for name, producer in zip("ab", producers, strict=True):
        destination._clients[_Kind(f"{name}:1")] = one = object.__new__(KafkaPythonClient)
        one._producer = producer

    destination.close()

    assert [producer.closed_within for producer in producers] == [2.5, 2.5]


def test_brokers_that_are_away_are_an_outage_within_the_time_out(client: str) -> None:
    destination = KafkaDestination([f"127.0.0.1:{free_port()}"], {}, 1, client)
    began = time.monotonic()

    outcomes = destination.send([MESSAGE] * 100)
    destination.close()

    assert time.monotonic() - began < 6
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert len(outcomes) == 100
    assert "kafka:orders at 127.0.0.1:" in outcomes[0].error  # type: ignore[union-attr]


def test_an_outage_with_librdkafka_tells_why_there_is_no_connection() -> None:
    destination = KafkaDestination([f"127.0.0.1:{free_port()}"], {}, 1, "confluent")

    (outcome,) = destination.send([MESSAGE])
    destination.close()

    assert isinstance(outcome, Unavailable)
    assert "refused" in outcome.error or "brokers are down" in outcome.error


#: Options that both clients refuse, or one of them: who, the option, its value, what the error says.
WRONG: list[tuple[str, str, Any, str]] = [
    ("both", "acks", 1, "in-sync"),
    ("both", "bootstrap_servers", "k1:9092", "rebound_kafka_brokers"),
    ("both", "enable_idempotence", True, "cannot be changed"),
    ("both", "transactional_id", "t", "transactions"),
    ("both", "value_serializer", str, "bytes"),
    ("both", "no_such_option", 1, "no_such_option"),
    ("both", "linger_ms", "soon", "number"),
    ("both", "linger_ms", -1, "number"),
    ("both", "security_protocol", "TLS", "SASL_SSL"),
    ("both", "ssl_cafile", "/no/such/file", "no such file"),
    ("both", "ssl_check_hostname", "yes", "True or False"),
    ("both", "compression_type", "brotli", "zstd"),
    ("kafka-python", "security.protocol", "SSL", "dotted"),
    ("confluent", "ssl_context", object(), "cannot be translated"),
    ("confluent", "selector", object(), "cannot be translated"),
    ("confluent", "max_block_ms", 5, "cannot be translated"),
    ("confluent", "request.required.acks", 1, "in-sync"),
    ("confluent", "delivery.report.only.error", True, "sets it itself"),
]


@pytest.mark.parametrize(
    ("client", "name", "value", "says"),
    [(client, *rest) for who, *rest in WRONG for client in (CLIENTS if who == "both" else (who,))],
)
def test_a_wrong_option_is_refused_by_its_name(client: str, name: str, value: Any, says: str) -> None:
    with pytest.raises(InvalidSettingError, match="rebound_kafka_options") as refused:
        check_options(client, {name: value})

    assert repr(name) in str(refused.value)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("client", "options", "name"),
    [
        ("kafka-python", {"security.protocol": "PLAINTEXT"}, "security.protocol"),
        ("kafka-python", {"sasl_plain_pasword": "geheim"}, "sasl_plain_pasword"),
        ("confluent", {"no.such.option": 1}, "no.such.option"),
        ("confluent", {"linger.ms": "soon"}, "linger.ms"),
        ("confluent", {"queue.buffering.max.ms": 1, "batch.num.messages": 0}, "batch.num.messages"),
        ("confluent", {"ssl.ca.location": "/nope", "security.protocol": "ssl"}, "ssl.ca.location"),
        ("confluent", {"sasl_plain_pasword": "geheim"}, "sasl_plain_pasword"),
    ],
)
def test_a_wrong_option_is_said_once_as_an_error_and_keeps_the_messages(
    client: str, options: Mapping[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    destination = KafkaDestination(["127.0.0.1:1"], options, 1, client)

    outcomes = [outcome for _ in range(3) for outcome in destination.send([MESSAGE, MESSAGE])]
    destination.close()

    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    (said,) = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert said.__dict__["event"] == "invalid_setting"
    assert repr(name) in said.getMessage()
    assert "geheim" not in caplog.text + str(outcomes)


@pytest.mark.parametrize("kind", ["zstd", "lz4", "snappy"])
def test_a_codec_that_is_not_installed_is_said_before_anything_connects(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"kafka.codec.has_{kind}", lambda: False)

    with pytest.raises(InvalidSettingError, match=rf'pip install "kafka-python\[{kind}\]"'):
        check_options("kafka-python", {"compression_type": kind})


@pytest.mark.parametrize("missing", ["sasl_plain_username", "sasl_plain_password"])
def test_a_missing_password_is_not_taken_for_an_outage(client: str, missing: str) -> None:
    options = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
    options |= {"sasl_plain_username": "u", "sasl_plain_password": "p"}
    check_options(client, options)

    with pytest.raises(InvalidSettingError, match=missing):
        check_options(client, {name: value for name, value in options.items() if name != missing})


def test_the_common_options_are_translated(tmp_path: Path) -> None:
    file = tmp_path / "pem"
    file.touch()
    options = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
        "ssl_cafile": str(file),
        "ssl_certfile": file,
        "ssl_keyfile": str(file),
        "ssl_password": "s",
        "ssl_check_hostname": False,
        "ssl_crlfile": None,
        "api_version": (2, 8),
        "compression_type": "lz4",
        "linger_ms": 0,
        "retries": float("inf"),
        "acks": "all",
        "allow_auto_create_topics": True,
        "batch_size": 1000,
        "batch.size": 2000,
    }
    check_options(
        "kafka-python",
        {name: value for name, value in options.items() if "." not in name} | {"compression_type": "gzip"},
    )

    assert translate(options) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-256",
        "sasl.username": "u",
        "sasl.password": "p",
        "ssl.ca.location": str(file),
        "ssl.certificate.location": str(file),
        "ssl.key.location": str(file),
        "ssl.key.password": "s",
        "ssl.endpoint.identification.algorithm": "none",
        "broker.version.fallback": "2.8.0",
        "compression.type": "lz4",
        "linger.ms": 0,
        "message.send.max.retries": 2**31 - 1,
        "batch.size": 2000,
    }


@pytest.mark.parametrize("installed", [True, False])
def test_auto_is_confluent_where_that_is_installed(
    installed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not installed:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    caplog.set_level(logging.INFO)
    destination = KafkaDestination(["127.0.0.1:1"], {}, 0.2, "auto")

    destination.send([MESSAGE])
    destination.close()

    (said,) = [entry.getMessage() for entry in caplog.records if getattr(entry, "event", "") == "kafka_client"]
    assert said.endswith("confluent" if installed else "kafka-python")


def test_confluent_that_is_not_installed_is_said_with_the_command_to_install_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    destination = KafkaDestination(["127.0.0.1:1"], {}, 0.2, "confluent")

    (outcome,) = destination.send([MESSAGE])

    assert isinstance(outcome, Unavailable)
    assert "pip install confluent-kafka" in caplog.text
    assert str(ClientNotInstalledError("a", "b", "c")) == "a='b' needs c; run: pip install c"


def test_a_child_process_neither_uses_nor_frees_its_parents_producers(client: str) -> None:
    """librdkafka's threads are not there after a fork: to free its producer there would wait for ever."""
    destination = KafkaDestination([f"127.0.0.1:{free_port()}"], {}, 0.3, client)
    destination.send([MESSAGE])

    pid = os.fork()
    if not pid:
        try:
            inherited = destination._clients
            answer = destination.send([MESSAGE])
            destination.close()
            del destination
            os._exit(0 if not inherited and isinstance(answer[0], Unavailable) else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    if ended == (0, 0):
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        pytest.fail("the child hangs")
    assert ended[1] == 0
    destination.close()
