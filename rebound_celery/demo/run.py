"""Runs the demo from its start to its summary; `celery rebound demo` calls `run`."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from kafka.errors import KafkaError
from rich.console import Console

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ReboundError
from . import stored
from .account import Account
from .display import Display, View, print_summary, say
from .options import DemoOptions
from .parts import Parts
from .plan import Plan
from .producer import Producer
from .reading import Tail, not_consumed, read_back
from .summary import Summary, faults, summarize

_TICK_S = 0.2
_START_DEADLINE_S = 60.0

#: Seconds that draining may take beyond the delays of the policy and the time of producing.
_DRAIN_MARGIN_S = 30.0

#: Seconds that a stop may take when a part has ended that it may wait for.
_BROKEN_PATIENCE_S = 5.0


class Interrupts:
    """Counts SIGINT and SIGTERM. It uses no lock, because a signal handler may interrupt a thread that holds it."""

    def __init__(self) -> None:
        self.count = 0

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1

    @contextmanager
    def installed(self) -> Iterator[None]:
        earlier = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)


def run(options: DemoOptions) -> int:
    """Run the demo and return its exit status: 0 if every message ended as the policy says."""
    console = Console(stderr=True)
    # The display reports errors; log lines of kafka-python would break it up.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    interrupts = Interrupts()
    with interrupts.installed():
        try:
            return Demo(options, console, interrupts).run()
        except ReboundError as error:
            say(console, f"Error: {error}")
        except KafkaError as error:
            say(console, f"Error: Kafka refused what the demo asked: {error}")
    return 1


class Demo:
    """One run."""

    def __init__(
        self, options: DemoOptions, console: Console, interrupts: Interrupts, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._options = options
        self._clock = clock
        self._console = console
        self._interrupts = interrupts
        self._plan = Plan(options.failure_rate, options.always_fail_rate, options.policy.max_retries)
        self._parts = Parts(options, self._plan)
        self._display = Display(console)
        self._view = View()
        #: Whether a part has ended that every message needs.
        self._broken = False
        #: Whether draining took too long.
        self._ended_early = False

    def run(self) -> int:
        try:
            with self._display:
                self._show("starting")
                self._start()
                produced, duration_s = self._produce()
                self._is_broken()  # the last time: from here on the demo itself ends its parts
                for complaint in self._parts.stop_consumer_and_worker(_BROKEN_PATIENCE_S if self._broken else None):
                    self._display.say(complaint)
                self._show("reading back")
                account, held = self._read_back()
                summary = summarize(account, self._plan, produced, held, duration_s)
                found = faults(account, self._plan, produced, held)
                self._show("stopping")
                self._clean_redis()
        finally:
            self._parts.close()
        self._print(summary, found)
        return 1 if found or self._broken or self._ended_early else 0

    # Start

    def _start(self) -> None:
        self._parts.start_servers()
        self._view.addresses = {"Kafka": self._parts.kafka, "Redis": _without_password(self._parts.redis)}
        self._parts.start_worker_and_consumer()
        self._wait_for("the worker", self._parts.worker_is_ready)
        if self._options.flower:
            self._parts.start_flower()
            self._wait_for("Flower", self._parts.flower_is_settled)
            if self._parts.flower_url is not None:
                self._view.addresses = {**self._view.addresses, "Flower": self._parts.flower_url}
                self._display.say(f"Flower is at {self._parts.flower_url}/tasks")

    def _wait_for(self, what: str, is_ready: Callable[[], bool]) -> None:
        deadline = self._clock.monotonic() + _START_DEADLINE_S
        while not is_ready() and not self._interrupts.count and not self._is_broken():
            if self._clock.monotonic() > deadline:
                raise ReboundError(f"{what} did not start within {_START_DEADLINE_S:.0f} s")
            self._clock.sleep(0.05)

    # Go

    def _produce(self) -> tuple[set[str], float]:
        """Produce, and with --drain wait for the end. Returns the produced ids, and the seconds that it took."""
        producer = Producer(self._parts.kafka, self._parts.names.topic, self._options.rate)
        tail = Tail(self._parts.kafka, self._parts.names, Account(self._options.policy))
        start = self._clock.monotonic()

        def show(phase: str) -> int:
            produced = set(producer.confirmed)
            self._view.elapsed_s = self._clock.monotonic() - start
            self._view.produced = len(produced)
            self._view.counts = tail.counts()
            self._view.waiting = tail.unfinished(produced)
            self._show(phase)
            return self._view.waiting

        try:
            producer.start()
            while self._clock.monotonic() - start < self._options.duration_s and not self._is_broken():
                if self._interrupts.count:
                    break
                show("producing")
                self._clock.sleep(_TICK_S)
            producer.stop(_BROKEN_PATIENCE_S if self._broken else None)
            if self._options.drain and not self._broken:
                self._drain(self._clock.monotonic() - start, lambda: show("draining"))
            duration_s = self._clock.monotonic() - start
            show("stopping")
        finally:
            producer.stop(_BROKEN_PATIENCE_S)
            tail.stop()
        if producer.unconfirmed:
            self._display.say(
                f"Kafka did not confirm {producer.unconfirmed} messages, so they do not count: {producer.error!r}"
            )
        return producer.confirmed, duration_s

    def _drain(self, produced_for_s: float, show: Callable[[], int]) -> None:
        """Wait until no message is waiting, until the user interrupts, or until it takes too long."""
        policy, interrupted = self._options.policy, self._interrupts.count
        delays_s = sum(policy.delay_s(attempt) for attempt in range(1, policy.attempts))
        limit_s = delays_s + produced_for_s + _DRAIN_MARGIN_S
        deadline = self._clock.monotonic() + limit_s
        while (left := show()) > 0 and not self._is_broken():
            if self._interrupts.count > interrupted:
                return
            if self._clock.monotonic() > deadline:
                self._display.say(f"{left} messages have not come to their end within {limit_s:.0f} s of draining")
                self._ended_early = True
                return
            self._clock.sleep(_TICK_S)

    def _is_broken(self) -> bool:
        for text in self._parts.newly_ended():
            self._display.say(text)
        self._broken = self._parts.is_broken()
        return self._broken

    # End

    def _read_back(self) -> tuple[Account, set[str]]:
        """The account of Kafka, and the ids of messages that wait in Redis, or in Kafka for the consumer."""
        if self._parts.kafka_is_gone():
            raise ReboundError(
                "the embedded Kafka broker has ended, and with it all records, so there is nothing to compare"
            )
        account = Account(self._options.policy)
        names = self._parts.names
        read_back(self._parts.kafka, names, account)
        held = not_consumed(self._parts.kafka, names, account)
        try:
            held |= stored.waiting(self._parts.redis, names.queue)
        except ReboundError as error:
            self._display.say(f"What waited in Redis counts as lost: {error}")
        return account, held

    def _clean_redis(self) -> None:
        if self._options.redis is not None:
            try:
                stored.forget(self._parts.redis, self._parts.names.queue)
            except ReboundError as error:
                self._display.say(f"the queue {self._parts.names.queue} is left in Redis: {error}")

    def _print(self, summary: Summary, found: list[str]) -> None:
        kept = None
        if self._options.kafka is not None:
            kept = f"Topics left at {self._options.kafka}: {', '.join(self._parts.names.topics)}"
        # With --json, stdout is for the object alone.
        console = self._console if self._options.json else Console()
        print_summary(console, summary, found, kept)
        if self._options.json:
            sys.stdout.write(json.dumps(asdict(summary)) + "\n")
            sys.stdout.flush()

    def _show(self, phase: str) -> None:
        self._view.phase = phase
        self._display.show(self._view)


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
