"""Celery's task signals around deliveries, as Celery's tracer sends them around every other task.

Whatever is connected to them works for deliveries too: Django's clean-up of database connections, which Celery connects
itself, and the user's tracing and metrics. While nothing is connected, nothing of this is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import signals, states
from celery.exceptions import Retry

from ..clock import Clock
from ..errors import DeadLetterError, DeliveryError, DroppedError
from .delivery import Delivery
from .result import End, Result
from .results import request_of, store_result

_STATES = {
    End.DONE: states.SUCCESS,
    End.DEAD: states.FAILURE,
    End.DROPPED: states.FAILURE,
    End.AGAIN: states.RETRY,
    End.BACK: states.REJECTED,
}


def is_listened_to() -> bool:
    """Whether anything is connected to the signals."""
    return bool(
        signals.task_prerun.receivers
        or signals.task_postrun.receivers
        or signals.task_success.receivers
        or signals.task_failure.receivers
        or signals.task_retry.receivers
        or signals.task_internal_error.receivers
    )


def observe(task: Any, deliveries: Mapping[int, Delivery], worker: str) -> dict[int, Observed]:
    """Send `task_prerun` for each delivery of a batch. Returns nothing where nobody listens to Celery's signals."""
    if not is_listened_to():
        return {}
    observed = {index: Observed(task, delivery, worker) for index, delivery in deliveries.items()}
    for one in observed.values():
        one.began()
    return observed


class Observed:
    """A delivery that listeners to Celery's signals hear of.

    Many deliveries are under way at once. So each has context variables of its own: what a listener sets at the
    beginning, such as the current span of a trace, is there at the end, and in no other delivery.

    Args:
        task: the delivery task.
        delivery: what is delivered.
        worker: the name of the worker.
    """

    def __init__(self, task: Any, delivery: Delivery, worker: str) -> None:
        self._task = task
        self._request = request_of(task, delivery, worker)
        self._clock: Clock = task.clock
        self._began = self._clock.monotonic()
        self._context: Context = copy_context()
        # If it is stored again, the signals of that belong to this delivery.
        delivery.surroundings = self._context

    def began(self) -> None:
        """Send `task_prerun`."""
        self._tell(lambda: signals.task_prerun.send(sender=self._task, **self._call()))

    def broke(self, error: Exception) -> None:
        """Send `task_internal_error`; to be called while the error is handled."""
        self._tell(
            lambda: signals.task_internal_error.send(
                sender=self._task,
                task_id=self._request.id,
                args=self._request.args,
                kwargs=self._request.kwargs,
                request=self._request,
                exception=error,
                traceback=error.__traceback__,
                einfo=ExceptionInfo(),
            )
        )

    def ended(self, result: Result) -> None:
        """Store the result, then send what Celery sends when a task has ended."""
        self._tell(lambda: self._end(result))

    def _end(self, result: Result) -> None:
        value: object = result.text
        store_result(self._task, self._request, result)
        if result.end == End.DONE:
            runtime = self._clock.monotonic() - self._began
            signals.task_success.send(sender=self._task, result=value, runtime=runtime)
        elif result.end in (End.DEAD, End.DROPPED):
            value = tell_failure(self._task, self._request, result)
        elif result.end == End.AGAIN:
            value = reason = Retry(result.text, DeliveryError(result.text))
            signals.task_retry.send(sender=self._task, request=self._request, reason=reason, einfo=_info_of(reason))
        signals.task_postrun.send(sender=self._task, **self._call(), retval=value, state=_STATES[result.end])

    def _call(self) -> dict[str, Any]:
        request = self._request
        return {"task_id": request.id, "task": self._task, "args": request.args, "kwargs": request.kwargs}

    def _tell(self, send: Callable[[], object]) -> None:
        self._context.run(self._with_request, send)

    def _with_request(self, send: Callable[[], object]) -> None:
        self._task.request_stack.push(self._request)
        try:
            send()
        finally:
            self._task.request_stack.pop()


def tell_failure(task: Any, request: Any, result: Result) -> DeliveryError:
    """Send `task_failure`; returns the exception that it tells of."""
    error: DeliveryError = (DroppedError if result.end == End.DROPPED else DeadLetterError)(result.text)
    signals.task_failure.send(
        sender=task,
        task_id=request.id,
        exception=error,
        args=request.args,
        kwargs=request.kwargs,
        traceback=error.__traceback__,
        einfo=_info_of(error),
    )
    return error


def _info_of(error: Exception) -> ExceptionInfo:
    """An exception as Celery gives it to listeners, which expect one that was raised."""
    try:
        raise error
    except type(error):
        return ExceptionInfo()
