"""The stored form of a message: the bytes that wait in Redis.

    byte 0        the version of the form; `_READERS` has a reader for each version
    the rest      version 0x10: the packed message
                  version 0x11: the packed message, compressed with dictionary 1
                  version 0x12: one of these, encrypted; `encryption.py` reads it first

The packed message is a msgpack array, `_Packed`. It does not hold the message's id, because the id is the name of the
field in Redis.

A later version can add a field in two ways:

- An older worker may ignore the field. The field goes into the mapping `more`, by name. The older worker keeps it and
  writes it back.
- An older worker must not ignore the field. The field comes with a new first byte, with a new kind of policy, or in an
  address. The older worker then leaves the message in the schedule.

`extensions.py` stores the values that msgpack cannot hold.

`ormsgpack` packs as fast as `msgspec`. But `msgspec` checks the types while it reads, and it makes Structs (by
position) ten times as fast as Python makes dataclasses. `zstandard` uses a context again for the next message and
decompresses a message in 0.7 us. `backports.zstd`, which is `compression.zstd` of Python 3.14, makes a context for each
frame, which takes 20 us. `python -m benchmarks.message_cost` measures both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from ..errors import ReboundError, UnknownVersionError, WireFormatError
from ..policy import MAX_RETRIES_LIMIT, Failure, RetryPolicy
from .address import ADDRESS_FIELDS, Address, parse_address
from .compression import Compression
from .extensions import check, read_extension, storable
from .history import History
from .message import Message
from .record import Headers, Origin

#: The first byte of a stored form. The versions begin at 0x10; the next free one is 0x13.
PLAIN = 0x10
COMPRESSED_1 = 0x11

_PLAIN, _COMPRESSED_1 = bytes([PLAIN]), bytes([COMPRESSED_1])

Context = Mapping[str, Any]
_NO_CONTEXT: Context = {}

#: The names of the message's fields in the mapping `more`.
_PREVIOUS_SPAN = "previous_span"

_Attempt = Annotated[int, msgspec.Meta(ge=1, le=1 + MAX_RETRIES_LIMIT)]


class _Fields(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """The fields that differ from one message to the next. Their order is part of the stored form."""

    attempt: _Attempt
    value: bytes | None
    key: bytes | None
    headers: Headers
    origin: Origin | None
    first_failed_at: int | None
    failure: Failure | None
    history: History
    group: str | None
    reason: str | None
    content_type: str | None
    source: str | None
    client_id: str | None
    context: dict[str, Any] | None
    more: dict[str, Any] | None


class _Packed(_Fields, array_like=True, gc=False, forbid_unknown_fields=True):
    """The packed form. A route that many messages share is packed once and read once."""

    route: msgspec.Raw


#: The fields that many messages share: the destination, the destination of the dead letter, and the policy.
Route = tuple[Address, Address, RetryPolicy]

#: The exceptions that reading damaged bytes may raise.
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError, MemoryError)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Packed, ext_hook=read_extension)
_any_decoder = msgspec.msgpack.Decoder(ext_hook=read_extension)


def encode(message: Message, context: Context = _NO_CONTEXT) -> bytes:
    """Return the stored form of a message.

    Args:
        message: the message. Its id is not part of the stored form.
        context: the delivery's own data about the message, for example its number of tries. msgpack must be able to
            hold the values.
    """
    packed = pack(message, context)
    frame = _dictionary_1.compress(packed)
    return _COMPRESSED_1 + frame if len(frame) < len(packed) else _PLAIN + packed


def seal_many(packed: list[bytes]) -> list[bytes]:
    """Return the stored form of each packed message; see `pack`. This is faster than `encode` for each one."""
    frames = _dictionary_1.compress_many(packed)
    return [
        _COMPRESSED_1 + frame if len(frame) < len(plain) else _PLAIN + plain
        for plain, frame in zip(packed, frames, strict=True)
    ]


def decode(id: str, stored: bytes) -> tuple[Message, dict[str, Any]]:  # noqa: A002 - the name of the field
    """Read a stored form. Return the message and its context.

    Raises:
        UnknownVersionError: if a later version wrote it. The message must stay in the schedule.
        WireFormatError: if it is damaged.
    """
    read = _READERS.get(stored[0]) if stored else None
    if read is None:
        raise _refusal(stored)
    return _read(id, read(stored[1:]))


def decode_many(stored: Sequence[tuple[str, bytes]]) -> list[tuple[Message, dict[str, Any]] | ReboundError]:
    """Read many stored forms, each with its id. Return for each the result of `decode`, or the error that it raises."""
    packed = None
    if all(form[:1] == _COMPRESSED_1 for _, form in stored):
        packed = _dictionary_1.decompress_many([form[1:] for _, form in stored])
    if packed is None:
        return [_or_error(decode, id, form) for id, form in stored]  # noqa: A001 - as in `decode`
    return [_or_error(_read, id, one) for (id, _), one in zip(stored, packed, strict=True)]  # noqa: A001


def _or_error(
    read: Callable[[str, bytes], tuple[Message, dict[str, Any]]],
    id: str,  # noqa: A002 - as in `decode`
    form: bytes,
) -> tuple[Message, dict[str, Any]] | ReboundError:
    try:
        return read(id, form)
    except (WireFormatError, UnknownVersionError) as error:
        return error


def _refusal(stored: bytes) -> ReboundError:
    """Return the error for a stored form that has no reader."""
    if not stored:
        return WireFormatError("a stored message is empty")
    if stored[0] > COMPRESSED_1:
        return UnknownVersionError(f"a message in the form {stored[0]:#x}")
    return WireFormatError(f"a stored message does not begin with {stored[0]:#x}")


def _read(id: str, packed: bytes) -> tuple[Message, dict[str, Any]]:  # noqa: A002 - as in `decode`
    """Read the packed form."""
    try:
        fields = _decoder.decode(packed)
        route = _read_route(bytes(fields.route))
    except _DAMAGE:
        # The bytes are damaged, or they hold extensions.
        return _read_slowly(id, packed)
    context, more = fields.context, fields.more
    if context or more:
        check([context, more])
    return _build(id, fields, route), {} if context is None else context


def check_version(stored: bytes) -> None:
    """Raise UnknownVersionError if a later version wrote this stored form. Only the first byte is read."""
    if stored and stored[0] > COMPRESSED_1:
        raise UnknownVersionError(f"a message in the form {stored[0]:#x}")


def pack(message: Message, context: Context = _NO_CONTEXT) -> bytes:
    """Return the packed form of a message, which `encode` compresses."""
    fields = _take_apart(message, context)
    try:
        return _encoder.encode(fields)
    except (UnicodeEncodeError, OverflowError, TypeError):
        # A value that msgpack cannot hold, or a subclass of a plain type, for example Django's SafeString.
        values = msgspec.structs.astuple(fields)
        return _encoder.encode([*map(storable, values[:-1]), fields.route])


def _take_apart(message: Message, context: Context) -> _Packed:
    # Arguments by position are ten times as fast as arguments by name.
    return _Packed(
        message.attempt,
        message.value,
        message.key,
        message.headers,
        message.origin,
        message.first_failed_at,
        message.failure,
        message.history,
        message.group,
        message.reason,
        message.content_type,
        message.source,
        message.client_id,
        dict(context) if context else None,
        _more(message) if message.unknown or message.previous_span is not None else None,
        _pack_route((message.destination, message.dead_destination, message.policy)),
    )


def _more(message: Message) -> dict[str, Any]:
    more = dict(message.unknown)
    if message.previous_span is not None:
        more[_PREVIOUS_SPAN] = message.previous_span
    return more


def _build(id: str, fields: _Fields, route: Route) -> Message:  # noqa: A002 - the name of the field
    destination, dead_destination, policy = route
    more = fields.more
    previous_span = more.pop(_PREVIOUS_SPAN, None) if more else None
    if previous_span is not None and not isinstance(previous_span, str):
        raise WireFormatError(f"a stored message is damaged: its {_PREVIOUS_SPAN} is no text")
    return Message(
        id,
        fields.value,
        destination,
        fields.attempt,
        policy,
        fields.key,
        fields.headers,
        dead_destination,
        fields.reason,
        fields.failure,
        fields.history,
        fields.group,
        fields.origin,
        fields.first_failed_at,
        fields.content_type,
        fields.source,
        fields.client_id,
        more or {},
        previous_span,
    )


@lru_cache(1024)
def _pack_route(route: Route) -> msgspec.Raw:
    return msgspec.Raw(_encoder.encode([storable(part.to_wire()) for part in route]))


@lru_cache(1024)
def _read_route(packed: bytes) -> Route:
    destination, dead_destination, policy = _any_decoder.decode(packed)
    return _read_address(destination), _read_address(dead_destination), RetryPolicy.from_wire(policy)


def _read_address(wire: Any) -> Address:
    if unknown := wire.keys() - ADDRESS_FIELDS:
        raise UnknownVersionError(f"a destination with the field {min(map(repr, unknown))[:50]}")
    return parse_address(wire)


def _read_slowly(id: str, packed: bytes) -> tuple[Message, dict[str, Any]]:  # noqa: A002 - the name of the field
    """Read a packed form that has extensions. Raise WireFormatError if it is damaged."""
    try:
        *values, route = _any_decoder.decode(packed)
        check([values, route])
        # Without `builtin_types`, a text in place of bytes would be read as base64.
        fields = msgspec.convert(values, _Fields, builtin_types=(bytes,))
        message = _build(id, fields, _read_route(_encoder.encode(storable(route))))
    except _DAMAGE as error:
        raise WireFormatError(f"a stored message is damaged: {str(error)[:200]}") from error
    return message, fields.context or {}


_dictionary_1 = Compression(1)


def load() -> None:
    """Read the dictionary now. A worker does so when it starts: later it may have no file descriptor left."""
    _dictionary_1.load()


#: version -> its reader. The reader takes the bytes after the first byte and returns the packed message.
_READERS: dict[int, Callable[[bytes], bytes]] = {
    PLAIN: bytes,
    COMPRESSED_1: _dictionary_1.decompress,
}
