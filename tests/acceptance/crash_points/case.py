"""The processes, topics and Redis database of one step, and the counts of its messages."""

from __future__ import annotations

import json
import os
import re
import signal
import uuid
from collections import Counter, defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import redis
from celery import Celery
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from rebound_celery import Rebound
from rebound_celery.embedded import create_topics
from rebound_celery.errors import UnknownVersionError, WireFormatError
from rebound_celery.message import codec, message_id_of
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from tests.acceptance.crash_points.inject import KillTarget
from tests.acceptance.crash_points.receiver import Receiver
from tests.acceptance.crash_points.steps import COMMIT_INTERVAL_S, least_and_most
from tests.processes import Process
from tests.scheduling import dead_entries, everything
from tests.topics import read_topic
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.crash_points.steps import Step

#: message -> event -> its number
Counts = dict[str, Counter[str]]

PACKAGE = "tests.acceptance.crash_points"

#: The lease of a killed worker's messages, and the session of a killed consumer, in seconds. Brokers do not accept a
#: shorter session.
LEASE_S = 2
SESSION_MS = 6_000

#: The longest time until the step is reached, and from there until every message has ended, in seconds.
DEADLINE_S = 60.0

_HANDLED = re.compile(r"^handled (\S+) attempt (\d+)$", re.MULTILINE)


class Case:
    """The processes and topics of one step. Use it in a `with` statement, which ends all processes.

    Args:
        step: the step.
        url: an empty Redis database for this step alone.
        brokers: Kafka's `host:port`.
        producer: a producer of that Kafka.
        marker: a file that does not exist. The process that kills creates it.
    """

    def __init__(self, step: Step, url: str, brokers: str, producer: KafkaProducer, marker: Path) -> None:
        self.step = step
        self.url = url
        self.brokers = brokers
        self.topic = f"crash-{uuid.uuid4().hex[:8]}"
        self._group = f"{self.topic}-group"
        self.dead_letter_topic = f"{self.topic}-dlq"
        self.receiver = Receiver()
        #: The number of messages in the scene.
        self.messages = 0
        self._producer = producer
        self._marker = marker
        self._partitions = self._originals = 0
        self._processes: list[Process] = []
        self._stack = ExitStack()
        self._consumed: KafkaConsumer | None = None

    def __enter__(self) -> Self:
        self.redis = self._stack.enter_context(redis.Redis.from_url(self.url))
        self.store = Store(self.redis, QueueKeys("", "rebound", (0, 3, 6, 9)))
        app = Celery("web", broker=self.url, set_as_current=False)
        #: The app of a process that only schedules, for example a web server.
        self.rebound = Rebound(app)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _tb: object) -> None:
        self.receiver.close()
        self.rebound._publisher.close()
        for process in self._processes:
            if error is not None:
                error.add_note(process.tail())
            process.close()
        if self._consumed is not None:
            self._consumed.close()
        self._stack.close()

    # Starting

    def receive(self, **options: Any) -> None:
        """Replace the receiver that takes every post by another one."""
        self.receiver.close()
        self.receiver = Receiver(**options)

    def make_topics(self, partitions: int = 1) -> None:
        self._partitions = partitions
        create_topics(self.brokers, {self.topic: partitions, self.dead_letter_topic: 1})

    def produce(self, *values: str) -> None:
        """Produce first attempts to the partitions of the topic in turn."""
        self._originals = self.messages = len(values)
        for number, value in enumerate(values):
            self._producer.send(self.topic, value.encode(), partition=number % self._partitions)
        self._producer.flush(timeout=30)

    def consumer(self, *, armed: bool = False, **config: Any) -> Process:
        config = {
            "topics": self.topic,
            "group": self._group,
            "base_delay": 60,
            "commit_interval": COMMIT_INTERVAL_S,
            "concurrency": 1,
            "kafka_options": {"session_timeout_ms": SESSION_MS, "heartbeat_interval_ms": 500},
            **config,
        }
        return self._start("-m", f"{PACKAGE}.consume", armed=armed, CRASH_CONSUMER=json.dumps(config))

    def caller(self, *requests: dict[str, Any], armed: bool = False) -> Process:
        return self._start("-m", f"{PACKAGE}.call", armed=armed, CRASH_CALL=json.dumps(requests))

    def worker(self, *, armed: bool = False, pool: str = "threads", **env: str) -> Process:
        command = ("-m", "celery", "-A", f"{PACKAGE}.app", "worker", "-l", "INFO", "-P", pool, "-c", "1")
        return self._start(*command, "--without-gossip", "--without-mingle", armed=armed, **env)

    def _start(self, *command: str, armed: bool, **env: str) -> Process:
        # The environment of the developer's shell must not change the test.
        changed: dict[str, str | None] = {name: None for name in os.environ if name.startswith(("REBOUND_", "CELERY_"))}
        changed |= {
            "CRASH_REDIS": self.url,
            "REBOUND_KAFKA_BROKERS": self.brokers,
            "REBOUND_LEASE": str(LEASE_S),
            **env,
        }
        if armed:
            changed |= {"CRASH_STEP": self.step.name, "CRASH_MARKER": str(self._marker)}
        process = Process(*command, env=changed)
        self._processes.append(process)
        return process

    # Waiting

    def killed(self, process: Process) -> None:
        """Wait until the step is reached in `process`, and check that the kill is the one in the table."""
        what = f"the step {self.step.name!r} is reached"
        wait_until(
            lambda: self._marker.exists() or not process.is_running,
            timeout=DEADLINE_S,
            message=lambda: f"{what}\n{process.tail()}",
        )
        assert self._marker.exists(), f"{process} ended with {process.returncode} before {what}\n{process.tail()}"
        note = wait_until(self._marker.read_bytes)
        killer, target = (json.loads(note)[name] for name in ("killer", "target"))
        if self.step.kill.target is KillTarget.CHILD:
            assert killer == target != process.pid
            process.wait_for_output("signal 9 (SIGKILL)", timeout=DEADLINE_S)
            return
        assert target == process.pid
        assert (killer == target) == (self.step.kill.target is KillTarget.PROCESS)
        assert process.wait(DEADLINE_S) == -signal.SIGKILL

    def through(self) -> None:
        """Wait for the end: every record is committed, and no message waits in Redis."""
        wait_until(self._is_through, timeout=DEADLINE_S, interval=0.1, message=self.what_is_left)

    def _is_through(self) -> bool:
        # The order counts: first the commits, then Redis, then the topic. If a record comes from Redis in between, the
        # topic has one record more than the commits.
        committed = self.committed()
        if self.redis.hlen(self.store.keys.messages) or any(
            self.redis.zcard(key) for key in self.redis.keys("*:waiting:*")
        ):
            return False
        return committed is None or committed == len(read_topic(self.brokers, self.topic, committed))

    def what_is_left(self) -> str:
        """Return the text for the error of a wait that failed."""
        return f"{self.step.name!r}: all is through; {everything(self.store)}, committed {self.committed()}"

    def committed(self) -> int | None:
        """Return how many records of the topic the group has committed; None without a consumer."""
        if not any("consume" in str(process) for process in self._processes):
            return None
        if self._consumed is None:
            self._consumed = KafkaConsumer(
                bootstrap_servers=self.brokers, group_id=self._group, enable_auto_commit=False
            )
        partitions = [TopicPartition(self.topic, number) for number in range(self._partitions)]
        return sum(self._consumed.committed(partition) or 0 for partition in partitions)

    # Counting

    def counts(self) -> Counts:
        """Return the number of each event for each message.

        The events are `handled 1` (the handler was called for attempt 1), `record 2` (Kafka has a record that begins
        attempt 2), `post 2`, `letter REASON 2` (in the dead letter topic after attempt 2), `kept REASON 2` (in the dead
        set; without an attempt if it cannot be read), and `result STATE` (the task's last state in the result backend).
        """
        counts: Counts = defaultdict(Counter)
        for process in self._processes:
            for value, attempt in _HANDLED.findall(process.output):
                counts[value][f"handled {attempt}"] += 1
        for body, attempt in self.receiver.posts:
            counts[body][f"post {attempt}"] += 1
        self._count_kafka(counts)
        self._count_redis(counts)
        return dict(counts)

    def _count_kafka(self, counts: Counts) -> None:
        if not self._partitions:
            return
        for record in read_topic(self.brokers, self.topic, self._originals + self._least("record")):
            if attempt := dict(record.headers).get("rebound-attempt"):
                counts[record.value.decode()][f"record {attempt.decode()}"] += 1
        for letter in read_topic(self.brokers, self.dead_letter_topic, self._least("letter")):
            told = dict(letter.headers)
            end = f"letter {told['rebound-reason'].decode()} {told['rebound-attempt'].decode()}"
            counts[letter.value.decode()][end] += 1

    def _least(self, kind: str) -> int:
        """Return the least number of events of this kind in the table. A reader that has found fewer reads on."""
        outcome = self.step.outcome.items()
        return self.messages * sum(least_and_most(times)[0] for what, times in outcome if what.startswith(kind))

    def _count_redis(self, counts: Counts) -> None:
        for letter in dead_entries(self.store):
            try:
                message, _ = codec.decode(message_id_of(letter.id), letter.stored)
            except (UnknownVersionError, WireFormatError):
                counts[letter.id][f"kept {letter.reason}"] += 1
            else:
                counts[(message.value or b"").decode()][f"kept {letter.reason} {message.attempt}"] += 1
        for key in self.redis.scan_iter("celery-task-meta-*"):
            result = json.loads(self.redis.get(key) or b"")
            counts[result["task_id"].partition(":")[0]][f"result {result['status']}"] += 1
