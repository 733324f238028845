"""A small HTTP server with the metrics: `/metrics` for Prometheus, `/autoscale` for autoscalers, and `/healthz`."""

from __future__ import annotations

import json
import logging
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ..errors import ReboundError
from .collector import Lag, ReboundCollector
from .reading import Source

#: Seconds that a client may take for its request, so that one that sends nothing holds no thread for ever.
_CLIENT_S = 10.0

logger = logging.getLogger(__name__)


class Exporter(ThreadingHTTPServer):
    """Serves the metrics of an app's queues.

    Args:
        source: measures the queues. The first one is that of `/autoscale` without `?queue=`.
        host: the address on which it listens.
        port: the port; 0 takes a free one.
        lag: tells the lag of consumer groups.

    Raises:
        OSError: if it cannot listen there.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, source: Source, host: str, port: int, lag: Lag | None = None) -> None:
        self.source = source
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(ReboundCollector(source, lag))
        is_ipv6 = ":" in host
        self.address_family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        super().__init__((host, port), _Handler)
        self.url = f"http://{f'[{host}]' if is_ipv6 else host}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as in the base
        """Tell of a fault in one line: most are clients that have gone away."""
        logger.debug("a request was not answered", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: Exporter
    server_version = "rebound-exporter"
    sys_version = ""
    timeout = _CLIENT_S

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        answer = {"/metrics": self._metrics, "/healthz": self._health, "/autoscale": self._autoscale}.get(path)
        if answer is None:
            self._send(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /autoscale\n")
            return
        answer(parse_qs(query))

    def _metrics(self, _query: dict[str, list[str]]) -> None:
        encoder, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._send(HTTPStatus.OK, encoder(self.server.registry), content_type)

    def _health(self, _query: dict[str, list[str]]) -> None:
        try:
            self.server.source.measure(self.server.source.queues[0])
        except ReboundError as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n")
            return
        self._send(HTTPStatus.OK, "ok\n")

    def _autoscale(self, query: dict[str, list[str]]) -> None:
        source = self.server.source
        queue = query.get("queue", [source.queues[0]])[-1]
        if queue not in source.queues:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": f"the queues are {', '.join(source.queues)}"})
            return
        try:
            self._send_json(HTTPStatus.OK, source.work(queue).to_dict())
        except ReboundError as error:
            # An autoscaler then keeps what it has. A zero would let it stop all workers.
            self._send_json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})

    def _send_json(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        self._send(status, json.dumps(body) + "\n", "application/json")

    def _send(self, status: HTTPStatus, body: str | bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the base
        logger.debug(format, *args)
