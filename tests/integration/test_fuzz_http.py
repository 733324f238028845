"""An HTTP receiver may answer anything: status 2xx is a delivery, and every other answer is a failed attempt."""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rebound_celery.destinations import Delivered, Failed
from rebound_celery.destinations.http import HttpDestination
from rebound_celery.message import Message
from rebound_celery.message.address import DEAD_SET, HttpAddress
from rebound_celery.policy import RetryPolicy
from tests.fuzzing import SLOW, damaged

if TYPE_CHECKING:
    from collections.abc import Iterator


class Receiver:
    """Answers each request with the same bytes, whatever they are, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(2)
                connection.recv(65_536)
                connection.sendall(self.answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


lines = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=12).map(
    lambda t: t.encode("latin-1")
)
statuses = st.one_of(
    st.integers(0, 1_100).map(lambda n: b"%d" % n),
    st.sampled_from([b"200", b"-1", b"2e2", b"", b"0x200", b"9" * 5_000]),
)
headers = st.one_of(
    st.tuples(lines, lines),
    st.tuples(
        st.just(b"Content-Length"), st.sampled_from([b"0", b"5", b"-5", b"x", b"99999999999", b"1,1", b"9" * 5_000])
    ),
    st.tuples(st.just(b"Transfer-Encoding"), st.sampled_from([b"chunked", b"gzip, chunked", b"x"])),
    st.tuples(
        st.just(b"Content-Encoding"), st.sampled_from([b"gzip", b"deflate", b"br", b"zstd", b"x", b"gzip, gzip"])
    ),
    st.tuples(st.just(b"Location"), st.sampled_from([b"http://127.0.0.1:1/", b"//", b"http://[", b"\xff"])),
    st.tuples(st.just(b"Connection"), st.sampled_from([b"close", b"keep-alive"])),
)
contents = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [gzip.compress(b"x" * 1_000_000), b"5\r\nhello\r\n0\r\n\r\n", b"fffffffffffffffff\r\n", b"-1\r\n", b"zz"]
    ),
    damaged(gzip.compress(b"well")),
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"HTTP/0.9", b"ICY", b""]))
    head = version + b" " + draw(statuses) + b" " + draw(lines) + b"\r\n"
    head += b"".join(name + b": " + value + b"\r\n" for name, value in draw(st.lists(headers, max_size=4)))
    whole = b"HTTP/1.1 100 Continue\r\n\r\n" * draw(st.integers(0, 2)) + head + b"\r\n" + draw(contents)
    return draw(damaged(whole)) if draw(st.booleans()) else whole


def test_any_answer_is_an_outcome(receiver: Receiver):
    destination = HttpDestination(2, 2)
    message = Message(
        id="m", value=b"v", destination=HttpAddress(receiver.url), dead_destination=DEAD_SET, attempt=1,
        policy=RetryPolicy(3, 1),
    )  # fmt: skip

    @SLOW
    @given(st.one_of(answers(), st.binary(max_size=60)))
    @example(b"")
    @example(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nzzz")
    @example(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n")
    @example(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")
    @example(b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000)
    def fuzz(answer: bytes) -> None:
        receiver.answer = answer

        (outcome,) = destination.send([message])

        if isinstance(outcome, Delivered):
            assert re.search(rb"2\d\d", answer), "no success that nobody said"
            assert re.search(r"answered 2\d\d$", outcome.where)
        else:
            assert isinstance(outcome, Failed)
            assert outcome.error

    try:
        fuzz()
    finally:
        destination.close()
