"""No error, log line or `repr` shows the user, the password or the query of a URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlparse, urlsplit

import pytest
from celery import Celery

from rebound_celery import ConsumerConfig, InvalidSettingError, NotStoredError, Rebound, RetryRequest, Settings
from rebound_celery.config import parse_brokers
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.errors import ReboundError
from rebound_celery.message.address import HttpAddress, KafkaAddress, parse_address
from rebound_celery.shown import shown, shown_url

SECRET = "hunter"
URL = "https://hunter1:hunter2@receiver/path?token=hunter3"
WITHOUT_SCHEME = "hunter1:hunter2@receiver/path?token=hunter3"


def a_request(**fields: Any) -> RetryRequest:
    return RetryRequest(**{"destination": URL, **fields})


@pytest.mark.parametrize(
    "request_",
    [
        a_request(),
        a_request(dead_destination=URL),
        a_request(destination={"url": URL}),
        a_request(destination={"url": WITHOUT_SCHEME}),
        a_request(destination=WITHOUT_SCHEME),
        a_request(destination=HttpAddress(URL)),
        a_request(destination=urlsplit(URL)),
        a_request(destination=URL.encode()),
        a_request(value={"callback": [URL]}, source=URL, error=f"POST {URL} failed", headers={"referer": URL}),
    ],
    ids=range(9),
)
def test_the_repr_of_a_request_has_no_secret(request_: RetryRequest) -> None:
    assert SECRET not in repr(request_)
    assert SECRET not in str(request_)
    assert SECRET not in repr(request_.__rich_repr__())


def test_the_repr_of_a_request_tells_what_was_given() -> None:
    request = RetryRequest(destination=URL, value=b"x", max_retries=0, attempt=2)
    assert repr(request) == (
        "RetryRequest(destination='https://***@receiver/path?***', value=b'x', max_retries=0, attempt=2)"
    )


def test_addresses_and_what_has_them_show_no_secret() -> None:
    address = HttpAddress(URL)
    message, _ = a_request(dead_destination=URL).to_message(Settings(), 0)
    for thing in (address, address.parts, message, Delivery(message=message, task_id="t")):
        assert SECRET not in repr(thing)
        assert SECRET not in str(thing)
    assert SECRET not in repr(address.__rich_repr__())


def test_settings_do_not_show_options_that_may_be_passwords() -> None:
    options = {"sasl_plain_password": "hunter2"}
    assert SECRET not in repr(Settings(kafka_options=options))
    assert SECRET not in repr(ConsumerConfig(group="g", topics="t", handler=print, kafka_options=options))


def conf(**settings: Any) -> Callable[[], object]:
    return lambda: Settings.read({f"rebound_{name}": value for name, value in settings.items()}, {})


WRONG: list[Callable[[], object]] = [
    lambda: RetryRequest.from_mapping({"dead_destination": URL}),
    lambda: RetryRequest.from_mapping({"destinaton": URL}),
    lambda: RetryRequest.from_mapping({"destinaton": WITHOUT_SCHEME}),
    lambda: RetryRequest.from_mapping({"destinaton": URL.encode()}),
    lambda: RetryRequest.from_mapping({URL: 1}),
    lambda: RetryRequest.from_mapping(URL),  # type: ignore[arg-type]
    lambda: RetryRequest.from_mapping([URL]),  # type: ignore[arg-type]
    lambda: RetryRequest.from_mapping({"destination": "kafka://t", "value": URL, "message_data": 1}),
    lambda: a_request(value={"a": {URL}}).to_message(Settings(), 0),
    lambda: a_request(value=object(), policy=URL).to_message(Settings(), 0),
    lambda: a_request(attempt=URL).to_message(Settings(), 0),
    lambda: a_request(delay=URL).to_message(Settings(), 0),
    lambda: a_request(error=[URL]).to_message(Settings(), 0),
    lambda: a_request(headers=[URL]).to_message(Settings(), 0),
    lambda: a_request(key=[URL]).to_message(Settings(), 0),
    lambda: parse_address(URL.encode()),
    lambda: parse_address([URL]),
    lambda: parse_address([WITHOUT_SCHEME]),
    lambda: parse_address(urlsplit(URL)),
    lambda: parse_address(urlparse(URL)),
    lambda: parse_address({"url": URL.encode()}),
    lambda: parse_address({"url": urlsplit(URL)}),
    lambda: parse_address({URL: 1}),
    lambda: parse_address({"url": URL, "topic": "t", URL: 1}),
    lambda: parse_address({"topic": URL}),
    lambda: parse_address({"topic": "t", "brokers": URL}),
    lambda: parse_address({"topic": "t", "partition": URL}),
    lambda: parse_address({"topic": "t", "host": "hunter1:hunter2@kafka"}),
    lambda: parse_address("kafka://hunter1:hunter2@kafka:9092/orders"),
    lambda: parse_address("kafka://kafka:9092/orders?token=hunter2"),
    lambda: parse_address("kafka://orders", kind=URL),
    lambda: KafkaAddress("t", "hunter1:hunter2@kafka:9092"),
    lambda: parse_brokers("hunter1:hunter2@kafka:9092"),
    lambda: parse_brokers([URL]),
    lambda: parse_brokers("kafka:9092,hunter1:hunter2@kafka:9092"),
    lambda: parse_brokers("hunter1:hunter2@kafka:9092,kafka:9092"),
    conf(http_proxy=urlsplit(URL)),
    conf(http_proxy=URL),
    conf(kafka_brokers=URL),
    conf(queue=f"{URL} "),
    conf(lease=URL),
    lambda: Settings.read({}, {"REBOUND_BASE_DELAY": URL}),
    lambda: Rebound(Celery(set_as_current=False), http_prxy="hunter1:hunter2@proxy:3128"),
    lambda: ConsumerConfig(group="g", topics="t", handler=print, brokers="hunter1:hunter2@kafka:9092"),
    lambda: ConsumerConfig(group="g", topics=URL, handler=print),
]


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_an_error_about_a_wrong_value_has_no_secret(wrong: Callable[[], object]) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        wrong()
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value)


def test_an_error_about_a_missing_destination_names_what_was_given() -> None:
    with pytest.raises(InvalidSettingError, match=re.escape("request=['dead_destination', 'value'] cannot be used")):
        RetryRequest.from_mapping({"value": b"x" * 1000, "dead_destination": URL})


@pytest.mark.parametrize(
    "broker",
    [
        "sentinel://:hunter1@127.0.0.1:1;sentinel://:hunter2@127.0.0.1:2",
        "redis://:hunter1@127.0.0.1:1/0;redis://:hunter2@127.0.0.1:2/0",
        ["redis://:hunter1@127.0.0.1:1/0", "redis://:hunter2@127.0.0.1:2/0"],
    ],
    ids=["sentinels", "several", "list"],
)
def test_an_error_about_redis_names_each_server_without_its_password(broker: Any) -> None:
    options = {"master_name": "main", "max_retries": 0, "interval_start": 0, "interval_step": 0}
    app = Celery("away", broker=broker, set_as_current=False)
    app.conf.broker_transport_options = options
    rebound = Rebound(app)
    with pytest.raises(NotStoredError, match=r"127\.0\.0\.1:1") as away:
        rebound.schedule_retry("kafka://orders")
    assert SECRET not in str(away.value)


@pytest.mark.parametrize("broker", ["hunter1:hunter2@127.0.0.1:6379", "amqp://u:hunter@[bad", "amqp://u:hunter2@h"])
def test_an_error_about_another_broker_has_no_password(broker: str) -> None:
    with pytest.raises(ReboundError) as refused:
        Rebound(Celery("other", broker=broker, set_as_current=False)).schedule_retry("kafka://orders")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("value", [1, None, "a@b?c", b"a@b", ["a@b", 1], {"a": "b?c"}, ("x",), 2.5, True])
def test_what_has_no_url_is_shown_as_it_is(value: object) -> None:
    assert repr(shown(value)) == repr(value)


def test_a_value_that_should_be_a_url_is_cut() -> None:
    assert len(str(shown_url("https://receiver/" + "x" * 1000))) < 310
