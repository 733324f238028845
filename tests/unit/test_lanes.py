"""Each destination has its own lane. A person can read and type the lane's name."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from rebound_celery import InvalidSettingError, Rebound
from rebound_celery.config import Settings
from rebound_celery.delivery.lanes import RatedLanes, is_slow, lane_of
from rebound_celery.delivery.steering import lane_name
from rebound_celery.message import Message
from rebound_celery.message.address import DEAD_SET, Address, HttpAddress, KafkaAddress, parse_address
from rebound_celery.policy import RetryPolicy


@pytest.mark.parametrize(
    ("address", "lane", "slow"),
    [
        (KafkaAddress("orders"), "kafka:orders", False),
        (KafkaAddress("orders", partition=3), "kafka:orders", False),
        (KafkaAddress("orders", "k1:9092,k2:9092"), "kafka:k1:9092,k2:9092/orders", False),
        (HttpAddress("http://shop.example/hook?a=1"), "http:shop.example:80", True),
        (HttpAddress("https://user:secret@Shop.Example/other"), "http:shop.example:443", True),
        (HttpAddress("http://[::1]:8080/"), "http:::1:8080", True),
        (DEAD_SET, "dead", False),
    ],
)
def test_messages_of_one_destination_share_a_lane(address: Address, lane: str, slow: bool) -> None:
    assert lane_of(address) == lane
    assert is_slow(lane) is slow


def test_an_address_without_a_lane_is_an_error_and_no_dead_letter() -> None:
    class NewAddress:
        """A kind of destination that has no lane yet."""

    with pytest.raises(AssertionError, match=r"unreachable, but got: .*NewAdd"):
        lane_of(NewAddress())


RATES = {
    "kafka://orders key=vip-*": None,
    "kafka://orders key=tenant-7:*": 5,
    "kafka://orders": 100,
    "kafka://k1:9092/*": 50,
    "https://api.example.com/slow/*": 2,
    "https://api.example.com": 20,
    "https://*.shop.example/* key=7": 1,
    "http://[::1]:8080/*": 3,
}


@pytest.mark.parametrize(
    ("destination", "key", "lane", "rate"),
    [
        ("kafka://orders", b"vip-1", "kafka:orders|key=vip-*", None),
        ("kafka://orders", b"tenant-7:cart", "kafka:orders|key=tenant-7:*", 5),
        ("kafka://orders", b"tenant-8:cart", "kafka:orders", 100),
        ("kafka://orders", None, "kafka:orders", 100),
        ("kafka://orders", b"\xff", "kafka:orders", 100),
        ("kafka://orders-dlq", None, "kafka:orders-dlq", None),
        ("kafka://k1:9092/any", None, "kafka:k1:9092/any", 50),
        ("https://api.example.com/slow/report?a=1", None, "http:api.example.com:443|/slow/*", 2),
        ("https://user:pw@api.example.com:443/quick", None, "http:api.example.com:443", 20),
        ("https://api.example.com", None, "http:api.example.com:443", 20),
        ("https://api.example.com:8443/", None, "http:api.example.com:8443", None),
        ("https://eu.shop.example/a", b"7", "http:eu.shop.example:443|key=7", 1),
        ("https://eu.shop.example/a", b"8", "http:eu.shop.example:443", None),
        ("http://[::1]:8080/hook", None, "http:::1:8080", 3),
    ],
)
def test_messages_of_a_rule_share_its_lane_and_rate(
    destination: str, key: bytes | None, lane: str, rate: float | None
) -> None:
    lanes = RatedLanes(lambda: Settings.read({"rebound_rates": RATES}, {}).rates)
    message = Message("id", b"x", parse_address(destination), 1, RetryPolicy(3, 5), key)

    assert lanes.of(message) == (lane, rate)
    assert is_slow(lane) == destination.startswith("http")


@pytest.mark.parametrize("name", ["orders", "billing lane", "kafka:", "smtp:mail.example", "ftp://files.example/a", ""])
def test_what_names_neither_a_destination_nor_a_lane_is_refused(name: str) -> None:
    with pytest.raises(InvalidSettingError, match=r"^destination="):
        lane_name(name)


@pytest.mark.parametrize(
    ("given", "lane"),
    [
        ("kafka://orders", "kafka:orders"),
        ("https://shop.example/a", "http:shop.example:443"),
        ("dead", "dead"),
        ("ended", "ended"),
        ("jobs", "jobs"),
        ("http:shop.example:443|/a/*", "http:shop.example:443|/a/*"),
        ("kafka:orders|key=https://x/*", "kafka:orders|key=https://x/*"),
    ],
)
def test_a_lane_is_named_by_its_destination_or_by_its_name(given: str, lane: str) -> None:
    assert lane_name(given) == lane


@pytest.mark.parametrize("rate", ["5", "5/s", True, 0, -1, float("nan"), 2_000_000])
def test_what_is_no_rate_is_refused(rate: Any) -> None:
    with pytest.raises(InvalidSettingError, match="per_second="):
        Rebound(Celery("shop", set_as_current=False)).lanes.set_rate("kafka://orders", rate)
