"""The forms in which a destination may be given, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rebound_celery.errors import InvalidSettingError
from rebound_celery.message.address import DEAD_SET, Address, HttpAddress, KafkaAddress, check_topic, parse_address


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("kafka://orders", KafkaAddress("orders")),
        ("KAFKA://orders", KafkaAddress("orders")),
        ("kafka://k1:9092/orders", KafkaAddress("orders", "k1:9092")),
        ("kafka://k1:9092,k2:9093/orders", KafkaAddress("orders", "k1:9092,k2:9093")),
        ("kafka://[::1]:9092/orders", KafkaAddress("orders", "[::1]:9092")),
        ("kafka:///orders", KafkaAddress("orders")),
        ("http://receiver/path", HttpAddress("http://receiver/path")),
        ("https://user:pw@receiver:8443/path?token=x", HttpAddress("https://user:pw@receiver:8443/path?token=x")),
        ("http://[::1]:8080/", HttpAddress("http://[::1]:8080/")),
        ({"topic": "orders"}, KafkaAddress("orders")),
        ({"host": "k1", "port": 9093, "topic": "orders"}, KafkaAddress("orders", "k1:9093")),
        ({"host": "k1", "port": "9093", "topic": "orders"}, KafkaAddress("orders", "k1:9093")),
        ({"host": "k1", "topic": "orders"}, KafkaAddress("orders", "k1:9092")),
        ({"host": "k1", "port": None, "topic": "orders", "url": None}, KafkaAddress("orders", "k1:9092")),
        ({"host": "", "port": 0, "topic": "orders", "url": ""}, KafkaAddress("orders")),
        ({"topic": "orders", "partition": 2}, KafkaAddress("orders", partition=2)),
        ({"url": "https://receiver/path"}, HttpAddress("https://receiver/path")),
        (
            {"url": "https://receiver/path", "host": None, "port": None, "topic": None},
            HttpAddress("https://receiver/path"),
        ),
        (KafkaAddress("orders", partition=0), KafkaAddress("orders", partition=0)),
        (HttpAddress("http://receiver"), HttpAddress("http://receiver")),
        (DEAD_SET, DEAD_SET),
    ],
)
def test_each_form_of_a_destination_is_read(given: Any, address: Address) -> None:
    assert parse_address(given) == address


@pytest.mark.parametrize(
    "address",
    [
        KafkaAddress("orders"),
        KafkaAddress("orders", "k1:9092,k2:9093", 3),
        KafkaAddress("orders", partition=0),
        HttpAddress("https://user:pw@receiver:8443/path?token=x"),
        DEAD_SET,
    ],
)
def test_an_address_survives_its_wire_form(address: Address) -> None:
    assert parse_address(json.loads(json.dumps(address.to_wire()))) == address


@pytest.mark.parametrize("topic", ["a", "A.b_c-9", "x" * 249, "..."])
def test_a_topic_that_kafka_allows_is_allowed(topic: str) -> None:
    assert check_topic(topic) == topic
    assert parse_address(f"kafka://{topic}") == KafkaAddress(topic)


@pytest.mark.parametrize(
    "topic", ["", ".", "..", "x" * 250, "a b", "a/b", "a:b", "ümlaut", "a\n", "a\x00", "a*", "\uff19", None, 7, b"a"]
)
def test_a_topic_that_kafka_forbids_is_refused_with_its_name_and_the_rule(topic: Any) -> None:
    with pytest.raises(InvalidSettingError, match="1 to 249 of the characters") as refused:
        KafkaAddress(topic)

    assert repr(topic) in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "orders",
        "kafka://",
        "kafka:///",
        "kafka://k1:9092/",
        "kafka://k1:9092",
        "kafka://k1/orders",
        "kafka://k1:0/orders",
        "kafka://k1:65536/orders",
        "kafka://:9092/orders",
        "kafka://k1:port/orders",
        "kafka://k1:9092,/orders",
        "kafka://k1:9092/or ders",
        "kafka://k1:9092/a/b",
        "http://",
        "http:///path",
        "https://:443/path",
        "http://receiver:0/",
        "http://receiver:65536/",
        "http://receiver:port/",
        "http://receiver/a b",
        "http://receiver/\r\nX-Injected: 1",
        "http://receiver/\x7f",
        "http://[::1/",
        "http:receiver/path",
        "ftp://receiver/path",
        "redis://receiver/0",
        "javascript:alert(1)",
        {},
        {"topic": ""},
        {"topic": "a b"},
        {"host": "k1"},
        {"host": "k1", "port": 0, "topic": "orders"},
        {"host": "k1", "port": 65536, "topic": "orders"},
        {"host": "k1", "port": "x", "topic": "orders"},
        {"url": "ftp://receiver"},
        {"url": 7},
        {"url": b"http://receiver"},
        {"topic": "orders", "color": "red"},
        {"topic": "orders", "partition": -1},
        {"topic": "orders", "partition": "1"},
        {"topic": "orders", "partition": 1.0},
        {"topic": "orders", "partition": True},
        {"brokers": 9092, "topic": "orders"},
        {"dead_set": False},
        {1: "topic", "color": "red"},
        {"host": "k1", "port": "²", "topic": "orders"},
        None,
        7,
        b"kafka://orders",
        ["kafka://orders"],
        ...,
    ],
    ids=repr,
)
def test_what_is_no_destination_is_refused_by_name(given: Any) -> None:
    with pytest.raises(InvalidSettingError, match=r"^(destination|topic)"):
        parse_address(given)


def test_an_error_names_the_field_that_the_caller_gave() -> None:
    with pytest.raises(InvalidSettingError, match=r"^dead_destination='nowhere' .*kafka://topic"):
        parse_address("nowhere", field="dead_destination")


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("kafka://orders", "kafka"),
        ({"topic": "orders"}, "kafka"),
        ("http://receiver", "http"),
        ({"url": "http://receiver"}, "http"),
    ],
)
def test_a_stated_type_that_fits_changes_nothing(given: Any, kind: str) -> None:
    assert parse_address(given, kind=kind) == parse_address(given)


def test_a_bare_topic_will_do_where_the_type_is_stated() -> None:
    assert parse_address("orders", kind="kafka") == KafkaAddress("orders")


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("kafka://orders", "http"),
        ("orders", "http"),
        ("http://receiver", "kafka"),
        ({"topic": "orders"}, "http"),
        ({"url": "http://receiver"}, "kafka"),
        (KafkaAddress("orders"), "http"),
    ],
)
def test_a_stated_type_that_does_not_fit_is_refused(given: Any, kind: str) -> None:
    with pytest.raises(InvalidSettingError, match="destination"):
        parse_address(given, kind=kind)


@pytest.mark.parametrize("kind", ["amqp", "", "KAFKA", 1])
def test_an_unknown_destination_type_is_refused_with_the_two_that_there_are(kind: Any) -> None:
    with pytest.raises(InvalidSettingError, match=r"destination_type=.* it is 'kafka' or 'http'"):
        parse_address("kafka://orders", kind=kind)


def test_text_for_logs_holds_no_secret_of_a_url() -> None:
    address = HttpAddress("https://user:hunter2@receiver:8443/path?token=hunter2")

    assert str(address) == "https://receiver:8443/path"
    assert repr(address) == "HttpAddress(url='https://***@receiver:8443/path?***')"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("https://user:hunter2@receiver:0/path?token=hunter2", None),
        ("https://hunter2@receiver:0/", None),
        ("https://user:hunter@2@receiver/path?token=hunter2", "kafka"),
        ("https://user:hunter/2@receiver/", None),
        ("https://user:hunter2@[receiver/", None),
        ("https://user:hunter2@receiver\u2100/", None),
        ("https://receiver/#token=hunter2", None),
        ("user:hunter2@receiver/path", None),
        ("amqp://user:hunter2@receiver/vhost", None),
        ({"url": "https://user:hunter2@receiver/", "color": "red"}, None),
        ({"url": "https://receiver/?token=hunter2"}, "kafka"),
        (HttpAddress("https://user:hunter2@receiver/"), "kafka"),
    ],
)
def test_the_error_about_a_url_names_it_without_its_secrets(given: Any, kind: str | None) -> None:
    with pytest.raises(InvalidSettingError, match="receiver") as refused:
        parse_address(given, kind=kind)

    assert "hunter" not in str(refused.value)
    assert "hunter" not in repr(refused.value)


@pytest.mark.parametrize("url", ["https://receiver/?token=a@hunter2", "https://user:hunter?2@receiver/ #"])
def test_an_error_hides_all_of_a_url_in_which_a_secret_cannot_be_told_from_the_host(url: str) -> None:
    with pytest.raises(InvalidSettingError, match=r"https://\*\*\*' cannot") as refused:
        parse_address(url, kind="kafka")

    assert "hunter" not in str(refused.value)


def test_text_for_logs_names_a_topic_without_its_brokers() -> None:
    assert str(KafkaAddress("orders", "k1:9092", 3)) == "kafka:orders"
    assert str(DEAD_SET) == "dead-set"


def test_addresses_are_values_that_can_be_keys() -> None:
    assert len({KafkaAddress("orders"), KafkaAddress("orders"), HttpAddress("http://receiver")}) == 2
