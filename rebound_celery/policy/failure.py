"""Why an attempt failed, in bounded text."""

from __future__ import annotations

import traceback

import msgspec

#: Bounds for the text that a failure adds to a record, in characters. Kafka refuses records over 1 MB by default.
MAX_ERROR_TEXT = 1_000
MAX_STACKTRACE = 8_000


class Failure(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Why an attempt failed.

    Attributes:
        exception_class: the full name of the exception's class; empty where the caller gave only a text.
        message: the exception's text.
        stacktrace: the end of the stack trace; only dead letters carry it.
        permanent: no later attempt can succeed, so the message becomes a dead letter at once.
        retry_after_s: how many seconds the destination asks to be left alone.
    """

    exception_class: str
    message: str
    stacktrace: str = ""
    permanent: bool = False
    retry_after_s: float | None = None

    @classmethod
    def of(cls, error: BaseException | str, *, with_stack: bool = False) -> Failure:
        """Describe an exception, or a text that a caller gives as the error.

        This never raises. Set `with_stack` for dead letters only: formatting the stack trace costs far more than
        storing a retry does.
        """
        if isinstance(error, str):
            return cls("", _plain(error))
        try:
            text = _plain(str(error))
        except Exception:  # noqa: BLE001 - an exception of the user's whose __str__ itself fails
            text = "(its text could not be read)"
        kind = type(error)
        try:
            module, name = kind.__module__, kind.__qualname__
        except Exception:  # noqa: BLE001 - a metaclass of the user's may do anything
            module, name = "builtins", "(its class could not be read)"
        if module != "builtins":
            name = f"{module}.{name}"
        return cls(name, text, format_stack(error) if with_stack else "")

    def __str__(self) -> str:
        return f"{self.exception_class}: {self.message}" if self.exception_class else self.message


def _plain(text: str) -> str:
    """Return the bounded text: of a plain str, whatever a subclass of str does."""
    return str.__getitem__(str.__str__(text), slice(MAX_ERROR_TEXT))


def format_stack(error: BaseException) -> str:
    """Return the end of an exception's stack trace: the last lines say where it was raised."""
    try:
        return "".join(traceback.format_exception(error, limit=-20))[-MAX_STACKTRACE:]
    except Exception:  # noqa: BLE001 - a user's exception may break whatever looks at it
        return "(the stack trace could not be read)"
