"""Every error that rebound raises. The docstring of each says what it means and what to do next."""

from __future__ import annotations

from kombu.exceptions import OperationalError


class ReboundError(Exception):
    """The root of all errors that rebound raises."""


class InvalidSettingError(ReboundError, ValueError):
    """A value cannot be used. The text names the field, the value, and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}={_shown(value)} cannot be used: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[type, tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.allowed)


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - an object of the caller's may do anything
        return f"<{type(value).__name__}>"


class NotInstalledError(ReboundError):
    """The Celery app has no Rebound. Write `Rebound(app)` where the app is made."""

    def __init__(self, app_name: str) -> None:
        super().__init__(
            f"the Celery app {app_name!r} has no Rebound; write `Rebound(app)` where the app is made, "
            "and import that module before this call"
        )


class UnreachableError(ReboundError):
    """A server does not answer. The text names its address: start the server, or correct the address."""

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


class NotStoredError(ReboundError, OperationalError):
    """Redis has not confirmed that it stored a retry: keep the message and try again.

    It is also kombu's OperationalError, which Celery's `apply_async` raises, so that existing handlers catch it.
    """


class ClientNotInstalledError(ReboundError):
    """A setting asks for a client library that is not installed; the text says how to install it."""

    def __init__(self, setting: str, value: str, package: str, extra: str) -> None:
        super().__init__(f"{setting}={value!r} needs {package}; run: pip install 'rebound-celery[{extra}]'")
        self.setting = setting
        self.value = value
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        return type(self), (self.setting, self.value, self.package, self.extra)


class WireFormatError(ReboundError):
    """A stored message is damaged and cannot be read. It is kept aside, not dropped."""


class UnknownVersionError(ReboundError):
    """A later version of rebound-celery wrote a stored message, and this one cannot act on it.

    The message stays where it is, for a worker of that version: update the workers before the publishers.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"a later version wrote {what}; update the workers before the publishers")
        self.what = what

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.what,)


class DeliveryError(ReboundError):
    """A message was not delivered. The subclasses say whether and how the delivery is tried again."""


class OutageError(DeliveryError):
    """The destination is away. The message waits and is delivered later. No attempt is used up."""


class RejectedError(DeliveryError):
    """The destination will never take this message. It becomes a dead letter at once."""


class AttemptFailedError(DeliveryError):
    """The destination has answered with a failure. This attempt is used up."""


class DeadLetterError(DeliveryError):
    """The message was given up, and its dead letter is written. The text names the reason and the last error.

    It is the result of the delivery task that wrote the dead letter (`AsyncResult.result`).
    """
