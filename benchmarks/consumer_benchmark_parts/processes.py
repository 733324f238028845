"""The consumer under test, in a thread, and the Celery worker that redelivers, in a process."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from rebound_celery.consumer import Consumer
from rebound_celery.demo.child import Child

from .app import QUEUE
from .load import ROOT

#: A member of the group without a partition for this time gets none, because other members have all, in seconds.
WITHOUT_PARTITIONS_S = 3.0


class Joined(logging.Handler):
    """A log handler that notices in the consumer's log that it has joined its group."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._joined_at: float | None = None
        self._has_partitions = False

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) == "assigned":
            self._joined_at = self._joined_at or time.monotonic()
            self._has_partitions = record.__dict__.get("partitions") != "none"

    @property
    def joined(self) -> bool:
        """Whether it has joined. Without partitions this takes some time, because Kafka may still assign some."""
        if self._has_partitions or self._joined_at is None:
            return self._has_partitions
        return time.monotonic() - self._joined_at >= WITHOUT_PARTITIONS_S


class ConsumerThread:
    """Runs a consumer in a thread. An error that ends it is kept in `error`."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.error: BaseException | None = None
        self._joined = Joined()
        self._thread = threading.Thread(target=self._run, name="consumer", daemon=True)
        logging.getLogger("rebound_celery").addHandler(self._joined)
        self._thread.start()

    @property
    def has_joined(self) -> bool:
        return self._joined.joined

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ask it to stop, and return at once."""
        self.consumer.stop()

    def _run(self) -> None:
        try:
            self.consumer.run()
        except BaseException as error:
            self.error = error
        finally:
            logging.getLogger("rebound_celery").removeHandler(self._joined)


class Worker:
    """The Celery worker process that delivers the retries."""

    def __init__(self, redis: str, brokers: str) -> None:
        celery = [sys.executable, "-m", "celery", "--workdir", str(ROOT), "-A", f"{__package__}.app"]
        self._child = Child(
            "the Celery worker",
            [*celery, "worker", "-Q", QUEUE, "-P", "threads", "-c", "8", "-l", "WARNING"],
            {"CELERY_BROKER_URL": f"redis://{redis}/0", "REBOUND_KAFKA_BROKERS": brokers},
        )

    def complaint(self) -> str | None:
        """Return a text about the end of the worker, if it has ended by itself."""
        return None if self._child.is_running else self._child.how_it_ended()

    def stop(self, deadline_s: float) -> None:
        self._child.stop(deadline_s)


def peak_rss_mb() -> float:
    """Return the peak memory of this process, in MB."""
    with contextlib.suppress(OSError):
        # ru_maxrss would include the parent's memory at the fork.
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def thread_seconds() -> Counter[str]:
    """Return the processor time of the threads of this process in seconds. The handler threads count as one."""
    seconds: Counter[str] = Counter()
    for thread in threading.enumerate():
        name = "handlers" if thread.name.startswith("rebound-handler-") else thread.name
        # Only Unix has such a clock. A thread may end meanwhile.
        with contextlib.suppress(AttributeError, OSError):
            seconds[name] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))
    return seconds
