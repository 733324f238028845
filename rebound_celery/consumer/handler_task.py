"""Calls the handler in the same way as Celery's worker calls a task: with the current app and with the task signals.

So the receivers of these signals also run for each record: Django's clean-up of database connections, which Celery
connects itself, and the user's tracing and metrics.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Celery, signals, states

from ..message import Record
from .config import ConsumerConfig


class Outcome:
    """The outcome of a call of the handler. `task_postrun` carries it."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self.state: str | None = None
        self.value: object = None

    def succeeded(self, value: object) -> None:
        """Send `task_success`."""
        self.state, self.value = states.SUCCESS, value
        signals.task_success.send(sender=self._task, result=value)

    def failed(self, error: BaseException, *, is_dead: bool) -> None:
        """Send `task_retry`, or `task_failure` for a dead letter.

        Args:
            error: the exception that the handler raised. Call this method in its `except` block.
            is_dead: whether no further attempt follows.
        """
        self.value = error
        request = self._task.request
        if is_dead:
            self.state = states.FAILURE
            signals.task_failure.send(
                sender=self._task,
                task_id=request.id,
                exception=error,
                args=request.args,
                kwargs=request.kwargs,
                traceback=error.__traceback__,
                einfo=ExceptionInfo(),
            )
        else:
            self.state = states.RETRY
            signals.task_retry.send(sender=self._task, request=request, reason=error, einfo=ExceptionInfo())

    def dropped(self, error: BaseException) -> None:
        """Note that the record is dropped. No signal of its own tells of it; `task_postrun` has the state IGNORED."""
        self.state, self.value = states.IGNORED, error


class HandlerTask:
    """The handler of a consumer as a task of the app. The app does not register the task.

    Args:
        app: the Celery app of the task.
        config: the consumer's configuration.
    """

    def __init__(self, app: Celery, config: ConsumerConfig) -> None:
        self._app = app
        self._name = _name_of(config.handler)
        self._hostname = f"consumer {config.group}@{socket.gethostname()}"
        self._task: Any = None

    def enter_thread(self) -> None:
        """Make the app Celery's current app in this thread."""
        self._app.set_current()

    @staticmethod
    def is_observed() -> bool:
        """Whether a receiver is connected to one of the signals. Without receivers, `run` has no visible effect."""
        # Without a loop over the signals, because this runs for every record.
        return bool(
            signals.task_prerun.receivers
            or signals.task_postrun.receivers
            or signals.task_success.receivers
            or signals.task_failure.receivers
            or signals.task_retry.receivers
        )

    @contextmanager
    def run(self, record: Record) -> Iterator[Outcome]:
        """Send `task_prerun` before the body and `task_postrun` after it. The body calls the handler."""
        task = self._get_task()
        call = {"task_id": f"{record.id}:{record.attempt}", "task": task, "args": (record,), "kwargs": {}}
        outcome = Outcome(task)
        task.push_request(
            id=call["task_id"],
            root_id=record.id,
            args=call["args"],
            kwargs=call["kwargs"],
            retries=record.attempt - 1,
            called_directly=False,
            hostname=self._hostname,
            delivery_info={"exchange": "", "routing_key": record.topic, "priority": None, "redelivered": None},
        )
        try:
            signals.task_prerun.send(sender=task, **call)
            try:
                yield outcome
            finally:
                signals.task_postrun.send(sender=task, **call, retval=outcome.value, state=outcome.state)
        finally:
            task.pop_request()

    def _get_task(self) -> Any:
        # Made at the first need. If two threads each make a task at the same time, both tasks work.
        if self._task is None:
            kind: Any = type("HandlerTask", (self._app.Task,), {"name": self._name, "ignore_result": True})
            kind.bind(self._app)
            self._task = kind()
        return self._task


def _name_of(handler: Callable[..., object]) -> str:
    """Return the handler's name for the signals: the name of the function, or of the object's class."""
    named: Any = handler if hasattr(handler, "__qualname__") else type(handler)  # any callable of the user
    return f"{named.__module__}.{named.__qualname__}"
