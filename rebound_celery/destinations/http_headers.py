"""The headers of the request that delivers a message."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from urllib.parse import quote_from_bytes

from ..http_options import HEADER_NAME, OF_CONNECTION
from ..message import Message
from ..message.address import HttpAddress
from ..message.headers import OWN_HEADERS, own_headers

#: The headers that are of the connection or the answer, not of the message.
_CONNECTION_HEADERS = OF_CONNECTION | {"accept-encoding", "host"}
_CONTENT_TYPE = "content-type"
_AUTHORIZATION = "authorization"

#: What Standard Webhooks names the headers by which a receiver checks a request, and recognizes a copy of it.
WEBHOOK_ID = "webhook-id"
WEBHOOK_TIMESTAMP = "webhook-timestamp"
WEBHOOK_SIGNATURE = "webhook-signature"
_IDEMPOTENCY_KEY = "idempotency-key"

#: What a host that a redirect names is not told.
_FOR_ONE_HOST = frozenset({_AUTHORIZATION, "cookie"})
_DEFAULT_CONTENT_TYPE = "application/octet-stream"
_USER_AGENT = f"rebound-celery/{version('rebound-celery')}"


def _header_text(value: bytes) -> str:
    """Bytes as an HTTP header may carry them: visible ASCII and inner spaces as they are, the rest percent-encoded."""
    text = value.decode("latin-1")
    if text.isascii() and text.isprintable() and text == text.strip() and "%" not in text:
        return text
    return quote_from_bytes(value, safe="")


def _as_it_is(value: bytes) -> str:
    """A header's own bytes; percent-encoded only where HTTP would refuse them, or where they would end the header."""
    text = value.decode("latin-1")
    return text if text.isprintable() else _header_text(value)


def request_headers(
    message: Message, further: Mapping[str, str] | None = None, signatures: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The headers of the request that delivers `message`.

    The caller's headers come first, then the content type, `X-Message-Key`, `webhook-id`, `Idempotency-Key`, rebound's
    own, and those of the destination's options. `X-Message-Key` is the message's key, or its id if it has none.
    `webhook-id` and `Idempotency-Key` are its id, unless the caller gave others. All of them stay the same over all
    attempts, so that a receiver can recognize duplicates. User and password of the URL win over an `Authorization` of
    the caller's: they are for this receiver.

    Args:
        message: what is delivered.
        further: the headers that the destination's options add.
        signatures: what `Signer.headers` returned. These win over all others of their names.
    """
    headers: dict[str, str] = {"user-agent": _USER_AGENT}
    for name, value in message.headers:
        lower = name.lower()
        if lower not in OWN_HEADERS and lower not in _CONNECTION_HEADERS and HEADER_NAME.fullmatch(name):
            headers[lower] = _as_it_is(value or b"")
    if not headers.get(_CONTENT_TYPE):
        content_type = message.content_type or _DEFAULT_CONTENT_TYPE
        headers[_CONTENT_TYPE] = _as_it_is(content_type.encode("utf-8", "replace"))
    id_ = sent_id(message)
    headers["x-message-key"] = id_ if message.key is None else _header_text(message.key)
    headers.setdefault(WEBHOOK_ID, id_)
    headers.setdefault(_IDEMPOTENCY_KEY, id_)
    headers.update((name, _header_text(text.encode("utf-8", "replace"))) for name, text in own_headers(message))
    if isinstance(message.target, HttpAddress) and (authorization := message.target.parts.authorization) is not None:
        headers[_AUTHORIZATION] = authorization
    if further:
        headers.update((name.lower(), text) for name, text in further.items())
    if signatures:
        headers.update(signatures)
    return {name.title(): text for name, text in headers.items()}


def sent_id(message: Message) -> str:
    """The message's id as a header carries it."""
    return _header_text(message.id.encode("utf-8", "replace"))


def for_another_host(headers: Mapping[str, str], further: Mapping[str, str] | None) -> dict[str, str]:
    """The headers of a request without what is meant for one host: for the host that a redirect names."""
    left_out = _FOR_ONE_HOST | {name.lower() for name in further or ()}
    return {name: text for name, text in headers.items() if name.lower() not in left_out}
