"""Every error that rebound raises; the docstring of each is what it means and what to do next."""

from __future__ import annotations

from kombu.exceptions import OperationalError


class ReboundError(Exception):
    """The root of all errors that rebound raises."""


class InvalidSettingError(ReboundError, ValueError):
    """A value that cannot be used; the text names the field, the value, and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}={value!r} cannot be used: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[type, tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.allowed)


class NotInstalledError(ReboundError):
    """The Celery app has no Rebound: write `Rebound(app)` where the app is made."""

    def __init__(self, app_name: str) -> None:
        super().__init__(
            f"the Celery app {app_name!r} has no Rebound; write `Rebound(app)` where the app is made, "
            "and import that module before this call"
        )


class UnreachableError(ReboundError):
    """A server does not answer; the text names the address that was tried. Start it, or correct the address."""

    def __init__(self, service: str, address: str, cause: BaseException | str) -> None:
        super().__init__(f"cannot reach {service} at {address}: {cause}")
        self.service = service
        self.address = address
        self.cause = str(cause)

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.service, self.address, self.cause)


class NotStoredError(ReboundError, OperationalError):
    """A retry could not be stored in Redis, so nothing was promised about it: keep the message and try again.

    It is also the OperationalError that Celery's `apply_async` raises then, so that existing handlers catch it.
    """


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
    """A delivery did not happen; its subclasses say whether and how it is tried again."""


class OutageError(DeliveryError):
    """The destination is away. The message waits and is delivered later; no attempt is used up."""


class RejectedError(DeliveryError):
    """The destination will never take this message, so it becomes a dead letter at once."""


class AttemptFailedError(DeliveryError):
    """The destination answered, and the answer was a failure: this attempt is used up."""
