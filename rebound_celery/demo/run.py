"""Runs the demo from its start to its summary; `celery rebound demo` calls `run`."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

from kafka.errors import KafkaError

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ReboundError
from . import stored
from .account import Account
from .balance import print_balance
from .display import Display, View
from .interrupts import Interrupts
from .options import DemoOptions
from .output import DemoConsole, OutputClosedError, say
from .parts import STOP_DEADLINE_S, Parts
from .plan import Plan
from .producer import Producer
from .reading import LiveAccount, not_consumed, read_back
from .summary import Summary, faults, summarize

_TICK_S = 0.2
_START_TICK_S = 0.05
_START_DEADLINE_S = 60.0

#: Seconds that draining may take beyond the delays of the policy and the time of producing.
_DRAIN_MARGIN_S = 30.0

#: Seconds that a stop may take when a part has ended that it may wait for.
_BROKEN_PATIENCE_S = 5.0

#: Seconds that it may take when everything is to end at once.
_HURRY_S = 1.0

#: The exit status of a program that Ctrl-C has ended.
_INTERRUPTED = 128 + signal.SIGINT


def run(options: DemoOptions) -> int:
    """Run the demo and return its exit status: 0 if every message ended as the policy says."""
    console = DemoConsole(stderr=True)
    # The display reports errors; log lines of kafka-python would break it up.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    interrupts = Interrupts()
    with interrupts.installed():
        try:
            return Demo(options, console, interrupts).run()
        except ReboundError as error:
            problem = f"Error: {error}"
        except KafkaError as error:
            problem = f"Error: Kafka refused what the demo asked: {error}"
        except OutputClosedError:
            return 1
        except KeyboardInterrupt:
            with suppress(OutputClosedError):
                say(console, "Ended at once, without a balance.")
            return _INTERRUPTED
        with suppress(OutputClosedError):
            say(console, problem)
    return 1


class Demo:
    """One run."""

    def __init__(
        self, options: DemoOptions, console: DemoConsole, interrupts: Interrupts, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._options = options
        self._clock = clock
        self._console = console
        self._interrupts = interrupts
        self._plan = Plan(options.failure_rate, options.always_fail_rate, options.policy.max_retries)
        self._parts = Parts(options, self._plan)
        self._display = Display(console, live=console.is_watched)
        self._view = View(duration_s=options.duration_s)
        self._worker_was_started = False
        self._is_closed = False
        #: Whether a part has ended that every message needs.
        self._broken = False
        #: Whether draining took too long.
        self._ended_early = False
        #: Whether every message has come to its end.
        self._is_drained = False

    def run(self) -> int:
        try:
            with self._display:
                self._show("starting")
                self._start()
                if self._interrupts.count:
                    raise KeyboardInterrupt
                produced, duration_s = self._produce()
                self._is_broken()  # the last time: from here on the demo itself ends its parts
                self._show("stopping")
                self._tell(self._parts.stop_consumer(self._patience_s))
                stays = self._stays()
                # A worker that has nothing to deliver writes nothing, and Flower shows it.
                if not (stays and self._is_drained):
                    self._tell(self._parts.stop_worker(self._patience_s))
                self._show("comparing")
                account, held = self._read_back()
                summary = summarize(account, self._plan, produced, held, duration_s)
                found = faults(account, self._plan, produced, held)
                if not stays:
                    self._show("stopping")
                    self._close()
            status = 1 if found or self._broken or self._ended_early else 0
            if not self._print(summary, account, found):
                status = 1
            if stays:
                self._keep_flower()
            return status
        finally:
            self._close()

    # Start

    def _start(self) -> None:
        self._parts.start_servers()
        self._display.add_addresses(self._view, Kafka=self._parts.kafka, Redis=_without_password(self._parts.redis))
        self._worker_was_started = True
        self._parts.start_worker_and_consumer()
        self._wait_for("the worker", self._parts.worker_is_ready)
        if self._options.flower:
            self._parts.start_flower()
            self._wait_for("Flower", self._parts.flower_is_settled)
            if self._parts.flower_url is not None:
                self._display.add_addresses(self._view, Flower=self._parts.flower_url)

    def _wait_for(self, what: str, is_ready: Callable[[], bool]) -> None:
        deadline = self._clock.monotonic() + _START_DEADLINE_S
        while not is_ready() and not self._interrupts.count and not self._is_broken():
            if self._clock.monotonic() > deadline:
                raise ReboundError(f"{what} did not start within {_START_DEADLINE_S:.0f} s")
            self._show(f"starting {what}")
            self._pause(_START_TICK_S)

    # Go

    def _produce(self) -> tuple[set[str], float]:
        """Produce, and wait for the end of every message. Returns the produced ids, and the seconds that it took."""
        producer = Producer(self._parts.kafka, self._parts.names.topic, self._options.rate, self._parts.security)
        account = LiveAccount(self._parts.kafka, self._parts.names, Account(self._options.policy), self._parts.security)
        start = self._clock.monotonic()

        def show(phase: str) -> int:
            self._view.elapsed_s = self._clock.monotonic() - start
            self._view.counts = account.counts(set(producer.confirmed), self._clock.now_ms())
            self._show(phase)
            return self._view.counts.waiting

        try:
            producer.start()
            while self._clock.monotonic() - start < self._options.duration_s and not self._is_broken():
                if self._interrupts.count:
                    break
                show("producing")
                self._pause(_TICK_S)
            producer.stop(_BROKEN_PATIENCE_S if self._broken else None)
            if self._options.drain and not self._broken and not self._interrupts.count:
                self._drain(self._clock.monotonic() - start, lambda: show("draining"))
            duration_s = self._clock.monotonic() - start
            show("stopping")
        finally:
            producer.stop(self._patience_s)
            account.stop()
        if producer.unconfirmed:
            self._display.say(
                f"Kafka did not confirm {producer.unconfirmed} messages, so they do not count: {producer.error!r}"
            )
        return producer.confirmed, duration_s

    def _drain(self, produced_for_s: float, show: Callable[[], int]) -> None:
        """Wait until no message is waiting, until the user interrupts, or until it takes too long."""
        policy = self._options.policy
        delays_s = sum(policy.delay_s(attempt) for attempt in range(1, policy.attempts))
        limit_s = delays_s + produced_for_s + _DRAIN_MARGIN_S
        deadline = self._clock.monotonic() + limit_s
        while (left := show()) > 0 and not self._is_broken():
            if self._interrupts.count:
                return
            if self._clock.monotonic() > deadline:
                self._display.say(f"{left} messages have not come to their end within {limit_s:.0f} s of draining")
                self._ended_early = True
                return
            self._pause(_TICK_S)
        self._is_drained = left == 0

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
        read_back(self._parts.kafka, names, account, self._parts.security)
        held = not_consumed(self._parts.kafka, names, account, self._parts.security)
        try:
            held |= stored.waiting(self._parts.redis, names.queue)
        except ReboundError as error:
            self._display.say(f"What waited in Redis counts as lost: {error}")
        return account, held

    def _print(self, summary: Summary, account: Account, found: list[str]) -> bool:
        """Print the balance. Returns False if it cannot be written."""
        kept = None
        if self._options.kafka is not None:
            kept = f"Topics left at {self._options.kafka}: {', '.join(self._parts.names.topics)}"
        # With --json, stdout is for the object alone.
        if self._options.json:
            print_balance(self._console, summary, account.calls_by_attempt[1], found, kept)
        output = DemoConsole()
        try:
            if self._options.json:
                say(output, json.dumps(asdict(summary)))
            else:
                print_balance(output, summary, account.calls_by_attempt[1], found, kept)
        except OutputClosedError as error:
            say(self._console, f"Error: the balance cannot be written to stdout: {error}")
            return False
        return True

    def _stays(self) -> bool:
        """Whether Flower is kept after the balance."""
        wanted = self._options.stays(on_terminal=self._console.is_watched and DemoConsole().is_watched)
        was_ended = self._interrupts.count or self._broken or self._ended_early
        return wanted and not was_ended and self._parts.flower_url is not None

    def _keep_flower(self) -> None:
        self._interrupts.is_closing = True
        say(self._console, f"Flower stays at {self._parts.flower_url} until Ctrl-C.")
        while (ended := self._parts.flower_ended()) is None and not self._interrupts.count:
            self._pause(_TICK_S)
        # The terminal has written ^C into the line.
        say(self._console, ended or "\nStopping ...")

    def _close(self) -> None:
        """Stop all parts that still run, and leave nothing on the user's Redis."""
        if self._is_closed:
            return
        self._is_closed = self._interrupts.is_closing = True
        patience_s = min(self._patience_s, _BROKEN_PATIENCE_S)
        self._parts.stop_consumer(patience_s)
        self._parts.stop_worker(patience_s)
        try:
            if self._options.redis is not None and self._worker_was_started:
                stored.forget(self._parts.redis, self._parts.names.queue)
        except ReboundError as error:
            self._tell(f"the queue {self._parts.names.queue} is left in Redis: {error}")
        finally:
            self._parts.close()

    @property
    def _patience_s(self) -> float:
        """Seconds that a part may take to stop."""
        if self._interrupts.count > 1:
            return _HURRY_S
        return _BROKEN_PATIENCE_S if self._broken else STOP_DEADLINE_S

    # Show

    def _pause(self, seconds: float) -> None:
        self._clock.sleep(seconds)
        if self._interrupts.suspended:
            self._interrupts.suspended = False
            with self._display.hidden():
                os.kill(os.getpid(), signal.SIGSTOP)

    def _tell(self, text: str | None) -> None:
        if text is not None:
            self._display.say(text)

    def _show(self, phase: str) -> None:
        self._view.phase = phase
        self._display.show(self._view)


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
