"""The stored form of a message: what waits in Redis.

    byte 0        the version of the form; `_READERS` names the reader of each
    the rest      0x10: the packed message; 0x11: the same, compressed with dictionary 1

The packed message is a msgpack mapping, without the message's id: Redis stores that as the field's name. The names of
its fields are short, fields that are None or empty are left out, and fields that this version does not know are kept.
What msgpack cannot hold is an extension of it: see `_TEXT` and `_NUMBER`.

`ormsgpack` packs as fast as `msgspec`; but `msgspec` checks the types while it reads, and its Structs are made and
read four times as fast as dataclasses. `zstandard` uses a context again for the next message, so that it decompresses
one in 0.7 us. `backports.zstd`, which is `compression.zstd` of Python 3.14, needs a new context for each frame: 20 us.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec.msgpack import Ext

from ..errors import UnknownVersionError, WireFormatError
from ..policy import MAX_RETRIES_LIMIT, Failure, RetryPolicy
from .address import ADDRESS_FIELDS, Address, parse_address
from .compression import Compression
from .history import PastAttempt
from .message import Message
from .record import Headers, Origin

#: The first byte of what `encode` writes. Versions from 0x10 on have been used; the next free one is 0x12.
PLAIN = 0x10
COMPRESSED_1 = 0x11

#: How deep lists and mappings may lie in one another in the fields that a later version or a caller adds.
MAX_DEPTH = 64

#: Extension types of the packed form: a text with lone surrogates, which UTF-8 cannot hold; a number of over 64 bits.
_TEXT = 1
_NUMBER = 2

_PLAIN, _COMPRESSED_1 = bytes([PLAIN]), bytes([COMPRESSED_1])

Context = Mapping[str, Any]
_NO_CONTEXT: Context = {}

_Attempt = Annotated[int, msgspec.Meta(ge=1, le=1 + MAX_RETRIES_LIMIT)]


class _PackedFailure(msgspec.Struct, array_like=True, gc=False, frozen=True, forbid_unknown_fields=True):
    exception_class: str
    message: str
    stacktrace: str = ""


class _Fields(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """The fields of the packed form that are plain values."""

    attempt: _Attempt = msgspec.field(name="n")
    value: bytes | None = msgspec.field(default=None, name="v")
    key: bytes | None = msgspec.field(default=None, name="k")
    headers: Headers = msgspec.field(default=(), name="h")
    group: str | None = msgspec.field(default=None, name="g")
    origin: Origin | None = msgspec.field(default=None, name="o")
    first_failed_at: int | None = msgspec.field(default=None, name="f")
    failure: _PackedFailure | None = msgspec.field(default=None, name="e")
    history: tuple[PastAttempt, ...] = msgspec.field(default=(), name="y")
    reason: str | None = msgspec.field(default=None, name="r")
    content_type: str | None = msgspec.field(default=None, name="t")
    source: str | None = msgspec.field(default=None, name="s")
    client_id: str | None = msgspec.field(default=None, name="c")
    context: dict[str, Any] | None = msgspec.field(default=None, name="x")


class _Packed(_Fields, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """The packed form. What is the same in most messages is packed and read once, and copied from then on."""

    destination: msgspec.Raw = msgspec.field(name="d")
    dead_destination: msgspec.Raw = msgspec.field(name="D")
    policy: msgspec.Raw = msgspec.field(name="p")


#: What reading damaged bytes raises.
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError, MemoryError)

_NAMES = frozenset(field.encode_name for field in msgspec.structs.fields(_Packed))


def _read_extension(code: int, data: memoryview) -> Any:
    if code == _TEXT:
        return bytes(data).decode("utf-8", "surrogatepass")
    if code == _NUMBER and len(data) <= 1000:
        return int(bytes(data))
    return Ext(code, bytes(data))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Packed, ext_hook=_read_extension)
_any_decoder = msgspec.msgpack.Decoder(ext_hook=_read_extension)


def encode(message: Message, context: Context = _NO_CONTEXT) -> bytes:
    """Return the stored form of a message.

    Args:
        message: its id is not part of the stored form.
        context: what the delivery keeps beside the message, such as how often it was tried: what msgpack can hold.
    """
    packed = pack(message, context)
    frame = _dictionary_1.compress(packed)
    if len(frame) < len(packed):
        return _COMPRESSED_1 + frame
    return _PLAIN + packed


def decode(id: str, stored: bytes) -> tuple[Message, dict[str, Any]]:  # noqa: A002 - the name of the field
    """Read what `encode` wrote: the message, and the context.

    Raises:
        UnknownVersionError: if a later version wrote it; the message stays where it is.
        WireFormatError: if it is damaged.
    """
    if not stored:
        raise WireFormatError("a stored message is empty")
    read = _READERS.get(stored[0])
    if read is None:
        if stored[0] > COMPRESSED_1:
            raise UnknownVersionError(f"a message in the form {stored[0]:#x}")
        raise WireFormatError(f"a stored message does not begin with {stored[0]:#x}")
    packed = read(stored[1:])
    try:
        fields = _decoder.decode(packed)
        destination, dead = _read_address(bytes(fields.destination)), _read_address(bytes(fields.dead_destination))
        policy = _read_policy(bytes(fields.policy))
    except _DAMAGE:
        # Damage; or a field of a later version, or one that msgpack cannot hold by itself.
        return _read_slowly(id, packed)
    context = fields.context
    if context is None:
        return _build(id, fields, destination, dead, policy, {}), {}
    _check(context)
    return _build(id, fields, destination, dead, policy, {}), context


def to_json(message: Message) -> dict[str, str]:
    """Return a message as JSON can hold it."""
    return {"id": message.id, "stored": base64.b64encode(encode(message)).decode()}


def from_json(wire: object) -> Message:
    """Read what `to_json` wrote; raises as `decode` does."""
    if not isinstance(wire, Mapping):
        raise WireFormatError(f"a stored message is an object, not {type(wire).__name__}")
    id, text = wire.get("id"), wire.get("stored")  # noqa: A001 - as in `decode`
    if not isinstance(id, str) or not isinstance(text, str):
        raise WireFormatError("a stored message is damaged: it has no id, or nothing is stored with it")
    try:
        stored = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireFormatError(f"a stored message is damaged: {error}") from error
    return decode(id, stored)[0]


def pack(message: Message, context: Context = _NO_CONTEXT) -> bytes:
    """Return the packed form: what `encode` compresses."""
    if not message.unknown:
        try:
            return _encoder.encode(_pack(message, context))
        except (UnicodeEncodeError, OverflowError):
            pass
    return _pack_slowly(message, context)


def _pack(message: Message, context: Context) -> _Packed:
    failure = message.failure
    return _Packed(
        attempt=message.attempt,
        value=message.value,
        key=message.key,
        headers=message.headers,
        group=message.group,
        origin=message.origin,
        first_failed_at=message.first_failed_at,
        failure=None
        if failure is None
        else _PackedFailure(failure.exception_class, failure.message, failure.stacktrace),
        history=message.history,
        reason=message.reason,
        content_type=message.content_type,
        source=message.source,
        client_id=message.client_id,
        context=dict(context) or None if context else None,
        destination=_pack_address(message.destination),
        dead_destination=_pack_address(message.dead_destination),
        policy=_pack_policy(message.policy),
    )


@lru_cache(1024)
def _pack_address(address: Address) -> msgspec.Raw:
    return msgspec.Raw(_encoder.encode(_storable(address.to_wire())))


@lru_cache(1024)
def _pack_policy(policy: RetryPolicy) -> msgspec.Raw:
    return msgspec.Raw(_encoder.encode(policy.to_wire()))


@lru_cache(1024)
def _read_address(packed: bytes) -> Address:
    wire = _any_decoder.decode(packed)
    if isinstance(wire, Mapping) and (unknown := wire.keys() - ADDRESS_FIELDS):
        raise UnknownVersionError(f"a destination with the field {min(map(repr, unknown))[:50]}")
    return parse_address(wire)


@lru_cache(1024)
def _read_policy(packed: bytes) -> RetryPolicy:
    return RetryPolicy.from_wire(_any_decoder.decode(packed))


def _build(
    id: str,  # noqa: A002 - the name of the field
    fields: _Fields,
    destination: Address,
    dead_destination: Address,
    policy: RetryPolicy,
    unknown: dict[str, Any],
) -> Message:
    failure = fields.failure
    return Message(
        id=id,
        value=fields.value,
        key=fields.key,
        headers=fields.headers,
        destination=destination,
        dead_destination=dead_destination,
        attempt=fields.attempt,
        policy=policy,
        reason=fields.reason,
        failure=None if failure is None else Failure(failure.exception_class, failure.message, failure.stacktrace),
        history=fields.history,
        group=fields.group,
        origin=fields.origin,
        first_failed_at=fields.first_failed_at,
        content_type=fields.content_type,
        source=fields.source,
        client_id=fields.client_id,
        unknown=unknown,
    )


# What is rare: fields of a later version, and what msgpack cannot hold by itself.


def _pack_slowly(message: Message, context: Context) -> bytes:
    packed = _pack(message, context)
    fields = {field.encode_name: getattr(packed, field.name) for field in msgspec.structs.fields(_Packed)}
    known = {name: value for name, value in fields.items() if value is not None and value != ()}
    return _encoder.encode(_storable({**message.unknown, **known}))


def _storable(value: Any) -> Any:
    """Return `value` with extensions in place of what msgpack cannot hold."""
    if isinstance(value, str):
        return value if _is_utf8(value) else Ext(_TEXT, value.encode("utf-8", "surrogatepass"))
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else Ext(_NUMBER, b"%d" % value)
    if isinstance(value, Mapping):
        return {name: _storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    if isinstance(value, Origin | PastAttempt | _PackedFailure):
        return [_storable(item) for item in msgspec.structs.astuple(value)]
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_slowly(id: str, packed: bytes) -> tuple[Message, dict[str, Any]]:  # noqa: A002 - the name of the field
    try:
        fields = _any_decoder.decode(packed)
        _check(fields)
        unknown = {name: fields.pop(name) for name in fields.keys() - _NAMES}
        destination, dead, policy = (_encoder.encode(_storable(fields.pop(name))) for name in "dDp")
        plain = msgspec.convert(fields, _Fields)
        message = _build(id, plain, _read_address(destination), _read_address(dead), _read_policy(policy), unknown)
    except _DAMAGE as error:
        raise WireFormatError(f"a stored message is damaged: {str(error)[:200]}") from error
    return message, plain.context or {}


def _check(value: Any) -> None:
    """Raise WireFormatError for what `encode` could not write again: deep nesting, or keys that are no text."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if not all(isinstance(name, str) and _is_utf8(name) for name in item):
                    raise WireFormatError("a stored message is damaged: the key of a mapping is no text")
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return
        level = below
    raise WireFormatError("a stored message is damaged: it is nested too deeply")


_dictionary_1 = Compression(1)

#: The reader of each version: from what follows the first byte to the packed message.
_READERS: dict[int, Callable[[bytes], bytes]] = {
    PLAIN: bytes,
    COMPRESSED_1: _dictionary_1.decompress,
}
