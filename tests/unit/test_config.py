"""The `rebound_*` settings: their sources, the precedence of the sources, and the errors for wrong values."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from rebound_celery.config import Settings, parse_brokers
from rebound_celery.environment import misspelt_variables
from rebound_celery.errors import InvalidSettingError
from rebound_celery.http_options import HttpOptions, HttpTable
from rebound_celery.kafka_security import KafkaSecurity
from rebound_celery.labels import LabelKey
from rebound_celery.limits import BreakerOptions, RateRule
from rebound_celery.message.encryption import KeyRing
from rebound_celery.policy import PolicyTable, RetryPolicy
from rebound_celery.redaction import Redactor

#: Each setting: a value for the configuration, the text for the environment, and what both are read as.
ZEROS = f"k1:{'A' * 43}="
SETTINGS = [
    ("queue", "retries", "retries", "retries"),
    ("kafka_brokers", ["k1:9092", "k2:9093"], "k1,k2:9093", ("k1:9092", "k2:9093")),
    ("kafka_client", "confluent", "confluent", "confluent"),
    ("max_retries", 7, "7", 7),
    ("base_delay", 2.5, "2.5", 2.5),
    ("dead_letter_suffix", ".dead", ".dead", ".dead"),
    ("lease", 5, "5", 5.0),
    ("max_worker_losses", 7, "7", 7),
    ("kafka_timeout", 12, "12", 12.0),
    ("http_connect_timeout", 0.5, "0.5", 0.5),
    ("http_timeout", 1, "1", 1.0),
    ("http_proxy", "proxy:3128", "proxy:3128", "proxy:3128"),
    ("operator_url", "https://ops.example/hook", "https://ops.example/hook", "https://ops.example/hook"),
    ("outage_delay", 3, "3", 3.0),
    ("outage_max_delay", 300, "300", 300.0),
    (
        "breaker",
        {"share": 0.3, "drain_rate": None},
        "share=0.3, drain_rate=none",
        BreakerOptions(share=0.3, drain_rate=None),
    ),
    ("encryption_keys", ZEROS, ZEROS, KeyRing({"k1": bytes(32)})),
    ("dead_letter_ttl", 86_400, "86400", 86_400.0),
    ("metrics_labels", ["source"], "source", (LabelKey("source", "source"),)),
    ("redact", "shop.privacy:redact", "shop.privacy:redact", Redactor("shop.privacy:redact")),
    ("tracing", False, "off", False),
    ("health_file", Path("/run/%n.health"), "/run/%n.health", "/run/%n.health"),
]
ONLY_IN_CONF = [
    ("kafka_options", {"security_protocol": "SSL"}, {"security_protocol": "SSL"}),
    ("kafka_security", {"security_protocol": "SSL"}, KafkaSecurity(security_protocol="SSL")),
    # In the environment it is the path of a file; see test_policy_table.py.
    ("policies", {"default": {"max_retries": 9}}, PolicyTable(RetryPolicy(9, 5))),
    ("rates", {"kafka://orders": 5}, (RateRule.of("rebound_rates", "kafka://orders", 5),)),
    (
        "http_destinations",
        {"https://shop/*": {"strict": True}},
        HttpTable({"https://shop/*": HttpOptions(strict=True)}),
    ),
]


def test_every_setting_is_in_the_tables_of_this_file() -> None:
    assert {f.name for f in fields(Settings)} == {name for name, *_ in [*SETTINGS, *ONLY_IN_CONF]}


def test_the_defaults_are_those_that_the_seed_and_the_design_name() -> None:
    settings = Settings.read({}, {})

    assert settings == Settings()
    assert settings.queue == "rebound"
    assert settings.kafka_brokers == ("localhost:9092",)
    assert settings.dead_letter_suffix == "-dlq"
    assert (settings.max_retries, settings.base_delay) == (3, 5)
    assert settings.kafka_client == "kafka-python"


@pytest.mark.parametrize(
    ("name", "given", "read"), [*[(name, conf, read) for name, conf, _, read in SETTINGS], *ONLY_IN_CONF]
)
def test_each_setting_is_read_from_the_configuration(name: str, given: Any, read: Any) -> None:
    assert getattr(Settings.read({f"rebound_{name}": given}, {}), name) == read


@pytest.mark.parametrize(("name", "given", "read"), [(name, text, read) for name, _, text, read in SETTINGS])
def test_each_setting_is_read_from_the_environment(name: str, given: str, read: Any) -> None:
    assert getattr(Settings.read({}, {f"REBOUND_{name.upper()}": given}), name) == read


@pytest.mark.parametrize(("name", "given", "read"), [(name, conf, read) for name, conf, _, read in SETTINGS])
def test_the_configuration_wins_over_the_environment(name: str, given: Any, read: Any) -> None:
    environ = {f"REBOUND_{name.upper()}": "nonsense that nobody may read"}

    assert getattr(Settings.read({f"rebound_{name}": given}, environ), name) == read


@pytest.mark.parametrize("name", ["kafka_options", "kafka_security", "http_destinations", "rates"])
def test_a_mapping_in_the_environment_is_refused_unless_the_app_sets_it(name: str) -> None:
    environ = {f"REBOUND_{name.upper()}": '{"kafka://orders": 5, "password": "secret"}'}

    with pytest.raises(InvalidSettingError, match=f"set rebound_{name} in the app's configuration") as error:
        Settings.read({}, environ)

    assert str(error.value).startswith(f"REBOUND_{name.upper()}='***'")
    assert Settings.read({f"rebound_{name}": {}}, environ)


def test_an_environment_variable_that_is_misspelt_is_told() -> None:
    environ = dict.fromkeys(
        ["REBOUND_MAXRETRIES", "REBOUND_QUEUE", "REBOUND_KAFKA_SASL_PASSWORD", "REBOUND_VOLUME"], "x"
    )

    assert misspelt_variables(environ) == [
        "the environment variable REBOUND_MAXRETRIES has no effect; is it REBOUND_MAX_RETRIES?"
    ]


def test_the_processes_own_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REBOUND_QUEUE", "retries")

    assert Settings.read({}).queue == "retries"


@pytest.mark.parametrize("name", [f.name for f in fields(Settings)])
def test_none_in_the_configuration_means_not_set(name: str) -> None:
    assert Settings.read({f"rebound_{name}": None}, {}) == Settings()


def test_zero_retries_is_a_setting_and_not_the_default() -> None:
    assert Settings.read({"rebound_max_retries": 0}, {}).max_retries == 0
    assert Settings.read({}, {"REBOUND_MAX_RETRIES": "0"}).max_retries == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("queue", value) for value in ["", "a b", "a\n", 7, b"retries"]],
        *[("dead_letter_suffix", value) for value in ["", " ", 7, "/dead", "x" * 250, "ü"]],
        *[
            ("kafka_brokers", value)
            for value in [
                "",
                ",",
                "k1:9092,",
                "k1:port",
                "k1:0",
                "k1:65536",
                "k1:²",
                ":9092",
                "k 1:9092",
                "k1:1;k2:2",
                "http://k1",
            ]
        ],
        *[("kafka_brokers", value) for value in [[], (), {}, 9092, b"k1:9092", [9092], [None]]],
        *[("kafka_client", value) for value in ["", "kafka", "Confluent", 7, [], b"auto"]],
        *[("dead_letter_ttl", value) for value in [0, -1, float("nan"), "", True]],
        *[("redact", value) for value in ["", "module", ":name", "module:", 7]],
        *[("kafka_options", value) for value in ["acks=1", [("acks", 1)], 7]],
        *[("max_retries", value) for value in [101, -1, 2.5, "3", True]],
        *[("base_delay", value) for value in [0, 3601, float("nan"), "5"]],
        *[
            (name, value)
            for name in (
                "kafka_timeout",
                "http_connect_timeout",
                "http_timeout",
                "outage_delay",
                "outage_max_delay",
                "dead_letter_ttl",
            )
            for value in [0, -1, float("nan"), float("inf"), "soon", "", [], True]
        ],
        *[("rates", value) for value in ["kafka://orders", [], 5]],
        *[("breaker", value) for value in ["maybe", "", 1, 0.5, [], "0.5,3"]],
    ],
)
def test_a_bad_setting_is_refused_with_its_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        Settings.read({f"rebound_{name}": value}, {})

    assert str(refused.value).startswith(f"rebound_{name}={value!r} cannot be used: ")


@pytest.mark.parametrize(
    ("value", "read"), [(True, BreakerOptions()), (False, None), ("on", BreakerOptions()), ("off", None)]
)
def test_the_circuit_breaker_is_turned_on_and_off_by_one_word(value: Any, read: BreakerOptions | None) -> None:
    assert Settings.read({"rebound_breaker": value}, {}).breaker == read


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("share", value) for value in [0, 1.1, -1, float("nan"), "half", True, None]],
        *[("count", value) for value in [0, 2.5, 100_001, True, None]],
        *[("window", value) for value in [0, 0.9, 3601, "30"]],
        *[("probe", value) for value in [0, 3601, None]],
        *[("max_probe", value) for value in [4.9, 86_401]],
        *[("drain_rate", value) for value in [0, -1, 1e6 + 1, float("inf")]],
        ("cuont", 3),
    ],
)
def test_a_bad_option_of_the_circuit_breaker_is_refused_with_its_name_value_and_limits(option: str, value: Any) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        Settings.read({"rebound_breaker": {option: value}}, {})

    assert str(refused.value).startswith(f"rebound_breaker.{option}={value!r} cannot be used: ")


@pytest.mark.parametrize("rate", [0, -1, float("nan"), 1e6 + 1, "5", True])
def test_a_bad_rate_is_refused_with_its_rule_value_and_limits(rate: Any) -> None:
    with pytest.raises(InvalidSettingError, match=r"^rebound_rates\['kafka://orders'\]=.* above 0, at most 1,000,000"):
        Settings.read({"rebound_rates": {"kafka://orders": rate}}, {})


@pytest.mark.parametrize("text", ["orders", "", "ftp://x", "kafka://", "kafka://orders key=", "kafka://a b", 7, None])
def test_a_bad_pattern_of_a_rate_is_refused_with_its_form(text: Any) -> None:
    with pytest.raises(InvalidSettingError, match=r"^rebound_rates="):
        Settings.read({"rebound_rates": {text: 5}}, {})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("breaker", "share"),
        ("max_retries", "three"),
        ("max_retries", "101"),
        ("max_retries", "2.5"),
        ("max_retries", ""),
        ("base_delay", "soon"),
        ("base_delay", "nan"),
        ("base_delay", "0"),
        ("kafka_timeout", "soon"),
        ("http_timeout", "-1"),
        ("queue", "a b"),
        ("kafka_brokers", "http://k1"),
    ],
)
def test_a_bad_environment_variable_is_refused_with_its_own_name(name: str, text: str) -> None:
    with pytest.raises(InvalidSettingError, match=f"^REBOUND_{name.upper()}="):
        Settings.read({}, {f"REBOUND_{name.upper()}": text})


@pytest.mark.parametrize(
    ("given", "brokers"),
    [
        ("k1", ("k1:9092",)),
        ("k1:9093", ("k1:9093",)),
        (" k1:9093 , k2 ", ("k1:9093", "k2:9092")),
        ("[::1]", ("[::1]:9092",)),
        ("[::1]:9093", ("[::1]:9093",)),
        (["k1", "k2:9093"], ("k1:9092", "k2:9093")),
        (("k1",), ("k1:9092",)),
        ({"k1"}, ("k1:9092",)),
    ],
)
def test_brokers_may_be_given_in_each_usual_form(given: Any, brokers: tuple[str, ...]) -> None:
    assert parse_brokers(given) == brokers


def test_settings_cannot_be_changed_behind_the_apps_back() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().queue = "other"  # type: ignore[misc]


def test_kafka_options_are_a_copy_of_what_was_given() -> None:
    given = {"security_protocol": "SSL"}
    settings = Settings.read({"rebound_kafka_options": given}, {})
    given["security_protocol"] = "PLAINTEXT"

    assert settings.kafka_options == {"security_protocol": "SSL"}


@pytest.mark.parametrize("url", ["https://api.example.com/slow?tenant=7", "https://api.example.com/slow#top"])
def test_a_rate_for_a_query_is_refused(url: str) -> None:
    """No message would have it, because a rule is for a URL without its query."""
    with pytest.raises(InvalidSettingError, match=r"all of its queries: give 'https://api.example.com/slow'$"):
        Settings.read({"rebound_rates": {url: 5}}, {})
