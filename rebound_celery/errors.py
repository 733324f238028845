"""The errors that rebound raises. Each docstring gives the meaning of the error and the next step."""

from __future__ import annotations

from collections.abc import Sequence

from kombu.exceptions import OperationalError

from .shown import shown

#: How many characters of a value an error shows.
_LONGEST = 1_000


class ReboundError(Exception):
    """The base class of all errors that rebound raises."""


class InvalidSettingError(ReboundError, ValueError):
    """A value cannot be used. The text names the field, the value without the secrets of URLs, and the rule for it."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}={_repr(value)} cannot be used: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[type, tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.allowed)


def _repr(value: object) -> str:
    try:
        text = repr(shown(value))
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    except Exception:  # noqa: BLE001 - an object of the caller's may do anything
        return f"<{type(value).__name__}>"


class NotInstalledError(ReboundError):
    """The Celery app has no Rebound. Write `Rebound(app)` where the app is made."""

    def __init__(self, app_name: str, candidates: Sequence[str] = ()) -> None:
        if candidates:
            text = (
                f"this thread has no current Celery app, and several apps have Rebound ({', '.join(candidates)}); "
                "call the method of the object that Rebound(app) has returned, or set one: app.set_default()"
            )
        else:
            text = (
                f"the Celery app {app_name!r} has no Rebound; write `Rebound(app)` where the app is made, "
                "and import that module before this call"
            )
        super().__init__(text)
        self.app_name = app_name
        self.candidates = tuple(candidates)

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...]]]:
        return type(self), (self.app_name, self.candidates)


class UnreachableError(ReboundError):
    """A server does not answer. Start the server, or correct its address, which is in the text."""

    def __init__(self, service: str, address: str, cause: BaseException | str) -> None:
        super().__init__(f"cannot reach {service} at {address}: {cause}")
        self.service = service
        self.address = address
        self.cause = str(cause)

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.service, self.address, self.cause)


class UnsupportedBrokerError(ReboundError):
    """The Celery app's broker is not Redis, so nothing can wait there. Set `broker_url` to a Redis.

    `memory://` is possible in tests: deliveries work within the process, and nothing is kept.
    """

    def __init__(self, address: str) -> None:
        super().__init__(
            f"the broker is {address}, and rebound keeps what waits in Redis: set broker_url to redis://, rediss:// or "
            "sentinel:// (memory:// delivers within one process, for tests)"
        )
        self.address = address

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.address,)


class AlreadyStoredError(ReboundError):
    """A task with this id waits or runs already, and the publisher asked for it to be kept. Nothing was stored."""

    def __init__(self, task_id: str, queue: str) -> None:
        super().__init__(f"the queue {queue!r} holds a task with the id {task_id!r} already")
        self.task_id = task_id
        self.queue = queue

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.task_id, self.queue)


class NotStoredError(ReboundError, OperationalError):
    """Redis has not confirmed that it stored a retry. Keep the message and try again.

    It is a subclass of kombu's OperationalError, which Celery's `apply_async` raises. So existing handlers catch it.
    """


class ClientNotInstalledError(ReboundError):
    """A setting needs a client library that is not installed. The text has the command that installs it."""

    def __init__(self, setting: str, value: str, package: str) -> None:
        super().__init__(f"{setting}={value!r} needs {package}; run: pip install {package}")
        self.setting = setting
        self.value = value
        self.package = package

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.setting, self.value, self.package)


class WireFormatError(ReboundError):
    """A stored message is damaged and cannot be read. The message is kept, not dropped."""


class UnknownVersionError(ReboundError):
    """A later version of rebound-celery wrote a stored message, and this version cannot act on it.

    The message stays in the schedule for a worker of the later version. Update the workers before the publishers.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"a later version wrote {what}; update the workers before the publishers")
        self.what = what

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), (self.what,)


class UnknownKeyError(UnknownVersionError):
    """A stored message is encrypted, and no key of `rebound_encryption_keys` opens it.

    The message stays in the schedule for a worker that has the key.
    """

    def __init__(self, identity: str, what: str) -> None:
        ReboundError.__init__(self, f"a stored message is encrypted with the key {identity!r}, {what}")
        self.identity = identity
        self.what = what

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), (self.identity, self.what)


class DeliveryError(ReboundError):
    """A message was not delivered. Each subclass is one reason, with its own consequence."""


class OutageError(DeliveryError):
    """The destination does not answer. The message waits and is delivered later. No attempt is used up."""


class RejectedError(DeliveryError):
    """The destination will never take this message. It becomes a dead letter at once."""


class AttemptFailedError(DeliveryError):
    """The destination has answered with a failure. This attempt is used up."""


class DeadLetterError(DeliveryError):
    """The message was given up, and its dead letter is written. The text names the reason and the last error.

    It is the result of the delivery task that wrote the dead letter (`AsyncResult.result`).
    """


class DroppedError(DeliveryError):
    """The message was dropped, because its policy has a rule that drops it. The text has the error.

    It is the result of the delivery task (`AsyncResult.result`).
    """


class DeadLetterLimitError(ReboundError):
    """The consumer stopped, because too many records became dead letters. Mend the cause, and start it again.

    The record that exceeded the limit is not committed. It is consumed again after the next start.
    """
