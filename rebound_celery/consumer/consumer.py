"""The public face of the consumer: it starts, stops and joins the loop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from celery.app import app_or_default

from .. import health
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import InvalidSettingError, UnreachableError
from ..health import HealthFile
from ..redaction import NO_REDACTION, Redactor
from ..registry import find
from .config import ConsumerConfig
from .offset_tracker import OffsetTracker
from .stats import ConsumerStats
from .stop import StopFlag

logger = logging.getLogger(__name__)


class Consumer:
    """Reads topics, calls the handler, and stores retries of the records that fail.

    `run()` consumes in the caller's thread. `with Consumer(config):`, or `start()` and `close()`, consume in a thread
    of the consumer's own. The constructor does not connect.

    Args:
        config: the topics, the handler and all other settings.
        app: the Celery app that has `Rebound`; None means Celery's current app.
        clock: the clock to read; tests give their own.

    Raises:
        NotInstalledError: if the app has no Rebound.
    """

    def __init__(self, config: ConsumerConfig, app: Any = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._config = config
        self._scheduler = find(app)
        self._app = app_or_default(app)
        self._clock = clock
        self._offset_tracker = OffsetTracker()
        self._flag = StopFlag()
        #: Whether a signal may interrupt the main thread. It may until records are started.
        self._may_interrupt = False
        self._running = threading.Lock()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def run(self, *, handle_signals: bool = False) -> None:
        """Consume until `stop()` is called, then finish the started records, commit and leave the group.

        Args:
            handle_signals: stop on SIGINT and SIGTERM. A second signal stops without waiting for handlers. This works
                only in the main thread. The earlier signal handlers are restored at the end.

        Raises:
            UnreachableError: if Kafka or Redis does not answer at the start. Then `run()` may be called again. After
                the start, the consumer waits for them.
            InvalidSettingError: if a topic does not exist, unless `allow_auto_create` is True.
            KafkaError: kafka-python's error, if Kafka refuses for good, for example because a permission is missing.
            BaseException: an exception of a handler that is not an `Exception`. The consumer stops in order first.
        """
        if not self._running.acquire(blocking=False):
            raise RuntimeError("this consumer is running already")
        try:
            if self._flag.stop:
                return
            file = HealthFile(self._config.health_file)
            with self._signals(handle_signals):
                self._consume(file)
        except _StoppedWhileConnecting:
            file.remove()
        finally:
            self._running.release()

    def _consume(self, file: HealthFile) -> None:
        # kafka-python and Celery's worker take long to import. A program that only makes a ConsumerConfig
        # need not wait.
        from ..compat.celery_fixups import install_worker_fixups
        from .async_handler import callable_by_threads
        from .handler_task import HandlerTask
        from .health_reporter import HealthReporter
        from .loop import Loop
        from .topics import check_topics

        file.report(health.STARTING)
        self._scheduler.settings.redact.check()
        try:
            with self._interruptible():
                self._scheduler.check_redis()
            kafka = self._connect()
        except UnreachableError as error:
            # The file stays, because the caller may try again. Otherwise the file gets old, and probes notice that.
            file.report(health.WAITING, str(error))
            raise
        try:
            with self._interruptible():
                check_topics(kafka, self._config)
        except BaseException:
            kafka.close()
            raise
        # Kafka may take longer than a session time-out to give partitions, if a member was lost before.
        logger.info("joining the group %s", self._config.group, extra={"event": "joining", "group": self._config.group})
        install_worker_fixups(self._app)
        health_reporter = HealthReporter(file, clock=self._clock)
        try:
            with callable_by_threads(self._config, self._app.set_current) as config:
                handler_task = HandlerTask(self._app, config)
                while kafka is not None:
                    loop = Loop(
                        kafka,
                        config,
                        self._scheduler,
                        handler_task,
                        self._offset_tracker,
                        self._flag,
                        health_reporter,
                        clock=self._clock,
                    )
                    loop.run()
                    kafka = self._connect_again(file) if loop.replace else None
        finally:
            file.remove()

    def _connect(self) -> Any:
        from .connection import connect

        with self._interruptible():
            return connect(self._config, self._scheduler.settings)

    def _connect_again(self, file: HealthFile) -> Any:
        """Wait for Kafka and return a new KafkaConsumer. Return None if this consumer has to stop."""
        while not self._flag.stop:
            try:
                return self._connect()
            except UnreachableError as error:
                file.report(health.WAITING, str(error))
        return None

    def start(self) -> None:
        """Call `run()` in a new thread. An error of `run()` is logged, and `join()` or `close()` raises it.

        The thread is a daemon: a program that ends without `close()` ends at once. Records that are not committed are
        consumed again.
        """
        if self._thread is not None:
            raise RuntimeError("this consumer was started already")
        self._thread = threading.Thread(target=self._run_in_thread, name="rebound-consumer", daemon=True)
        self._thread.start()

    def stop(self, *, at_once: bool = False) -> None:
        """Ask the consumer to stop, and return at once. Any thread or signal handler may call it. A stop is final.

        Args:
            at_once: do not wait for running handlers. Their records stay uncommitted.
        """
        self._flag.at_once = self._flag.at_once or at_once
        self._flag.stop = True

    def join(self, timeout: float | None = None) -> bool:
        """Wait until a started consumer has ended. If an error ended it, raise the error, once.

        Args:
            timeout: the longest wait in seconds; None waits without limit.

        Returns:
            whether the consumer has ended.
        """
        if self._thread is None:
            return True
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True

    def close(self, timeout: float | None = None) -> bool:
        """Call `stop()` and `join(timeout)`. A stop takes little longer than the configured `stop_timeout`."""
        self.stop()
        return self.join(timeout)

    def stats(self) -> ConsumerStats:
        """Return the counts so far."""
        return self._offset_tracker.stats()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - join() raises it
            self._error = error
            self.log_end(error)

    def log_end(self, error: BaseException) -> None:
        """Log that this error has ended the consumer."""
        self._redactor().log(
            logger,
            "the consumer of group %s ended",
            self._config.group,
            error=error,
            extra={"event": "consumer_failed"},
        )

    def _redactor(self) -> Redactor:
        try:
            return self._scheduler.settings.redact
        except InvalidSettingError:
            # It is what ended the consumer, and nothing was handled.
            return NO_REDACTION

    @contextmanager
    def _signals(self, wanted: bool) -> Iterator[None]:
        if not wanted or threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self.stop(at_once=self._flag.stop)
            if self._may_interrupt:
                raise _StoppedWhileConnecting

        earlier = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let a signal end the body at once. Otherwise a server that does not answer would delay the stop."""
        self._may_interrupt = True
        try:
            yield
        finally:
            self._may_interrupt = False


class _StoppedWhileConnecting(BaseException):
    """A signal came before Kafka and Redis had answered."""
