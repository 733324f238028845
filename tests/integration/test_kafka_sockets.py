"""A broker that refuses a connection or TLS costs no sockets."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from kafka import KafkaConsumer
from kafka.errors import KafkaError

from rebound_celery.compat.kafka_python import WatchedClient
from rebound_celery.embedded import free_port


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """The port of a server that answers TLS with something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"this is no TLS\n")

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def client() -> Iterator[WatchedClient]:
    """A client whose sockets the garbage collector does not close."""
    client = WatchedClient()
    gc.collect()
    gc.disable()
    yield client
    gc.enable()
    client.close()


def connect(client: WatchedClient, port: int, protocol: str) -> None:
    with pytest.raises(KafkaError):
        KafkaConsumer(
            bootstrap_servers=f"127.0.0.1:{port}",
            security_protocol=protocol,
            kafka_client=client,
            bootstrap_timeout_ms=1000,
        )


def test_the_socket_of_a_refused_handshake_is_closed(client: WatchedClient, refusing_port: int) -> None:
    connect(client, refusing_port, "SSL")

    made = [one for one in gc.get_objects() if isinstance(one, ssl.SSLSocket)]
    assert made
    assert not [one for one in made if one.fileno() != -1]


def test_the_socket_of_a_refused_connection_is_closed(client: WatchedClient) -> None:
    before = open_sockets()

    connect(client, free_port(), "PLAINTEXT")

    assert open_sockets() == before


def open_sockets() -> int:
    """How many TCP sockets this process has that are not connected."""
    sockets = [one for one in gc.get_objects() if isinstance(one, socket.socket) and one.fileno() != -1]
    return sum(one.family in (socket.AF_INET, socket.AF_INET6) for one in sockets)
