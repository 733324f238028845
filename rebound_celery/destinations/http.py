"""Posting to an HTTP receiver. A 2xx answer is success; any other answer, or none, is a failed attempt.

A connection that was kept open may be closed by the server just when the next post is sent on it. If nothing of an
answer comes on such a connection, the post is sent once more, on a new connection. RFC 9110 (9.2.2) leaves this to
requests that are safe to repeat, and these are: delivery is at least once, a receiver recognizes a message by its id,
and rebound would repeat the post as the next attempt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from importlib.metadata import version
from typing import NamedTuple
from urllib.parse import quote_from_bytes

import urllib3
from urllib3.exceptions import NewConnectionError, ProtocolError, ProxyError, SSLError

from ..clock import SYSTEM_CLOCK, Clock
from ..config import Settings, environment_proxies
from ..message import Message
from ..message.address import HttpAddress
from ..message.headers import OWN_HEADERS, own_headers
from ..message.http_url import HttpUrl
from ..stopping import is_stopping
from . import Delivered, Failed, Outcome, Unavailable
from .deadline import pool_manager, proxied_pool_manager, time_limits, was_stale
from .host_threads import HostThreads
from .http_answer import outcome_of
from .http_proxy import Proxies
from .shortage import is_shortage

#: How many posts run at once, and how many of them to one host at most. The first is the size of a job, so that each
#: message of a job has a thread at once, unless as many as are allowed are busy with its host.
_CONCURRENCY = 64
_PER_HOST = 8

#: Seconds that `send` waits for a post after its deadline, on a machine that is busy.
_GRACE_S = 2.0

_STOPPING = "the worker is stopping"

#: What http.client says of a proxy that asks for a user and password before it makes a tunnel.
_TUNNEL_REFUSED = "Tunnel connection failed: 407"

#: The form of a header name (RFC 9110), and the headers that are of the connection or the answer, not of the message.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONNECTION_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_CONTENT_TYPE = "content-type"
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


def request_headers(message: Message) -> dict[str, str]:
    """The headers of the POST that delivers `message`.

    The caller's headers come first, then the content type, `X-Message-Key` and rebound's own. `X-Message-Key` is the
    message's key, or its id if it has none. Both stay the same over all attempts, so that a receiver can recognize
    duplicates. User and password of the URL win over an `Authorization` of the caller's: they are for this receiver.
    """
    headers: dict[str, str] = {"user-agent": _USER_AGENT}
    for name, value in message.headers:
        lower = name.lower()
        if lower not in OWN_HEADERS and lower not in _CONNECTION_HEADERS and _TOKEN.fullmatch(name):
            headers[lower] = _as_it_is(value or b"")
    if not headers.get(_CONTENT_TYPE):
        content_type = message.content_type or _DEFAULT_CONTENT_TYPE
        headers[_CONTENT_TYPE] = _as_it_is(content_type.encode("utf-8", "replace"))
    headers["x-message-key"] = message.id if message.key is None else _header_text(message.key)
    headers.update((name, _header_text(text.encode("utf-8", "replace"))) for name, text in own_headers(message))
    if isinstance(message.target, HttpAddress) and (authorization := message.target.parts.authorization) is not None:
        headers["authorization"] = authorization
    return {name.title(): text for name, text in headers.items()}


class _Post(NamedTuple):
    """A message to post, and when the answer must be there: a time of the monotonic clock."""

    message: Message
    end_by: float


class HttpDestination:
    """Posts messages, several at once, so that a slow host does not delay posts to other hosts.

    Args:
        connect_timeout_s: seconds to connect, the look-up of the host's name and TLS included.
        timeout_s: seconds for the posts of one `send`, from its beginning to the end of the last answer.
        proxies: which proxy each post goes through.
    """

    def __init__(
        self,
        connect_timeout_s: float,
        timeout_s: float,
        proxies: Proxies | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._proxies = Proxies() if proxies is None else proxies
        self._pool = pool_manager(_CONCURRENCY, _PER_HOST)
        self._proxied: dict[HttpUrl, urllib3.PoolManager] = {}
        self._threads = HostThreads(self._post, _CONCURRENCY, _PER_HOST)

    @classmethod
    def of(cls, settings: Settings) -> HttpDestination:
        """The destination with an app's settings, and with the proxies of this process' environment."""
        proxies = Proxies(settings.http_proxy, environment_proxies())
        return cls(settings.http_connect_timeout, settings.http_timeout, proxies)

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        """Post each message; see `Destination.send`.

        All posts share one time-out, so that this ends with it. No post begins after half of it: each has at least the
        other half. A message whose post has not begun by then, because earlier posts to its host take so long, is
        Unavailable: it has used up no attempt. So is one that has not begun when the worker is told to stop.
        """
        end_by = self._clock.monotonic() + self._timeout_s
        posts = [self._threads.submit(_host_of(message), _Post(message, end_by)) for message in messages]
        try:
            # Posts that hang end when the time is over. Further posts to their hosts must not begin then.
            wait(posts, self._timeout_s / 2)
        finally:
            for post in posts:
                # This does nothing to a post that has begun.
                post.cancel()
        return [
            self._outcome_of(post, message, end_by + _GRACE_S) for post, message in zip(posts, messages, strict=True)
        ]

    def _outcome_of(self, post: Future[Outcome], message: Message, end_by: float) -> Outcome:
        if post.cancelled():
            why = _STOPPING if is_stopping() else "earlier posts are still running"
            return Unavailable(f"POST {message.target} was not begun: {why}")
        try:
            return post.result(max(0, end_by - self._clock.monotonic()))
        except TimeoutError:
            return Failed(f"POST {message.target}: timed out")

    def _post(self, post: _Post) -> Outcome:
        message = post.message
        address = message.target
        assert isinstance(address, HttpAddress)
        if is_stopping():
            return Unavailable(f"POST {address} was not begun: {_STOPPING}")
        url = address.parts
        try:
            proxy = self._proxies.of(url.scheme, url.host, url.port)
        except ValueError as error:
            return Unavailable(f"POST {address} was not begun: {error}")
        try:
            return _without_query(self._exchange(post, url, proxy), url)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, this attempt has failed and the message is kept
            if proxy is not None and _is_proxys_fault(error):
                return _without_query(Unavailable(f"POST {address} through the proxy {proxy.origin}: {error}"), url)
            if is_shortage(error):
                return _without_query(Unavailable(f"POST {address} was not begun: {error}"), url)
            return _without_query(Failed(f"POST {address}: {error}"), url)

    def _exchange(self, post: _Post, url: HttpUrl, proxy: HttpUrl | None) -> Outcome:
        try:
            with time_limits(self._connect_timeout_s, post.end_by):
                return self._request(post.message, url, proxy)
        except (ProtocolError, ProxyError, SSLError):
            if not was_stale():
                raise
        with time_limits(self._connect_timeout_s, post.end_by, fresh=True):
            return self._request(post.message, url, proxy)

    def _request(self, message: Message, url: HttpUrl, proxy: HttpUrl | None) -> Outcome:
        response = self._pool_for(proxy).request(
            "POST",
            url.request_url,
            body=message.value or b"",
            headers=request_headers(message),
            timeout=self._timeout_s,
            redirect=False,
            preload_content=False,
        )
        outcome = outcome_of(response, str(message.target), self._clock.now_ms())
        if proxy is not None and response.status == 407:
            return Unavailable(f"POST {message.target}: the proxy {proxy.origin} answered 407")
        return outcome

    def _pool_for(self, proxy: HttpUrl | None) -> urllib3.PoolManager:
        if proxy is None:
            return self._pool
        pool = self._proxied.get(proxy)
        if pool is None:
            headers = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
            # Of two threads that make one, the first one's stays.
            pool = self._proxied.setdefault(proxy, proxied_pool_manager(proxy.origin, headers, _CONCURRENCY, _PER_HOST))
        return pool

    def close(self) -> None:
        for pool in (self._pool, *self._proxied.values()):
            pool.clear()
        self._threads.close()


def _without_query(outcome: Outcome, url: HttpUrl) -> Outcome:
    """Hide the query, which may be secret, where a server's answer or a library's error repeats the URL."""
    _, mark, query = url.target.partition("?")
    if not query or isinstance(outcome, Delivered):
        return outcome
    return replace(outcome, error=outcome.error.replace(mark + query, f"{mark}***"))


def _is_proxys_fault(error: Exception) -> bool:
    """Whether the proxy let nobody connect, or refused this worker. This says nothing of the receiver."""
    cause = error.original_error if isinstance(error, ProxyError) else error
    return isinstance(cause, NewConnectionError) or _TUNNEL_REFUSED in str(cause)


def _host_of(message: Message) -> tuple[str, str, int]:
    """What counts as one host: scheme, host and port."""
    address = message.target
    assert isinstance(address, HttpAddress)
    url = address.parts
    return url.scheme, url.host, url.port
