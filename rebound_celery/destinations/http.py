"""Posting to an HTTP receiver. A 2xx answer is success; any other answer, or none, is a failed attempt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import Future, wait
from urllib.parse import quote_from_bytes, urlsplit

import urllib3

from ..clock import SYSTEM_CLOCK, Clock
from ..message import Message
from ..message.address import HttpAddress
from ..message.headers import OWN_HEADERS, own_headers
from . import Delivered, Failed, Outcome, Unavailable
from .deadline import pool_manager, time_limits
from .host_threads import HostThreads

#: How many posts run at once, and how many of them to one host at most. The first is the size of a job, so that each
#: message of a job has a thread at once, unless as many as are allowed are busy with its host.
_CONCURRENCY = 64
_PER_HOST = 8

#: Seconds that `send` waits for a post after its deadline. Only the look-up of a host's name can last longer, because
#: nothing can end it.
_GRACE_S = 5.0

#: How many bytes of an answer's body are read, for the text of an error.
_EXCERPT_BYTES = 300

#: The form of a header name (RFC 9110), and the headers that belong to the connection, not to the message.
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
    """A header's own bytes; percent-encoded only where HTTP would refuse them, or where they would end the header."""
    text = value.decode("latin-1")
    return text if text.isprintable() else _header_text(value)


def request_headers(message: Message) -> dict[str, str]:
    """The headers of the POST that delivers `message`.

    The caller's headers come first, then the content type, `X-Message-Key` and rebound's own. `X-Message-Key` is the
    message's key, or its id if it has none. Both stay the same over all attempts, so that a receiver can recognize
    duplicates.
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
    """Posts messages, several at once, so that a slow host does not delay posts to other hosts.

    Args:
        connect_timeout_s: seconds to connect, the look-up of the host's name and TLS included.
        timeout_s: seconds for the whole post, from the look-up to the end of the answer.
    """

    def __init__(self, connect_timeout_s: float, timeout_s: float, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._pool = pool_manager(_CONCURRENCY, _PER_HOST)
        self._threads = HostThreads(self._post, _CONCURRENCY, _PER_HOST)

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        """Post each message; see `Destination.send`.

        No post begins after half of the time-out, so that all posts end within one and a half time-outs. A message
        whose post has not begun by then, because earlier posts to its host take so long, is Unavailable: it has used up
        no attempt.
        """
        posts = [self._threads.submit(_host_of(message), message) for message in messages]
        try:
            # Posts that hang end after the whole time-out. Further posts to their hosts must not begin then.
            wait(posts, self._timeout_s / 2)
        finally:
            for post in posts:
                # This does nothing to a post that has begun.
                post.cancel()
        end_by = self._clock.monotonic() + self._timeout_s + _GRACE_S
        return [self._outcome_of(post, message, end_by) for post, message in zip(posts, messages, strict=True)]

    def _outcome_of(self, post: Future[Outcome], message: Message, end_by: float) -> Outcome:
        if post.cancelled():
            return Unavailable(f"POST {message.target} was not begun: earlier posts to its host are still running")
        try:
            return post.result(max(0, end_by - self._clock.monotonic()))
        except TimeoutError:
            return Failed(f"POST {message.target}: timed out in looking up its host")

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
        except Exception as error:  # noqa: BLE001 - whatever went wrong, this attempt has failed and the message is kept
            return Failed(f"POST {address}: {error}")
        if 200 <= response.status < 300:
            return Delivered(f"{address} answered {response.status}")
        return Failed(f"POST {address} answered {response.status}: {excerpt}")

    def close(self) -> None:
        self._pool.clear()
        self._threads.close()


def _host_of(message: Message) -> tuple[str, str | None, int]:
    """What counts as one host: scheme, host and port."""
    address = message.target
    assert isinstance(address, HttpAddress)
    parts = urlsplit(address.url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _read_excerpt(response: urllib3.BaseHTTPResponse) -> str:
    """Read the beginning of the answer's body as text, and give the connection back to the pool or close it."""
    body = b""
    # After an interim answer (1xx), the final answer would be read as the answer to the connection's next post.
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
    # `close` closes the connection, but only this gives its place back to the pool.
    response.release_conn()
    return body[:_EXCERPT_BYTES].decode("utf-8", "replace")
