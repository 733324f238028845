"""A broker that refuses TLS costs no sockets."""

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


def test_the_socket_of_a_refused_handshake_is_closed(refusing_port: int) -> None:
    client = WatchedClient()
    gc.disable()
    try:
        with pytest.raises(KafkaError):
            KafkaConsumer(
                bootstrap_servers=f"127.0.0.1:{refusing_port}",
                security_protocol="SSL",
                kafka_client=client,
                bootstrap_timeout_ms=1000,
            )
        made = [one for one in gc.get_objects() if isinstance(one, ssl.SSLSocket)]
        is_open = [one for one in made if one.fileno() != -1]
    finally:
        gc.enable()
        client.close()

    assert made
    assert not is_open
