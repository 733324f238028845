"""The processes under torture, and the supervisor that starts them again after their end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rebound_celery.embedded import HOST, spawn
from tests.processes import ROOT
from tests.torture.journal import DIRECTORY, PART, Journal
from tests.torture.plan import (
    DEAD_TOPIC,
    GROUP,
    HTTP_TIMEOUT_S,
    KEYS,
    KEYS_IN_ORDER,
    KEYS_VARIABLE,
    LEASE_S,
    QUEUE,
    SESSION_S,
    TOPIC,
)
from tests.torture.progress import say

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from tests.torture.options import Options
    from tests.torture.servers import Servers

#: The time before an ended part is started again, in seconds.
RESTART_S = 0.5

APP = ("-m", "celery", "-A", "tests.torture.app")


class Part:
    """One process of the run: `python *arguments`, in its own process group, with its output in a log."""

    def __init__(self, name: str, arguments: tuple[str, ...], environment: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self.kind = name.split("-")[0]
        self.arguments = arguments
        self.starts = 0
        self.wanted = True
        self._environment = {**os.environ, **environment, PART: name, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        self._log = (logs / f"{name}.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: list[int] = []

    def start(self) -> None:
        self._log.write(f"----- start at {time.time():.3f} -----\n".encode())
        self._log.flush()
        self._process = spawn([sys.executable, *self.arguments], self._environment, self._log, str(ROOT))
        self._groups.append(self._process.pid)
        self.starts += 1

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def status(self) -> int | None:
        """Return the exit status; None while the process runs, or if it was never started."""
        return None if self._process is None else self._process.poll()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def children(self) -> list[int]:
        """Return the pids of its direct children."""
        with contextlib.suppress(OSError, ValueError):
            tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
            return [int(pid) for task in tasks for pid in task.read_text().split()]
        return []

    def signal(self, number: signal.Signals, *, group: bool = False) -> bool:
        """Send a signal to the process, or with `group` also to all its children. Return False if none runs."""
        if not self.is_running or self.pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)
        return True

    def stop(self, timeout: float) -> int | None:
        """Send SIGTERM, and after the timeout SIGKILL. Then no process of any start is left."""
        self.wanted = False
        self.signal(signal.SIGCONT, group=True)
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while self.is_running and time.monotonic() < deadline:
            time.sleep(0.05)
        status = self.status
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        return status

    def rss_mb(self) -> float | None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return None


class Supervisor:
    """Starts parts, and starts them again when they end."""

    def __init__(self, events: Journal) -> None:
        self.parts: dict[str, Part] = {}
        self._events = events
        self._lock = threading.Lock()
        self._ended_at: dict[str, float] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="torture-supervisor", daemon=True)
        self._thread.start()

    def add(self, part: Part) -> None:
        with self._lock:
            self.parts[part.name] = part
            part.start()

    def remove(self, name: str, timeout: float) -> int | None:
        """Stop a part for good, and return its status."""
        with self._lock:
            part = self.parts.pop(name)
        return part.stop(timeout)

    def of_kind(self, kind: str) -> list[Part]:
        return [part for part in list(self.parts.values()) if part.kind == kind]

    @property
    def restarts(self) -> int:
        return sum(part.starts - 1 for part in self.parts.values())

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(0.1):
            with self._lock:
                for part in self.parts.values():
                    if part.wanted and not part.is_running:
                        self._look_after(part)

    def _look_after(self, part: Part) -> None:
        ended_at = self._ended_at.setdefault(part.name, time.monotonic())
        if ended_at + RESTART_S <= time.monotonic():
            del self._ended_at[part.name]
            say(f"{part.name} has ended with {part.status} and is started again")
            self._events.write(kind="exit", target=part.name, start=time.time_ns(), pid=part.pid, status=part.status)
            part.start()


class PartFactory:
    """Makes the parts of a run."""

    def __init__(self, servers: Servers, directory: Path, options: Options) -> None:
        self._directory = directory
        self._rate = options.rate
        self._ordering = () if options.ordering is None else ("--ordering", options.ordering)
        self._servers = servers
        self._common = {
            DIRECTORY: str(directory),
            "REBOUND_KAFKA_BROKERS": servers.kafka.proxied_address,
            "REBOUND_QUEUE": QUEUE,
            "REBOUND_LEASE": str(LEASE_S),
            "REBOUND_KAFKA_TIMEOUT": "8",
            "REBOUND_HTTP_TIMEOUT": str(HTTP_TIMEOUT_S),
            "REBOUND_HTTP_CONNECT_TIMEOUT": str(HTTP_TIMEOUT_S),
            "REBOUND_OUTAGE_MAX_DELAY": "4",
            # The default is three. Here the faults end so many workers that a good message would become a dead letter.
            "REBOUND_MAX_WORKER_LOSSES": "20",
            KEYS_VARIABLE: str(KEYS if options.ordering is None else KEYS_IN_ORDER),
            "TORTURE_RECEIVER": f"http://{HOST}:{servers.http.port}/hook",
        }

    def consumer(self, number: int, *, witness: bool = False) -> Part:
        options = (
            *("--topic", TOPIC, "--group", GROUP, "--dead-letter-topic", DEAD_TOPIC, "--wait"),
            *("--handler", "tests.torture.handler:handle", "--concurrency", "4"),
            *("--max-retries", "3", "--base-delay", "1"),
            *self._ordering,
            *("--option", f"session_timeout_ms={round(SESSION_S * 1000)}", "--option", "heartbeat_interval_ms=2000"),
        )
        environment = {"TORTURE_WITNESS": "1"} if witness else {}
        return self._part(f"consumer-{number}", (*APP, "rebound", "consume", *options), consumers=True, **environment)

    def worker(self, number: int, pool: str, concurrency: int) -> Part:
        name = f"worker-{number}"
        options = ("-P", pool, "-c", str(concurrency), "-l", "INFO", "-n", f"{name}@%h")
        return self._part(name, (*APP, "worker", *options))

    def producer(self, number: int, count: int) -> Part:
        arguments = ("-m", "tests.torture.producer", str(self._rate / count))
        return self._part(f"producer-{number}", arguments, consumers=True)

    def receiver(self) -> Part:
        return self._part("receiver", ("-m", "tests.torture.receiver", str(self._servers.receiver_port)))

    def _part(self, name: str, arguments: tuple[str, ...], *, consumers: bool = False, **environment: str) -> Part:
        redis = self._servers.redis_for_consumers if consumers else self._servers.redis_for_workers
        url = f"redis://{HOST}:{redis.port}/0"
        return Part(name, arguments, {**self._common, "TORTURE_REDIS": url, **environment}, self._directory)
