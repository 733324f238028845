"""What `schedule_retry` takes, checked and turned into a message."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal

import msgspec

from .caching import cached
from .config import Settings
from .errors import InvalidSettingError
from .limits import UniqueRule
from .message import Message, dead_letter_topic, new_id
from .message.address import DEAD_SET, Address, KafkaAddress, parse_address, policy_names
from .message.first_failure import After, after_failure
from .policy import MAX_FIRST_DELAY_S, MAX_RETRIES_LIMIT, Draw, Failure, RetryPolicy
from .policy.decide import DRAW
from .shown import shown, shown_url
from .values import Name, checked_text, encode_headers, encode_key, encode_value, text_of

#: Who tried, in the history of a message that `schedule_retry` makes.
_BY = f"schedule_retry@{socket.gethostname()}"

#: What names a destination; see `RetryRequest`.
Destination = str | Mapping[str, Any] | Address


_ADDRESSES = frozenset({"destination", "dead_destination"})


class RetryRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One message for `schedule_retries`: the arguments of `schedule_retry`.

    Attributes:
        destination: `kafka://topic`, `kafka://host:port/topic`, `http(s)://...`, a mapping with `topic` (and `host`,
            `port`, `partition`) or `url`, or an address.
        value: bytes as they are; text as UTF-8; None as a Kafka record without value (an empty body over HTTP);
            anything else as JSON, in which UUID, Decimal and datetime have the form that Celery gives them. Mappings
            may name it `message_data`.
        id: a stable name for the message, which receivers see as `rebound-id`; None makes one.
        key: the record's key: bytes, text, a number or a UUID; None for none. Over HTTP it is `X-Message-Key`.
        headers: a mapping or pairs; values that are text, numbers or UUIDs become UTF-8.
        max_retries: 0 to 100; None means what the app's policy for the destination says: `rebound_policies`, or else
            `rebound_max_retries`. With 0 it is a dead letter at once.
        base_delay: 1 to 3600 seconds; None means the same.
        policy: a RetryPolicy, or a mapping with its options, instead of the app's policies, `max_retries` and
            `base_delay`.
        destination_type: "kafka" or "http", where the caller wants it checked; with "kafka" the destination may be a
            bare topic name.
        dead_destination: where it goes when given up, like `destination`. None means `{topic}-dlq` for Kafka, and the
            dead set in Redis for HTTP.
        source, client_id: free words that travel along as headers.
        is_priority: whether it is taken before others that are due.
        error: why the attempt failed, an exception or a text; a dead letter carries it.
        attempt: which attempt has failed; 1 is the first, and what None means.
        delay: seconds until the first delivery, from 0, which is at once; None means what the policy says. With a delay
            of its own or of the policy (`first_delay`), and neither `error` nor `attempt`, nothing has failed yet: the
            first delivery is attempt 1.
        unique_key: of the messages with this key only one waits; a text, a number or a UUID. It is of this queue.
        unique: what is done if one waits already. "replace" gives it this message, and it stays due as it was; "keep"
            leaves it as it is, and this message is not stored; "extend" gives it this message and its due time.
        max_wait: with "extend", seconds after which it is due although others come, counted from the first one.
    """

    destination: Destination
    value: object = None
    id: Name | None = None
    key: bytes | Name | None = None
    headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None
    max_retries: int | None = None
    base_delay: float | None = None
    policy: RetryPolicy | Mapping[str, Any] | None = None
    destination_type: Literal["kafka", "http"] | None = None
    dead_destination: Destination | None = None
    source: object = None
    client_id: Name | None = None
    is_priority: bool = False
    error: BaseException | str | None = None
    attempt: int | None = None
    delay: float | None = None
    unique_key: Name | None = None
    unique: Literal["replace", "keep", "extend"] = "replace"
    max_wait: float | None = None

    @property
    def unique_rule(self) -> UniqueRule | None:
        """That only one message with the unique key may wait; None without a key.

        Raises:
            InvalidSettingError: naming the field, its value, and what is allowed.
        """
        if self.unique_key is None and self.unique == "replace" and self.max_wait is None:
            return None
        key = None if self.unique_key is None else text_of("unique_key", self.unique_key)
        return UniqueRule.of(key, self.unique, self.max_wait)

    def __repr__(self) -> str:
        """The fields that are given. Destinations are shown without user, password and query."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown_fields: list[tuple[str, Any]] = []
        for field in msgspec.structs.fields(type(self)):
            value = getattr(self, field.name)
            if field.required or value is not field.default:
                is_address = field.name in _ADDRESSES and not isinstance(value, Address)
                shown_fields.append((field.name, shown_url(value) if is_address else shown(value)))
        return shown_fields

    @classmethod
    def from_mapping(cls, arguments: Mapping[str, Any]) -> RetryRequest:
        """Make a request of the arguments of `schedule_retry` in a mapping.

        Raises:
            InvalidSettingError: for a name that is unknown, or a destination that is missing.
        """
        try:
            if "message_data" not in arguments:
                return cls(**arguments)
            # The name that the value has in Rebound's Go service.
            if "value" in arguments:
                raise InvalidSettingError("value", arguments["value"], "give it, or message_data, not both")
            renamed = dict(arguments)
            return cls(value=renamed.pop("message_data"), **renamed)
        except TypeError as error:
            raise _refusal(arguments, error) from None

    def to_message(self, settings: Settings, now_ms: int, *, draw: Draw = DRAW) -> tuple[Message, int | None]:
        """Return the message and its due time, both as they follow from the failed attempt.

        Args:
            settings: the app's.
            now_ms: the time in Unix milliseconds.
            draw: returns a random number from 0 to 1, for the jitter of the delay.

        Returns:
            the message and when it is due, in Unix milliseconds; None if a rule of the policy drops the message.

        Raises:
            InvalidSettingError: naming the field, its value, and what is allowed.
        """
        attempt, delay = 1 if self.attempt is None else self.attempt, self.delay
        if type(attempt) is not int or not 1 <= attempt <= 1 + MAX_RETRIES_LIMIT:
            raise InvalidSettingError("attempt", attempt, f"it is a whole number from 1 to {1 + MAX_RETRIES_LIMIT}")
        if type(self.is_priority) is not bool:
            raise InvalidSettingError("is_priority", self.is_priority, "it is True or False")
        if delay is not None:
            _check_delay(delay)
        destination, dead = _addresses(
            self.destination, self.destination_type, self.dead_destination, settings.dead_letter_suffix
        )
        table = settings.policies
        names = (None, None) if table.is_single else policy_names(destination)
        policy = table.choose(self.policy, self.max_retries, self.base_delay, *names)
        value, content_type = self.value, None
        if value is not None and type(value) is not bytes:
            value, content_type = encode_value(value)
        key = self.key
        if key is not None and type(key) is not bytes:
            key = encode_key(key)
        error = self.error
        if error is None and self.attempt is None and (delay is not None or policy.first_delay is not None):
            after: After = (1, now_ms, None, None, dead, None, ())  # nothing was tried yet
        else:
            redact = settings.redact.failure
            failure = None if error is None else redact(_describe(error))
            after = after_failure(
                policy,
                attempt,
                failure,
                error,
                destination,
                dead,
                now_ms=now_ms,
                by=_BY,
                draw=draw,
                redact=redact,
            )
        next_attempt, due_ms, first_failed_at, reason, dead, failure, history = after
        if delay is None and first_failed_at is None:
            delay = policy.first_delay
        if delay is not None and due_ms is not None and reason is None:
            due_ms = now_ms + round(delay * 1000)
        # By position: ten times as fast as by name.
        message = Message(
            new_id() if self.id is None else text_of("id", self.id),
            value,
            destination,
            next_attempt,
            policy,
            key,
            () if self.headers is None else encode_headers(self.headers),
            dead,
            reason,
            failure,
            history,
            None,
            None,
            first_failed_at,
            content_type,
            None if self.source is None else _free_text("source", self.source),
            None if self.client_id is None else text_of("client_id", self.client_id),
        )
        return (message if reason is None else settings.redact.dead_letter(message)), due_ms


def merged_value(value: object, message_data: object) -> object:
    """Return the one of both names of a message's value that was given.

    Raises:
        InvalidSettingError: if both were.
    """
    if message_data is None:
        return value
    if value is not None:
        raise InvalidSettingError("value", value, "give it, or message_data, not both")
    return message_data


def keep_error(fault: BaseException, error: object) -> None:
    """Let the stack trace of `fault` show the caller's own exception, which nothing else may tell of any more."""
    if not isinstance(error, BaseException):
        return
    last = fault
    while (earlier := last.__cause__ or (None if last.__suppress_context__ else last.__context__)) is not None:
        if earlier is error:
            return
        last = earlier
    if last is not error:
        last.__context__, last.__suppress_context__ = error, False


def error_of(given: object) -> object:
    """The error that a request tells of, however it was given."""
    if isinstance(given, RetryRequest):
        return given.error
    return given.get("error") if isinstance(given, Mapping) else None


_NAMES = tuple(field.name for field in msgspec.structs.fields(RetryRequest))


@cached
def _addresses(destination: object, kind: str | None, dead_destination: object, suffix: str) -> tuple[Address, Address]:
    """Return where a message goes, and where it goes when it is given up."""
    address = parse_address(destination, kind=kind)
    if dead_destination is not None:
        return address, parse_address(dead_destination, field="dead_destination")
    if isinstance(address, KafkaAddress):
        return address, dead_letter_topic(address.topic, suffix, address.brokers)
    return address, DEAD_SET


def _refusal(arguments: object, error: TypeError) -> InvalidSettingError:
    """Say what is wrong with the arguments of a request."""
    if not isinstance(arguments, Mapping):
        return InvalidSettingError("request", shown_url(arguments), "give a mapping or a RetryRequest")
    for name in arguments:
        if name not in (*_NAMES, "message_data"):
            near = get_close_matches(str(name), (*_NAMES, "message_data"), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return InvalidSettingError(
                str(shown_url(name)), shown_url(arguments[name]), f"there is no such argument{hint}"
            )
    # Their names tell what is missing; the values may be long, or secret.
    return InvalidSettingError("request", sorted(arguments), str(error))


def _describe(error: object) -> Failure:
    if not isinstance(error, str | BaseException):
        raise InvalidSettingError("error", error, "give an exception, a text, or None")
    return Failure.of(error)


def _check_delay(delay: object) -> None:
    is_number = isinstance(delay, int | float) and not isinstance(delay, bool)
    if not is_number or not 0 <= delay <= MAX_FIRST_DELAY_S:  # type: ignore[operator]
        raise InvalidSettingError("delay", delay, f"it is a number of seconds, from 0 to {MAX_FIRST_DELAY_S}")


def _free_text(field: str, value: object) -> str:
    try:
        text = str(value)
    except Exception as error:
        raise InvalidSettingError(field, value, f"it has no text ({error})") from error
    return checked_text(field, text)
