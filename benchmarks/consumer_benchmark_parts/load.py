"""The handler and the messages for the consumer under test.

`python -m benchmarks.consumer_benchmark_parts.load FUNCTION JSON` calls a function of this module and prints its result
as JSON. It runs in its own process, so that its memory does not count as the consumer's.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rebound_celery import ReboundError, Record

PARTITIONS = 4

ROOT = Path(__file__).parents[2]


class SimulatedError(Exception):
    """The error that the handler raises at the failure rate."""


class LoadError(ReboundError):
    """Messages could not be produced or read."""


class Handler:
    """A handler that sleeps, and fails at the failure rate."""

    def __init__(self, handler_ms: tuple[float, float], failure_rate: float, *, fail_once: bool) -> None:
        self._low, self._high = (milliseconds / 1000 for milliseconds in handler_ms)
        self._failure_rate = failure_rate
        self._fail_once = fail_once
        self._lock = threading.Lock()
        self.redelivered = 0
        self.started: float | None = None

    def __call__(self, record: Record) -> None:
        if self.started is None:
            self.started = time.monotonic()
        if self._high > 0:
            time.sleep(random.uniform(self._low, self._high))
        if record.attempt > 1:
            with self._lock:
                self.redelivered += 1
            if self._fail_once:
                return
        if random.random() < self._failure_rate:
            raise SimulatedError("simulated failure")


def make_message(n: int) -> dict[str, bytes]:
    content = {
        "message_id": f"msg-{n}-{uuid.uuid4().hex[:8]}",
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "data": f"benchmark message {n}",
        "priority": n % 3,
    }
    return {"key": f"key-{n}".encode(), "value": json.dumps(content).encode()}


class Producer:
    """Produces at a rate, in its own thread, from `start()` to `stop()`."""

    def __init__(self, brokers: str, topic: str, rate: float) -> None:
        self._brokers, self._topic, self._rate = brokers, topic, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)
        self._lock = threading.Lock()
        self._sent = 0
        self._failed = 0
        self.complaint: str | None = None

    @property
    def produced(self) -> int:
        """The number of confirmed messages. It is final after `stop()` has returned."""
        return self._sent - self._failed

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for a limited time until Kafka has confirmed all messages."""
        self._stop.set()
        self._thread.join(15)

    def _run(self) -> None:
        try:
            self._produce()
        except Exception as error:
            self.complaint = f"producing failed: {type(error).__name__}: {error}"

    def _produce(self) -> None:
        from kafka import KafkaProducer

        producer = KafkaProducer(bootstrap_servers=self._brokers.split(","), linger_ms=5)
        started = time.monotonic()
        while not self._stop.is_set():
            while self._sent < (time.monotonic() - started) * self._rate and not self._stop.is_set():
                producer.send(self._topic, **make_message(self._sent + 1)).add_errback(self._has_failed)
                self._sent += 1
            self._stop.wait(min(1 / self._rate, 0.1))
        producer.close(timeout=10)

    def _has_failed(self, error: BaseException) -> None:
        with self._lock:
            self._failed += 1
            self.complaint = f"{self._failed} messages could not be produced; the last one: {error}"


def prefill(brokers: str, topic: str, count: int) -> None:
    """Produce `count` messages and wait until all are confirmed."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=brokers.split(","), linger_ms=20, batch_size=128 * 1024)
    sent = [producer.send(topic, **make_message(n)) for n in range(1, count + 1)]
    producer.flush(timeout=120)
    for future in sent:
        future.get(timeout=0)
    producer.close()


def poll_only(brokers: str, topic: str, count: int) -> int:
    """Return the records a second that kafka-python alone reads. No consumer can be faster here."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=brokers.split(","), metrics_enabled=False)
    consumer.assign([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
    consumer.seek_to_beginning()
    left, started = count, None
    while left > 0:
        for batch in consumer.poll(timeout_ms=500).values():
            started = started or time.monotonic()
            left -= len(batch)
    rate = count / (time.monotonic() - (started or 0))
    consumer.close()
    return round(rate)


def in_own_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function of this module in another process. A signal to this process ends the other one.

    Raises:
        LoadError: with the last line of the process's output.
    """
    command = [sys.executable, "-m", "benchmarks.consumer_benchmark_parts.load"]
    process = subprocess.Popen(
        [*command, function.__name__, json.dumps(arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process only
    )
    with process:
        try:
            out, said = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise LoadError(f"{function.__name__} failed: {(said.strip().splitlines() or ['no reason given'])[-1]}")
    return json.loads(out)


if __name__ == "__main__":
    print(json.dumps({"prefill": prefill, "poll_only": poll_only}[sys.argv[1]](*json.loads(sys.argv[2]))))
