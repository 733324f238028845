"""What waits to be delivered: a message, the Celery task that delivers it, and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any

import msgspec

from ..destinations import Outcome
from ..errors import WireFormatError
from ..message import Message, codec, message_id_of
from ..message.encryption import NO_KEYS, KeyRing
from .ended import from_wire, to_wire
from .lanes import ENDED, lane_of

#: Priorities as kombu's Redis transport counts them: from 0, the most urgent, to 9.
PRIORITY_HIGH = 0
PRIORITY_NORMAL = 3

#: The names of a delivery's own fields in the stored form, beside the message.
_TRIES = "tries"
_ROOT = "root"
_PARENT = "parent"
_REPLY_TO = "reply_to"
_HEADERS = "headers"
_CHAINED = "chained"
_ENDED = "ended"
_SINCE = "since"

_NOTHING: Mapping[str, Any] = {}


def priority_of(*, is_urgent: bool) -> int:
    """The priority of a message that is taken before others that are due, or that is not."""
    return PRIORITY_HIGH if is_urgent else PRIORITY_NORMAL


class Delivery(msgspec.Struct):
    """A message to deliver, and the Celery task that delivers it.

    Attributes:
        message: what is delivered.
        task_id: the id of the Celery task, and of the entry in the schedule.
        due_ms: when it is due, in Unix milliseconds; a time that has passed means at once.
        tries: how often this task has been stored again: after outages and failed attempts.
        priority: as kombu counts it; 0 is the most urgent.
        root_id, parent_id: the tasks in which it was scheduled, as Celery records them; None where there are none.
        reply_to: where a result backend that sends its results as messages (`rpc://`) sends the result.
        task_headers: headers that listeners of `before_task_publish` have added to the Celery message.
        chained: whether messages wait behind this one, or may do so: a dead letter has to let them go on.
        ended: the outcome, where the delivery was made already and is not settled yet.
        unknown: fields that a later version stored; they are kept.
        held_in: the lane in which it waits, where that is not the one of its address. This is not stored with it.
        surroundings: the context variables in which listeners to Celery's signals hear of it; None for those of the
            caller. This is not stored.
        since_ms: since when it waits, in Unix milliseconds; None if nobody traces it.
        span: the span of this delivery, as a text; None before it, or if nobody traces it. This is not stored.
    """

    # The publisher gives the first seven by position, which takes a third of the time. So their order counts.
    message: Message
    task_id: str
    due_ms: int = 0
    priority: int = PRIORITY_NORMAL
    root_id: str | None = None
    parent_id: str | None = None
    reply_to: str | None = None
    tries: int = 0
    task_headers: Mapping[str, Any] = _NOTHING
    chained: bool = False
    unknown: Mapping[str, Any] = _NOTHING
    ended: Outcome | None = None
    held_in: str | None = None
    surroundings: Context | None = None
    since_ms: int | None = None
    span: str | None = None

    def heard(self, send: Callable[..., object], **named: Any) -> None:
        """Send a signal about this delivery."""
        if self.surroundings is None:
            send(**named)
        else:
            self.surroundings.run(send, **named)

    @property
    def lane(self) -> str:
        """Where it waits, if no rule about rates says another lane."""
        if self.ended is not None:
            return ENDED
        return lane_of(self.message.target) if self.held_in is None else self.held_in

    @property
    def context(self) -> dict[str, Any]:
        """This delivery's own fields in the stored form: those that are not as usual."""
        context = dict(self.unknown) if self.unknown else {}
        if self.tries:
            context[_TRIES] = self.tries
        if self.root_id is not None:
            context[_ROOT] = self.root_id
        if self.parent_id is not None:
            context[_PARENT] = self.parent_id
        if self.reply_to is not None:
            context[_REPLY_TO] = self.reply_to
        if self.task_headers:
            context[_HEADERS] = dict(self.task_headers)
        if self.chained:
            context[_CHAINED] = True
        if self.ended is not None:
            context[_ENDED] = to_wire(self.ended)
        if self.since_ms is not None:
            context[_SINCE] = self.since_ms
        return context

    def pack(self) -> bytes:
        """The stored form before it is compressed; see `codec.seal_many`."""
        return codec.pack(self.message, self.context)

    def encode(self, keys: KeyRing = NO_KEYS) -> bytes:
        """The stored form, which `decode` reads."""
        return keys.seal(codec.encode(self.message, self.context))

    @classmethod
    def decode(cls, task_id: str, stored: bytes, priority: int = PRIORITY_NORMAL, keys: KeyRing = NO_KEYS) -> Delivery:
        """The delivery that was stored under `task_id`.

        Raises:
            WireFormatError: if the stored form is damaged.
            UnknownVersionError: if a later version wrote it, or none of the keys opens it.
        """
        return cls.of(task_id, *codec.decode(message_id_of(task_id), keys.open(stored)), priority)

    @classmethod
    def of(cls, task_id: str, message: Message, context: dict[str, Any], priority: int) -> Delivery:
        """The delivery of a message that was stored under `task_id`, with these fields of its own.

        Raises:
            WireFormatError: if a field is damaged.
        """
        if not context:
            return cls(message=message, task_id=task_id, priority=priority)
        rest = dict(context)
        ended = rest.pop(_ENDED, None)
        return cls(
            message=message,
            task_id=task_id,
            priority=priority,
            tries=_taken(rest, _TRIES, int, 0),
            root_id=_taken(rest, _ROOT, str, None),
            parent_id=_taken(rest, _PARENT, str, None),
            reply_to=_taken(rest, _REPLY_TO, str, None),
            task_headers=_taken(rest, _HEADERS, dict, _NOTHING),
            chained=_taken(rest, _CHAINED, bool, False),
            ended=None if ended is None else from_wire(ended),
            since_ms=_taken(rest, _SINCE, int, None),
            unknown=rest,
        )


def _taken(context: dict[str, Any], name: str, kind: type, usual: Any) -> Any:
    value = context.pop(name, None)
    if value is None:
        return usual
    if not isinstance(value, kind):
        raise WireFormatError(f"a stored delivery is damaged: {name} is {type(value).__name__}")
    return value
