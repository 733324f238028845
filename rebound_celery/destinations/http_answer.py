"""What an HTTP receiver's answer means: delivered, or failed with the status, what the server says, and until when."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urljoin

import urllib3

from ..urls.http_url import HttpUrl, read_http_url, shown_location
from . import Delivered, Failed, Outcome, Rejected
from .deadline import end_within

#: How many bytes of an answer's body are read, for the text of an error.
_EXCERPT_BYTES = 300

#: Seconds for which they are read. A receiver may leave the body open, and the outcome is not stored meanwhile.
_EXCERPT_S = 2.0

#: Seconds for which the body of any other answer is read. Its status and headers have said everything, and it is read
#: only because the connection can be used again after its end.
_REST_S = 0.3

#: The longest wait that a receiver may ask for. A retry that waits longer looks like one that is lost.
MAX_RETRY_AFTER_S = 86_400.0

#: Answers that have no body (RFC 9110), whatever their headers say.
_WITHOUT_BODY = frozenset({204, 205, 304})
#: After these the connection is not used again: it is for another host (421), or the server closes it (408).
_ENDS_CONNECTION = frozenset({408, 421})
#: Answers of these kinds are about the receiver's state, and not about the message.
_ABOUT_RECEIVER = frozenset({408, 421, 425, 429})
_REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})
_FOLLOWED = frozenset({301, 302, 307, 308})

#: The answers 4xx after which a later attempt may succeed: too slow, for another connection, too early, too often. What
#: 410 means is said of the whole endpoint.
_RETRIED_IF_STRICT = frozenset({408, 410, 421, 425, 429})

#: Characters of a method and an address in the error of an answer.
_SHOWN_ADDRESS = 100


class AnswerRules(NamedTuple):
    """What the answers of a destination mean.

    Attributes:
        strict: whether most answers 4xx make a dead letter at once.
        max_redirects: how many redirects are followed.
        max_retry_after_s: the longest wait that `Retry-After` can ask for.
    """

    strict: bool = False
    max_redirects: int = 0
    max_retry_after_s: float = MAX_RETRY_AFTER_S


_SECONDS = re.compile(r"[0-9]+", re.ASCII)


def outcome_of(response: urllib3.BaseHTTPResponse, address: str, rules: AnswerRules, now_ms: int) -> Outcome:
    """Say what became of the request, and read a failure's reason. The connection is given back or closed.

    No answer holds up the outcome for longer than `_EXCERPT_S`, and a 2xx for no longer than `_REST_S`.

    Args:
        response: its body is not read yet.
        address: method and address, for people.
        rules: what this destination's answers mean.
        now_ms: the time, in Unix milliseconds.
    """
    status, headers = response.status, response.headers
    if 200 <= status < 300:
        end_body(response)
        return Delivered(f"{address.partition(' ')[2]} answered {status}")
    excerpt = _read_excerpt(response, _EXCERPT_S)
    what = f"{shortened(address)} answered {status}"
    location = headers.get("location") if status in _REDIRECTS else None
    if location is not None:
        why = "redirects are not followed" if not rules.max_redirects else "this one is not followed"
        what += f", a redirect to {shown_location(location)}, and {why}"
    if rules.strict and 400 <= status < 500 and status not in _RETRIED_IF_STRICT:
        return Rejected(f"{what}: {excerpt}", status)
    wait_s = retry_after_s(headers.get("retry-after"), headers.get("date"), now_ms)
    if wait_s is not None and wait_s > rules.max_retry_after_s:
        what += f" and asks to wait {wait_s:.0f} s (it is {rules.max_retry_after_s:.0f} s at most)"
        wait_s = rules.max_retry_after_s or None
    is_about_message = 400 <= status < 500 and status not in _ABOUT_RECEIVER
    return Failed(f"{what}: {excerpt}", wait_s, status, is_about_message)


def shortened(address: str) -> str:
    """A method and an address, short enough that the history of a message has room for the answer too."""
    return address if len(address) <= _SHOWN_ADDRESS else f"{address[: _SHOWN_ADDRESS - 3]}..."


def next_hop(response: urllib3.BaseHTTPResponse, url: HttpUrl) -> HttpUrl | None:
    """Where a redirect leads, if it may be followed with the same method and body; else None.

    303 asks for a GET of something else. From `https` nothing leads to `http`.
    """
    location = response.headers.get("location")
    if response.status not in _FOLLOWED or location is None:
        return None
    try:
        found = read_http_url(urljoin(url.request_url, location).partition("#")[0])
    except ValueError:
        return None
    return None if url.scheme == "https" and found.scheme == "http" else found


def retry_after_s(value: str | None, date: str | None, now_ms: int) -> float | None:
    """The seconds that the header `Retry-After` asks to wait; None where it says nothing.

    Args:
        value: seconds, or a date in one of the three forms of RFC 9110.
        date: the header `Date` of the same answer: the server's clock may be wrong.
        now_ms: this machine's time, in Unix milliseconds, where the answer has no date.
    """
    text = "" if value is None else value.strip()
    if _SECONDS.fullmatch(text):
        # int() refuses thousands of digits.
        seconds = float(text[:400])
    else:
        until, now = _date(text), _date(date or "") or datetime.fromtimestamp(now_ms / 1000, UTC)
        if until is None:
            return None
        seconds = (until - now).total_seconds()
    return seconds if seconds > 0 else None


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def end_body(response: urllib3.BaseHTTPResponse) -> None:
    """Give the connection back to the pool if the body ends in a moment; else close it."""
    _read_excerpt(response, _REST_S)


def _read_excerpt(response: urllib3.BaseHTTPResponse, longest_s: float) -> str:
    """Read the beginning of the answer's body as text, and give the connection back to the pool or close it."""
    end_within(longest_s)
    body = b""
    # After 101 the connection no longer speaks HTTP.
    is_over = response.status < 200
    is_whole = False
    if response.status in _WITHOUT_BODY:
        # What these headers announce would be read as the answer to the connection's next post.
        is_over = True
        is_whole = response.headers.get("content-length", "0") == "0" and "transfer-encoding" not in response.headers
        if response.status == 205 and "content-length" not in response.headers:
            is_whole = False
    try:
        while not is_over:
            part = response.read1(_EXCERPT_BYTES + 1 - len(body))
            body += part
            is_whole = not part
            is_over = is_whole or len(body) > _EXCERPT_BYTES
    except Exception:  # noqa: BLE001, S110 - the status has said what became of the message
        pass
    if not is_whole or response.status in _ENDS_CONNECTION:
        response.close()
    # `close` closes the connection, but only this gives its place back to the pool.
    response.release_conn()
    return body[:_EXCERPT_BYTES].decode("utf-8", "replace")


def without_query(outcome: Outcome, url: HttpUrl) -> Outcome:
    """Hide the query, which may be secret, where a server's answer or a library's error repeats the URL."""
    _, mark, query = url.target.partition("?")
    if not query or isinstance(outcome, Delivered):
        return outcome
    return replace(outcome, error=outcome.error.replace(mark + query, f"{mark}***"))
