"""Posts through an HTTP proxy: what it and the receiver are told, whose fault is whose, and that the time is kept."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebound_celery.destinations import Delivered, Failed, Unavailable
from rebound_celery.destinations.http import HttpDestination
from rebound_celery.destinations.http_plan import Plans
from rebound_celery.destinations.http_proxy import Proxies
from rebound_celery.embedded import free_port
from tests.integration.test_http_answers import Answer, Receiver, say, send, whole
from tests.integration.test_http_deadline import MARGIN, OK, TIMEOUT, drip, silent

AUTHORIZATION = b"\r\nProxy-Authorization: Basic dXM6c2VjcmV0"


class TlsReceiver(Receiver):
    """A receiver behind TLS, or a plain one without a certificate."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()
        self.url = f"https://localhost:{self.port}/"

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as tls:
            self.open.add(tls)
            super()._serve(tls)


def tunnel(connection: socket.socket, port: int) -> None:
    """What a proxy does after CONNECT: carry bytes both ways until one side ends."""
    with socket.create_connection(("127.0.0.1", port)) as beyond:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        ends = {connection: beyond, beyond: connection}
        while True:
            for ready in select.select(list(ends), [], [])[0]:
                data = ready.recv(65_536)
                if not data:
                    ends[ready].shutdown(socket.SHUT_RDWR)
                    return
                ends[ready].sendall(data)


@pytest.fixture
def proxy() -> Iterator[Receiver]:
    proxy = Receiver()
    yield proxy
    proxy.close()


@pytest.fixture
def destination(proxy: Receiver) -> Iterator[HttpDestination]:
    destination = HttpDestination(
        TIMEOUT, TIMEOUT, Plans(proxies=Proxies(proxy.url.replace("http://", "http://us:secret@")))
    )
    yield destination
    destination.close()


@pytest.fixture
def tls_receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TlsReceiver]:
    assert shutil.which("openssl"), "openssl makes the certificate"
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    subprocess.run([*command.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    receiver = TlsReceiver(context)
    yield receiver
    receiver.close()


def test_a_plain_post_carries_the_whole_url_and_the_proxys_credentials(
    proxy: Receiver, destination: HttpDestination
) -> None:
    outcomes = [
        send(destination, f"http://u:p@{host}/gr\u00f6\u00dfe?q=1")[0] for host in ("shop.invalid:8080", "b.invalid")
    ]

    assert outcomes[0] == Delivered("http://shop.invalid:8080/größe answered 204")
    assert isinstance(outcomes[1], Delivered)
    first, second = proxy.heads
    assert first.startswith(b"POST http://shop.invalid:8080/gr%C3%B6%C3%9Fe?q=1 HTTP/1.1\r\n")
    assert b"\r\nHost: shop.invalid:8080\r\n" in first
    assert b"\r\nHost: b.invalid\r\n" in second
    assert AUTHORIZATION in first
    assert b"\r\nAuthorization: Basic dTpw" in first
    assert len(proxy.open) == 1, "the connection to the proxy is kept"


def test_a_post_over_tls_goes_through_a_tunnel_which_is_kept(
    proxy: Receiver, destination: HttpDestination, tls_receiver: TlsReceiver
) -> None:
    proxy.answer = lambda connection: tunnel(connection, tls_receiver.port)

    outcomes = [send(destination, tls_receiver.url)[0] for _ in range(3)]

    assert outcomes == [Delivered(f"{tls_receiver.url} answered 204")] * 3
    (connect,) = proxy.heads
    assert connect.startswith(b"CONNECT localhost:%d HTTP/1." % tls_receiver.port)
    assert AUTHORIZATION in connect
    assert all(b"POST / HTTP/1.1\r\n" in head for head in tls_receiver.heads)
    assert not any(b"proxy" in head.lower() for head in tls_receiver.heads)


def test_a_stale_tunnel_is_made_anew(proxy: Receiver, destination: HttpDestination, tls_receiver: TlsReceiver) -> None:
    def once(connection: socket.socket) -> None:
        if tls_receiver.requests == 2:
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(whole(200, b""))

    tls_receiver.answer = once
    proxy.answer = lambda connection: tunnel(connection, tls_receiver.port)

    outcomes = [send(destination, tls_receiver.url)[0] for _ in range(2)]

    assert all(isinstance(outcome, Delivered) for outcome in outcomes), outcomes
    assert tls_receiver.requests == 3
    assert len(proxy.heads) == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_away_or_refuses_us_uses_up_no_attempt(
    scheme: str, proxy: Receiver, destination: HttpDestination
) -> None:
    proxy.answer = say(whole(407, b"", b"Proxy-Authenticate: Basic"))

    (refused,) = send(destination, f"{scheme}://shop.invalid/")
    away = HttpDestination(TIMEOUT, TIMEOUT, Plans(proxies=Proxies(f"http://us:secret@127.0.0.1:{free_port()}")))
    (unreachable,) = send(away, f"{scheme}://shop.invalid/")
    wrong = HttpDestination(
        TIMEOUT, TIMEOUT, Plans(proxies=Proxies(None, {"all": "socks5://us:secret@127.0.0.1:1080"}))
    )
    (unusable,) = send(wrong, f"{scheme}://shop.invalid/")

    for outcome, text in ((refused, "407"), (unreachable, "refused"), (unusable, "http://host:port")):
        assert isinstance(outcome, Unavailable), outcome
        assert text in outcome.error
        assert outcome.error.startswith(f"POST {scheme}://shop.invalid/")
        assert "secret" not in outcome.error
    away.close()
    wrong.close()


@pytest.mark.parametrize("status", [502, 503, 403])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_receiver_that_the_proxy_does_not_reach_is_a_failed_attempt(
    scheme: str, status: int, proxy: Receiver, destination: HttpDestination
) -> None:
    proxy.answer = say(whole(status, b""))

    (outcome,) = send(destination, f"{scheme}://shop.invalid/")

    assert isinstance(outcome, Failed)
    assert str(status) in outcome.error


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "answer",
    [silent, drip(b"HTTP/1.1 200 x\r\na: ", b"x"), drip(b"HTTP/1.1 100 x\r\n\r\n", b"HTTP/1.1 102 x\r\n\r\n")],
    ids=["silence", "byte by byte", "interim answers"],
)
def test_a_proxy_without_an_end_is_cut_off(
    answer: Answer, scheme: str, proxy: Receiver, destination: HttpDestination
) -> None:
    proxy.answer = answer

    outcomes = send(destination, *[f"{scheme}://shop.invalid/"] * 3, within_s=TIMEOUT + MARGIN)

    assert all(isinstance(outcome, Failed) for outcome in outcomes), outcomes


def test_a_receiver_without_an_end_is_cut_off_in_its_tunnel(
    proxy: Receiver, destination: HttpDestination, tls_receiver: TlsReceiver
) -> None:
    tls_receiver.answer = drip(b"HTTP/1.1 200 x\r\na: ", b"x")
    proxy.answer = lambda connection: tunnel(connection, tls_receiver.port)

    outcomes = send(destination, *[tls_receiver.url] * 3, within_s=TIMEOUT + MARGIN)

    assert all(isinstance(outcome, Failed) and "timed out" in outcome.error for outcome in outcomes), outcomes


def test_what_no_proxy_names_is_posted_directly(proxy: Receiver) -> None:
    receiver = Receiver()
    receiver.answer = OK
    destination = HttpDestination(
        TIMEOUT, TIMEOUT, Plans(proxies=Proxies(None, {"http": proxy.url, "no": "127.0.0.0/8"}))
    )

    outcomes = send(destination, receiver.url, "http://shop.invalid/")

    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    assert (receiver.requests, proxy.requests) == (1, 1)
    assert receiver.heads[0].startswith(b"POST / HTTP/1.1")
    destination.close()
    receiver.close()
