"""The servers of a run, each behind a proxy: Kafka, Redis, and the receiver's port."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rebound_celery.embedded import HOST, EmbeddedKafka, Server, free_port
from tests.kafka_server.apache import ApacheKafka
from tests.servers import RedisServer
from tests.torture.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.torture.options import Options


class ProxiedApache(ApacheKafka):
    """Apache Kafka with two listeners. Clients of the first go through the proxy; clients of the second do not."""

    def __init__(self, seed: int) -> None:
        super().__init__(free_port())
        self.behind_port = free_port()
        self.proxy = Proxy(self.behind_port, seed)

    @property
    def proxied_address(self) -> str:
        return f"{HOST}:{self.proxy.port}"

    def _command(self) -> Sequence[str]:
        command = super()._command()
        path = Path(self.data_dir, "server.properties")
        text = path.read_text()
        direct = f"PLAINTEXT://{HOST}:{self.port}"
        text = text.replace(f"listeners={direct},", f"listeners={direct},PROXIED://{HOST}:{self.behind_port},", 1)
        text = text.replace(
            f"advertised.listeners={direct}",
            f"advertised.listeners={direct},PROXIED://{self.proxied_address}\ninter.broker.listener.name=PLAINTEXT",
        )
        text = text.replace("PLAINTEXT:PLAINTEXT,", "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,")
        path.write_text(text)
        return command


class ProxiedEmbedded(EmbeddedKafka):
    """The embedded Kafka. It has one listener, so the checks go through the proxy as well."""

    def __init__(self, seed: int) -> None:
        super().__init__(free_port())
        self.proxy = Proxy(self.port, seed)

    @property
    def address(self) -> str:
        return self.proxied_address

    @property
    def proxied_address(self) -> str:
        return f"{HOST}:{self.proxy.port}"

    def _command(self) -> Sequence[str]:
        (*command, _, _, engine, url) = super()._command()
        listen = ["--listener-url", f"tcp://{HOST}:{self.port}"]
        return [*command[:2], *listen, "--advertised-listener-url", f"tcp://{self.proxied_address}", engine, url]


class Servers:
    """All servers, their proxies, and the addresses that the parts are given."""

    def __init__(self, options: Options, directory: Path) -> None:
        seed = options.seed
        self.kafka: ProxiedApache | ProxiedEmbedded = (
            ProxiedApache(seed) if options.kafka == "apache" else ProxiedEmbedded(seed)
        )
        self.redis = RedisServer(free_port(), aof_dir=directory / "aof")
        self.receiver_port = free_port()
        # Consumers and workers have their own proxies to Redis, so that one kind can be disconnected alone.
        self.redis_for_consumers = Proxy(self.redis.port, seed + 1)
        self.redis_for_workers = Proxy(self.redis.port, seed + 2)
        self.http = Proxy(self.receiver_port, seed + 3)

    @property
    def proxies(self) -> dict[str, Proxy]:
        return {
            "kafka": self.kafka.proxy,
            "redis-consumers": self.redis_for_consumers,
            "redis-workers": self.redis_for_workers,
            "http": self.http,
        }

    def all(self) -> tuple[Server, ...]:
        return self.kafka, self.redis

    def start(self) -> None:
        for server in self.all():
            server.start()

    def stop(self) -> None:
        for server in self.all():
            server.stop()
