"""One attempt of a record: its value is decoded, and the handler is called, again at once where the policy says so."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from enum import Enum, auto

from msgspec.structs import replace

from ..clock import Clock
from ..message import Record
from ..message.ids import derive_record_id
from ..policy import UNDECODABLE, RetryPolicy
from ..policy.causes import instruction_of, names_of
from ..policy.instructions import DeadLetter, Instruction
from .config import ConsumerConfig, Handler
from .dead_letter_limit import DeadLetterLimit

logger = logging.getLogger(__name__)


class Handled(Enum):
    """How an attempt ended after which nothing must be stored."""

    SUCCEEDED = auto()
    #: The record has failed, and its policy or its handler drops it.
    DROPPED = auto()


class NotYet(Exception):  # noqa: N818 - nothing has failed
    """The policy delays the first delivery of a record. The handler is not called.

    Args:
        delay_s: the delay in seconds.
    """

    def __init__(self, delay_s: float) -> None:
        super().__init__(f"the first delivery is in {delay_s:g} s")
        self.delay_s = delay_s


def first_delay_of(record: Record, policy: RetryPolicy, group: str) -> float:
    """Return the seconds before the first delivery of a record; 0 for none. Only a producer's record is delayed."""
    if not policy.first_delay or record.attempt != 1:
        return 0
    # A record that rebound has delivered has the id of an earlier place.
    own = derive_record_id(group, record.topic, record.partition, record.offset, record.timestamp)
    return policy.first_delay if record.id == own else 0


def attempt_of(
    config: ConsumerConfig,
    policies: Iterable[RetryPolicy],
    policy_for: Callable[[Record], RetryPolicy],
    limit: DeadLetterLimit,
    clock: Clock,
    *,
    delays: bool = True,
) -> Handler:
    """Return the function that makes an attempt of a record. Where no option asks for more, it is the handler itself.

    Args:
        config: the consumer's configuration.
        policies: all policies that its records may have.
        policy_for: returns the policy of a record.
        limit: hears of the records that succeed.
        clock: waits between quick retries.
        delays: whether a policy can delay the first delivery.
    """
    deserialize = json.loads if config.deserializer == "json" else config.deserializer
    if (
        deserialize is None
        and not limit.is_on
        and not any(policy.quick_retries or (delays and policy.first_delay) for policy in policies)
    ):
        return config.handler
    return _Attempt(config, deserialize, policy_for, limit, clock, delays=delays)


class _Attempt:
    def __init__(
        self,
        config: ConsumerConfig,
        deserialize: Callable[[bytes], object] | None,
        policy_for: Callable[[Record], RetryPolicy],
        limit: DeadLetterLimit,
        clock: Clock,
        *,
        delays: bool,
    ) -> None:
        self._handler = config.handler
        self._group = config.group
        self._deserialize = deserialize
        self._policy_for = policy_for
        self._limit = limit
        self._clock = clock
        self._delays = delays

    def __call__(self, record: Record) -> object:
        policy = self._policy_for(record)
        if self._delays and (delay_s := first_delay_of(record, policy, self._group)):
            raise NotYet(delay_s)
        if self._deserialize is not None and record.value is not None:
            record = self._decoded(record, self._deserialize)
        value = self._call(record, policy, policy.quick_retries if record.attempt == 1 else 0)
        if self._limit.is_on:
            self._limit.succeeded()
        return value

    @staticmethod
    def _decoded(record: Record, deserialize: Callable[[bytes], object]) -> Record:
        value = record.value or b""
        try:
            return replace(record, data=deserialize(value))
        except Instruction:
            raise
        except Exception as error:
            # A later attempt could not decode it either.
            raise DeadLetter(UNDECODABLE) from error

    def _call(self, record: Record, policy: RetryPolicy, retries: int) -> object:
        while True:
            try:
                return self._handler(record)
            except Exception as error:
                if retries <= 0 or not _may_pass(policy, error):
                    raise
                logger.debug(
                    "%s (message %s) failed with %r; the handler is called again at once",
                    record.origin,
                    record.id,
                    error,
                    extra={"event": "quick_retry", "message_id": record.id},
                )
            retries -= 1
            if policy.quick_delay:
                self._clock.sleep(policy.quick_delay)


def _may_pass(policy: RetryPolicy, error: Exception) -> bool:
    """Whether the failure gets quick retries: neither the handler nor a rule says what else follows, or when."""
    if instruction_of(error) is not None:
        return False
    rule = policy.rule_for(names_of(error)) if policy.rules else None
    return rule is None or (rule.then == "retry" and rule.delay is None)
