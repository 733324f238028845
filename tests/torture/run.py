"""One run, from the start of the first server to the checks at the end."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebound_celery.demo.stored import waiting
from rebound_celery.embedded import create_topics
from tests.torture.chaos import Driver, is_witness
from tests.torture.checks import all_violations
from tests.torture.history import Violation
from tests.torture.journal import Journal, JournalReader
from tests.torture.parts import PartFactory, Supervisor
from tests.torture.plan import DEAD_TOPIC, MAX_RETRIES, PARTITIONS, QUEUE, TOPIC
from tests.torture.progress import say
from tests.torture.readback import read_history
from tests.torture.report import figures
from tests.torture.servers import Servers
from tests.torture.watch import MemoryWatch, OffsetWatch

if TYPE_CHECKING:
    from tests.torture.history import History
    from tests.torture.options import Options

#: The longest start of all parts, and the longest end of one part, in seconds.
START_S, STOP_S = 90.0, 45.0

#: How many ids are printed with their whole history.
LISTED = 5


class Run:
    """One run with all servers and processes that it has started."""

    def __init__(self, options: Options) -> None:
        self._options = options
        if options.keep_logs is not None:
            options.keep_logs.mkdir(parents=True, exist_ok=True)
        self._directory = Path(tempfile.mkdtemp(prefix=f"torture-{options.seed}-", dir=options.keep_logs))
        self._servers = Servers(options, self._directory)
        self._events = Journal("events", self._directory)
        self._supervisor = Supervisor(self._events)
        self._part_factory = PartFactory(self._servers, self._directory, options)
        self._calls, self._produced = (
            JournalReader("calls", self._directory),
            JournalReader("produced", self._directory),
        )
        self._begun: dict[str, tuple[str, int]] = {}
        self._ended: set[str] = set()
        self._confirmed: set[str] = set()

    def __call__(self) -> int:
        """Run, print the figures, and return the exit status."""
        try:
            history, found, violations = self._run()
        finally:
            self._supervisor.close()
            for part in self._supervisor.parts.values():
                part.stop(1)
            self._servers.stop()
        print(json.dumps(found), flush=True)
        self._tell(history, violations)
        if violations or self._options.keep_logs is not None:
            say(f"logs and journals: {self._directory}")
        else:
            shutil.rmtree(self._directory, ignore_errors=True)
        return 1 if violations else 0

    def _run(self) -> tuple[History, dict[str, Any], list[Violation]]:
        options, servers = self._options, self._servers
        say(f"seed {options.seed}: starting {servers.kafka.name} and redis-server; logs in {self._directory}")
        servers.start()
        create_topics(servers.kafka.address, dict.fromkeys((TOPIC, DEAD_TOPIC), PARTITIONS))
        self._start_parts()
        self._wait(lambda: bool(self._progress()), START_S, "the first message is handled")
        memory = MemoryWatch([part for part in self._supervisor.parts.values() if is_witness(part)])
        offsets = OffsetWatch(servers.kafka.address, Journal("commits", self._directory))
        say(f"chaos for {options.minutes:g} minutes")
        Driver(options, servers, self._supervisor, self._part_factory, self._events).run(options.minutes * 60)
        memory.stop()
        memory.save(self._directory / "memory.txt")
        is_drained = self._drain()
        offsets.stop()
        restarts = self._supervisor.restarts
        self._stop_parts()
        say("checking the history")
        history = read_history(
            servers.kafka.address, servers.redis.url, self._directory, in_order=options.ordering is not None
        )
        violations = all_violations(history)
        if not is_drained:
            violations.append(Violation("undrained", f"not everything was through after {options.drain_s:g} s"))
        found = figures(options, history, violations, restarts)
        found["rss_mb"] = memory.levels(min(120.0, options.minutes * 20))
        found["drained_s"] = self._drained_s
        return history, found, violations

    def _start_parts(self) -> None:
        part_factory, add = self._part_factory, self._supervisor.add
        add(part_factory.receiver())
        # One part of each kind is never killed, so that its memory can be measured over the whole run.
        add(part_factory.worker(1, "threads", 4))
        add(part_factory.worker(2, "prefork", 2))
        add(part_factory.worker(3, "threads", 4))
        add(part_factory.consumer(1, witness=True))
        add(part_factory.consumer(2))
        add(part_factory.consumer(3))
        for number in (1, 2):
            add(part_factory.producer(number, 2))

    def _drain(self) -> bool:
        """Stop the producers, end all faults, and wait until every message has come to its end."""
        began = time.monotonic()
        for part in self._supervisor.of_kind("producer"):
            self._supervisor.remove(part.name, STOP_S)
        for proxy in self._servers.proxies.values():
            proxy.heal()
        self._servers.start()
        say("healed; waiting until everything is through")
        drained = self._wait(self._is_through, self._options.drain_s, None)
        self._drained_s = round(time.monotonic() - began, 1)
        # Finished records may still be uncommitted.
        time.sleep(3)
        return drained

    def _is_through(self) -> bool:
        self._progress()
        self._confirmed |= {line["id"] for line in self._produced.lines() if "id" in line and "http" not in line}
        return self._confirmed <= self._ended and not waiting(self._servers.redis.url, QUEUE)

    def _progress(self) -> int:
        """Read the new lines in the journals of the calls. Return how many messages have come to an end."""
        for line in self._calls.lines():
            if line["what"] == "begin":
                self._begun[line["call"]] = line["id"], line["attempt"]
            elif begun := self._begun.pop(line["call"], None):
                message_id, attempt = begun
                if line["what"] == "ok" or (line["what"] == "failed" and attempt > MAX_RETRIES):
                    self._ended.add(message_id)
        return len(self._ended)

    def _wait(self, condition: Any, seconds: float, what: str | None) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.3)
        if what is not None:
            raise TimeoutError(f"not within {seconds:g} s: {what}; logs in {self._directory}")
        return False

    def _stop_parts(self) -> None:
        """Stop all parts at the same time. Consumers and workers must end without an error."""
        names = list(self._supervisor.parts)
        with ThreadPoolExecutor(len(names)) as threads:
            statuses = list(threads.map(lambda name: self._supervisor.remove(name, STOP_S), names))
        for name, status in zip(names, statuses, strict=True):
            if status != 0 and name != "receiver":
                say(f"{name} ended with {status}")

    def _tell(self, history: History, violations: list[Violation]) -> None:
        for violation in violations[:50]:
            say(f"VIOLATION {violation.kind}: {violation.text}")
        ids = dict.fromkeys(message_id for violation in violations for message_id in violation.ids)
        for message_id in list(ids)[:LISTED]:
            say(f"the history of {message_id}:")
            for line in history.all_of(message_id):
                print(f"  {line}", file=sys.stderr)
