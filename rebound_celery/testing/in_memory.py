"""Runs an app in memory: topics, schedule, worker and consumers, without servers, threads and waiting.

    from rebound_celery.testing import in_memory

    with in_memory(app) as memory:
        memory.produce("orders", {"id": 42})
        memory.advance(minutes=10)

The policies, the consumer's failure handling and the delivery are rebound's own. A clock that the test moves takes the
place of the system's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

from celery.app import app_or_default

from .. import registry
from ..app import Rebound
from ..clock import SYSTEM_CLOCK, replaced_system_clock
from ..consumer import ConsumerConfig, ConsumerStats
from ..delivery.batch import Batch
from ..delivery.delivery import Delivery
from ..delivery.entries import entries_of
from ..delivery.result import End
from ..destinations import Destination
from ..destinations.dead_set import DeadSetDestination
from ..errors import InvalidSettingError, ReboundError
from ..jobs import STEP_LANE, job_of_step
from ..message import Message, Record
from ..message.headers import read_record
from ..schedule.port import Hold, Tally
from ..values import encode_headers, encode_key, encode_value
from .clock import ManualClock
from .consuming import MemoryConsumer
from .destinations import KafkaRecord, MemoryReceivers, MemoryTopics
from .schedule import MemorySchedule

#: More steps than this at one moment mean that a handler produces for itself without end.
_MOST_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class WaitingRetry:
    """A message that waits in the schedule.

    Attributes:
        message: what is delivered: its destination, its attempt, its value.
        due_in_s: how long it still waits, in seconds.
    """

    message: Message
    due_in_s: float


class InMemory:
    """An app in memory; see `in_memory`, which makes it.

    Attributes:
        clock: the clock that the test moves, with `advance`.
        kafka: the topics; `kafka.is_away = True` is an outage.
        http: the receivers of HTTP deliveries: `http.answer` is the test's, and `http.posts` what they got.
        schedule: the schedule, with the methods of the one in Redis.
    """

    def __init__(self, app: Any, rebound: Rebound, clock: ManualClock, topics: Mapping[str, int]) -> None:
        self.clock = clock
        self.kafka = MemoryTopics(clock, topics)
        self.http = MemoryReceivers()
        self.schedule = MemorySchedule(rebound.settings.queue, clock)
        self._app = app
        self._keys = rebound.settings.encryption_keys
        self._rebound = rebound
        self._consumers: dict[int, MemoryConsumer] = {}
        self._closing = ExitStack()
        self.destinations: Mapping[str, Destination] = {
            "kafka": self.kafka,
            "http": self.http,
            "dead-set": DeadSetDestination(self.schedule.opened, rebound.settings.encryption_keys),
        }
        self._batch = Batch(
            self.destinations, rebound.settings, self._store, "the test's worker", clock, rebound.chains.gone
        )

    # What a test does

    def produce(
        self,
        topic: str,
        value: object,
        *,
        key: object = None,
        headers: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        partition: int | None = None,
    ) -> KafkaRecord:
        """Produce a record. Value, key and headers are encoded as by `schedule_retry`. Nothing is consumed yet."""
        return self.kafka.produce(
            topic,
            None if key is None else encode_key(key),
            None if value is None else encode_value(value)[0],
            encode_headers(headers),
            partition,
        )

    def consume(self, config: ConsumerConfig) -> None:
        """Add a consumer beside those that the app declares with `@rebound.consumer`.

        Raises:
            InvalidSettingError: if it is no ConsumerConfig.
        """
        if not isinstance(config, ConsumerConfig):
            raise InvalidSettingError("config", config, "it is a ConsumerConfig(group=..., topics=..., handler=...)")
        self._add(config)

    def run(self) -> None:
        """Deliver what is due, and let the consumers handle what is in their topics, until nothing is left to do now.

        Handlers are called in this thread, one after the other. An exception that is not an `Exception`, and
        DeadLetterLimitError, reach the test.

        Raises:
            ReboundError: if it does not end, because handlers produce for themselves.
        """
        for _ in range(_MOST_STEPS):
            if not self._deliver() and not self._consume():
                return
        raise ReboundError(f"{_MOST_STEPS} steps at one moment: does a handler produce to its own topic?")

    def advance(self, seconds: float = 0, *, minutes: float = 0, hours: float = 0, days: float = 0) -> None:
        """Let time pass: whatever is due on the way is delivered and handled at its time, in order.

        Raises:
            InvalidSettingError: if a time is no number, or all of it is below 0.
        """
        for name, value in (("seconds", seconds), ("minutes", minutes), ("hours", hours), ("days", days)):
            if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
                raise InvalidSettingError(name, value, "it is a number, such as 5 or 0.5")
        passed_s = seconds + 60 * (minutes + 60 * (hours + 24 * days))
        if not passed_s >= 0:
            raise InvalidSettingError("seconds", passed_s, "time does not go back")
        end_ms = self.clock.now_ms() + round(passed_s * 1000)
        self.run()
        while (due_ms := self.schedule.next_due_ms()) is not None and due_ms <= end_ms:
            self.clock.move_to(due_ms)
            self.run()
        self.clock.move_to(end_ms)
        self.run()

    # What a test looks at

    def records(self, topic: str) -> list[Record]:
        """The records of a topic, as a consumer's handler gets them."""
        return [read_record(raw, "") for raw in self.kafka.records(topic)]

    def headers(self, topic: str) -> list[dict[str, str]]:
        """The headers of each record of a topic, with those that rebound adds: `rebound-reason` on a dead letter."""
        return [
            {name: (value or b"").decode("utf-8", "replace") for name, value in raw.headers}
            for raw in self.kafka.records(topic)
        ]

    def waiting(self) -> list[WaitingRetry]:
        """What waits in the schedule, the next first."""
        page = self.schedule.page(count=1_000_000)
        return [
            WaitingRetry(
                Delivery.decode(entry.id, entry.stored, entry.priority, self._keys).message,
                (entry.due_ms - self.clock.now_ms()) / 1000,
            )
            for entry in page.entries
            if entry.lane != STEP_LANE
        ]

    def stats(self, group: str) -> ConsumerStats:
        """The counts of the consumer of a group.

        Raises:
            InvalidSettingError: if there is none.
        """
        for consumer in self._consumers.values():
            if consumer.config.group == group:
                return consumer.stats()
        groups = ", ".join(sorted({consumer.config.group for consumer in self._consumers.values()})) or "none"
        raise InvalidSettingError("group", group, f"no consumer has it; there are: {groups}")

    # How it works

    def close(self) -> None:
        """End the event loops of async handlers."""
        self._closing.close()

    def _store(self, deliveries: Sequence[Delivery], *, hold: Hold | None = None, tally: Tally | None = None) -> None:
        lanes = [delivery.lane for delivery in deliveries]
        self.schedule.enqueue(entries_of(deliveries, None, lanes, self._keys), hold=hold, tally=tally)

    def _deliver(self) -> bool:
        taken = self.schedule.take_due()
        for entry in taken:
            if entry.lane == STEP_LANE:
                self._rebound.jobs.run_step(job_of_step(entry.id))
                self.schedule.settle(entry.id)
        due = [entry for entry in taken if entry.lane != STEP_LANE]
        deliveries = [Delivery.decode(entry.id, entry.stored, entry.priority, self._keys) for entry in due]
        for entry, result in zip(due, self._batch.deliver(deliveries) if due else (), strict=True):
            if result.end == End.BACK:
                self.schedule.release(entry.id)
            elif result.end != End.AGAIN:
                self.schedule.settle(entry.id)
        return bool(taken)

    def _consume(self) -> bool:
        for config in self._rebound.consumers:
            self._add(config)
        found = [consumer.consume(self.kafka) for consumer in self._consumers.values()]
        return any(found)

    def _add(self, config: ConsumerConfig) -> None:
        if id(config) not in self._consumers:
            consumer = MemoryConsumer(config, self._app, self._rebound, self.clock)
            self._closing.callback(consumer.close)
            self._consumers[id(config)] = consumer


@contextmanager
def in_memory(app: Any, *, topics: Mapping[str, int] | None = None, now_ms: int | None = None) -> Iterator[InMemory]:
    """Run `app` in memory: what it schedules waits there, and nothing connects.

    In the block, the app is Celery's current app, and rebound's clock is the test's. Countdowns of other Celery tasks
    are not part of it, and circuit breakers and rates have no effect.

    Args:
        app: a Celery app with `Rebound`.
        topics: topic -> number of partitions; other topics have one.
        now_ms: the time at which the clock begins, in Unix milliseconds; None means now.

    Raises:
        NotInstalledError: if the app has no Rebound.
        ReboundError: if its Rebound was given a clock of its own.
    """
    rebound = cast(Rebound, registry.find(app))
    if rebound.clock is not SYSTEM_CLOCK:
        raise ReboundError("this Rebound has a clock of its own: leave out the argument `clock`")
    memory = InMemory(app, rebound, ManualClock(now_ms), topics or {})
    with ExitStack() as stack:
        stack.enter_context(replaced_system_clock(memory.clock))
        stack.enter_context(rebound.replaced(memory.schedule.opened, memory.destinations))
        stack.enter_context(_current(app))
        stack.callback(memory.close)
        yield memory


@contextmanager
def _current(app: Any) -> Iterator[None]:
    before = app_or_default()
    app.set_current()
    try:
        yield
    finally:
        before.set_current()
