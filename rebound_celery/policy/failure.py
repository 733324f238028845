"""The failure of an attempt, as bounded text."""

from __future__ import annotations

import traceback

import msgspec

from .causes import full_name
from .instructions import Instruction

#: Bounds for the text that a failure adds to a record, in characters. Kafka refuses records over 1 MB by default.
MAX_ERROR_TEXT = 1_000
MAX_STACKTRACE = 8_000


class Failure(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The failure of an attempt.

    Attributes:
        exception_class: the full name of the exception's class; empty if the caller gave only a text.
        message: the exception's text.
        stacktrace: the end of the stack trace. Only dead letters carry it; otherwise it is empty.
        permanent: no later attempt can succeed, so the message becomes a dead letter at once.
        retry_after_s: the least delay before the next attempt that the destination asked for, in seconds; None if it
            asked for none.
    """

    exception_class: str
    message: str
    stacktrace: str = ""
    permanent: bool = False
    retry_after_s: float | None = None

    @classmethod
    def of(cls, error: BaseException | str, *, with_stack: bool = False) -> Failure:
        """Describe an exception, or an error that the caller gives as a text. This never raises.

        Args:
            error: the exception or the text.
            with_stack: add the stack trace. Use it for dead letters only, because formatting a stack trace takes far
                longer than storing a retry.
        """
        if isinstance(error, str):
            return cls("", _plain(error))
        if isinstance(error, Instruction) and error.__cause__ is not None:
            # `raise DeadLetter("no such customer") from error`: the failure is that error.
            error = error.__cause__
        try:
            text = _plain(str(error))
        except Exception:  # noqa: BLE001 - the __str__ of a user's exception may fail
            text = "(its text could not be read)"
        kind = type(error)
        try:
            name = full_name(kind)
        except Exception:  # noqa: BLE001 - a user's metaclass may raise anything
            name = "(its class could not be read)"
        return cls(name, text, format_stack(error) if with_stack else "")

    def __str__(self) -> str:
        return f"{self.exception_class}: {self.message}" if self.exception_class else self.message


def _plain(text: str) -> str:
    """Return the bounded text as a plain str. The methods of a subclass of str are not called."""
    if type(text) is str and len(text) <= MAX_ERROR_TEXT:
        return text
    return str.__getitem__(str.__str__(text), slice(MAX_ERROR_TEXT))


def format_stack(error: BaseException) -> str:
    """Return the end of an exception's stack trace. Its last lines say where the exception was raised."""
    try:
        return "".join(traceback.format_exception(error, limit=-20))[-MAX_STACKTRACE:]
    except Exception:  # noqa: BLE001 - formatting calls methods of a user's exception, which may fail
        return "(the stack trace could not be read)"
