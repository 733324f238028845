"""The warning about an offset that Kafka no longer has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from rebound_celery.consumer.gone_offsets import GoneOffsets

ONE = TopicPartition("orders", 0)


class Kafka:
    """A KafkaConsumer with one partition whose log has the offsets 8 to 11."""

    def __init__(self, reset: str, position: int | None) -> None:
        self.config = {"auto_offset_reset": reset}
        self.answers = True
        self.owned = {ONE}
        self.state = SimpleNamespace(position=position if position is None else SimpleNamespace(offset=position))
        self._subscription = SimpleNamespace(assignment={ONE: self.state}, request_offset_reset=self._reset)

    def _reset(self, *_: Any) -> None:
        self.state.position = None

    def gone(self, *strategy: Any) -> None:
        self._subscription.request_offset_reset(ONE, *strategy)

    def found(self, position: int) -> None:
        self.state.position = SimpleNamespace(offset=position)

    def assignment(self) -> set[TopicPartition]:
        return self.owned

    def beginning_offsets(self, partitions: Any, timeout_ms: int) -> dict[TopicPartition, int]:
        if not self.answers:
            raise KafkaTimeoutError
        return {ONE: 8}

    def end_offsets(self, partitions: Any, timeout_ms: int) -> dict[TopicPartition, int]:
        return {ONE: 12}


@pytest.mark.parametrize(
    ("offset", "reset", "position", "text"),
    [
        (
            5,
            "earliest",
            10,
            "Kafka has deleted the offsets 5 to 7 before they were consumed; the consumer goes on at 8",
        ),
        (5, "latest", 12, "Kafka has deleted the offsets 5 to 7 before they were consumed; the consumer goes on at 12"),
        (50, "earliest", 8, "does not have the offset 50 any more, its log ends at 12; the consumer goes on at 8"),
    ],
)
def test_what_is_gone_is_said_once_the_new_offset_is_known(
    offset: int, reset: str, position: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    kafka = Kafka(reset, offset)
    gone_offsets = GoneOffsets(kafka)
    kafka.gone()
    gone_offsets.report()
    assert not caplog.messages

    kafka.found(position)
    gone_offsets.report()
    gone_offsets.report()

    (message,) = caplog.messages
    assert message.startswith("orders[0]: ")
    assert text in message.replace("at offset ", "at ")


def test_it_is_said_without_details_if_kafka_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    kafka = Kafka("earliest", 5)
    gone_offsets = GoneOffsets(kafka)
    kafka.answers = False
    kafka.gone()
    kafka.found(8)

    gone_offsets.report()

    (message,) = caplog.messages
    assert message.startswith("orders[0]: Kafka does not have the offset 5 any more; the consumer goes on at offset 8 ")


def test_nothing_is_said_of_a_partition_without_position_or_owner_and_of_a_seek(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fresh = Kafka("earliest", None)
    gone_offsets = GoneOffsets(fresh)
    fresh.gone()
    fresh.found(8)
    gone_offsets.report()

    lost = Kafka("earliest", 5)
    gone_offsets = GoneOffsets(lost)
    lost.gone()
    lost.owned = set()
    gone_offsets.report()

    sought = Kafka("earliest", 5)
    gone_offsets = GoneOffsets(sought)
    sought.gone("EARLIEST")
    sought.found(8)
    gone_offsets.report()

    assert not caplog.messages
