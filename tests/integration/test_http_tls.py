"""TLS to HTTP receivers: own authorities, client certificates, and what happens when a file is wrong."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rebound_celery.destinations import Delivered, Failed, Outcome, Unavailable
from rebound_celery.destinations.http import HttpDestination
from rebound_celery.destinations.http_plan import Plans
from rebound_celery.http_options import HttpTable
from tests.integration.test_http_answers import make_message

PASSWORD = "hunter2"


class Authority:
    """Makes certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._sign(self._name, self._key, is_authority=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(self, subject: x509.Name, key: Any, *, is_authority: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def certificate(self, name: str, password: str | None = None) -> tuple[Path, Path]:
        """The files of a certificate for 127.0.0.1 and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate, key_file = self._folder / f"{name}-cert.pem", self._folder / f"{name}-key.pem"
        certificate.write_bytes(self._sign(subject, key, is_authority=False).public_bytes(serialization.Encoding.PEM))
        encryption: Any = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password.encode())
        key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return certificate, key_file


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def serve() -> Iterator[Callable[[ssl.SSLContext], str]]:
    """`serve(context)` is the URL of a receiver that answers 204 to each connection's first request."""
    with contextlib.ExitStack() as stack:

        def start(context: ssl.SSLContext) -> str:
            listener = socket.create_server(("127.0.0.1", 0))

            def run() -> None:
                while True:
                    try:
                        connection, _ = listener.accept()
                    except OSError:
                        return
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                        data = b""
                        # The body is "v".
                        while not data.endswith(b"\r\n\r\nv"):
                            data += secured.recv(65_536) or b"\r\n\r\nv"
                        secured.sendall(b"HTTP/1.1 204 x\r\nConnection: close\r\n\r\n")

            thread = threading.Thread(target=run)
            thread.start()

            def end() -> None:
                listener.shutdown(socket.SHUT_RDWR)
                listener.close()
                thread.join()

            stack.callback(end)
            return f"https://127.0.0.1:{listener.getsockname()[1]}/"

        yield start


def server_context(authority: Authority, *, asks_clients: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.certificate("server"))
    if asks_clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.file)
    return context


def send(url: str, **options: Any) -> Outcome:
    destination = HttpDestination(5, 10, Plans(HttpTable({"*": options})))
    (outcome,) = destination.send([make_message(url)])
    destination.close()
    return outcome


def test_a_server_of_an_own_authority_is_trusted_where_the_options_name_it(
    authority: Authority, serve: Callable[[ssl.SSLContext], str], tmp_path: Path
) -> None:
    url = serve(server_context(authority))
    other = Authority(tmp_path, "other")

    assert isinstance(send(url, ca_file=authority.file), Delivered)
    assert isinstance(send(url, verify=False), Delivered)
    for refused in (send(url), send(url, ca_file=other.file)):
        assert isinstance(refused, Failed)
        assert "CERTIFICATE_VERIFY_FAILED" in refused.error
    wrong_name = send(url.replace("127.0.0.1", "localhost"), ca_file=authority.file)
    assert isinstance(wrong_name, Failed)
    assert "Hostname mismatch" in wrong_name.error


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_a_client_shows_its_certificate(
    password: str | None, authority: Authority, serve: Callable[[ssl.SSLContext], str]
) -> None:
    url = serve(server_context(authority, asks_clients=True))
    certificate, key = authority.certificate("client", password)
    files = {"ca_file": authority.file, "client_cert": certificate, "client_key": key}

    assert isinstance(send(url, **files, client_key_password=password), Delivered)
    assert isinstance(send(url, ca_file=authority.file), Failed)


def test_certificates_that_were_renewed_are_read_again(
    authority: Authority, serve: Callable[[ssl.SSLContext], str], tmp_path: Path
) -> None:
    certificate, key = authority.certificate("client")
    options = {"ca_file": authority.file, "client_cert": certificate, "client_key": key}
    destination = HttpDestination(5, 10, Plans(HttpTable({"*": options})))

    def outcome(url: str) -> Outcome:
        (found,) = destination.send([make_message(url)])
        return found

    first = serve(server_context(authority, asks_clients=True))
    assert isinstance(outcome(first), Delivered)
    renewed = Authority(tmp_path, "authority")
    renewed.certificate("client")
    second = serve(server_context(renewed, asks_clients=True))
    assert isinstance(outcome(second), Delivered)

    key.unlink()
    assert isinstance(outcome(second), Unavailable)
    destination.close()


def test_a_file_that_cannot_be_used_costs_no_attempt_and_is_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.certificate("client", PASSWORD)
    broken = tmp_path / "broken.pem"
    broken.write_text("x")

    for options, name in (
        ({"ca_file": tmp_path / "missing.pem"}, "ca_file="),
        ({"ca_file": broken}, "ca_file="),
        ({"client_cert": certificate}, "client_cert="),
        ({"client_cert": certificate, "client_key": key}, "client_cert="),
        ({"client_cert": certificate, "client_key": key, "client_key_password": "wrong"}, "client_cert="),
    ):
        outcome = send("https://127.0.0.1:1/", **options)
        assert isinstance(outcome, Unavailable), options
        assert name in outcome.error
        assert PASSWORD not in outcome.error
