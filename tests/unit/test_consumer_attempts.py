"""One attempt of a record: quick retries, the deserializer, the first delay, and the limit on dead letters."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro
import pytest
from google.protobuf.wrappers_pb2 import Int64Value
from msgspec.structs import replace

from rebound_celery import ConsumerConfig, DeadLetter, Drop, ErrorRule, InvalidSettingError, RetryAfter, RetryPolicy
from rebound_celery.config import Settings
from rebound_celery.consumer.failure_handler import FailedRecord, FailureHandler
from rebound_celery.consumer.partition_tracker import Job
from rebound_celery.errors import DeadLetterLimitError
from rebound_celery.message import Origin, Record
from rebound_celery.message.address import KafkaAddress
from rebound_celery.message.ids import derive_record_id
from tests.unit.test_consumer_offset_tracker import OffsetTracker, admit

NOW_MS = 1_700_000_000_000


class Clock:
    """A clock that only notes how long it was asked to sleep."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now_ms(self) -> int:
        return NOW_MS

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Consuming:
    """Makes attempts of records as a handler thread does, without threads and Kafka."""

    def __init__(self, handler: Callable[[Record], object], settings: Settings | None = None, **fields: Any) -> None:
        config = ConsumerConfig(group="g", topics="orders", handler=handler, **fields)
        self.clock = Clock()
        self._failures = FailureHandler(config, settings or Settings(), draw=lambda: 0.5)
        self.attempt = self._failures.attempt(self.clock)

    def consume(self, record: Record) -> FailedRecord | None:
        """Return what is stored for a record; None if it succeeded or is dropped."""
        try:
            self.attempt(record)
        except Exception as error:  # noqa: BLE001 - as the handler's thread does
            (job,) = admit(OffsetTracker(), record.offset)
            return self._failures.decide(Job(record, job.tracker), error, NOW_MS)
        return None


def record(value: bytes | None = b"{}", *, topic: str = "orders", offset: int = 7, **fields: Any) -> Record:
    own = derive_record_id("g", topic, 0, offset, 5)
    return Record(topic, 0, offset, 5, b"k", value, (("h", b"1"),), own, Origin(topic, 0, offset, 5), **fields)


class Failing:
    """A handler that raises these errors, one after the other, and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.seen: list[Record] = []

    def __call__(self, record: Record) -> str:
        self.seen.append(record)
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_without_options_the_handler_itself_is_called() -> None:
    handler = Failing()

    assert Consuming(handler, max_retries=3).attempt is handler


def test_quick_retries_come_before_the_first_scheduled_one() -> None:
    handler = Failing(*[OSError()] * 4)
    consuming = Consuming(handler, policy=RetryPolicy(3, 5, quick_retries=3, quick_delay=0.2))

    failed = consuming.consume(record())

    assert len(handler.seen) == 4
    assert consuming.clock.slept == [0.2, 0.2, 0.2]
    assert failed is not None
    assert (failed.message.attempt, failed.due_ms, len(failed.message.history)) == (2, NOW_MS + 5000, 1)
    assert consuming.consume(record(attempt=2)) is None
    assert len(handler.seen) == 5


def test_a_later_attempt_has_no_quick_retries() -> None:
    handler = Failing(OSError(), OSError())

    failed = Consuming(handler, policy=RetryPolicy(3, 5, quick_retries=3)).consume(record(attempt=2))

    assert len(handler.seen) == 1
    assert failed is not None
    assert failed.message.attempt == 3


@pytest.mark.parametrize("error", [RetryAfter(9), DeadLetter("x"), Drop("x"), KeyError(), LookupError(), ValueError()])
def test_what_says_itself_what_follows_has_no_quick_retries(error: Exception) -> None:
    rules = [ErrorRule(KeyError, "dead-letter"), ErrorRule(LookupError, "drop"), ErrorRule(ValueError, delay=9)]
    handler = Failing(error)

    Consuming(handler, policy=RetryPolicy(quick_retries=3, rules=rules)).consume(record())

    assert len(handler.seen) == 1


def test_a_quick_retry_that_succeeds_is_a_success() -> None:
    handler = Failing(OSError(), OSError())
    consuming = Consuming(handler, policy=RetryPolicy(quick_retries=2))

    assert consuming.attempt(record()) == "done"
    assert consuming.clock.slept == []


def test_the_policy_is_that_of_the_topic_where_the_record_was_first_read() -> None:
    settings = Settings.read({"rebound_policies": {"topics": {"pay*": {"kind": "constant", "base_delay": 60}}}}, {})
    consuming = Consuming(Failing(*[OSError()] * 4), settings)

    def due(record: Record) -> float:
        failed = consuming.consume(record)
        assert failed is not None
        return (failed.due_ms - NOW_MS) / 1000

    assert due(record()) == 5
    assert due(record(topic="payments")) == 60
    assert due(replace(record(topic="again"), origin=Origin("payments", 0, 1, 1), attempt=3)) == 60
    assert due(record(topic="payments", attempt=2)) == 60


def test_the_consumers_own_limits_change_the_policies_of_the_app() -> None:
    settings = Settings.read({"rebound_policies": {"topics": {"orders": {"kind": "linear"}}}}, {})

    failed = Consuming(Failing(OSError()), settings, max_retries=9, base_delay=2).consume(record(attempt=3))

    assert failed is not None
    assert failed.message.policy == RetryPolicy(9, 2, "linear")
    assert failed.due_ms == NOW_MS + 6000


def test_limits_that_a_policy_of_the_app_cannot_have_are_refused_at_the_start() -> None:
    settings = Settings.read({"rebound_policies": {"topics": {"orders": {"delays": [1, 2]}}}}, {})

    with pytest.raises(InvalidSettingError, match="the policy is a list of delays"):
        Consuming(print, settings, base_delay=2)


# What follows


def test_a_dropped_record_leaves_a_log_line_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rebound_celery")

    assert Consuming(Failing(Drop("cancelled"))).consume(record()) is None

    (line,) = caplog.records
    assert line.levelname == "WARNING"
    assert line.getMessage().endswith(
        "failed with rebound_celery.policy.instructions.Drop: cancelled; it is dropped: cancelled"
    )
    assert (line.event, line.reason) == ("dropped", "cancelled")  # type: ignore[attr-defined]


def test_a_dead_letter_goes_to_the_topic_of_the_rule_or_of_the_handler() -> None:
    policy = RetryPolicy(rules=[ErrorRule(KeyError, "dead-letter", dead_letter_topic="broken")])
    consuming = Consuming(Failing(KeyError("k"), DeadLetter("x", topic="parked"), OSError()), policy=policy)

    by_rule, by_handler, by_count = (consuming.consume(record(attempt=4)) for _ in range(3))

    assert by_rule is not None
    assert by_handler is not None
    assert by_count is not None
    assert (by_rule.message.reason, by_rule.message.target) == ("rule", KafkaAddress("broken"))
    assert (by_handler.message.reason, by_handler.message.target) == ("x", KafkaAddress("parked"))
    assert (by_count.message.reason, by_count.message.target) == ("retries-exhausted", KafkaAddress("orders-dlq"))
    assert by_rule.due_ms == NOW_MS


# The delay of the first delivery


def test_a_new_record_waits_before_its_first_delivery() -> None:
    handler = Failing()
    consuming = Consuming(handler, policy=RetryPolicy(3, 5, first_delay=60))

    waiting = consuming.consume(record(b"v"))

    assert handler.seen == []
    assert waiting is not None
    message = waiting.message
    assert waiting.due_ms == NOW_MS + 60_000
    assert (message.attempt, message.reason, message.failure, message.history) == (1, None, None, ())
    assert (message.value, message.key, message.headers) == (b"v", b"k", (("h", b"1"),))
    assert (message.group, message.first_failed_at, message.target) == ("g", None, KafkaAddress("orders"))


def test_a_record_that_was_delayed_or_retried_does_not_wait_again() -> None:
    handler = Failing()
    consuming = Consuming(handler, policy=RetryPolicy(3, 5, first_delay=60))

    assert consuming.consume(replace(record(offset=8), id=record().id)) is None
    assert consuming.consume(record(attempt=2)) is None
    assert len(handler.seen) == 2


# What cannot be decoded


def test_the_handler_gets_what_the_deserializer_has_made() -> None:
    handler = Failing()
    consuming = Consuming(handler, deserializer="json")

    consuming.consume(record(b'{"a": [1, 2]}'))
    consuming.consume(record(None))

    assert [(one.value, one.data) for one in handler.seen] == [(b'{"a": [1, 2]}', {"a": [1, 2]}), (None, None)]


SCHEMA = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}]}


def avro(value: bytes) -> object:
    return fastavro.schemaless_reader(io.BytesIO(value), SCHEMA, None)


@pytest.mark.parametrize(
    ("deserializer", "value", "data", "damaged"),
    [
        ("json", b'{"id":7}', {"id": 7}, b'{"id":'),
        ("json", b"[" * 100, None, b"[" * 1_000_000),
        (avro, b"\x0e", {"id": 7}, b""),
        # A class of protobuf's own stands for a generated one.
        (Int64Value.FromString, b"\x08\x07", Int64Value(value=7), b"\x08"),
    ],
)
def test_json_avro_and_protobuf_are_decoded_or_dead_letters(
    deserializer: Any, value: bytes, data: object, damaged: bytes
) -> None:
    handler = Failing()
    consuming = Consuming(handler, deserializer=deserializer)

    if data is not None:
        consuming.consume(record(value))
        assert [one.data for one in handler.seen] == [data]
    failed = consuming.consume(record(damaged))

    assert failed is not None
    assert (failed.message.value, failed.message.reason) == (damaged, "undecodable")


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_value_that_cannot_be_decoded_is_a_dead_letter_at_once_with_its_raw_bytes(attempt: int) -> None:
    handler = Failing()
    policy = RetryPolicy(9, quick_retries=9, rules=[ErrorRule(ValueError, dead_letter_topic="broken")])

    failed = Consuming(handler, deserializer="json", policy=policy).consume(record(b"\xff{", attempt=attempt))

    assert handler.seen == []
    assert failed is not None
    message = failed.message
    assert (message.value, message.reason, message.attempt) == (b"\xff{", "undecodable", attempt)
    assert message.target == KafkaAddress("broken"), "a rule names the topic"
    assert message.failure is not None
    assert message.failure.exception_class == "UnicodeDecodeError"
    assert "Traceback" in message.failure.stacktrace


def test_a_deserializer_may_decide_itself() -> None:
    def decode(value: bytes) -> object:
        raise Drop("a heartbeat")

    assert Consuming(Failing(), deserializer=decode).consume(record()) is None


def test_a_failure_of_the_handler_keeps_the_raw_bytes_too() -> None:
    failed = Consuming(Failing(OSError()), deserializer=json.loads).consume(record(b'{"a":1}'))

    assert failed is not None
    assert failed.message.value == b'{"a":1}'


# The limit on dead letters


def outcomes(consuming: Consuming, values: bytes) -> str:
    """Consume a record of each value; `d` dead letter, `r` retry, `-` done, and `!` where the limit stops it."""
    text = ""
    for value in values:
        try:
            failed = consuming.consume(record(bytes([value])))
        except DeadLetterLimitError:
            return text + "!"
        text += "-" if failed is None else "d" if failed.dead else "r"
    return text


def handle(record: Record) -> None:
    if record.value == b"d":
        raise DeadLetter("broken")
    if record.value == b"r":
        raise OSError
    if record.value == b"x":
        raise Drop("gone")


@pytest.mark.parametrize(
    ("fields", "values", "expected"),
    [
        ({"dead_letter_limit": 3}, b"dddd-", "ddd!"),
        ({"dead_letter_limit": 3}, b"ddsddd", "dd-ddd"),
        ({"dead_letter_limit": 3}, b"drdxdd", "drd-d!"),
        ({"dead_letter_limit": 1}, b"dd", "d!"),
        ({"dead_letter_share": 0.5, "dead_letter_window": 4}, b"dddd", "dd!"),
        ({"dead_letter_share": 0.5, "dead_letter_window": 4}, b"sddsd", "-dd-!"),
        ({"dead_letter_share": 0.5, "dead_letter_window": 4}, b"sdsdsdsdsdsd", "-d-d-d-d-d-d"),
        ({"dead_letter_share": 0.5, "dead_letter_window": 4}, b"rrrrrrdrrr", "rrrrrrdrrr"),
        ({"dead_letter_share": 0.5, "dead_letter_window": 4, "dead_letter_limit": 1}, b"dd", "d!"),
        ({}, b"d" * 300, "d" * 300),
    ],
)
def test_too_many_dead_letters_stop_the_consumer(fields: dict[str, Any], values: bytes, expected: str) -> None:
    assert outcomes(Consuming(handle, **fields), values) == expected


def test_the_error_of_the_limit_tells_the_limit_the_record_and_the_reason() -> None:
    consuming = Consuming(handle, dead_letter_limit=1)
    consuming.consume(record(b"d"))

    with pytest.raises(DeadLetterLimitError) as stopped:
        consuming.consume(record(b"d", offset=8))

    text = str(stopped.value)
    assert text.startswith(
        "dead_letter_limit=1 is exceeded: 1 in a row are dead letters, and orders[0]@8 would be the next"
    )
    assert "(broken)" in text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"deserializer": "avro"}, "deserializer='avro' cannot be used: it is a function that takes bytes, 'json', or"),
        ({"dead_letter_limit": 0}, "dead_letter_limit=0 cannot be used: it is a whole number from 1 up"),
        ({"dead_letter_limit": 1.5}, "dead_letter_limit=1.5 cannot be used"),
        ({"dead_letter_share": 0}, "dead_letter_share=0 cannot be used: it is a number above 0 and below 1"),
        ({"dead_letter_share": 1}, "dead_letter_share=1 cannot be used"),
        ({"dead_letter_share": float("nan")}, "dead_letter_share=nan cannot be used"),
        ({"dead_letter_share": "half"}, "dead_letter_share='half' cannot be used"),
        ({"dead_letter_window": 50}, "dead_letter_window=50 cannot be used: it needs dead_letter_share"),
        ({"dead_letter_window": 0}, "dead_letter_window=0 cannot be used: it is a whole number from 1 up"),
        (
            {"policy": RetryPolicy(rules=[ErrorRule("shop.NoSuchError")])},
            "rules[0].error='shop.NoSuchError' cannot be used: it cannot be imported: No module named 'shop'",
        ),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        ConsumerConfig(group="g", topics="orders", handler=print, **fields)

    assert text in str(refused.value)
