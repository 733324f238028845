"""The stored form of an ordinary Celery task's message: a version byte, and, compressed, what the message is made of.

The messages of Celery tasks are alike but for a few fields. The compressed text is a line of JSON, without what every
task's message has, and then the body as it is: within the JSON it would have to be escaped, and read again. A preset
dictionary holds the words that are left; without it texts so short would hardly compress.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from kombu.exceptions import EncodeError
from kombu.utils import json as kombu_json

from ...errors import UnknownVersionError

#: The first byte of what this version writes. It tells these messages from those of a leased queue's owner.
VERSION = b"\x01"

# All that follows is part of the form: it may never change under the same version byte.


def _usual_headers() -> dict[str, Any]:
    """The headers of a Celery task's message where nothing special is asked for; made anew, for some can be changed."""
    return {
        "lang": "py",
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "parent_id": None,
        "kwargsrepr": "{}",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }


_HEADERS = _usual_headers()
_PROPERTIES: dict[str, Any] = {"delivery_mode": 2, "priority": 0, "body_encoding": None}
_REST: dict[str, Any] = {"content-encoding": "utf-8", "content-type": "application/json"}
_PARTS = frozenset({"body", "headers", "properties"})

#: The words of Celery's messages. What is most alike stands last.
DICTIONARY = (
    b'"expires":"2026-11-23T15:14:47.000+00:00","shadow":"","timelimit":[30,20],"ignore_result":true,"parent_id":"",'
    b'"group":"","group_index":0,"stamped_headers":[],"stamps":{},"retries":1,"content-encoding":"utf-8",'
    b'"content-type":"application/x-python-serialize","delivery_mode":1,"body_encoding":"base64","chord_size":null,'
    b'"callbacks":[{"task":"","args":[],"kwargs":{},"options":{"task_id":"","reply_to":""},"subtask_type":null,'
    b'"immutable":false}],"errbacks":[],"chain":[],"chord":null,"countdown":'
    b'{"h":{"task":"tasks.","id":"-4","eta":"2026-11-23T15:14:47.000+00:00","root_id":"","argsrepr":"(1, \'\')",'
    b'"kwargsrepr":"{\'\': }","origin":"gen1@"},"p":{"correlation_id":"","reply_to":"","priority":3,'
    b'"delivery_info":{"exchange":"","routing_key":"celery"}}}\n'
    b'[[],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'
)

#: Texts of at most so many bytes are compressed within a small window, which costs less to make than zlib's usual one.
_SMALL = 4_000

#: No stored form holds more bytes than these, which is what Redis can hold of a message that is not compressed. A
#: damaged or hostile one could expand to a thousand times its size, and end the worker that reads it.
_MAX_TEXT = 512 * 1024**2

#: kombu's encoder knows how to write what JSON has no words for, such as dates and UUIDs.
_to_json = json.JSONEncoder(separators=(",", ":"), default=kombu_json.JSONEncoder().default).encode
#: The mark of such a value.
_SPECIAL = b'"__type__"'


def encode(message: dict[str, Any]) -> bytes:
    """The stored form of a kombu message.

    It is without the delivery tag, for each delivery has one of its own.

    Raises:
        TypeError: for what JSON cannot hold.
        EncodeError: for what is too large.
    """
    head, content = _split(message)
    return _seal(_to_json(head).encode() + b"\n" + content)


def _split(message: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """What the line of JSON says of a message, and its body."""
    properties = dict(message["properties"])
    properties.pop("delivery_tag", None)
    rest = {name: value for name, value in message.items() if name not in _PARTS}
    head: dict[str, Any] = {}
    body = message.get("body")
    if isinstance(body, str):
        content = body.encode("utf-8", "surrogatepass")
        if properties.get("body_encoding") == "base64" and (decoded := _from_base64(content)) is not None:
            # As base64 it would hardly compress.
            content = decoded
            if _is_text(content):
                properties["body_encoding"] = None
            else:
                head["b"] = 1
    else:
        rest["body"], content = body, b""  # kombu sends none such, but somebody may
    _put(head, "h", message.get("headers"), _HEADERS)
    _put(head, "p", properties, _PROPERTIES)
    _put(head, "r", rest, _REST)
    return head, content


def _seal(text: bytes) -> bytes:
    if len(text) > _MAX_TEXT:
        raise EncodeError(f"a message of {len(text):,} bytes is too large for Redis, whose values have {_MAX_TEXT:,}")
    return VERSION + _compress(text)


def decode(stored: bytes) -> dict[str, Any]:
    """The kombu message of a stored form.

    Raises:
        UnknownVersionError: if another version wrote it.
        ValueError: if it is damaged.
    """
    if stored[:1] != VERSION:
        raise UnknownVersionError(f"stored form {stored[:1]!r}")
    try:
        line, _, content = _decompress(stored[1:]).partition(b"\n")
        head = kombu_json.loads(line) if _SPECIAL in line else json.loads(line.decode())
        headers = _take(head, "h", _usual_headers())
        properties, rest = _take(head, "p", _PROPERTIES), _take(head, "r", _REST)
        body = base64.b64encode(content).decode() if "b" in head else content.decode("utf-8", "surrogatepass")
        message = {"body": body, "headers": headers, "properties": properties, **rest}
    except zlib.error as error:
        raise ValueError(f"cannot be decompressed: {error}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except (ArithmeticError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is no message of kombu's: {error!r}") from error
    if not isinstance(properties, dict):
        raise ValueError("is no message of kombu's")  # noqa: TRY004 - damaged data, not a wrong argument
    return message


def _put(head: dict[str, Any], name: str, part: Any, usual: dict[str, Any]) -> None:
    """Put into the head what of a part is not as usual; one that is not of Celery's form whole, under a capital."""
    if isinstance(part, dict) and usual.keys() <= part.keys():
        head[name] = {key: value for key, value in part.items() if key not in usual or usual[key] != value}
    else:
        head[name.upper()] = part


def _take(head: dict[str, Any], name: str, usual: dict[str, Any]) -> Any:
    return {**usual, **head[name]} if name in head else head[name.upper()]


def _from_base64(content: bytes) -> bytes | None:
    try:
        return base64.b64decode(content)
    except ValueError:
        return None


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False  # a pickle, say
    return True


def _compress(text: bytes) -> bytes:
    window_bits, memory_level = (-12, 5) if len(text) <= _SMALL else (-15, 8)
    compressor = zlib.compressobj(1, zlib.DEFLATED, window_bits, memory_level, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    return compressor.compress(text) + compressor.flush()


def _decompress(compressed: bytes) -> bytes:
    decompressor = zlib.decompressobj(-15, DICTIONARY)
    text = decompressor.decompress(compressed, _MAX_TEXT + 1)
    if len(text) > _MAX_TEXT:
        raise ValueError(f"expands to more than {_MAX_TEXT} bytes")
    if not decompressor.eof:
        raise ValueError("is cut short")
    return text
