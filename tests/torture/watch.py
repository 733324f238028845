"""Watches the run: it samples the committed offsets, and the memory of the processes that live through the run."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from typing import TYPE_CHECKING

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from tests.torture.plan import GROUP, PARTITIONS, TOPIC

if TYPE_CHECKING:
    from pathlib import Path

    from tests.torture.journal import Journal
    from tests.torture.parts import Part

EVERY_S = 2.0


class OffsetWatch:
    """Asks Kafka for the group's committed offsets, and writes them to the journal."""

    def __init__(self, brokers: str, journal: Journal) -> None:
        self._brokers = brokers
        self._journal = journal
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="torture-offsets", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            # After each failure a new reader is made, so that faults of the run cannot stop the watch.
            with contextlib.suppress(KafkaError, OSError):
                self._look()

    def _look(self) -> None:
        reader = KafkaConsumer(
            bootstrap_servers=self._brokers, group_id=GROUP, enable_auto_commit=False, bootstrap_timeout_ms=3000
        )
        try:
            while not self._stopping.wait(EVERY_S):
                look(reader, self._journal)
        finally:
            reader.close()


def look(reader: KafkaConsumer, journal: Journal) -> dict[int, int]:
    """Ask once, and write the answer to the journal with the time of its arrival."""
    offsets = {
        number: reader.committed(TopicPartition(TOPIC, number), timeout_ms=3000) or 0 for number in range(PARTITIONS)
    }
    journal.write(ns=time.time_ns(), offsets=offsets)
    return offsets


class MemoryWatch:
    """Samples the resident memory of parts that live through the run."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._began = time.monotonic()
        self._samples: dict[str, list[tuple[float, float]]] = {part.name: [] for part in parts}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="torture-memory", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def levels(self, early_s: float) -> dict[str, tuple[float, float, float]]:
        """Return for each part in MB: the median at about `early_s` seconds, that of the last 30 s, and the maximum."""
        found = {}
        for name, samples in self._samples.items():
            if not samples:
                continue
            last = samples[-1][0]
            early = [mb for at, mb in samples if abs(at - early_s) <= 15] or [samples[0][1]]
            late = [mb for at, mb in samples if at >= last - 30]
            most = max(mb for _, mb in samples)
            found[name] = round(statistics.median(early), 1), round(statistics.median(late), 1), round(most, 1)
        return found

    def save(self, path: Path) -> None:
        lines = (f"{name} {at:.0f} {mb:.1f}\n" for name, samples in self._samples.items() for at, mb in samples)
        path.write_text("".join(lines))

    def _run(self) -> None:
        while not self._stopping.wait(2.0):
            for part in self._parts:
                if (mb := part.rss_mb()) is not None:
                    self._samples[part.name].append((time.monotonic() - self._began, mb))
