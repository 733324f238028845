"""The settings of SASL and TLS: what they make of the options of clients, what they refuse, and what they hide."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from rebound_celery import ConsumerConfig, InvalidSettingError, Settings
from rebound_celery.clock import SystemClock
from rebound_celery.consumer.connection import kafka_options
from rebound_celery.destinations.kafka import check_options
from rebound_celery.destinations.kafka.options import translate
from rebound_celery.kafka_security import variables
from rebound_celery.kafka_tokens import TokenError, TokenProvider

SECRET = "hunter2"
SCRAM = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "alice", "sasl_password": SECRET}
SCRAM_OPTIONS = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_plain_username": "alice",
    "sasl_plain_password": SECRET,
    "ssl_check_hostname": True,
}


def read(security: Any = None, environ: dict[str, str] | None = None, **conf: Any) -> Settings:
    return Settings.read({"rebound_kafka_brokers": "k1,k2", "rebound_kafka_security": security, **conf}, environ or {})


def token() -> str:
    return SECRET


def test_nothing_given_means_no_options() -> None:
    assert read().kafka_connection() == {}
    assert read({}).kafka_connection() == {}


def test_a_mechanism_is_used_over_tls_unless_the_user_says_otherwise() -> None:
    assert read(SCRAM).kafka_connection() == SCRAM_OPTIONS
    plain = read({**SCRAM, "security_protocol": "SASL_PLAINTEXT"}).kafka_connection()
    assert plain == {
        **{name: value for name, value in SCRAM_OPTIONS.items() if not name.startswith("ssl_")},
        "security_protocol": "SASL_PLAINTEXT",
    }


def test_files_alone_mean_tls(tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.write_text("x")
    given = {"ssl_ca_file": file, "ssl_cert_file": str(file), "ssl_key_file": file, "ssl_key_password": SECRET}
    assert read({**given, "ssl_check_hostname": False}).kafka_connection() == {
        "security_protocol": "SSL",
        "ssl_cafile": str(file),
        "ssl_certfile": str(file),
        "ssl_keyfile": str(file),
        "ssl_password": SECRET,
        "ssl_check_hostname": False,
    }


def test_each_field_may_come_from_the_environment_and_the_configuration_wins() -> None:
    environ = {f"REBOUND_KAFKA_{name.upper()}": value for name, value in SCRAM.items()}
    assert read(None, environ).kafka_connection() == SCRAM_OPTIONS
    assert read({"sasl_username": "bob"}, environ).kafka_connection()["sasl_plain_username"] == "bob"
    assert (
        read(None, {**environ, "REBOUND_KAFKA_SSL_CHECK_HOSTNAME": "false"}).kafka_security.ssl_check_hostname is False
    )
    assert read(None, dict.fromkeys(variables(), "")).kafka_connection() == {}


@pytest.mark.parametrize(
    ("given", "name", "said"),
    [
        ("SASL", "rebound_kafka_security", "mapping"),
        ({"sasl_pasword": SECRET}, "sasl_pasword", "its names are"),
        ({"security_protocol": "TLS"}, "security_protocol", "SASL_SSL"),
        ({"sasl_mechanism": "SCRAM"}, "sasl_mechanism", "SCRAM-SHA-256"),
        ({**SCRAM, "sasl_password": 7}, "sasl_password", "a text"),
        ({"sasl_mechanism": "PLAIN", "sasl_password": SECRET}, "sasl_username", "PLAIN needs it"),
        ({"sasl_mechanism": "PLAIN", "sasl_username": "a"}, "sasl_password", "PLAIN needs it"),
        ({"sasl_mechanism": "OAUTHBEARER"}, "sasl_token", "OAUTHBEARER needs it"),
        ({"sasl_mechanism": "OAUTHBEARER", "sasl_token": "module"}, "sasl_token", "module:function"),
        ({"security_protocol": "SASL_SSL"}, "sasl_mechanism", "SASL_SSL needs it"),
        ({"sasl_password": SECRET}, "sasl_mechanism", "sasl_password needs it; it is one of PLAIN, SCRAM-SHA-256"),
        ({"security_protocol": "SSL", "sasl_password": SECRET}, "sasl_password", "leave it out"),
        ({**SCRAM, "security_protocol": "SSL"}, "sasl_mechanism", "leave it out"),
        ({**SCRAM, "sasl_token": token}, "sasl_token", "leave it out"),
        ({"security_protocol": "PLAINTEXT", "ssl_ca_file": "x"}, "ssl_ca_file", "leave it out"),
        ({"ssl_key_file": "x"}, "ssl_cert_file", "needs it"),
        ({"ssl_check_hostname": "yes"}, "ssl_check_hostname", "True or False"),
        ({**SCRAM, "further_brokers": "a b"}, "further_brokers", "host:port"),
    ],
)
def test_what_does_not_fit_is_refused_without_a_secret(given: Any, name: str, said: str) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        read(given)
    assert name in str(refused.value)
    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(InvalidSettingError, match="REBOUND_KAFKA_SSL_CHECK_HOSTNAME='maybe'"):
        read(None, {"REBOUND_KAFKA_SSL_CHECK_HOSTNAME": "maybe"})


def test_a_file_that_is_not_there_is_refused_when_a_client_is_made() -> None:
    settings = read({"ssl_ca_file": "/no/such.pem"})
    with pytest.raises(InvalidSettingError, match=r"ssl_ca_file.*no such file"):
        settings.kafka_connection()


@pytest.mark.parametrize("name", [f"no_such_module:{SECRET}", "tests.unit:no_such_name"])
def test_a_token_function_that_cannot_be_imported_is_refused_when_a_client_is_made(name: str) -> None:
    settings = read({"sasl_mechanism": "OAUTHBEARER", "sasl_token": name})
    with pytest.raises(
        InvalidSettingError, match=r"sasl_token.*cannot be imported: (ModuleNotFound|Attribute)Error"
    ) as no:
        settings.kafka_connection()
    assert name not in str(no.value)


@pytest.mark.parametrize("option", ["sasl_plain_password", "sasl.password", "security_protocol", "security.protocol"])
def test_one_option_in_two_places_is_refused(option: str) -> None:
    with pytest.raises(InvalidSettingError, match="in one place") as refused:
        read(SCRAM, rebound_kafka_options={option: SECRET})
    assert SECRET not in str(refused.value)
    assert read(SCRAM, rebound_kafka_options={"ssl_ciphers": "x", "linger_ms": 5}).kafka_connection() == SCRAM_OPTIONS


def test_other_brokers_do_not_get_the_credentials() -> None:
    settings = read({**SCRAM, "further_brokers": "k3:9093"})
    assert settings.kafka_connection(["k2:9092"]) == SCRAM_OPTIONS
    assert settings.kafka_connection(["k1:9092", "k3:9093"]) == SCRAM_OPTIONS
    assert settings.kafka_connection(["elsewhere:9092"]) == {}
    assert settings.kafka_connection(["k1:9092", "elsewhere:9092"]) == {}


def test_a_consumer_has_them_and_may_set_its_own() -> None:
    config = ConsumerConfig(group="g", topics="t", handler=print)
    assert SCRAM_OPTIONS.items() <= kafka_options(config, read(SCRAM)).items()
    own = ConsumerConfig(group="g", topics="t", handler=print, kafka_options={"sasl_plain_username": "bob"})
    assert kafka_options(own, read(SCRAM))["sasl_plain_username"] == "bob"
    other = ConsumerConfig(group="g", topics="t", handler=print, brokers="elsewhere")
    assert "sasl_plain_password" not in kafka_options(other, read(SCRAM))


def test_nothing_that_is_shown_has_a_secret() -> None:
    for given in (SCRAM, {"sasl_mechanism": "OAUTHBEARER", "sasl_token": lambda: SECRET}):
        settings = read(given)
        assert SECRET not in repr(settings) + str(settings) + repr(settings.kafka_security)


def test_both_clients_take_what_they_make() -> None:
    for given in (SCRAM, {"sasl_mechanism": "OAUTHBEARER", "sasl_token": token}):
        options = read(given).kafka_connection()
        check_options("kafka-python", options)
        check_options("confluent", options)
    assert translate(options)["oauth_cb"]("")[0] == SECRET


def test_a_token_is_asked_for_again_before_it_ends() -> None:
    now, asked = [1000.0], [0]

    def source() -> tuple[str, float]:
        asked[0] += 1
        return f"t{asked[0]}", 100.0

    class Clock(SystemClock):
        def now_ms(self) -> int:
            return round(now[0] * 1000)

    provider = TokenProvider(source, clock=Clock())
    assert provider.token_and_expiry() == ("t1", 1100.0)
    now[0] = 1069.0
    assert provider.token() == "t1"
    now[0] = 1071.0
    assert provider.token_and_expiry() == ("t2", 1171.0)


@pytest.mark.parametrize("answer", [None, "", 7, ("t", 0), ("t", "soon"), ("t", 1, 2), OSError(SECRET)])
def test_a_function_without_a_token_is_an_error_without_its_answer(answer: Any) -> None:
    def source() -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(TokenError) as raised:
        TokenProvider(source).token()
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


def test_kafka_pythons_log_at_debug_has_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    from kafka.protocol.sasl import SaslAuthenticateRequest

    read(SCRAM).kafka_connection()
    for name in ("kafka.net.connection", "kafka.protocol.parser"):
        caplog.set_level(logging.DEBUG, logger=name)
        logging.getLogger(name).debug("%s Request: %s", 1, SaslAuthenticateRequest(SECRET.encode()))
        logging.getLogger(name).debug("Send: %r", SECRET.encode())
    assert SECRET not in caplog.text
    assert caplog.text.count("SaslAuthenticateRequest(***)") == 2


def test_the_page_names_each_field_and_its_snippets_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", "A" * 43 + "=")
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    assert all(f"`{variable.removeprefix('REBOUND_KAFKA_').lower()}`" in page for variable in variables())
    app = Celery("shop", set_as_current=False)
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(snippet, "docs/security.md", "exec"), {"app": app})
    settings = Settings.read(app.conf, {"REBOUND_KAFKA_SASL_PASSWORD": SECRET})
    assert settings.kafka_security.security_protocol == "SASL_SSL"
    assert repr(settings.encryption_keys) == "KeyRing(['2026-11'])"
