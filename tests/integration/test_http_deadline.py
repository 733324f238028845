"""An HTTP receiver cannot hold a post beyond its time-out, a job much longer, or the posts to other receivers."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rebound_celery.destinations import Delivered, Failed, Held, Unavailable
from rebound_celery.destinations.http import HttpDestination
from tests.integration.test_http_answers import Answer, Receiver, free_places, make_message, say, send, whole
from tests.waiting import wait_until

TIMEOUT = 1.0
#: What a busy machine may add to it.
MARGIN = 1.0

OK = say(whole(200, b""))


def drip(start: bytes, *pieces: bytes, pause_s: float = 0.05) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        for piece in itertools.cycle(pieces):
            connection.sendall(piece)
            time.sleep(pause_s)

    return answer


def flood(start: bytes, piece: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)

    return answer


def silent(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


CHUNKED = b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIP = b"HTTP/1.1 500 x\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\xff"

#: name -> the answer that never ends, and what the outcome's text says.
FORMS: dict[str, tuple[Answer, str]] = {
    "silence": (silent, "timed out"),
    "a status line, byte by byte": (drip(b"HTTP/1.1 200 ", b"x"), "timed out"),
    "a header, byte by byte": (drip(b"HTTP/1.1 200 x\r\na: ", b"x"), "timed out"),
    "100 Continue, again and again": (drip(b"", b"HTTP/1.1 100 x\r\n\r\n"), "timed out"),
    "100 Continue without a pause": (flood(b"", b"HTTP/1.1 100 x\r\n\r\n" * 1000), "interim answers of more than"),
    "a body, byte by byte": (drip(b"HTTP/1.1 500 x\r\n\r\nwhy", b"x", pause_s=0.1), "answered 500: whyx"),
    "the body of a 200": (drip(b"HTTP/1.1 200 x\r\n\r\n", b"x", pause_s=0.1), "answered 200"),
    "chunks": (drip(CHUNKED, b"1\r\nx\r\n", pause_s=0.1), "answered 500: xx"),
    "a chunk's size": (drip(CHUNKED, b"0"), "answered 500"),
    "trailers without a pause": (flood(CHUNKED + b"0\r\n", b"a: b\r\n" * 1000), "answered 500"),
    "gzip of nothing without a pause": (flood(GZIP, b"\0\0\0\xff\xff" * 1000), "answered 500"),
}


@pytest.fixture
def make_receiver() -> Iterator[Callable[[Answer], Receiver]]:
    with contextlib.ExitStack() as stack:

        def make(answer: Answer) -> Receiver:
            receiver = Receiver()
            receiver.answer = answer
            stack.callback(receiver.close)
            return receiver

        yield make


@pytest.fixture
def destination() -> Iterator[HttpDestination]:
    destination = HttpDestination(TIMEOUT, TIMEOUT)
    yield destination
    destination.close()


MakeReceiver = Callable[[Answer], Receiver]


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_without_end_is_cut_off_when_the_time_is_over(
    form: str, make_receiver: MakeReceiver, destination: HttpDestination
) -> None:
    answer, text = FORMS[form]
    receiver = make_receiver(answer)

    outcomes = send(destination, *[receiver.url] * 3, within_s=TIMEOUT + MARGIN)

    assert all(text in str(outcome) for outcome in outcomes), outcomes
    assert all(isinstance(outcome, Delivered) == ("answered 2" in text) for outcome in outcomes)
    assert free_places(destination) == [8]
    wait_until(lambda: not receiver.open, message="all connections to end")


def test_a_receiver_that_takes_the_request_bit_by_bit_is_cut_off(destination: HttpDestination) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while connection.recv(1000):
                time.sleep(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    (outcome,) = send(
        destination,
        f"http://127.0.0.1:{listener.getsockname()[1]}/",
        value=b"x" * 50_000_000,
        within_s=TIMEOUT + MARGIN,
    )

    assert isinstance(outcome, Failed)
    assert "timed out" in str(outcome)
    listener.close()
    destination.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a host that lets nobody connect and does not refuse either."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address[1]


def test_all_addresses_of_a_host_share_the_time_to_connect(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *args, **kwargs: real("127.0.0.1", *args, **kwargs) * 5)
    destination = HttpDestination(0.5, 20)

    (outcome,) = send(destination, f"http://silent.invalid:{silent_port}/", within_s=0.5 + MARGIN)

    assert isinstance(outcome, Failed)
    assert "timed out" in str(outcome)
    destination.close()


def test_an_address_that_answers_is_reached_behind_one_that_does_not(
    silent_port: int, make_receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a host with an IPv6 address, where no packet to it comes through, and an IPv4 address."""
    receiver, real = make_receiver(OK), socket.getaddrinfo

    def look_up(_: str, port: int, **kwargs: Any) -> Any:
        return [*real("127.0.0.1", silent_port, **kwargs), *real("127.0.0.1", port, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    destination = HttpDestination(TIMEOUT, 20)

    outcomes = send(destination, *[receiver.url] * 3, within_s=TIMEOUT + MARGIN)

    assert [type(outcome) for outcome in outcomes] == [Delivered] * 3, outcomes
    destination.close()


def test_a_look_up_without_end_does_not_hold_the_job(
    make_receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, released = socket.getaddrinfo, threading.Event()

    def look_up(host: str, *args: object, **kwargs: object) -> object:
        if host == "slow.invalid":
            released.wait(20)
        return real(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    receiver = make_receiver(OK)
    destination = HttpDestination(TIMEOUT, TIMEOUT)

    *slow, good = send(destination, *["http://slow.invalid/"] * 30, receiver.url, within_s=TIMEOUT + MARGIN)

    assert [type(outcome) for outcome in slow] == [Failed] * 8 + [Unavailable] * 22
    assert "timed out in looking up the host" in str(slow[0])
    assert isinstance(good, Delivered)
    look_ups = [thread for thread in threading.enumerate() if thread.name == "rebound-look-up"]
    assert len(look_ups) == 1, "all posts to a host wait for one look-up"
    assert look_ups[0].daemon, "it does not hold up the end of the process"
    released.set()
    destination.close()


def test_a_host_is_looked_up_again_after_a_look_up_that_failed(
    make_receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = socket.getaddrinfo, [socket.gaierror("try again")]

    def look_up(host: str, *args: object, **kwargs: object) -> object:
        if failures:
            raise failures.pop()
        return real("127.0.0.1", *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    receiver = make_receiver(OK)
    destination = HttpDestination(TIMEOUT, TIMEOUT)
    url = receiver.url.replace("127.0.0.1", "back.invalid")

    first, second = (send(destination, url)[0] for _ in range(2))

    assert isinstance(first, Failed)
    assert isinstance(second, Delivered)
    destination.close()


def test_one_call_ends_with_the_time_out_however_late_a_post_has_begun(
    make_receiver: MakeReceiver, destination: HttpDestination
) -> None:
    answers: list[Answer] = []

    def answer(connection: socket.socket) -> None:
        answers.append(answer)
        if len(answers) <= 8:
            time.sleep(0.4 * TIMEOUT)
            connection.sendall(whole(200, b""))
        else:
            silent(connection)

    receiver = make_receiver(answer)

    outcomes = send(destination, *[receiver.url] * 64, within_s=TIMEOUT + 0.4)

    assert [type(outcome) for outcome in outcomes] == [Delivered] * 8 + [Failed] * 8 + [Unavailable] * 48


def test_no_post_begins_when_the_worker_is_told_to_stop(
    make_receiver: MakeReceiver, destination: HttpDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celery.worker import state

    def stop(connection: socket.socket) -> None:
        wait_until(lambda: receiver.requests >= 8)
        state.should_stop = 0
        connection.sendall(whole(200, b""))

    monkeypatch.setattr(state, "should_stop", None)
    receiver = make_receiver(stop)

    outcomes = send(destination, *[receiver.url] * 64)

    assert receiver.requests == 8
    assert [type(outcome) for outcome in outcomes] == [Delivered] * 8 + [Held] * 56
    assert "the worker is stopping" in str(outcomes[-1])


@pytest.mark.parametrize(
    "answer", [silent, drip(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", b"\x03")], ids=["silence", "byte by byte"]
)
def test_a_tls_handshake_without_end_is_cut_off(answer: Answer, destination: HttpDestination) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    (outcome,) = send(destination, f"https://127.0.0.1:{listener.getsockname()[1]}/", within_s=TIMEOUT + MARGIN)

    assert isinstance(outcome, Failed)
    assert "timed out" in str(outcome)
    thread.join(5)
    assert not thread.is_alive(), "the connection has ended"
    listener.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_posts_over_tls_keep_their_connection_and_their_time(
    tmp_path: Path, destination: HttpDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    subprocess.run([*command.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    answers = [whole(200, b"fine"), whole(500, b"why")]
    got = []

    def serve() -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as tls, contextlib.suppress(OSError):
            for answer in answers:
                data = b""
                while not data.endswith(b"end"):
                    data += tls.recv(65_536)
                got.append(len(data))
                tls.sendall(answer)
            drip(b"HTTP/1.1 200 x\r\na: ", b"x")(tls)

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"https://localhost:{listener.getsockname()[1]}/"
    outcomes = [send(destination, url, value=b"x" * 300_000 + b"end", within_s=TIMEOUT + MARGIN)[0] for _ in range(3)]

    assert outcomes[:2] == [Delivered(f"{url} answered 200"), Failed(f"POST {url} answered 500: why", None, 500)]
    assert isinstance(outcomes[2], Failed)
    assert "timed out" in outcomes[2].error
    assert all(size > 300_000 for size in got)
    thread.join(5)
    listener.close()


def test_slow_hosts_do_not_hold_the_posts_to_others(make_receiver: MakeReceiver, destination: HttpDestination) -> None:
    slow = [make_receiver(silent).url for _ in range(5)]
    good = make_receiver(OK)
    done = threading.Event()

    def watch() -> None:
        wait_until(lambda: good.requests == 12, timeout=5)
        done.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    thread = threading.Thread(
        target=destination.send, args=([make_message(url) for url in slow * 10 + [good.url] * 12],)
    )
    thread.start()

    assert done.wait(TIMEOUT * 0.8), "the good host has all its posts before the slow ones time out"
    watcher.join()
    thread.join()


def test_what_has_not_begun_because_its_host_is_slow_uses_up_no_attempt(
    make_receiver: MakeReceiver, destination: HttpDestination
) -> None:
    slow = make_receiver(silent)

    outcomes = send(destination, *[slow.url] * 30, within_s=TIMEOUT + MARGIN)

    assert slow.requests == 8
    assert [type(outcome) for outcome in outcomes] == [Failed] * 8 + [Unavailable] * 22
    assert "not begun" in str(outcomes[-1])
    assert free_places(destination) == [8]


def test_posts_of_all_jobs_to_a_host_share_its_places(
    make_receiver: MakeReceiver, destination: HttpDestination
) -> None:
    slow, good = make_receiver(silent), make_receiver(OK)
    jobs = [
        threading.Thread(target=destination.send, args=([make_message(slow.url) for _ in range(20)],))
        for _ in range(10)
    ]
    for job in jobs:
        job.start()

    (outcome,) = send(destination, good.url, within_s=TIMEOUT * 0.8)

    assert isinstance(outcome, Delivered)
    for job in jobs:
        job.join(TIMEOUT + MARGIN)
        assert not job.is_alive()
    assert slow.requests == 8


def test_a_host_is_served_again_after_it_was_slow(make_receiver: MakeReceiver, destination: HttpDestination) -> None:
    receiver = make_receiver(silent)
    send(destination, *[receiver.url] * 30)
    receiver.answer = OK

    outcomes = send(destination, *[receiver.url] * 30)

    assert all(isinstance(outcome, Delivered) for outcome in outcomes)


def test_a_closed_destination_may_be_used_again(make_receiver: MakeReceiver, destination: HttpDestination) -> None:
    receiver = make_receiver(OK)
    for _ in range(3):
        outcomes = send(destination, *[receiver.url] * 10)
        destination.close()

        assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    wait_until(lambda: not receiver.open)


_GREEN = """
import os, time, traceback
from rebound_celery.destinations import Delivered
from rebound_celery.destinations.http import HttpDestination
from tests.integration.test_http_answers import Receiver, make_message, say, whole
from tests.integration.test_http_deadline import drip

def tls_drip(connection):
    drip(b"\\x16\\x03\\x03\\x40\\x00\\x02\\x00\\x3f\\xfc", b"\\x03")(connection)

receivers = [Receiver() for _ in range(3)]
receivers[0].answer = drip(b"HTTP/1.1 200 x\\r\\na: ", b"x")
receivers[1].answer = say(whole(200, b"x" * 1000))
receivers[2].answer = tls_drip
receivers[2]._read_request = lambda connection: bool(connection.recv(65536))
urls = [receiver.url for receiver in receivers]
urls[2] = urls[2].replace("http:", "https:")
# A busy machine needs more than a second for the posts to the good receiver: all receivers share this process.
destination = HttpDestination(3, 3)
try:
    for turn in range(2):
        began = time.monotonic()
        outcomes = destination.send([make_message(url, b"v" * 100000) for url in urls for _ in range(5)])
        assert time.monotonic() - began < 6, (time.monotonic() - began, outcomes)
        for outcome in outcomes[:5] + outcomes[10:]:
            assert "timed out" in str(outcome), outcomes
        assert all(isinstance(outcome, Delivered) for outcome in outcomes[5:10]), outcomes
    destination.close()
    print("through", flush=True)
except BaseException:
    traceback.print_exc()
finally:
    os._exit(0)
"""


@pytest.mark.parametrize(
    "patch",
    ["from gevent import monkey; monkey.patch_all()", "import eventlet; eventlet.monkey_patch()"],
    ids=["gevent", "eventlet"],
)
def test_the_time_is_kept_on_pools_of_greenlets(patch: str) -> None:
    run = subprocess.run([sys.executable, "-c", patch + _GREEN], capture_output=True, text=True, timeout=60)

    assert run.stdout == "through\n", run.stderr
