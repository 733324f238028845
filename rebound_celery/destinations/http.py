"""Sending to an HTTP receiver. A 2xx answer is success; any other answer, or none, is a failed attempt.

A connection that was kept open may be closed by the server just when the next post is sent on it. If nothing of an
answer comes on such a connection, or a 408, the post is sent once more, on a new connection. RFC 9110 (9.2.2) leaves
this to requests that are safe to repeat, and these are: delivery is at least once, a receiver recognizes a message by
its id, and rebound would repeat the post as the next attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import NamedTuple

import urllib3
from urllib3.exceptions import ProtocolError, ProxyError, SSLError

from ..clock import SYSTEM_CLOCK, Clock
from ..config import Settings
from ..message import Message
from ..message.address import HttpAddress
from ..stopping import is_stopping
from ..urls.http_url import HttpUrl
from . import Failed, Outcome, Rejected, Unavailable, Underway
from .addresses import RefusedAddressError
from .deadline import limits, was_stale
from .holding import held, held_by_stop
from .host_threads import HostThreads
from .http_answer import end_body, next_hop, outcome_of, shortened, without_query
from .http_headers import for_another_host, request_headers, sent_id
from .http_log import hidden_queries
from .http_plan import Plan, Plans
from .http_pools import Pools
from .http_proxy import is_proxys_fault
from .look_up import look_up
from .shortage import is_shortage

#: How many requests run at once. This is the size of a job, so that each message of a job has a thread at once, unless
#: as many as are allowed are busy with its host.
_CONCURRENCY = 64

#: Of how many hosts connections are kept open.
_HOSTS = 256

#: The answer of a server that has waited too long for a request, also where it closes an idle connection. A client may
#: send the request again on a new one (RFC 9110, 15.5.9).
_TIMED_OUT = 408

#: Seconds that `send` waits for a request after its deadline, on a machine that is busy.
_GRACE_S = 2.0

#: Seconds that a job waits for the answers of a host, and for those of a host that has not answered within that time.
_PATIENCE_S = 1.0
_SLOW_PATIENCE_S = 0.05


class _Post(NamedTuple):
    """A message to send, how, and when the answer must be there: a time of the monotonic clock."""

    message: Message
    plan: Plan
    end_by: float


class _Submitted(NamedTuple):
    """A request that runs, or waits for others to its host.

    Attributes:
        shown: method and address, for people.
        is_slow: whether its host has taken long to answer an earlier request, and still has not.
        host: what counts as one host.
        outcome: becomes the outcome.
    """

    shown: str
    is_slow: bool
    host: tuple[str, str, int]
    outcome: Future[Outcome]


class _Request(NamedTuple):
    """What is sent to the address of a message, and again where a redirect leads."""

    url: HttpUrl
    headers: dict[str, str]
    body: bytes


class HttpDestination:
    """Sends messages, several at once, so that a slow host does not delay requests to other hosts.

    Args:
        connect_timeout_s: seconds to connect, the look-up of the host's name and TLS included.
        timeout_s: seconds for the requests of one `send`, from its beginning to the end of the last answer.
        plans: how messages are sent to each address.
        patience_s: how long `send` waits for a host that does not answer; None for as long as the time-outs allow.
    """

    def __init__(
        self,
        connect_timeout_s: float,
        timeout_s: float,
        plans: Plans | None = None,
        patience_s: float | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._plans = Plans() if plans is None else plans
        self._pools = Pools(_HOSTS)
        self._patience_s = patience_s
        self._is_underway = False
        #: Whether a post had no file descriptor, or no thread, and idle connections still have to be closed for it.
        self._is_short = False
        self._threads: HostThreads[_Post, Outcome] = HostThreads(self._post, _CONCURRENCY, clock=clock)

    @classmethod
    def of(cls, settings: Settings, plans: Plans) -> HttpDestination:
        """The destination with an app's settings."""
        timeout_s = settings.http_timeout
        patience_s = min(_PATIENCE_S, timeout_s / 4)
        return cls(settings.http_connect_timeout, timeout_s, plans, patience_s)

    def send(self, messages: Sequence[Message]) -> list[Outcome | Underway]:
        """Send each message; see `Destination.send`.

        All requests share one time-out. None begins after half of it: each has at least the other half. A message whose
        request has not begun by then, because earlier ones to its host take so long, is Unavailable: it has used up no
        attempt. One that has not begun when the worker is told to stop is Held.

        With a patience, this does not wait for a host that does not answer: what takes longer is Underway, and what has
        not begun is Held. Only when the worker is told to stop it waits for all that has begun.
        """
        end_by = self._clock.monotonic() + self._timeout_s
        posts = [self._submit(message, end_by) for message in messages]
        self._wait(posts)
        for post in posts:
            if isinstance(post, _Submitted):
                # This does nothing to one that has begun.
                post.outcome.cancel()
        outcomes = [self._outcome_of(post, end_by) if isinstance(post, _Submitted) else post for post in posts]
        if self._is_short:
            # Storing these messages again needs a descriptor too.
            self._is_short = False
            self._pools.close_idle()
        return outcomes

    def _submit(self, message: Message, end_by: float) -> _Submitted | Outcome:
        address = message.target
        assert isinstance(address, HttpAddress)
        try:
            plan = self._plans.of(address)
        except Exception as error:  # noqa: BLE001 - the options cannot be used here, and the messages must not pay for it
            return Unavailable(f"{address} was sent nothing: {error}")
        shown = shortened(f"{plan.method} {address}")
        host = plan.url.scheme, plan.url.host, plan.url.port
        is_slow = False
        if self._patience_s is not None:
            # What was sent to the host is not answered: a further request would not begin while this waits.
            stuck_s = self._threads.stuck_s(host)
            if stuck_s > self._patience_s:
                return held(shown, stuck_s)
            is_slow = self._threads.longest_s(host) > self._patience_s
        post = self._threads.submit(host, _Post(message, plan, end_by), plan.concurrency, plan.rate)
        return _Submitted(shown, is_slow, host, post)

    def _wait(self, posts: Sequence[_Submitted | Outcome]) -> None:
        """Wait until all requests have ended, but not long for hosts that do not answer."""
        submitted = [post for post in posts if isinstance(post, _Submitted)]
        outcomes = [post.outcome for post in submitted]
        patience_s = self._patience_s
        if patience_s is None:
            wait(outcomes, self._timeout_s / 2)
            return
        wait([post.outcome for post in submitted if not post.is_slow], patience_s)
        # As long as a host answers, its next requests may begin.
        left = [post.outcome for post in submitted if self._threads.stuck_s(post.host) < patience_s]
        wait([outcome for outcome in left if not outcome.running()], patience_s)
        wait(outcomes, _SLOW_PATIENCE_S)
        if is_stopping():
            # What has not begun does not begin any more, and what has begun ends.
            for outcome in outcomes:
                outcome.cancel()
            wait(outcomes, self._timeout_s)

    def _outcome_of(self, post: _Submitted, end_by: float) -> Outcome | Underway:
        lets_go = self._patience_s is not None and not is_stopping()
        if post.outcome.cancelled():
            if lets_go:
                return held(post.shown, self._threads.stuck_s(post.host))
            if is_stopping():
                return held_by_stop(post.shown)
            return Unavailable(f"{post.shown} was not begun: earlier requests to its host are still running")
        left_s = max(0, end_by + _GRACE_S - self._clock.monotonic())
        if lets_go and not post.outcome.done():
            self._is_underway = True
            return Underway(f"{post.shown}: there is no answer yet", left_s, post.outcome)
        try:
            return post.outcome.result(left_s)
        except TimeoutError:
            return Failed(f"{post.shown}: timed out")

    def _post(self, post: _Post) -> Outcome:
        return without_query(self._try(post), post.plan.url)

    def _try(self, post: _Post) -> Outcome:
        plan = post.plan
        shown = shortened(f"{plan.method} {post.message.target}")
        if is_stopping():
            return held_by_stop(shown)
        if plan.timeout_s is not None:
            post = _Post(post.message, plan, min(post.end_by, self._clock.monotonic() + plan.timeout_s))
        proxy = None
        try:
            proxy = plan.proxies.of(plan.url.scheme, plan.url.host, plan.url.port)
            pool = self._pools.of(plan, proxy)
        except ValueError as error:
            return Unavailable(f"{shown} was not begun: {error}")
        try:
            return self._exchange(post, pool, proxy)
        except RefusedAddressError as error:
            return Rejected(f"{shown} was not begun: {error}")
        except Exception as error:  # noqa: BLE001 - whatever went wrong, this attempt has failed and the message is kept
            if proxy is not None and is_proxys_fault(error):
                return Unavailable(f"{shown} through the proxy {proxy.origin}: {error}")
            if is_shortage(error):
                self._is_short = True
                self._pools.close_idle()
                return Unavailable(f"{shown} was not begun: {error}")
            return Failed(f"{shown}: {error}")

    def _exchange(self, post: _Post, pool: urllib3.PoolManager, proxy: HttpUrl | None) -> Outcome:
        message, plan = post.message, post.plan
        body = message.value or b""
        now_ms = self._clock.now_ms()
        signatures = None if plan.signer is None else plan.signer.headers(sent_id(message), body, now_ms)
        request = _Request(plan.url, request_headers(message, plan.headers, signatures), body)
        for followed in range(plan.rules.max_redirects + 1):
            response = self._respond(post, request, pool, proxy)
            url = next_hop(response, request.url) if followed < plan.rules.max_redirects else None
            if url is None:
                break
            end_body(response)
            headers = request.headers
            if url.origin != request.url.origin:
                headers = for_another_host(headers, plan.headers)
            request = _Request(url, headers, body)
            proxy = plan.proxies.of(url.scheme, url.host, url.port)
            pool = self._pools.of(plan, proxy)
        outcome = outcome_of(response, f"{plan.method} {message.target}", plan.rules, self._clock.now_ms())
        if proxy is not None and response.status == 407:
            return Unavailable(f"{plan.method} {message.target}: the proxy {proxy.origin} answered 407")
        return outcome

    def _respond(
        self, post: _Post, request: _Request, pool: urllib3.PoolManager, proxy: HttpUrl | None
    ) -> urllib3.BaseHTTPResponse:
        plan, guard = post.plan, post.plan.guard
        connect_s = self._connect_timeout_s if plan.connect_s is None else plan.connect_s
        if guard is not None and proxy is not None:
            # The proxy connects, and looks the host up again. So it should have a guard of its own.
            # The look-up fails where only the proxy knows the host.
            with suppress(OSError):
                guard.allowed_of(request.url.host, look_up(request.url.host, request.url.port, connect_s))
            guard = None
        for is_second in (False, True):
            try:
                with hidden_queries(), limits(connect_s, post.end_by, read_s=plan.read_s, guard=guard, fresh=is_second):
                    response = pool.request(
                        plan.method,
                        request.url.request_url,
                        body=request.body,
                        headers=request.headers,
                        timeout=self._timeout_s,
                        redirect=False,
                        preload_content=False,
                    )
            except (ProtocolError, ProxyError, SSLError):
                if is_second or not was_stale():
                    raise
                continue
            if is_second or response.status != _TIMED_OUT or not was_stale(has_timed_out=True):
                return response
            end_body(response)
        raise AssertionError("the second time returns or raises")

    def close(self) -> None:
        # What is under way ends within its time-out, and its outcome is stored then.
        self._threads.close(waits=self._is_underway)
        self._is_underway = False
        self._pools.clear()
