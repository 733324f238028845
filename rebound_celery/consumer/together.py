"""Runs several consumers in one process, each in a thread of its own, until they are stopped or one of them ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import UnreachableError
from .consumer import Consumer

#: How often the threads are looked at, in seconds. A signal's handler runs at the next look at the latest.
_LOOK_EVERY_S = 0.2

#: How long a stop at once waits for threads that are still connecting, in seconds.
_AT_ONCE_S = 2.0


def run_together(
    consumers: Sequence[Consumer],
    *,
    wait_again_s: float | None = None,
    on_unreachable: Callable[[UnreachableError], None] = lambda _error: None,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Run consumers until SIGINT or SIGTERM, or until one ends by an error. Then all are stopped in order.

    Call it in the main thread: it handles the signals. A second signal does not wait for running handlers.

    Args:
        consumers: at least one.
        wait_again_s: the time between two tries to start a consumer while Kafka or Redis is away, in seconds; None
            makes that an error.
        on_unreachable: is called before each wait, by the consumer's thread.
        clock: measures the waits.

    Raises:
        BaseException: the first error that ended a consumer; see `Consumer.run`.
    """
    running = _Running(consumers, wait_again_s, on_unreachable, clock)
    with running.signals():
        running.run()


class _Running:
    def __init__(
        self,
        consumers: Sequence[Consumer],
        wait_again_s: float | None,
        on_unreachable: Callable[[UnreachableError], None],
        clock: Clock,
    ) -> None:
        self._consumers = consumers
        self._wait_again_s = wait_again_s
        self._on_unreachable = on_unreachable
        self._clock = clock
        self._stopping = threading.Event()
        self._at_once = False
        self._error: BaseException | None = None

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._run_one, args=(consumer,), name="rebound-consumer", daemon=True)
            for consumer in self._consumers
        ]
        for thread in threads:
            thread.start()
        last_look: float | None = None
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(_LOOK_EVERY_S / len(threads))
            if self._at_once:
                last_look = self._clock.monotonic() + _AT_ONCE_S if last_look is None else last_look
                if self._clock.monotonic() >= last_look:
                    break
        if self._error is not None:
            raise self._error

    def stop(self, *, at_once: bool = False) -> None:
        self._stopping.set()
        self._at_once = self._at_once or at_once
        for consumer in self._consumers:
            consumer.stop(at_once=at_once)

    @contextmanager
    def signals(self) -> Iterator[None]:
        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self.stop(at_once=self._stopping.is_set())

        earlier = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _run_one(self, consumer: Consumer) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    consumer.run()
                except UnreachableError as error:
                    if self._wait_again_s is None:
                        raise
                    self._on_unreachable(error)
                    self._stopping.wait(self._wait_again_s)
                else:
                    break
        except BaseException as error:  # noqa: BLE001 - run() raises the first one
            if self._error is None:
                self._error = error
            elif not isinstance(error, UnreachableError):
                consumer.log_end(error)
        # One consumer alone is no service: a supervisor starts all of them again.
        self.stop()
