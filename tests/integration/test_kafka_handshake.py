"""A TLS handshake that the broker does not answer is an error, and does not hold up the client for ever."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from rebound_celery import ConsumerConfig, Settings
from rebound_celery.compat import kafka_python
from rebound_celery.consumer.connection import connect
from rebound_celery.errors import UnreachableError


@pytest.fixture
def silent_broker() -> Iterator[str]:
    """A port whose connections are accepted, and never answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "security",
    [
        {"security_protocol": "SSL"},
        {"sasl_mechanism": "PLAIN", "sasl_username": "shop", "sasl_password": "hunter2"},
    ],
)
def test_a_broker_that_does_not_answer_the_handshake_is_named_with_the_reason(
    silent_broker: str, security: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_python, "HANDSHAKE_TIMEOUT_S", 0.5)
    settings = Settings.read({"rebound_kafka_brokers": silent_broker, "rebound_kafka_security": security}, {})
    config = ConsumerConfig(group="g", topics="orders", handler=print, kafka_options={"bootstrap_timeout_ms": 1_000})

    with pytest.raises(
        UnreachableError, match=f"{silent_broker}.*no answer within 0.5 s; does this port .* speak TLS"
    ) as no:
        connect(config, settings)
    assert "credentials" not in str(no.value), "none were sent"
