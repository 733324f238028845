"""What a handler raises to decide itself what becomes of its record."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidSettingError
from .checks import MAX_DELAY_S, check_topic

#: The longest reason that a handler may give, in characters. The rest is cut off.
MAX_REASON = 200


class Instruction(Exception):  # noqa: N818 - it says what follows a failure
    """The base class of the exceptions with which a handler decides what becomes of its record.

    They also count as the cause of another exception: `raise ShopError() from Drop("cancelled")` drops the record.
    """


class RetryAfter(Instruction):
    """Try the record again after a delay of the handler's choice. The attempt counts, as after any other failure.

    The policy's `max_delay` and `budget` hold for this delay too. It gets no jitter.

    Args:
        seconds: the delay in seconds, from 0 to ten years.

    Raises:
        InvalidSettingError: for any other value.
    """

    def __init__(self, seconds: float) -> None:
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not 0 <= seconds <= MAX_DELAY_S:
            raise InvalidSettingError("seconds", seconds, f"RetryAfter takes seconds from 0 to {MAX_DELAY_S}")
        super().__init__(f"try again after {seconds:g} s")
        self.seconds = float(seconds)

    def __reduce__(self) -> tuple[type, tuple[float]]:
        return type(self), (self.seconds,)


class DeadLetter(Instruction):
    """Make the record a dead letter at once, however many retries are left.

    Args:
        reason: the value of the dead letter's header `rebound-reason`, at most 200 characters.
        topic: the dead letter topic; None means the usual one.

    Raises:
        InvalidSettingError: if the reason is not a text or is empty, or Kafka does not allow the topic's name.
    """

    def __init__(self, reason: str = "given-up", *, topic: str | None = None) -> None:
        self.reason = _reason(reason)
        self.topic = None if topic is None else check_topic(topic)
        super().__init__(self.reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,), {"topic": self.topic}


class Drop(Instruction):
    """Commit the record and forget it: no retry and no dead letter. A log line and a count are all that is kept.

    Args:
        reason: why, for the log, at most 200 characters.

    Raises:
        InvalidSettingError: if the reason is not a text, or is empty.
    """

    def __init__(self, reason: str = "dropped") -> None:
        self.reason = _reason(reason)
        super().__init__(self.reason)


def _reason(reason: object) -> str:
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidSettingError("reason", reason, "it is a text that is not empty")
    return str.__str__(reason)[:MAX_REASON]
