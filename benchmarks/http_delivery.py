"""Measures the delivery over HTTP by one worker. Prints one JSON line for each row on stdout.

    python -m benchmarks.http_delivery                  all rows
    python -m benchmarks.http_delivery throughput       webhooks a second to a local receiver with 10 ms answers
    python -m benchmarks.http_delivery hosts            lateness at 200 hosts, and again while one of them hangs

It starts a Redis server, a receiver and a plain `celery worker`. `lateness` is the time of arrival after the due time,
at the receiver. A host is an address of this machine (127.0.1.1 to 127.0.1.200), each with its own connections.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from celery import Celery

from rebound_celery import HttpOptions, Rebound
from rebound_celery.embedded import EmbeddedRedis, free_port

ANSWER_S = 0.01
HOSTS = 200
HANGING = "127.0.1.1"
#: Requests of a process to a host at once in the row of throughput: 64 at 10 ms are 6,400 a second at most.
CONCURRENCY = 64
#: Processes of the worker.
PROCESSES = 4

app = Celery("benchmark", broker=os.environ.get("BENCHMARK_REDIS", "redis://localhost"))
app.conf.worker_send_task_events = False
app.conf.task_send_sent_event = False
rebound = Rebound(app, http_destinations={"http://127.0.0.1:*/*": HttpOptions(concurrency=CONCURRENCY)})

_DUE = re.compile(rb"\r\nX-Due-Ms: (\d+)")
_HOST = re.compile(rb"\r\nHost: ([0-9.]+)")


class Receiver(asyncio.Protocol):
    """Answers each request after 10 ms, and remembers when it came and when it was due."""

    arrived: list[tuple[str, float, float]] = []  # noqa: RUF012 - of the process
    hangs = False

    def connection_made(self, transport: Any) -> None:
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            # The body is "v".
            if len(self._data) < end + 5:
                return
            head, self._data = self._data[:end], self._data[end + 5 :]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        now_ms = time.time() * 1000
        host, due = _HOST.search(head), _DUE.search(head)
        name = host[1].decode() if host else "?"
        if head.startswith(b"GET /arrived"):
            self._say(json.dumps(Receiver.arrived).encode())
        elif head.startswith((b"GET /hang", b"GET /work")):
            Receiver.hangs = head.startswith(b"GET /hang")
            Receiver.arrived.clear()
            self._say(b"")
        else:
            Receiver.arrived.append((name, now_ms, float(due[1]) if due else 0.0))
            if not (Receiver.hangs and name == HANGING):
                asyncio.get_running_loop().call_later(ANSWER_S, self._say, b"")

    def _say(self, body: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def receive(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Receiver, "0.0.0.0", port, backlog=1000)
    await server.serve_forever()


def ask(port: int, path: str) -> Any:
    import urllib.request

    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data=b"v", method="GET")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")


@contextlib.contextmanager
def started(redis: EmbeddedRedis) -> Iterator[int]:
    """The port of the receiver, while it and a worker run."""
    port = free_port()
    environment = {**os.environ, "BENCHMARK_REDIS": redis.url}
    receiver = subprocess.Popen([sys.executable, "-m", "benchmarks.http_delivery", "--receive", str(port)])
    log = open(os.environ.get("BENCHMARK_LOG", os.devnull), "ab")  # noqa: SIM115, PTH123 - closed below
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.http_delivery", "worker", "-l", "WARNING"]
    worker = subprocess.Popen([*command, "-c", str(PROCESSES)], env=environment, stdout=log, stderr=log)
    app.conf.broker_url = redis.url
    try:
        until = time.monotonic() + 60
        while not app.control.ping(timeout=1) and time.monotonic() < until:
            time.sleep(0.1)
        ask(port, "work")
        yield port
    finally:
        for process in (worker, receiver):
            process.terminate()
        for process in (worker, receiver):
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        log.close()


def schedule(urls: Sequence[str], count: int, per_second: float | None, lead_s: float) -> None:
    """Schedule messages, one URL after the other: all due at once, or at a rate."""
    now_s = time.time()
    requests = []
    for n in range(count):
        due_s = now_s + lead_s + (0 if per_second is None else n / per_second)
        requests.append(
            {
                "destination": urls[n % len(urls)],
                "value": b"v",
                "headers": {"x-due-ms": str(round(due_s * 1000))},
                "delay": max(0.0, due_s - time.time()),
                "max_retries": 20,
                "base_delay": 1,
            }
        )
    for outcome in rebound.schedule_retries(requests):
        if isinstance(outcome, Exception):
            raise outcome


def wait_for(port: int, count: int, within_s: float, *, but: str = "") -> list[tuple[str, float, float]]:
    until = time.monotonic() + within_s
    while True:
        arrived = [one for one in ask(port, "arrived") if one[0] != but and one[2]]
        if len(arrived) >= count or time.monotonic() > until:
            return arrived
        time.sleep(1)


def throughput(redis: EmbeddedRedis, count: int) -> dict[str, Any]:
    with started(redis) as port:
        schedule([f"http://127.0.0.1:{port}/hook"], count, None, 5 + count / 5_000)
        arrived = wait_for(port, count, 120)
    times = sorted(one[1] for one in arrived)
    seconds = (times[-1] - times[0]) / 1000
    return {
        "row": "throughput",
        "webhooks": len(times),
        "seconds": round(seconds, 2),
        "rate": round(len(times) / seconds),
    }


def hosts(redis: EmbeddedRedis, per_second: float, seconds: float) -> Iterator[dict[str, Any]]:
    with started(redis) as port:
        urls = [f"http://127.0.1.{n}:{port}/hook" for n in range(1, HOSTS + 1)]
        count = round(per_second * seconds)
        # Once unmeasured, so that both measured times find the same connections.
        for measured, hangs in ((False, False), (True, False), (True, True)):
            ask(port, "hang" if hangs else "work")
            schedule(urls, count, per_second, 3)
            others = sum(1 for n in range(count) if n % HOSTS)
            arrived = wait_for(port, others, seconds + 90, but=HANGING)
            late = sorted(at - due for _, at, due in arrived)
            if measured:
                yield {
                    "row": "hosts, one hangs" if hangs else "hosts",
                    "webhooks": len(late),
                    "lateness_p50_ms": round(late[len(late) // 2], 1),
                    "lateness_p99_ms": round(late[math.ceil(0.99 * len(late)) - 1], 1),
                    "lateness_max_ms": round(late[-1], 1),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", choices=["throughput", "hosts"])
    parser.add_argument("--count", type=int, default=20_000, help="webhooks of the row of throughput")
    parser.add_argument("--per-second", type=float, default=200, help="webhooks a second of the rows of hosts")
    parser.add_argument("--seconds", type=float, default=40, help="for how long they are sent")
    parser.add_argument("--receive", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive is not None:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(receive(options.receive))
        return
    with EmbeddedRedis() as redis:
        if options.row != "hosts":
            print(json.dumps(throughput(redis, options.count)), flush=True)
        if options.row != "throughput":
            for row in hosts(redis, options.per_second, options.seconds):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
