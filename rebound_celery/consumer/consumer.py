"""The consumer as users see it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from .. import health
from ..errors import UnreachableError
from ..health import HealthFile
from ..registry import find
from .config import ConsumerConfig
from .offset_tracker import OffsetTracker
from .stats import ConsumerStats
from .stop import StopFlag

logger = logging.getLogger(__name__)


class Consumer:
    """Reads topics, calls the handler, and has what fails tried again.

    Use `run()` to consume in this thread, or `with Consumer(config):` or `start()` and `close()` to consume in a thread
    of its own. Nothing connects before that.

    Args:
        config: what to consume and how.
        app: the Celery app that has `Rebound`; None means Celery's current app.

    Raises:
        NotInstalledError: if that app has no Rebound.
    """

    def __init__(self, config: ConsumerConfig, app: Any = None) -> None:
        self._config = config
        self._installed = find(app)
        self._offset_tracker = OffsetTracker()
        self._flag = StopFlag()
        self._running = threading.Lock()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def run(self, *, handle_signals: bool = False) -> None:
        """Consume until `stop()` is called, then finish what is begun, commit and leave the group.

        Args:
            handle_signals: stop on SIGINT and SIGTERM; on a second one, without waiting for handlers. Only in the main
                thread; elsewhere it does nothing. The earlier signal handlers are put back at the end.

        Raises:
            UnreachableError: if Kafka or Redis is away at the start; it may then be called again. Later on, the
                consumer waits for them.
            KafkaError: kafka-python's, if Kafka refuses for good, such as for want of authorisation.
            BaseException: what a handler raised that is no `Exception`, after everything was ended in order.
        """
        if not self._running.acquire(blocking=False):
            raise RuntimeError("this consumer is running already")
        try:
            if self._flag.stop:
                return
            self._consume(HealthFile(self._config.health_file), handle_signals)
        finally:
            self._running.release()

    def _consume(self, file: HealthFile, handle_signals: bool) -> None:
        # kafka-python is heavy, and programs that only ask for a ConsumerConfig need not wait for it.
        from .connection import connect
        from .loop import Loop
        from .stall_detector import StallDetector

        file.report(health.STARTING)
        try:
            self._installed.check_redis()
            kafka = connect(self._config, self._installed.settings)
        except UnreachableError as error:
            # The caller may try again; if not, the file grows old.
            file.report(health.WAITING, str(error))
            raise
        stall_detector = StallDetector(file)
        try:
            with self._signals(handle_signals):
                while kafka is not None:
                    loop = Loop(kafka, self._config, self._installed, self._offset_tracker, self._flag, stall_detector)
                    loop.run()
                    kafka = self._connect_anew(file) if loop.renew else None
        finally:
            file.remove()

    def _connect_anew(self, file: HealthFile) -> Any:
        """Another KafkaConsumer; None if this consumer is to stop. Kafka was there before, so it is waited for."""
        from .connection import connect

        while not self._flag.stop:
            try:
                return connect(self._config, self._installed.settings)
            except UnreachableError as error:
                file.report(health.WAITING, str(error))
        return None

    def start(self) -> None:
        """Call `run()` in a thread of its own; what it raises is logged, and raised by `join()` or `close()`.

        The thread is a daemon: a program that ends without `close()` ends at once, and what was not committed is
        consumed again.
        """
        if self._thread is not None:
            raise RuntimeError("this consumer was started already")
        self._thread = threading.Thread(target=self._run_in_thread, name="rebound-consumer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask it to stop, and return at once. From any thread or signal handler, as often as you like; it is final."""
        self._flag.stop = True

    def join(self, timeout: float | None = None) -> bool:
        """Wait for a consumer that was started, at most `timeout` seconds (None: as long as it takes).

        Returns:
            whether it has ended. Raises, once, what ended it otherwise than by `stop()`.
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
        """`stop()` and `join(timeout)`; a stop takes little more than the configured `stop_timeout`."""
        self.stop()
        return self.join(timeout)

    def stats(self) -> ConsumerStats:
        """The counts so far."""
        return self._offset_tracker.stats()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self._error = error
            logger.exception("the consumer of group %s ended", self._config.group, extra={"event": "consumer_failed"})

    @contextmanager
    def _signals(self, wanted: bool) -> Iterator[None]:
        if not wanted or threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self._flag.hurry = self._flag.stop
            self.stop()

        earlier = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
