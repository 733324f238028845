"""The views: one waiting message and one dead letter, as every face shows them. Neither holds the value.

`to_dict` gives JSON with stable keys: later versions add keys, and change or remove none. Times are Unix milliseconds.
"""

from __future__ import annotations

import base64
from typing import Any, Self

import msgspec

from ..message import Headers, Message, Origin, PastAttempt
from ..message.address import Address, KafkaAddress, policy_names
from ..policy import Failure

#: Where a dead letter is that Redis keeps; see `DeadLetterView.kept_in`.
REDIS = "redis"

#: The kinds of what waits; see `PendingView.kind`.
RETRY = "retry"
DEAD_LETTER = "dead-letter"
TASK = "task"
UNREADABLE = "unreadable"
#: What `ActionResult.refused` calls a task that makes a step of a job.
JOB_STEP = "job-step"


class CommonView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a waiting message and a dead letter have in common.

    Attributes:
        id: names the entry. Every action takes it. For what waits it is the id of the Celery task.
        message_id: the id of the message, the same over all attempts (the header `rebound-id`); None where there is
            none, as for an ordinary Celery task.
        destination: where a retry goes; None if it is not known.
        origin: the record that the message was first read from; None if it was not read from Kafka.
        group: the consumer group that the retry is for.
        key: the record's key.
        headers: the user's headers, in their order.
        reason: why it was given up; None if it was not.
        failure: the last failure.
        history: the attempts so far, the newest last.
        first_failed_at_ms: the time of the first failure.
        source, client_id: free texts of the caller.
        size_bytes: the length of the value; None where there is none, or it is not known.
        task: the name of the Celery task, where it is an ordinary one.
        problem: why the entry cannot be read; None if it can.
    """

    id: str
    message_id: str | None = None
    destination: Address | None = None
    origin: Origin | None = None
    group: str | None = None
    key: bytes | None = None
    headers: Headers = ()
    reason: str | None = None
    failure: Failure | None = None
    history: tuple[PastAttempt, ...] = ()
    first_failed_at_ms: int | None = None
    source: str | None = None
    client_id: str | None = None
    size_bytes: int | None = None
    task: str | None = None
    problem: str | None = None

    @classmethod
    def of_message(cls, message: Message, **more: Any) -> Self:
        """Return the view of a message.

        Args:
            message: the message.
            **more: the fields that a message does not have, with the `id`.
        """
        return cls(
            message_id=message.id,
            destination=message.destination,
            origin=message.origin,
            group=message.group,
            key=message.key,
            headers=message.headers,
            reason=message.reason,
            failure=message.failure,
            history=message.history,
            first_failed_at_ms=message.first_failed_at,
            source=message.source,
            client_id=message.client_id,
            size_bytes=None if message.value is None else len(message.value),
            **more,
        )

    @property
    def exception(self) -> str | None:
        """The full name of the exception's class; None if there is none."""
        return (self.failure.exception_class or None) if self.failure is not None else None

    @property
    def error(self) -> str | None:
        """The text of the last error; None if there is none."""
        return None if self.failure is None else self.failure.message

    @property
    def destination_text(self) -> str | None:
        """The destination without secrets: `kafka://topic`, a URL without its user and query, or `dead-set`."""
        return None if self.destination is None else policy_names(self.destination)[1]

    @property
    def topics(self) -> tuple[str, ...]:
        """The topic that it comes from, and the one that it goes to."""
        found = () if self.origin is None else (self.origin.topic,)
        return (*found, self.destination.topic) if isinstance(self.destination, KafkaAddress) else found

    def _common(self) -> dict[str, Any]:
        """The keys that both kinds of views end with."""
        origin = self.origin
        return {
            "destination": self.destination_text,
            "origin": origin
            and {
                "topic": origin.topic,
                "partition": origin.partition,
                "offset": origin.offset,
                "timestamp_ms": origin.timestamp,
            },
            "group": self.group,
            **bytes_to_dict("key", self.key),
            "headers": [{"name": name, **bytes_to_dict("value", value)} for name, value in self.headers],
            "reason": self.reason,
            "exception": self.exception,
            "error": self.error,
            "first_failed_at_ms": self.first_failed_at_ms,
            "history": [
                {"attempt": past.attempt, "failed_at_ms": past.failed_at_ms, "error": past.error, "by": past.by}
                for past in self.history
            ],
            "source": self.source,
            "client_id": self.client_id,
            "size_bytes": self.size_bytes,
            "task": self.task,
            "problem": self.problem,
        }


class PendingView(CommonView, frozen=True, kw_only=True, gc=False):
    """A message that waits in the schedule, or that a worker holds.

    Attributes:
        queue: the queue in whose schedule it waits.
        kind: "retry", "dead-letter" (on its way to where dead letters go), "task" (an ordinary Celery task), or
            "unreadable".
        due_ms: when it is due; None while a worker holds it.
        lease_end_ms: until when a worker holds it, unless the worker renews its lease; None if it waits.
        lane: the lane in which it waits.
        priority: 0 is the most urgent, 9 the least.
        losses: how many workers were lost while they held it.
        attempt: the attempt that its delivery begins, or the number of a Celery task's try; 1 is the first.
        max_retries: how many retries its policy allows.
        dead_destination: where its dead letter goes.
        tries: how often this delivery was stored again, after outages and failures.
        args, kwargs: the arguments of a Celery task as texts, where they were asked for.
        disabled_since_ms, disabled_reason: since when and why its HTTP endpoint is disabled; None where it is not.
    """

    queue: str
    kind: str
    due_ms: int | None
    lease_end_ms: int | None = None
    lane: str = ""
    priority: int = 0
    losses: int = 0
    attempt: int | None = None
    max_retries: int | None = None
    dead_destination: Address | None = None
    tries: int = 0
    args: str | None = None
    kwargs: str | None = None
    disabled_since_ms: int | None = None
    disabled_reason: str | None = None

    @property
    def leased(self) -> bool:
        """Whether a worker holds it."""
        return self.lease_end_ms is not None

    @property
    def time_ms(self) -> int | None:
        """When it is due: pages are ordered by it."""
        return self.due_ms

    @property
    def since_ms(self) -> int | None:
        """From when its age counts: its first failure; None if that is not known."""
        return self.first_failed_at_ms

    @property
    def attempt_number(self) -> int | None:
        """The attempt that a filter asks for: the next one."""
        return self.attempt

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        dead = self.dead_destination
        return {
            "id": self.id,
            "message_id": self.message_id,
            "queue": self.queue,
            "kind": self.kind,
            "due_ms": self.due_ms,
            "leased": self.leased,
            "lease_end_ms": self.lease_end_ms,
            "lane": self.lane,
            "priority": self.priority,
            "losses": self.losses,
            "attempt": self.attempt,
            "max_retries": self.max_retries,
            "tries": self.tries,
            "dead_destination": None if dead is None else policy_names(dead)[1],
            "args": self.args,
            "kwargs": self.kwargs,
            "disabled_since_ms": self.disabled_since_ms,
            "disabled_reason": self.disabled_reason,
            **self._common(),
        }


class DeadLetterView(CommonView, frozen=True, kw_only=True, gc=False):
    """A dead letter, in Redis or in a Kafka topic.

    Attributes:
        kept_in: "redis", or the Kafka topic that holds it.
        partition, offset: its place in that topic; None in Redis. (So a topic may be called "redis".)
        died_ms: when it died; None if it is not known.
        attempts: how many attempts were made; None if it is not known.
        replays: how often it was replayed before it died again.
        written_by: whose headers it has: "rebound", or the name of another program whose dead letters can be read.
    """

    kept_in: str = REDIS
    partition: int | None = None
    offset: int | None = None
    died_ms: int | None = None
    attempts: int | None = None
    replays: int = 0
    written_by: str = "rebound"

    @property
    def time_ms(self) -> int | None:
        """When it died: pages are ordered by it."""
        return self.died_ms

    @property
    def since_ms(self) -> int | None:
        """From when its age counts: its death; None if that is not known."""
        return self.died_ms

    @property
    def attempt_number(self) -> int | None:
        """The attempt that a filter asks for: the last one."""
        return self.attempts

    def to_dict(self, *, stack: bool = True) -> dict[str, Any]:
        """Return it as JSON has it.

        Args:
            stack: whether the stack trace is in it.
        """
        letter = {
            "id": self.id,
            "message_id": self.message_id,
            "kept_in": self.kept_in,
            "partition": self.partition,
            "offset": self.offset,
            "died_ms": self.died_ms,
            "attempts": self.attempts,
            "replays": self.replays,
            "written_by": self.written_by,
            **self._common(),
        }
        if stack:
            letter["stacktrace"] = (self.failure.stacktrace or None) if self.failure is not None else None
        return letter


#: What a filter looks at.
View = PendingView | DeadLetterView


def bytes_to_dict(name: str, value: bytes | None) -> dict[str, str | None]:
    """Return bytes as JSON has them: as text under `name`, None if they are no UTF-8; and as base64."""
    if value is None:
        return {name: None, f"{name}_base64": None}
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = None
    return {name: text, f"{name}_base64": base64.b64encode(value).decode()}
