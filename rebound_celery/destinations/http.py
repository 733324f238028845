"""Posting to an HTTP receiver. A 2xx answer is success; any other answer, or none, is a failed attempt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote_from_bytes

import urllib3

from ..message import Message
from ..message.address import HttpAddress
from ..message.headers import OWN_HEADERS, own_headers
from . import Delivered, Failed, Outcome

#: How many posts run at once, and at most how many of them to one host.
_CONCURRENCY = 16
_PER_HOST = 8

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
        connect_timeout_s: seconds to connect.
        timeout_s: seconds to wait for the answer.
    """

    def __init__(self, connect_timeout_s: float, timeout_s: float) -> None:
        self._timeout = urllib3.Timeout(connect=connect_timeout_s, read=timeout_s)
        self._pool = urllib3.PoolManager(num_pools=64, maxsize=_PER_HOST, block=True, retries=False)
        self._threads: ThreadPoolExecutor | None = None

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        if len(messages) == 1:
            return [self._post(messages[0])]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix="rebound-http")
        return list(self._threads.map(self._post, messages))

    def _post(self, message: Message) -> Outcome:
        address = message.target
        assert isinstance(address, HttpAddress)
        try:
            response = self._pool.request(
                "POST",
                address.url,
                body=message.value or b"",
                headers=request_headers(message),
                timeout=self._timeout,
                redirect=False,
                preload_content=False,
            )
        except Exception as error:  # noqa: BLE001 - whatever went wrong, this attempt failed and the message is kept
            return Failed(f"POST {address}: {error}")
        excerpt = _read_excerpt(response)
        if 200 <= response.status < 300:
            return Delivered(f"{address} answered {response.status}")
        return Failed(f"POST {address} answered {response.status}: {excerpt}")

    def close(self) -> None:
        self._pool.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None


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
