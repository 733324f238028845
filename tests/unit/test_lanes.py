"""Each destination has its own lane. A person can read and type the lane's name."""

from __future__ import annotations

import pytest

from rebound_celery.delivery.lanes import is_slow, lane_of
from rebound_celery.message.address import DEAD_SET, Address, HttpAddress, KafkaAddress


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
