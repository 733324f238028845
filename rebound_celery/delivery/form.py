"""From a stored delivery to the Celery message of the task that delivers it, as `apply_async(eta=...)` would make it.

What is stored is the delivery. Its Celery message is made when it is claimed. What is the same for all deliveries comes
from a template, which Celery's own `app.amqp` makes once; a test compares the result with what `apply_async` sends,
field by field.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

from celery import signals
from kombu import serialization

from ..errors import WireFormatError
from ..message import codec
from ..message.encryption import ENCRYPTED, NO_KEYS, KeyRing
from ..message.ids import task_ids_of
from ..schedule.port import Claimed
from .delivery import Delivery
from .lanes import is_slow

TASK_NAME = "rebound.deliver"

#: Whether the destination is of a kind that is slow to deliver to. The worker reads it without decoding the message.
SLOW_HEADER = "rebound-slow"

#: The type of a body that is the stored form itself.
STORED_TYPE = "application/vnd.rebound.delivery"
STORED_ENCODING = "binary"

_ENCRYPTED = bytes([ENCRYPTED])


@dataclass(frozen=True, slots=True)
class _Template:
    """What is the same in all delivery tasks of an app."""

    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    embed: Mapping[str, Any]


class DeliveryForm:
    """Makes the Celery messages of delivery tasks.

    Args:
        app: the Celery app. Nothing is read from it before the first use.
        queue: the name of the queue that rebound's workers consume.
        keys: returns the keys that encrypt stored forms.
    """

    def __init__(self, app: Any, queue: Callable[[], str], keys: Callable[[], KeyRing] = lambda: NO_KEYS) -> None:
        self._app = app
        self.keys = keys
        self._queue = queue
        self._made: _Template | None = None
        #: Whether somebody looks at the headers that only decoding the delivery tells. A worker whose events are off
        #: sets another function here, and the messages that it claims stay undecoded until they are delivered.
        self.details_wanted: Callable[[], bool] = _always

    def open(self, claimed: Claimed) -> dict[str, Any]:
        """The Celery message of a claimed delivery; see `schedule.port.MessageForm`."""
        headers, reply_to = {**self._template.headers, "id": claimed.id, "root_id": claimed.id}, None
        if self.details_wanted():
            try:
                delivery = Delivery.decode(claimed.id, claimed.stored, claimed.priority, self.keys())
            except WireFormatError as error:
                # The task meets the same fault, and ends as all others do: with result, events and signals.
                headers["argsrepr"] = str(error)
            else:
                headers, reply_to = self.headers(delivery), delivery.reply_to
        else:
            self._check_version(claimed.stored)
        properties = self._properties(claimed.id, claimed.priority, reply_to)
        properties["delivery_info"] = {"exchange": "", "routing_key": self._queue()}
        properties["body_encoding"] = None
        headers[SLOW_HEADER] = is_slow(claimed.lane)
        return {
            "body": claimed.stored,
            "content-encoding": STORED_ENCODING,
            "content-type": STORED_TYPE,
            "headers": headers,
            "properties": properties,
        }

    def _check_version(self, stored: bytes) -> None:
        if stored[:1] == _ENCRYPTED:
            self.keys().check(stored)
        else:
            codec.check_version(stored)

    def task_ids_of(self, id: str) -> list[str]:  # noqa: A002 - as in the Protocol
        """The tasks of each attempt of the message with this id; see `schedule.port.MessageForm`."""
        return task_ids_of(id)

    def as_task(self, delivery: Delivery, now_ms: int) -> dict[str, Any]:
        """The Celery message for a broker that has no schedule: its argument is the stored form as base64."""
        headers = self.headers(delivery)
        if delivery.due_ms > now_ms:
            headers["eta"] = eta_of(delivery)
        headers[SLOW_HEADER] = is_slow(delivery.lane)
        content_type, content_encoding, body = serialization.dumps(
            ((to_argument(delivery, self.keys()),), {}, self._template.embed), self._app.conf.task_serializer
        )
        properties = self._properties(delivery.task_id, delivery.priority, delivery.reply_to)
        return {
            "body": body,
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers,
            "properties": {**properties, "delivery_info": {}},
        }

    def headers(self, delivery: Delivery) -> dict[str, Any]:
        """The headers of the Celery message, as if the delivery were due."""
        headers = {
            **self._template.headers,
            "id": delivery.task_id,
            "root_id": delivery.root_id or delivery.task_id,
            "parent_id": delivery.parent_id,
            "argsrepr": str(delivery.message),
            "retries": delivery.tries,
        }
        if delivery.task_headers:
            headers.update(delivery.task_headers)
        return headers

    @property
    def is_listened_to(self) -> bool:
        """Whether somebody listens to the signals that Celery sends when it publishes."""
        return bool(signals.before_task_publish.receivers or signals.after_task_publish.receivers)

    def before_publish(self, delivery: Delivery, now_ms: int) -> Callable[[], None] | None:
        """Send the signal that Celery sends before it publishes, and keep the headers that listeners add.

        Returns what sends the signal that Celery sends after it; None where nobody listens to either signal.
        """
        if not self.is_listened_to:
            return None
        queue = self._queue()
        original = self.headers(delivery)
        if delivery.due_ms > now_ms:
            original["eta"] = eta_of(delivery)
        headers = dict(original)
        properties = {
            **self._properties(delivery.task_id, delivery.priority, delivery.reply_to),
            "delivery_info": {"exchange": "", "routing_key": queue},
        }
        body: tuple[Any, ...] = ((str(delivery.message),), {}, self._template.embed)
        delivery.heard(
            signals.before_task_publish.send,
            sender=TASK_NAME,
            body=body,
            exchange="",
            routing_key=queue,
            declare=[],
            headers=headers,
            properties=properties,
            retry_policy={},
        )
        added = {name: value for name, value in headers.items() if name not in original or original[name] != value}
        if added:
            delivery.task_headers = {**delivery.task_headers, **added}
        return partial(
            delivery.heard,
            signals.after_task_publish.send,
            sender=TASK_NAME,
            body=body,
            headers=headers,
            exchange="",
            routing_key=queue,
        )

    def _properties(self, task_id: str, priority: int, reply_to: str | None) -> dict[str, Any]:
        return {**self._template.properties, "correlation_id": task_id, "reply_to": reply_to, "priority": priority}

    @property
    def _template(self) -> _Template:
        if self._made is None:
            task = self._app.tasks[TASK_NAME]
            headers, properties, (_args, _kwargs, embed), _event = self._app.amqp.as_task_v2(
                "",
                TASK_NAME,
                args=(),
                kwargs={},
                time_limit=task.time_limit,
                soft_time_limit=task.soft_time_limit,
                ignore_result=task.ignore_result,
            )
            self._made = _Template(
                headers={**headers, "kwargsrepr": "{}", "parent_id": None},
                properties={**properties, "delivery_mode": 2},
                embed=embed,
            )
        return self._made


def stored_form_of(app: Any, body: Any, content_type: str, content_encoding: str) -> bytes:
    """The stored form that a delivery task's message brings: its body, or its argument as `as_task` writes it.

    Raises:
        WireFormatError: if it brings none.
    """
    if content_type == STORED_TYPE and isinstance(body, bytes):
        return body
    try:
        accepted = serialization.prepare_accept_content(app.conf.accept_content)
        (argument,), _, _ = serialization.loads(body, content_type, content_encoding, accept=accepted)
    except Exception as error:
        raise WireFormatError(f"the body of a delivery task cannot be read: {error!r}") from error
    return from_argument(argument)


def to_argument(delivery: Delivery, keys: KeyRing = NO_KEYS) -> str:
    """The argument of a delivery task that is not published: the stored form as base64."""
    return base64.b64encode(delivery.encode(keys)).decode()


def from_argument(argument: object) -> bytes:
    """The stored form that the argument of a delivery task holds.

    Raises:
        WireFormatError: if it holds none.
    """
    try:
        return base64.b64decode(argument, validate=True)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise WireFormatError(f"the argument of a delivery task is no stored form: {error}") from error


def eta_of(delivery: Delivery) -> str:
    """The due time of a delivery in the form of Celery's header `eta`."""
    return _eta_at(delivery.due_ms)


@lru_cache(1024)
def _eta_at(due_ms: int) -> str:
    # Deliveries that are made together are often due in the same millisecond.
    return datetime.fromtimestamp(due_ms / 1000, UTC).isoformat()


def _always() -> bool:
    return True
