"""The Redis servers that tests run on."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rebound_celery.demo.embedded import EmbeddedRedis, Server, ServerError, redis_answers, redis_options

if TYPE_CHECKING:
    from collections.abc import Sequence


class RedisServer(Server):
    """The system's redis-server, for tests that kill it and start it again on the same port.

    `aof_dir` makes it keep what it acknowledged (appendonly, fsync always) in a directory that the caller owns; without
    it nothing survives. `options` are more words of its command line, such as `["--maxmemory-policy", "allkeys-lru"]`.
    """

    name = "redis-server"

    def __init__(
        self, port: int | None = None, *, aof_dir: str | Path | None = None, options: Sequence[str] = ()
    ) -> None:
        super().__init__(port)
        self._aof_dir = aof_dir
        self._options = tuple(options)

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:port/0`."""
        return f"redis://{self.address}/0"

    def _command(self) -> Sequence[str]:
        program = shutil.which("redis-server")
        if program is None:
            raise ServerError("redis-server is not installed; on Debian: apt-get install redis-server")
        if self._aof_dir is None:
            return [program, *redis_options(self.port, self.data_dir), *self._options]
        Path(self._aof_dir).mkdir(parents=True, exist_ok=True)
        options = redis_options(self.port, str(self._aof_dir))
        return [program, *options, "--appendonly", "yes", "--appendfsync", "always", *self._options]

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
    return RedisServer() if shutil.which("redis-server") else EmbeddedRedis()
