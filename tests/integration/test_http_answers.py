"""No answer of an HTTP receiver, of any size or form, costs a connection, a place in the pool or a thread."""

from __future__ import annotations

import contextlib
import errno
import gzip
import logging
import socket
import struct
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version

import pytest

from rebound_celery.destinations import Delivered, Failed, Outcome
from rebound_celery.destinations.http import HttpDestination
from rebound_celery.destinations.http_plan import Plans
from rebound_celery.http_options import HttpTable
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
        self.heads: list[bytes] = []
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
            except OSError as error:
                if error.errno != errno.EMFILE:
                    return
                # A test takes the descriptors away, and gives them back.
                time.sleep(0.05)
                continue
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
        self.heads.append(data.partition(b"\r\n\r\n")[0])
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


def say_and_wait(data: bytes) -> Answer:
    """Leave the answer open until the other side ends the connection."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        while connection.recv(65_536):
            pass

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


def open_chunks(status: int, *headers: bytes) -> bytes:
    head = [b"HTTP/1.1 %d x" % status, b"Transfer-Encoding: chunked", *headers]
    return b"\r\n".join([*head, b"", b"3", b"why", b""])


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n"
INTERIM = b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 102 x\r\n\r\n" + HINTS + b"HTTP/1.1 199 x\r\na: b\r\n\r\n"

BOMB = gzip.compress(b"x" * 50_000_000)

#: name -> the answer, and what the outcome's text says.
FORMS: dict[str, tuple[Answer, str]] = {
    **{f"200 with {n}": (say(whole(200, b"x" * n)), "answered 200") for n in (0, 1, 299, 300, 301, 302, 1000, 70_000)},
    **{f"500 with {n}": (say(whole(500, b"x" * n)), "answered 500: x") for n in (1, 299, 300, 301, 302, 1000, 70_000)},
    "204": (say(b"HTTP/1.1 204 x\r\n\r\n"), "answered 204"),
    "204 with a body": (say(whole(204, b"x" * 1000)), "answered 204"),
    "304": (say(b"HTTP/1.1 304 x\r\n\r\n"), "answered 304"),
    "205 without length": (say(b"HTTP/1.1 205 x\r\n\r\n"), "answered 205"),
    "205": (say(whole(205, b"")), "answered 205"),
    "408": (say(whole(408, b"late")), "answered 408: late"),
    "421": (say(whole(421, b"who?")), "answered 421: who?"),
    "redirect": (
        say(whole(302, b"y" * 1000, b"Location: http://u:secret@127.0.0.1:1/new?token=secret#x")),
        "answered 302, a redirect to http://127.0.0.1:1/new, and redirects are not followed: yyy",
    ),
    "redirect to a path": (say(whole(308, b"", b"Location: /new")), "answered 308, a redirect to /new,"),
    "redirect without body": (say(whole(307, b"", b"Location: //")), "answered 307"),
    "redirect that cannot be read": (say(whole(307, b"", b"Location: http://[")), "a redirect to (unreadable)"),
    "redirect on two lines": (say(whole(303, b"", b"Location: http://a\r\n /b")), "a redirect to http://a"),
    "300 without location": (say(whole(300, b"which?")), "answered 300: which?"),
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
    "103, then 204": (say(HINTS + b"HTTP/1.1 204 x\r\n\r\n"), "answered 204"),
    "100, 102, 103, 199, then 500": (say(INTERIM + whole(500, b"why")), "answered 500: why"),
    "102, then nothing": (say_and_close(b"HTTP/1.1 102 x\r\n\r\n"), "POST http"),
    "half of 103": (say_and_close(HINTS[:-4]), "POST http"),
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
    "200, chunked and left open": (say_and_wait(open_chunks(200)), "answered 200"),
    "202, left open before a chunk": (say_and_wait(open_chunks(202)[:-8]), "answered 202"),
    "200 without length, left open": (say_and_wait(b"HTTP/1.1 200 x\r\n\r\nwhy"), "answered 200"),
    "200, short and left open": (say_and_wait(whole(200, b"why")[:-1]), "answered 200"),
    "204, chunked and left open": (say_and_wait(open_chunks(204)), "answered 204"),
    "204 with a length, left open": (say_and_wait(b"HTTP/1.1 204 x\r\nContent-Length: 9\r\n\r\n"), "answered 204"),
    "205, chunked and left open": (say_and_wait(open_chunks(205)), "answered 205"),
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
    managers = [manager.pools for manager in destination._pools.all]
    return [pools[key].pool.qsize() for pools in managers for key in pools.keys()]  # noqa: SIM118 - it has no iteration


def is_of_posts(thread: threading.Thread) -> bool:
    return thread.name.startswith("rebound-http")


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_answer_costs_a_connection_a_place_or_a_thread(form: str, receiver: Receiver) -> None:
    receiver.answer, text = FORMS[form]
    earlier = set(threading.enumerate())
    destination = HttpDestination(5, 10)

    outcomes = [outcome for _ in range(POSTS // 2) for outcome in send(destination, *[receiver.url] * 2)]

    assert len(outcomes) == POSTS
    assert all(text in str(outcome) for outcome in outcomes), outcomes
    assert all(isinstance(outcome, Delivered) == ("answered 2" in text) for outcome in outcomes)
    assert free_places(destination) == [8]
    destination.close()
    wait_until(lambda: not receiver.open, message="all connections to end")
    wait_until(lambda: not {thread.name for thread in set(threading.enumerate()) - earlier if is_of_posts(thread)})


@pytest.mark.parametrize(
    ("answer", "text", "within_s"),
    [
        (open_chunks(200), "answered 200", 1.5),
        (open_chunks(200)[:-8], "answered 200", 1.5),
        (open_chunks(204), "answered 204", 1.5),
        (b"HTTP/1.1 200 x\r\n\r\nwhy", "answered 200", 1.5),
        (open_chunks(500), "answered 500: why", 4),
        (whole(404, b"why not")[:-4], "answered 404: why", 4),
        (open_chunks(302, b"Location: /new"), "not followed: why", 4),
    ],
    ids=["200", "200 before a chunk", "204", "200 without length", "500", "404 with a length", "302"],
)
def test_a_body_that_is_left_open_does_not_hold_up_the_outcome(
    answer: bytes, text: str, within_s: float, receiver: Receiver
) -> None:
    """While it does, a worker that is killed posts the message once more."""
    receiver.answer = say_and_wait(answer)
    destination = HttpDestination(5, 20)

    (outcome,) = send(destination, receiver.url, within_s=within_s)

    assert text in str(outcome)
    destination.close()
    wait_until(lambda: not receiver.open, message="the connection to end")


def test_the_body_of_a_redirect_that_is_left_open_does_not_hold_up_the_next_post(receiver: Receiver) -> None:
    answers = [say_and_wait(b"HTTP/1.1 307 x\r\nLocation: /new\r\n\r\nmoved"), say(whole(200, b""))]
    receiver.answer = lambda connection: answers.pop(0)(connection)
    plans = Plans(HttpTable({"*": {"max_redirects": 1}}))
    destination = HttpDestination(5, 20, plans)

    (outcome,) = send(destination, receiver.url, within_s=1.5)

    assert isinstance(outcome, Delivered)
    assert receiver.heads[-1].startswith(b"POST /new ")
    wait_until(lambda: len(receiver.open) == 1, message="the first connection to end")
    destination.close()


def test_a_small_answer_that_is_compressed_twice_does_not_fill_the_memory(receiver: Receiver) -> None:
    twice = gzip.compress(gzip.compress(b"x" * 100_000_000))
    receiver.answer = say(whole(500, twice, b"Content-Encoding: gzip, gzip"))
    destination = HttpDestination(5, 10)

    tracemalloc.start()
    try:
        (outcome,) = send(destination, receiver.url)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert "answered 500" in str(outcome)
    assert peak < 10_000_000
    destination.close()


@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
def test_the_log_of_urllib3_shows_neither_the_query_nor_the_answer(
    level: int, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answer = say_and_close(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno header: \r\nx\r\n\r\n")
    destination = HttpDestination(5, 5)

    with caplog.at_level(level):
        (outcome,) = send(destination, f"{receiver.url}hook?token=secret")
    destination.close()

    assert isinstance(outcome, Delivered)
    lines = [record for record in caplog.records if record.name.startswith("urllib3")]
    assert any("Failed to parse headers" in record.getMessage() for record in lines)
    assert "/hook" in caplog.text
    assert "secret" not in caplog.text
    assert "Traceback" not in caplog.text


def test_an_answer_that_was_read_to_its_end_leaves_its_connection_for_the_next_post(receiver: Receiver) -> None:
    receiver.answer = say(whole(500, b"x" * 300))
    destination = HttpDestination(5, 10)

    for _ in range(POSTS):
        send(destination, receiver.url)

    assert (receiver.requests, len(receiver.open)) == (POSTS, 1)
    destination.close()


def test_a_final_answer_that_comes_after_an_interim_one_is_the_answer(receiver: Receiver) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(HINTS)
        receiver.released.wait(0.2)
        connection.sendall(b"HTTP/1.1 204 x\r\n\r\n")

    receiver.answer = answer
    destination = HttpDestination(5, 10)

    outcomes = [send(destination, receiver.url)[0] for _ in range(3)]

    assert outcomes == [Delivered(f"{receiver.url} answered 204")] * 3
    assert (receiver.requests, len(receiver.open)) == (3, 1)
    destination.close()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"7", 7.0),
        (b" 120 ", 120.0),
        (b"9999999", 86_400.0),
        (b"9" * 5_000, 86_400.0),
        (b"Fri, 31 Dec 2100 23:59:59 GMT", 86_400.0),
        (b"0", None),
        (b"-1", None),
        (b"1.5", None),
        (b"soon", None),
        (b"", None),
        (b"Fri, 31 Dec 1999 23:59:59 GMT", None),
    ],
)
@pytest.mark.parametrize("status", [302, 413, 429, 503])
def test_a_failure_says_how_long_the_receiver_wants_to_be_left_alone(
    status: int, value: bytes, seconds: float | None, receiver: Receiver
) -> None:
    receiver.answer = say(whole(status, b"", b"Retry-After: " + value))
    destination = HttpDestination(5, 10)

    (outcome,) = send(destination, receiver.url)

    assert isinstance(outcome, Failed)
    assert outcome.retry_after_s == seconds
    destination.close()


@pytest.mark.parametrize(
    "date", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_a_date_to_wait_for_counts_by_the_receivers_clock(date: str, receiver: Receiver) -> None:
    headers = (f"Retry-After: {date}".encode(), b"Date: Sun, 06 Nov 1994 08:49:07 GMT")
    receiver.answer = say(whole(503, b"", *headers))
    destination = HttpDestination(5, 10)

    (outcome,) = send(destination, receiver.url)

    assert isinstance(outcome, Failed)
    assert outcome.retry_after_s == 30
    destination.close()


def test_a_connection_that_was_closed_while_it_was_idle_costs_no_attempt(receiver: Receiver) -> None:
    receiver.answer = say_and_close(whole(200, b""))
    destination = HttpDestination(5, 10)

    outcomes = [send(destination, receiver.url)[0] for _ in range(POSTS)]

    assert all(isinstance(outcome, Delivered) for outcome in outcomes), outcomes
    assert receiver.requests == POSTS
    destination.close()


def closes_just_when_the_next_post_comes(*then: Answer) -> Answer:
    """Answers the first post of a connection, and ends the connection at its second post without an answer."""
    served: Counter[socket.socket] = Counter()
    later = list(then)

    def answer(connection: socket.socket) -> None:
        served[connection] += 1
        if served[connection] == 1:
            (later.pop(0) if later else say(whole(200, b"")))(connection)
        else:
            reset(connection)

    return answer


def test_a_post_on_a_connection_that_its_server_is_closing_is_sent_once_more(receiver: Receiver) -> None:
    receiver.answer = closes_just_when_the_next_post_comes()
    destination = HttpDestination(5, 10)

    outcomes = [send(destination, receiver.url)[0] for _ in range(3)]

    assert all(isinstance(outcome, Delivered) for outcome in outcomes), outcomes
    # The first, the second on its connection and on a new one, and the third in the same way.
    assert receiver.requests == 5
    destination.close()


def test_all_idle_connections_may_be_stale_at_once(receiver: Receiver) -> None:
    def slowly(connection: socket.socket) -> None:
        time.sleep(0.1)
        connection.sendall(whole(200, b""))

    receiver.answer = closes_just_when_the_next_post_comes(*[slowly] * 8)
    destination = HttpDestination(5, 10)

    first, second = (send(destination, *[receiver.url] * 8) for _ in range(2))

    assert all(isinstance(outcome, Delivered) for outcome in first + second), second
    destination.close()


def test_a_post_is_sent_once_more_only(receiver: Receiver) -> None:
    receiver.answer = closes_just_when_the_next_post_comes(say(whole(200, b"")), reset)
    destination = HttpDestination(5, 10)

    first, second = (send(destination, receiver.url)[0] for _ in range(2))

    assert isinstance(first, Delivered)
    assert isinstance(second, Failed)
    assert receiver.requests == 3
    destination.close()


@pytest.mark.parametrize("start", [b"HTTP/1.1 20", b"HTTP/1.1 103 x\r\n\r\n", b"H"])
def test_a_post_of_whose_answer_something_came_is_not_sent_again_at_once(start: bytes, receiver: Receiver) -> None:
    destination = HttpDestination(5, 10)
    receiver.answer = say(whole(200, b""))
    send(destination, receiver.url)
    receiver.answer = say_and_close(start)

    (outcome,) = send(destination, receiver.url)

    assert isinstance(outcome, Failed)
    assert receiver.requests == 2
    destination.close()


def test_a_post_on_a_new_connection_that_breaks_is_a_failed_attempt(receiver: Receiver) -> None:
    receiver.answer = reset
    destination = HttpDestination(5, 10)

    (outcome,) = send(destination, receiver.url)

    assert isinstance(outcome, Failed)
    assert receiver.requests == 1
    destination.close()


def test_the_bytes_of_a_post(receiver: Receiver) -> None:
    destination = HttpDestination(5, 10)

    send(destination, f"{receiver.url}gr\u00f6\u00dfe?q=\u00f6", value=b"")

    head = receiver.heads[0].decode().split("\r\n")
    assert head[0] == "POST /gr%C3%B6%C3%9Fe?q=%C3%B6 HTTP/1.1"
    fields = dict(line.split(": ", 1) for line in head[1:] if line)
    assert fields["Host"] == f"127.0.0.1:{receiver.port}"
    assert fields["Content-Length"] == "0"
    assert fields["Accept-Encoding"] == "identity"
    assert fields["User-Agent"] == f"rebound-celery/{version('rebound-celery')}"
    assert not fields.keys() & {"Authorization", "Expect", "Transfer-Encoding", "TE", "Connection"}
    destination.close()


def test_a_url_with_a_user_is_posted_with_basic_authentication_and_without_the_user(receiver: Receiver) -> None:
    destination = HttpDestination(5, 10)

    outcomes = send(destination, receiver.url.replace("http://", "HTTP://us%40er:p%2Fw@"))

    head = receiver.heads[0]
    assert outcomes == [Delivered(f"{receiver.url} answered 204")]
    assert b"\r\nAuthorization: Basic dXNAZXI6cC93" in head
    assert b"us%40er" not in head
    destination.close()


def test_a_failure_does_not_show_the_query_that_a_receiver_repeats(receiver: Receiver) -> None:
    receiver.answer = say(whole(404, b"cannot POST /hook?token=hunter2&x=1"))
    destination = HttpDestination(5, 10)

    (outcome,) = send(destination, f"{receiver.url.rstrip('/')}/hook?token=hunter2&x=1")

    assert "answered 404: cannot POST /hook?***" in str(outcome)
    assert "hunter" not in str(outcome)
    destination.close()


def test_a_408_on_a_connection_that_was_kept_open_is_no_answer_to_the_post(receiver: Receiver) -> None:
    """A server may close an idle connection so, just when the next post is sent on it."""
    destination = HttpDestination(5, 5)
    ok, late = say(whole(204, b"")), say_and_close(whole(408, b"idle", b"Connection: close"))
    receiver.answer = ok
    assert isinstance(send(destination, receiver.url)[0], Delivered)
    answers = [late, ok]
    receiver.answer = lambda connection: answers.pop(0)(connection)

    (outcome,) = send(destination, receiver.url)

    assert isinstance(outcome, Delivered)
    assert receiver.requests == 3
    destination.close()


def test_a_second_408_is_the_answer_to_the_post(receiver: Receiver) -> None:
    destination = HttpDestination(5, 5)
    receiver.answer = say(whole(204, b""))
    send(destination, receiver.url)
    receiver.answer = say_and_close(whole(408, b"too slow", b"Connection: close"))

    (outcome,) = send(destination, receiver.url)

    assert isinstance(outcome, Failed)
    assert "answered 408: too slow" in outcome.error
    assert receiver.requests == 3
    destination.close()
