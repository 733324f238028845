"""No answer of an HTTP receiver, of any size or form, costs a connection, a place in the pool or a thread."""

from __future__ import annotations

import contextlib
import gzip
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from rebound_celery.destinations import Delivered, Failed, Outcome
from rebound_celery.destinations.http import HttpDestination
from rebound_celery.message import Message
from rebound_celery.message.address import HttpAddress
from rebound_celery.policy import RetryPolicy
from tests.waiting import wait_until

#: Posts of a test: more than one host has places.
POSTS = 20

Answer = Callable[[socket.socket], None]


class Receiver:
    """Reads a request, answers it by a function, and reads the next one unless the answer ended the connection."""

    def __init__(self) -> None:
        self.answer: Answer = say(b"HTTP/1.1 204 x\r\n\r\n")
        self.open: set[socket.socket] = set()
        self.requests = 0
        self.released = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.open.add(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while self._read_request(connection):
                self.requests += 1
                self.answer(connection)
        self.open.discard(connection)

    def _read_request(self, connection: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65_536)
            if not part:
                return False
            data += part
        return True

    def close(self) -> None:
        self.released.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


def say(data: bytes, *, times: int = 1) -> Answer:
    def answer(connection: socket.socket) -> None:
        for _ in range(times):
            connection.sendall(data)

    return answer


def say_and_close(data: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_RDWR)

    return answer


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def whole(status: int, body: bytes, *headers: bytes) -> bytes:
    head = [b"HTTP/1.1 %d x" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*head, b"", body])


def chunked(*chunks: bytes) -> bytes:
    head = b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


BOMB = gzip.compress(b"x" * 50_000_000)

#: name -> the answer, and what the outcome's text says.
FORMS: dict[str, tuple[Answer, str]] = {
    **{f"200 with {n}": (say(whole(200, b"x" * n)), "answered 200") for n in (0, 1, 299, 300, 301, 302, 1000, 70_000)},
    **{f"500 with {n}": (say(whole(500, b"x" * n)), "answered 500: x") for n in (1, 299, 300, 301, 302, 1000, 70_000)},
    "204": (say(b"HTTP/1.1 204 x\r\n\r\n"), "answered 204"),
    "204 with a body": (say(whole(204, b"x" * 1000)), "answered 204"),
    "304": (say(b"HTTP/1.1 304 x\r\n\r\n"), "answered 304"),
    "redirect": (say(whole(302, b"y" * 1000, b"Location: http://127.0.0.1:1/")), "answered 302: yyy"),
    "redirect without body": (say(whole(307, b"", b"Location: //")), "answered 307"),
    "Connection: close": (say_and_close(whole(500, b"x" * 1000, b"Connection: close")), "answered 500: xxx"),
    "Connection: close, kept open": (say(whole(500, b"x" * 1000, b"Connection: close")), "answered 500: xxx"),
    "no length": (say_and_close(b"HTTP/1.1 500 x\r\n\r\n" + b"x" * 1000), "answered 500: xxx"),
    "no length, short": (say_and_close(b"HTTP/1.1 500 x\r\n\r\nx"), "answered 500: x"),
    "short body": (say_and_close(b"HTTP/1.1 500 x\r\nContent-Length: 1000\r\n\r\nhalf"), "answered 500: half"),
    "HTTP/1.0": (say_and_close(b"HTTP/1.0 500 x\r\n\r\n" + b"x" * 1000), "answered 500: xxx"),
    "chunks": (say(chunked(b"x" * 10, b"x" * 10)), "answered 500: xxxxxxxxxxxxxxxxxxxx"),
    "many chunks": (say(chunked(*[b"x" * 100] * 100)), "answered 500: xxx"),
    "broken chunk": (say(b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "answered 200"),
    "half a chunk": (say_and_close(chunked(b"x" * 100)[:-80]), "answered 500"),
    "100, then 500": (say(b"HTTP/1.1 100 x\r\n\r\n" * 3 + whole(500, b"x" * 1000)), "answered 500: xxx"),
    "103, then 204": (say(b"HTTP/1.1 103 x\r\n\r\nHTTP/1.1 204 x\r\n\r\n"), "answered 103"),
    "101": (say(b"HTTP/1.1 101 x\r\n\r\nframes"), "answered 101"),
    "nothing": (say_and_close(b""), "without response"),
    "reset": (reset, "Connection aborted"),
    "half a status line": (say_and_close(b"HTTP/1.1 20"), "POST http"),
    "no HTTP": (say_and_close(b"\x15\x03\x01\x00\x02\x02\x16"), "POST http"),
    "a header too many": (say(b"HTTP/1.1 200 x\r\n" + b"a: b\r\n" * 200), "headers"),
    "a huge header": (say(b"HTTP/1.1 200 x\r\na: " + b"x" * 200_000), "got more than"),
    "gzip": (say(whole(500, gzip.compress(b"why"), b"Content-Encoding: gzip")), "answered 500: why"),
    "a gzip bomb": (say(whole(500, BOMB, b"Content-Encoding: gzip")), "answered 500: xxx"),
    "no gzip": (say(whole(500, b"z" * 1000, b"Content-Encoding: gzip")), "answered 500"),
    "100 MB": (say(b"HTTP/1.1 500 x\r\nContent-Length: 104857600\r\n\r\n" + b"x" * 1_048_576, times=100), "500: xxx"),
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def make_message(url: str, value: bytes = b"v") -> Message:
    return Message(id="m", value=value, destination=HttpAddress(url), attempt=1, policy=RetryPolicy(3, 1))


def send(destination: HttpDestination, *urls: str, value: bytes = b"v", within_s: float = 20) -> list[Outcome]:
    """Send a message to each URL in one job, and fail where that takes longer."""
    outcomes: list[Outcome] = []
    messages = [make_message(url, value) for url in urls]
    thread = threading.Thread(target=lambda: outcomes.extend(destination.send(messages)), daemon=True)
    thread.start()
    thread.join(within_s)
    assert not thread.is_alive(), f"the job has not ended within {within_s} s"
    return outcomes


def free_places(destination: HttpDestination) -> list[int]:
    pools = destination._pool.pools
    return [pools[key].pool.qsize() for key in pools.keys()]  # noqa: SIM118 - it has no iteration


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_answer_costs_a_connection_a_place_or_a_thread(form: str, receiver: Receiver) -> None:
    receiver.answer, text = FORMS[form]
    destination = HttpDestination(5, 10)

    outcomes = [outcome for _ in range(POSTS // 2) for outcome in send(destination, *[receiver.url] * 2)]

    assert len(outcomes) == POSTS
    assert all(text in str(outcome) for outcome in outcomes), outcomes
    assert all(isinstance(outcome, Delivered) == ("answered 2" in text) for outcome in outcomes)
    assert free_places(destination) == [8]
    destination.close()
    wait_until(lambda: not receiver.open, message="all connections to end")
    wait_until(lambda: not any(thread.name.startswith("rebound-http") for thread in threading.enumerate()))


def test_an_answer_that_was_read_to_its_end_leaves_its_connection_for_the_next_post(receiver: Receiver) -> None:
    receiver.answer = say(whole(500, b"x" * 300))
    destination = HttpDestination(5, 10)

    for _ in range(POSTS):
        send(destination, receiver.url)

    assert (receiver.requests, len(receiver.open)) == (POSTS, 1)
    destination.close()


def test_what_follows_an_interim_answer_is_no_answer_to_the_next_post(receiver: Receiver) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 103 x\r\n\r\n")
        receiver.released.wait(0.2)
        connection.sendall(b"HTTP/1.1 204 x\r\n\r\n")

    receiver.answer = answer
    destination = HttpDestination(5, 10)

    outcomes = [send(destination, receiver.url)[0] for _ in range(3)]

    assert all(isinstance(outcome, Failed) and "answered 103" in outcome.error for outcome in outcomes)
    destination.close()
