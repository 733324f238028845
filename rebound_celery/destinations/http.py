"""Posting to an HTTP receiver. A 2xx answer is success; any other answer, or none, is a failed attempt."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from urllib.parse import quote_from_bytes, urlsplit

import urllib3

from ..address import HttpAddress
from ..errors import AttemptFailedError, OutageError
from ..headers import OWN_HEADERS, own_headers
from ..message import Message
from . import Outcome
from .deadline import pool_manager, time_limits
from .lanes import Lanes

#: How many posts run at once, and at most how many of them to one host. The first is the size of a job: each of its
#: messages has a thread at once, unless its host has its own in use.
_CONCURRENCY = 64
_PER_HOST = 8

#: Seconds after its end that a post is waited for. Only the look-up of a host's name lasts longer: nothing can end it.
_GRACE_S = 5.0

#: How much of an answer's body is read, in bytes. It is only of use in an error's text.
_EXCERPT_BYTES = 300

#: Header names of RFC 9110; and those that belong to the connection, not to the message.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONNECTION_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_CONTENT_TYPE = "content-type"
_DEFAULT_CONTENT_TYPE = "application/octet-stream"


def _header_text(value: bytes) -> str:
    """Bytes as an HTTP header may carry them: visible ASCII and inner spaces as they are, the rest percent-encoded."""
    text = value.decode("latin-1")
    if text.isascii() and text.isprintable() and text == text.strip() and "%" not in text:
        return text
    return quote_from_bytes(value, safe="")


def _as_it_is(value: bytes) -> str:
    """A header's own bytes; encoded only where HTTP would refuse them, or worse, split the header in two."""
    text = value.decode("latin-1")
    return text if text.isprintable() else _header_text(value)


def request_headers(message: Message) -> dict[str, str]:
    """The headers of the POST that delivers `message`.

    The caller's own come first, then the content type, `X-Message-Key` and rebound's. The key is the message's own, or
    its id where it has none; either stays the same over all attempts, so that a receiver can drop duplicates by it.
    """
    headers: dict[str, str] = {}
    for name, value in message.headers:
        lower = name.lower()
        if lower not in OWN_HEADERS and lower not in _CONNECTION_HEADERS and _TOKEN.fullmatch(name):
            headers[lower] = _as_it_is(value or b"")
    content_type = message.content_type or _DEFAULT_CONTENT_TYPE
    headers.setdefault(_CONTENT_TYPE, _as_it_is(content_type.encode("utf-8", "replace")))
    headers["x-message-key"] = message.id if message.key is None else _header_text(message.key)
    headers.update((name, _header_text(text.encode("utf-8", "replace"))) for name, text in own_headers(message))
    return {name.title(): text for name, text in headers.items()}


class HttpDestination:
    """Posts messages, several at once so that one slow host does not hold the others.

    Args:
        connect_timeout_s: seconds to connect, the host's look-up and TLS included.
        timeout_s: seconds for a post as a whole, from the look-up to the end of the answer.
    """

    def __init__(self, connect_timeout_s: float, timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._pool = pool_manager(_CONCURRENCY, _PER_HOST)
        self._lanes = Lanes(self._post, _CONCURRENCY, _PER_HOST)

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        """Post each message; see `Destination.send`.

        No post begins after half the time-out, so that all have ended after one and a half. What has not begun by then,
        because earlier posts to its host take so long, is an OutageError: it has used up no attempt.
        """
        posts = [self._lanes.submit(_host_of(message), message) for message in messages]
        try:
            # Half of it, for posts that hang end after the whole of it: no others are to follow them then.
            wait(posts, self._timeout_s / 2)
        finally:
            for post in posts:
                # What has begun goes on.
                post.cancel()
        end_by = time.monotonic() + self._timeout_s + _GRACE_S
        return [_outcome_of(post, message, end_by) for post, message in zip(posts, messages, strict=True)]

    def _post(self, message: Message) -> Outcome:
        address = message.target
        assert isinstance(address, HttpAddress)
        try:
            with time_limits(self._connect_timeout_s, self._timeout_s):
                response = self._pool.request(
                    "POST",
                    address.url,
                    body=message.value or b"",
                    headers=request_headers(message),
                    timeout=self._timeout_s,
                    redirect=False,
                    preload_content=False,
                )
                excerpt = _read_excerpt(response)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, this attempt failed and the message is kept
            result = AttemptFailedError(f"POST {address}: {error}")
            result.__cause__ = error
            return result
        if 200 <= response.status < 300:
            return f"{address} answered {response.status}"
        return AttemptFailedError(f"POST {address} answered {response.status}: {excerpt}")

    def close(self) -> None:
        self._pool.clear()
        self._lanes.close()


def _host_of(message: Message) -> tuple[str, str | None, int]:
    """What counts as one host: the places of one have nothing to do with those of another."""
    address = message.target
    assert isinstance(address, HttpAddress)
    parts = urlsplit(address.url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _outcome_of(post: Future[Outcome], message: Message, end_by: float) -> Outcome:
    if post.cancelled():
        return OutageError(f"POST {message.target} was not begun: earlier posts to its host take all its places")
    try:
        return post.result(max(0, end_by - time.monotonic()))
    except TimeoutError:
        return AttemptFailedError(f"POST {message.target}: timed out in looking up its host")


def _read_excerpt(response: urllib3.BaseHTTPResponse) -> str:
    """The beginning of the answer's body as text. The response is ended, and its place in the pool is free again."""
    body = b""
    # What follows an interim answer (1xx) would be read as the answer to the connection's next post.
    is_over = response.status < 200
    is_whole = False
    try:
        while not is_over:
            part = response.read1(_EXCERPT_BYTES + 1 - len(body))
            body += part
            is_whole = not part
            is_over = is_whole or len(body) > _EXCERPT_BYTES
    except Exception:  # noqa: BLE001, S110 - the status has said what became of the message
        pass
    if not is_whole:
        response.close()
    # `close` ends the connection, but only this gives its place back to the pool.
    response.release_conn()
    return body[:_EXCERPT_BYTES].decode("utf-8", "replace")
