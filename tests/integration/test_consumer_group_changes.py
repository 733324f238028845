"""What happens around a running consumer: its topic is deleted, or another consumer takes its place in the group."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from kafka import KafkaAdminClient
from kafka.errors import FencedInstanceIdError

from tests.integration.test_consumer import Fixture, fix, nothing, numbers  # noqa: F401 - `fix` is a fixture
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

needs_apache = pytest.mark.skipif(
    "REBOUND_TEST_KAFKA" not in os.environ, reason="the embedded broker creates no topics and fences no members"
)
#: kafka-python asks for the topics so often.
OFTEN = {"metadata_max_age_ms": 500}


@needs_apache
@pytest.mark.parametrize("allowed", [False, True])
def test_a_deleted_topic_is_created_again_only_if_the_consumer_may(
    fix: Fixture,  # noqa: F811
    make_topic: Callable[..., str],
    produce: Any,
    allowed: bool,
) -> None:
    topic = make_topic(1)
    produce(topic, numbers(3))
    seen: list[bytes | None] = []
    fix.start(topic, lambda record: seen.append(record.value), kafka_options=OFTEN, allow_auto_create=allowed)
    wait_until(lambda: fix.committed(topic) == 3, timeout=30)

    admin = KafkaAdminClient(bootstrap_servers=fix.brokers)
    try:
        admin.delete_topics([topic])
        if allowed:
            wait_until(lambda: topic in admin.list_topics(), timeout=20)
            return
        wait_until(lambda: topic not in admin.list_topics(), timeout=20)
        with pytest.raises(AssertionError):
            wait_until(lambda: topic in admin.list_topics(), timeout=4)
    finally:
        admin.close()

    make_topic(1, topic)
    produce(topic, [(None, b"new", [])])
    wait_until(lambda: b"new" in seen, timeout=30)


@needs_apache
def test_a_consumer_whose_place_in_the_group_another_one_takes_ends(
    fix: Fixture,  # noqa: F811
    topic: str,
) -> None:
    """It handles nothing twice: it ends at its next heartbeat, not at its first commit."""
    options = {"group_instance_id": "the same"}
    first = fix.start(topic, nothing, kafka_options=options)
    wait_until(lambda: fix.committed(topic) is not None, timeout=30)
    second = fix.start(topic, nothing, kafka_options=options)

    with pytest.raises(FencedInstanceIdError):
        wait_until(lambda: first.join(0.1), timeout=20)
    assert second.join(0.1) is False
