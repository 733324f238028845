"""Makes the faults of a run. The seed of the driver decides each fault and its time."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tests.torture.plan import LEASE_S, SESSION_S
from tests.torture.progress import say
from tests.torture.proxy import KINDS, ConnectionFault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.torture.journal import Journal
    from tests.torture.options import Options
    from tests.torture.parts import Part, PartFactory, Supervisor
    from tests.torture.servers import Servers

#: Fault -> its relative frequency.
WEIGHTS: Mapping[str, int] = {
    "kill-consumer": 6,
    "kill-all-consumers": 1,
    "kill-worker": 5,
    "kill-worker-group": 3,
    "kill-all-workers": 1,
    "kill-child": 6,
    "kill-receiver": 2,
    "term-consumer": 3,
    "term-worker": 3,
    "stop-consumer": 4,
    "stop-worker": 4,
    "stop-child": 2,
    "stop-kafka": 2,
    "stop-redis": 2,
    "restart-redis": 2,
    "kill-redis": 3,
    "restart-kafka": 1,
    "kill-kafka": 2,
    "proxy-kafka": 4,
    "proxy-redis-consumers": 3,
    "proxy-redis-workers": 3,
    "proxy-http": 3,
    "add-consumer": 3,
}

#: These faults end the broker. The embedded broker would lose its records.
ENDS_KAFKA = ("restart-kafka", "kill-kafka")

#: Seconds between two faults: most follow closely, so that they overlap, and some stand alone.
SHORT_S, LONG_S, LONG_SHARE = (0.5, 5.0), (9.0, 14.0), 0.2


class Driver:
    """Makes one fault after the other, each in its own thread, until a stop. Then it ends all faults."""

    def __init__(
        self, options: Options, servers: Servers, supervisor: Supervisor, part_factory: PartFactory, events: Journal
    ) -> None:
        self._random = random.Random(options.seed)
        self._pace = options.pace
        self._servers = servers
        self._supervisor = supervisor
        self._part_factory = part_factory
        self._events = events
        self._next_consumer = 10
        #: The targets that have a fault now. The end of a second fault would end the first one too early.
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        weights = {name: weight for name, weight in WEIGHTS.items() if not options.only or name in options.only}
        if options.kafka == "embedded":
            weights = {name: weight for name, weight in weights.items() if name not in ENDS_KAFKA}
        self._weights = weights

    def run(self, seconds: float) -> None:
        """Make faults for `seconds`. Return when the last one is over."""
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(16) as threads:
            running = []
            while (left := deadline - time.monotonic()) > 0:
                if not self._weights:
                    self._sleep(left)
                    continue
                name = self._random.choices(list(self._weights), list(self._weights.values()))[0]
                # All random values are drawn here, in one thread, even if the fault does not happen.
                draw = random.Random(self._random.random())
                low, high = LONG_S if self._random.random() < LONG_SHARE else SHORT_S
                gap = self._random.uniform(low, high) / self._pace
                running.append(threads.submit(self._do, name, draw))
                time.sleep(max(0.0, min(gap, deadline - time.monotonic())))
            self._stopping.set()
        for done in running:
            if error := done.exception():
                say(f"a fault could not be done: {error!r}")

    def _do(self, name: str, draw: random.Random) -> None:
        verb, _, rest = name.partition("-")
        methods: dict[str, Callable[[str, random.Random], None]] = {
            "kill": self._kill,
            "term": self._term,
            "stop": self._stop,
            "restart": self._restart,
            "proxy": self._proxy,
            "add": self._add,
        }
        methods[verb](rest, draw)

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    @contextlib.contextmanager
    def _fault(self, kind: str, target: str, **details: Any) -> Any:
        """Write a fault to the journal at its beginning, and again with its end. Yield False if the target is busy."""
        with self._lock:
            is_free = target not in self._busy
            self._busy.add(target)
        if not is_free:
            yield False
            return
        start = time.time_ns()
        self._events.write(kind=kind, target=target, start=start, **details)
        say(" ".join((kind, target, *(f"{name}={value}" for name, value in details.items()))))
        try:
            yield True
        finally:
            self._events.write(kind=kind, target=target, start=start, end=time.time_ns(), **details)
            with self._lock:
                self._busy.discard(target)

    def _choose(self, kind: str, draw: random.Random) -> Part | None:
        """Choose a part to kill. The first part of each kind is left out, because its memory is measured."""
        parts = [part for part in self._supervisor.of_kind(kind) if not is_witness(part)]
        return draw.choice(parts) if parts else None

    def _kill(self, what: str, draw: random.Random) -> None:
        if what in ("kafka", "redis"):
            self._end_server(what, draw, is_kill=True)
            return
        if what == "child":
            self._signal_child(draw, signal.SIGKILL, "kill-child")
            return
        kind = {"all-consumers": "consumer", "all-workers": "worker", "worker-group": "worker"}.get(what, what)
        part = self._choose(kind, draw)
        chosen = [p for p in self._supervisor.of_kind(kind) if not is_witness(p)] if what.startswith("all-") else [part]
        for one in filter(None, chosen):
            # If only the worker's parent is killed, its children live on and may still work.
            self._hit(one, f"kill-{what}", signal.SIGKILL, group=what == "worker-group")

    def _term(self, what: str, draw: random.Random) -> None:
        if part := self._choose(what, draw):
            self._hit(part, f"term-{what}", signal.SIGTERM)

    def _hit(self, part: Part, kind: str, number: signal.Signals, *, group: bool = False) -> None:
        if not part.is_running:
            return  # the target of a recent fault is not started again yet; this fault does not count
        with self._fault(kind, part.name, pid=part.pid) as is_free:
            if is_free:
                part.signal(number, group=group)

    def _stop(self, what: str, draw: random.Random) -> None:
        if what == "child":
            self._signal_child(draw, signal.SIGSTOP, "stop-child")
        elif what in ("kafka", "redis"):
            server = self._servers.kafka if what == "kafka" else self._servers.redis
            with self._fault(f"stop-{what}", what) as is_free:
                pid = server.pid
                if is_free and pid is not None:
                    self._freeze(pid, draw.uniform(2, 9))
        elif part := self._of(what, draw):
            longer_than = SESSION_S if what == "consumer" else LEASE_S
            with self._fault(f"stop-{what}", part.name, pid=part.pid) as is_free:
                if is_free and part.pid is not None and part.signal(signal.SIGSTOP):
                    self._freeze(part.pid, draw.uniform(0.5, 2.0) * longer_than)

    def _of(self, what: str, draw: random.Random) -> Part | None:
        """Choose a part to stop for some time. Parts whose memory is measured may be chosen too."""
        parts = self._supervisor.of_kind(what)
        return draw.choice(parts) if parts else None

    def _freeze(self, pid: int, seconds: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._sleep(seconds)
            os.kill(pid, signal.SIGCONT)

    def _signal_child(self, draw: random.Random, number: signal.Signals, kind: str) -> None:
        children = [(part, pid) for part in self._supervisor.of_kind("worker") for pid in part.children()]
        if not children:
            return
        part, pid = draw.choice(children)
        with self._fault(kind, f"{part.name}/{pid}", pid=pid) as is_free:
            if is_free and number == signal.SIGSTOP:
                self._freeze(pid, draw.uniform(0.5, 2.0) * LEASE_S)
            elif is_free:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _restart(self, what: str, draw: random.Random) -> None:
        self._end_server(what, draw, is_kill=False)

    def _end_server(self, what: str, draw: random.Random, *, is_kill: bool) -> None:
        server = self._servers.kafka if what == "kafka" else self._servers.redis
        with self._fault(f"{'kill' if is_kill else 'restart'}-{what}", what, pid=server.pid) as is_free:
            if not is_free:
                return
            if is_kill:
                server.kill()
                self._sleep(draw.choice((0.0, draw.uniform(0, 4))))
                server.start()
            else:
                server.restart()

    def _proxy(self, what: str, draw: random.Random) -> None:
        proxy = self._servers.proxies[what]
        connection_fault = ConnectionFault(draw.choice(KINDS), draw.choice((0.3, 0.6, 1.0)), draw.uniform(0.05, 0.6))
        with self._fault(
            f"proxy-{what}", f"proxy-{what}", connection_fault=connection_fault.kind, share=connection_fault.share
        ) as is_free:
            if is_free:
                proxy.begin(connection_fault)
                self._sleep(0.0 if connection_fault.kind == "cut" else draw.uniform(1, 9))
                proxy.heal()

    def _add(self, _what: str, draw: random.Random) -> None:
        with self._lock:
            number, self._next_consumer = self._next_consumer, self._next_consumer + 1
        part = self._part_factory.consumer(number)
        with self._fault("add-consumer", part.name):
            self._supervisor.add(part)
            self._sleep(draw.uniform(8, 20))
            self._supervisor.remove(part.name, 40)


def is_witness(part: Part) -> bool:
    return part.name in ("consumer-1", "worker-1")
