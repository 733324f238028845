"""Delivering many messages as one: send them all, decide for each what follows, store what must wait.

This runs in the pool's process. What it returns tells the worker's parent how each message ended.
"""

from __future__ import annotations

import logging
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from msgspec.structs import replace

from ..clock import SYSTEM_CLOCK
from ..config import Settings
from ..destinations import Destination, Outcome
from ..errors import DeliveryError, NotStoredError, OutageError, RejectedError
from ..message import Message
from ..policy import Failure, Retry, decide, outage_delay_s

logger = logging.getLogger(__name__)

#: Who tried, in the history of a message.
_BY = f"worker@{socket.gethostname()}"


class End(StrEnum):
    """How a delivery ended for the worker."""

    DONE = "done"
    #: The same task waits again in Redis, with what has changed.
    AGAIN = "again"
    #: Nothing could be settled: the broker's message goes back to its queue.
    BACK = "back"


@dataclass(frozen=True, slots=True)
class Item:
    """A message to deliver, with its Celery task's id and how often that was retried, and its priority."""

    message: Message
    task_id: str
    retries: int
    priority: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that goes back to the schedule: the same task, `delay_s` seconds from now."""

    item: Item
    message: Message
    delay_s: float
    error: DeliveryError


Result = tuple[End, str]

#: Stores messages that wait again; raises NotStoredError.
StoreAgain = Callable[[Sequence[Waiting]], None]


def deliver(
    items: Sequence[Item], destinations: Mapping[str, Destination], settings: Settings, store: StoreAgain
) -> list[Result]:
    """Deliver messages and settle them; one result an item, in their order. It never raises for a delivery's sake."""
    results: dict[int, Result] = {}
    waiting: dict[int, Waiting] = {}
    open_messages = {index: item.message for index, item in enumerate(items)}
    # The second round writes the dead letters that the first one made.
    for _ in range(2):
        buried: dict[int, Message] = {}
        for index, outcome in _send(open_messages, destinations).items():
            message = open_messages[index]
            if isinstance(outcome, str):
                logger.debug("delivered %s: %s", message, outcome, extra={"event": "delivered"})
                results[index] = End.DONE, outcome
                continue
            step = _after(items[index], message, outcome, settings)
            if isinstance(step, Waiting):
                waiting[index] = step
            else:
                buried[index] = step
        open_messages = buried
    _store(waiting, results, store)
    return [results[index] for index in range(len(items))]


def _send(messages: Mapping[int, Message], destinations: Mapping[str, Destination]) -> dict[int, Outcome]:
    by_kind: dict[str, list[int]] = defaultdict(list)
    for index, message in messages.items():
        by_kind[message.target.kind].append(index)
    outcomes: dict[int, Outcome] = {}
    for kind, indices in by_kind.items():
        try:
            answers = destinations[kind].send([messages[index] for index in indices])
        except Exception as error:
            # A fault of ours or of a library's: the messages must not pay for it.
            logger.exception("unexpected error while delivering to %s", kind, extra={"event": "delivery_error"})
            answers = [OutageError(f"{kind}: {error!r}")] * len(indices)
        outcomes.update(zip(indices, answers, strict=True))
    return outcomes


def _after(item: Item, message: Message, error: DeliveryError, settings: Settings) -> Waiting | Message:
    """What follows a delivery that did not happen: it waits, or it is a dead letter now."""
    if isinstance(error, OutageError):
        return _wait_out(item, message, error, settings)
    if message.reason is not None:
        logger.critical(
            "the dead letter %s is refused by its destination and stays scheduled: %s",
            message,
            error,
            extra={"event": "dead_letter_refused"},
        )
        return _wait_out(item, message, error, settings)
    failure = Failure.of(error)
    if isinstance(error, RejectedError):
        failure = replace(failure, permanent=True)
    now_ms = SYSTEM_CLOCK.now_ms()
    decision = decide(
        message.policy, message.attempt, failure, first_failed_at_ms=message.first_failed_at, now_ms=now_ms
    )
    after = message.failed(failure, decision, now_ms=now_ms, by=_BY)
    if isinstance(decision, Retry):
        return Waiting(item, after, (decision.due_ms - now_ms) / 1000, error)
    return after


def _wait_out(item: Item, message: Message, error: DeliveryError, settings: Settings) -> Waiting:
    """The same attempt again, after a delay that grows with each try."""
    delay_s = outage_delay_s(item.retries, settings.outage_delay, settings.outage_max_delay)
    level = logging.WARNING if message.reason is None else logging.CRITICAL
    logger.log(level, "%s waits %.0f s: %s", message, delay_s, error, extra={"event": "outage"})
    return Waiting(item, message, delay_s, error)


def _store(waiting: Mapping[int, Waiting], results: dict[int, Result], store: StoreAgain) -> None:
    if not waiting:
        return
    try:
        store(list(waiting.values()))
    except NotStoredError as error:
        logger.warning("%d deliveries go back to their queue: %s", len(waiting), error, extra={"event": "not_stored"})
        results.update((index, (End.BACK, str(error))) for index in waiting)
    else:
        results.update((index, (End.AGAIN, str(step.error))) for index, step in waiting.items())
