"""What `schedule_retry` and `schedule_retries` do: requests become messages, and messages are stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from celery import Celery
from celery.result import AsyncResult

from . import tracing
from .celery_conf import LiveSetting
from .clock import Clock
from .config import Settings
from .delivery.delivery import Delivery, priority_of
from .delivery.form import to_argument
from .delivery.publisher import Publisher
from .delivery.task import DeliverTask
from .errors import InvalidSettingError, ReboundError
from .limits import UniqueRule
from .message import Message
from .requests import RetryRequest, error_of, keep_error
from .scheduled import Outcome, Scheduled, result_of

if TYPE_CHECKING:
    from .tracing import Tracer

logger = logging.getLogger(__name__)

#: How many messages `schedule_retries` stores with one call.
_CHUNK = 1000

#: For each message the id of its task, the result of a task that has run already, or the error.
_Outcomes: TypeAlias = "list[str | Outcome]"


@dataclass(slots=True)
class _Chunk:
    """Messages that are stored with one call, and their places among the outcomes."""

    messages: list[tuple[Message, int, int]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    rules: list[UniqueRule] = field(default_factory=list)

    def add(self, message: tuple[Message, int, int], place: int) -> None:
        self.messages.append(message)
        self.places.append(place)


class Scheduling:
    """Turns requests into messages and stores them.

    Args:
        app: the Celery app.
        read_settings: gives the app's settings.
        publisher: stores messages.
        clock: tells the time.
    """

    def __init__(self, app: Celery, read_settings: Callable[[], Settings], publisher: Publisher, clock: Clock) -> None:
        self._app = app
        self._read_settings = read_settings
        self._publisher = publisher
        self._clock = clock
        self._is_eager = LiveSetting(app, "task_always_eager")

    def schedule(self, request: RetryRequest) -> AsyncResult:
        """See `Rebound.schedule`."""
        try:
            return self._schedule(request)
        except ReboundError as fault:
            keep_error(fault, request.error)
            raise

    def _schedule(self, request: RetryRequest) -> AsyncResult:
        rule = request.unique_rule
        settings = self._read_settings()
        message, due_ms = request.to_message(settings, self._clock.now_ms())
        message = _of_caller(message, tracing.find(wanted=settings.tracing))
        task_id = message.task_id
        if due_ms is None:
            return self._dropped(task_id)
        if self._is_eager():
            return self._deliver_here(message, settings)
        stored = [(message, due_ms, priority_of(is_urgent=request.is_priority))]
        if rule is None:
            self._publisher.publish_messages(stored)
        else:
            task_id = self._publisher.publish_unique(stored, [rule])[0]
        return result_of(self._app, task_id, ignored=self._ignores_results)

    def _dropped(self, task_id: str) -> AsyncResult:
        """The result of a message that a rule of its policy drops: no task ever stores one."""
        return result_of(self._app, task_id, ignored=True)

    @property
    def _ignores_results(self) -> bool:
        return bool(self._app.tasks[DeliverTask.name].ignore_result)

    def _deliver_here(self, message: Message, settings: Settings) -> AsyncResult:
        argument = to_argument(Delivery(message=message, task_id=message.task_id), settings.encryption_keys)
        return self._app.tasks[DeliverTask.name].apply(args=(argument,), task_id=message.task_id)

    def schedule_retries(self, requests: Iterable[Mapping[str, Any] | RetryRequest]) -> Scheduled:
        """See `Rebound.schedule_retries`."""
        if isinstance(requests, Mapping | str | bytes | RetryRequest):
            # Iterated over, they would be as many wrong messages as they have keys or characters.
            raise InvalidSettingError("requests", type(requests), "give several: a list of mappings")
        outcomes: _Outcomes = []
        chunk, unique = _Chunk(), _Chunk()
        settings = self._read_settings()
        tracer = tracing.find(wanted=settings.tracing)
        for given in requests:
            try:
                request = given if isinstance(given, RetryRequest) else RetryRequest.from_mapping(given)
                rule = request.unique_rule
                message, due_ms = request.to_message(settings, self._clock.now_ms())
                # Here, because a generator of requests may have a span for each of them.
                message = _of_caller(message, tracer)
                if due_ms is not None and self._is_eager():
                    outcomes.append(self._deliver_here(message, settings))
                    continue
            except ReboundError as error:
                keep_error(error, error_of(given))
                outcomes.append(error)
                continue
            if due_ms is None:
                outcomes.append(self._dropped(message.task_id))
                continue
            outcomes.append(message.task_id)
            stored = (message, due_ms, priority_of(is_urgent=request.is_priority))
            if rule is None:
                chunk.add(stored, len(outcomes) - 1)
            else:
                unique.add(stored, len(outcomes) - 1)
                unique.rules.append(rule)
            if len(chunk.messages) >= _CHUNK:
                self._store(chunk, outcomes)
                chunk = _Chunk()
            if len(unique.messages) >= _CHUNK:
                self._store_unique(unique, outcomes)
                unique = _Chunk()
        self._store(chunk, outcomes)
        self._store_unique(unique, outcomes)
        scheduled = Scheduled(self._app, outcomes, ignored=self._ignores_results)
        if errors := scheduled.errors():
            # Few callers look at the outcomes.
            logger.warning(
                "%d of %d messages are not scheduled; the first error: %s",
                len(errors),
                len(scheduled),
                settings.redact.text(str(errors[0])),
                extra={"event": "not_scheduled"},
            )
        return scheduled

    def _store(self, chunk: _Chunk, outcomes: _Outcomes) -> None:
        try:
            self._publisher.publish_messages(chunk.messages)
        except ReboundError as error:
            _set(outcomes, chunk.places, [error] * len(chunk.places))

    def _store_unique(self, chunk: _Chunk, outcomes: _Outcomes) -> None:
        try:
            ids: Sequence[str | ReboundError] = self._publisher.publish_unique(chunk.messages, chunk.rules)
        except ReboundError as error:
            ids = [error] * len(chunk.places)
        _set(outcomes, chunk.places, ids)


def _of_caller(message: Message, tracer: Tracer | None) -> Message:
    """Return a message with the span in which it is scheduled."""
    return message if tracer is None else tracer.of_caller(message)


def _set(outcomes: _Outcomes, places: Sequence[int], values: Sequence[str | ReboundError]) -> None:
    for place, value in zip(places, values, strict=True):
        outcomes[place] = value
