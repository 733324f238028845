"""The form in which a message waits in Redis: one version byte, a nonce, and the compressed JSON of kombu's message.

The nonce tells one storing of an id from the next, so that a worker that finishes an older delivery cannot remove what
was stored since. A preset dictionary holds what all Celery messages share; without it they would hardly compress.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from typing import Any

#: The first byte of what this version writes. A reader leaves anything else where it is.
VERSION = b"\x01"
NONCE_BYTES = 8
_BODY = 1 + NONCE_BYTES

#: Part of the form: what it says may never change under the same version byte. What is most alike stands last.
DICTIONARY = json.dumps(
    {
        "body": '[["", 0.5]], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
        '[[{"v": 1, "id": "", "value": "", "key": "", "headers": [["content-type", "application/json"]], '
        '"destination": {"topic": "orders", "url": "https://"}, "dead_destination": {"dead_set": true}, '
        '{"topic": "orders-dlq"}, "attempt": 2, "max_retries": 3, "base_delay": 5, "group": "", '
        '"first_failed_at": 1795, "content_type": "text/plain; charset=utf-8", "failure": ["ValueError", "", ""], '
        '"origin": ["orders", 0, 0, 179]}], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]',
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": "rebound.deliver",
            "id": "",
            "shadow": None,
            "eta": "2026-11-23T15:14:47.000+00:00",
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": "",
            "parent_id": None,
            "argsrepr": " attempt 2/4 -> kafka:orders",
            "kwargsrepr": "{}",
            "origin": "gen1@",
            "ignore_result": False,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
            "rebound-kind": "kafka",
        },
        "properties": {
            "correlation_id": "",
            "reply_to": "",
            "delivery_mode": 2,
            "priority": 3,
            "delivery_info": {"exchange": "", "routing_key": "rebound"},
            "body_encoding": None,
        },
    }
).encode()


class UnknownVersionError(Exception):
    """Another version of rebound wrote this; it must stay as it is."""


def encode(message: dict[str, Any]) -> bytes:
    """The stored form of a kombu message, with a new nonce."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15, 8, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    text = json.dumps(_lean(message)).encode()
    return VERSION + os.urandom(NONCE_BYTES) + compressor.compress(text) + compressor.flush()


def _lean(message: dict[str, Any]) -> dict[str, Any]:
    """The message without what storing makes useless: base64, which hardly compresses, and the delivery tag, which
    each delivery has of its own."""
    properties = {name: value for name, value in message["properties"].items() if name != "delivery_tag"}
    lean = {**message, "properties": properties}
    if properties.get("body_encoding") == "base64":
        try:
            lean["body"] = base64.b64decode(message["body"]).decode()
        except ValueError:
            return lean  # bytes that are no text, such as a pickle
        properties["body_encoding"] = None
    return lean


def decode(stored: bytes) -> dict[str, Any]:
    """The kombu message of a stored form.

    Raises:
        UnknownVersionError: if another version wrote it.
        ValueError: if it is damaged.
    """
    if stored[:1] != VERSION:
        raise UnknownVersionError(f"stored form {stored[:1]!r}")
    try:
        message = json.loads(zlib.decompressobj(-15, DICTIONARY).decompress(stored[_BODY:]))
    except zlib.error as error:
        raise ValueError(f"cannot be decompressed: {error}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(message, dict) or not isinstance(message.get("properties"), dict):
        raise ValueError("is no message of kombu's")  # noqa: TRY004 - damaged data, not a wrong argument
    return message


def nonce(stored: bytes) -> bytes:
    """Which storing of its id this is."""
    return stored[1:_BODY]
