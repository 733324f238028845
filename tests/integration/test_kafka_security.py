"""SASL and TLS against Apache Kafka: every client of rebound's connects with the settings, and no secret is shown."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from rebound_celery import ConsumerConfig, Message, Rebound, Settings
from rebound_celery.consumer.connection import connect
from rebound_celery.destinations import Delivered, Destination, Unavailable, kinds
from rebound_celery.embedded import create_topics
from rebound_celery.errors import UnreachableError
from rebound_celery.message.address import KafkaAddress
from rebound_celery.operate.doctor_kafka import check_kafka
from rebound_celery.policy import RetryPolicy
from tests.kafka_server.secured import KEY_PASSWORD, PASSWORD, USER, SecuredKafka, make_certificates
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("CI") and not all(map(shutil.which, ("java", "mvn", "openssl"))),
        reason="needs Apache Kafka and openssl",
    ),
    # kafka-python leaves the sockets of connections that were refused to the garbage collector.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"),
]

SECRETS = (PASSWORD, KEY_PASSWORD, base64.b64encode(PASSWORD.encode()).decode())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def kafka(certificates: Path) -> Iterator[SecuredKafka]:
    with SecuredKafka(certificates) as kafka:
        create_topics(kafka.address, {"orders": 1, "orders-dlq": 1})
        yield kafka


def make_token() -> tuple[str, float]:
    """An unsigned token, which the broker accepts because it is configured for tests."""
    now = time.time()
    claims = ({"alg": "none"}, {"sub": USER, "iat": now - 1, "exp": now + 300})
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in claims)
    return ".".join(parts) + ".", 300.0


def broken_token() -> str:
    raise ValueError(f"the identity provider refused {PASSWORD}")


def settings(kafka: SecuredKafka, certificates: Path, how: str, **conf: Any) -> dict[str, Any]:
    ca = {"ssl_ca_file": certificates / "ca.pem"}
    if how == "TLS":
        own = {"ssl_cert_file": str(certificates / "client.pem"), "ssl_key_file": str(certificates / "client.key")}
        security, brokers = {**ca, **own, "ssl_key_password": KEY_PASSWORD}, kafka.tls
    elif how == "OAUTHBEARER":
        security, brokers = {**ca, "sasl_mechanism": how, "sasl_token": f"{__name__}:make_token"}, kafka.sasl
    else:
        security = {**ca, "sasl_mechanism": how, "sasl_username": USER, "sasl_password": PASSWORD}
        brokers = kafka.sasl
    return {"rebound_kafka_brokers": brokers, "rebound_kafka_security": security, "rebound_kafka_timeout": 10, **conf}


HOWS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "TLS"]


def kafka_destination(conf: dict[str, Any]) -> Destination:
    built = kinds.build(Settings.read(conf, {}), lambda: None, lambda *_: None)  # type: ignore[arg-type,return-value]
    return built["kafka"]


def a_message(**fields: Any) -> Message:
    return Message("m-1", b"v", KafkaAddress("orders"), 2, RetryPolicy(3, 1), **fields)


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
@pytest.mark.parametrize("how", HOWS)
def test_each_client_delivers_and_writes_dead_letters(
    kafka: SecuredKafka, certificates: Path, how: str, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("kafka", "rebound_celery"):
        caplog.set_level(logging.DEBUG, logger=name)
    conf = settings(kafka, certificates, how, rebound_kafka_client=client)
    destination = kafka_destination(conf)
    dead = a_message(reason="retries-exhausted", dead_destination=KafkaAddress("orders-dlq"))
    try:
        outcomes = destination.send([a_message(), dead])
    finally:
        destination.close()

    assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered], outcomes
    assert client == "confluent" or "SaslAuthenticateRequest(***)" in caplog.text or how == "TLS"
    assert not [secret for secret in SECRETS if secret in caplog.text]


@pytest.mark.parametrize("how", HOWS)
def test_a_consumer_and_the_doctor_connect(kafka: SecuredKafka, certificates: Path, how: str) -> None:
    read = Settings.read(settings(kafka, certificates, how), {})
    consumer = connect(ConsumerConfig(group=f"g-{how}", topics="orders", handler=print), read)
    try:
        assert "orders" in consumer.topics()
    finally:
        consumer.close()
    assert all("cannot reach" not in found.text for found in check_kafka(read, ["orders"], {}))


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_a_wrong_password_is_an_outage_that_says_so_and_keeps_the_secret(
    kafka: SecuredKafka, certificates: Path, client: str
) -> None:
    conf = settings(kafka, certificates, "SCRAM-SHA-512", rebound_kafka_client=client)
    conf["rebound_kafka_timeout"] = 3
    conf["rebound_kafka_security"]["sasl_password"] = "not-the-s3cret"
    destination = kafka_destination(conf)
    try:
        (outcome,) = destination.send([a_message()])
    finally:
        destination.close()

    assert isinstance(outcome, Unavailable)
    assert re.search("uthentication failed|may have refused the credentials", str(outcome.error))
    assert "s3cret" not in repr(outcome)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sasl_password": "not-the-s3cret"}, "Authentication|refused the credentials"),
        ({"ssl_ca_file": None}, "CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_a_consumer_says_what_the_broker_refused(
    kafka: SecuredKafka, certificates: Path, change: dict[str, Any], said: str
) -> None:
    conf = settings(kafka, certificates, "PLAIN")
    conf["rebound_kafka_security"] |= change
    config = ConsumerConfig(group="g", topics="orders", handler=print, kafka_options={"bootstrap_timeout_ms": 2_000})
    with pytest.raises(UnreachableError, match=said) as raised:
        connect(config, Settings.read(conf, {}))
    assert "s3cret" not in str(raised.value)


def test_the_error_of_a_token_function_is_not_shown(kafka: SecuredKafka, certificates: Path) -> None:
    conf = settings(kafka, certificates, "OAUTHBEARER", rebound_kafka_timeout=3)
    conf["rebound_kafka_security"]["sasl_token"] = broken_token
    for client in ("kafka-python", "confluent"):
        conf["rebound_kafka_client"] = client
        destination = kafka_destination(conf)
        try:
            (outcome,) = destination.send([a_message()])
        finally:
            destination.close()
        assert isinstance(outcome, Unavailable)
        assert PASSWORD not in repr(outcome)


def test_whole_processes_take_scram_from_the_environment(
    kafka: SecuredKafka, certificates: Path, redis_url: str
) -> None:
    """The demo's processes are a producer, a consumer, a worker and readers: each authenticates."""
    security = {
        "REBOUND_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "REBOUND_KAFKA_SASL_USERNAME": USER,
        "REBOUND_KAFKA_SASL_PASSWORD": PASSWORD,
        "REBOUND_KAFKA_SSL_CA_FILE": str(certificates / "ca.pem"),
    }
    options = ["--duration", "4", "--rate", "10", "--max-retries", "1", "--json", "--no-flower"]
    done = subprocess.run(
        [sys.executable, "-m", "celery", "rebound", "demo", *options, "--kafka", kafka.sasl, "--redis", redis_url],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={**os.environ, **security},
    )

    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["produced"] > 0
    assert (summary["lost"], summary["waiting"]) == (0, 0)
    assert PASSWORD not in done.stdout + done.stderr


def test_what_waits_in_redis_holds_no_secret(kafka: SecuredKafka, certificates: Path, redis_url: str) -> None:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    app.conf.update(settings(kafka, certificates, "PLAIN"))
    rebound = Rebound(app)
    result = rebound.schedule_retry("kafka://orders", b"v", error=ValueError("refused"))
    wait_until(lambda: result.id)
    with redis.Redis.from_url(redis_url) as client:
        kept = b"".join(filter(None, (client.dump(key) for key in client.scan_iter())))
    rebound.close()
    assert kept
    assert not [secret for secret in SECRETS if secret.encode() in kept]
