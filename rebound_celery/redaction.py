"""Redacts what is kept of errors and of the headers of dead letters, with a function of the user's."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from msgspec.structs import replace

from .errors import InvalidSettingError
from .message import Message
from .policy import Failure
from .policy.failure import MAX_ERROR_TEXT, MAX_STACKTRACE, format_stack

#: What the function is told of a value: "error", "stacktrace", or "header:" and the header's name.
ERROR = "error"
STACKTRACE = "stacktrace"
HEADER = "header:"

Hook = Callable[[str, Any], Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Redactor:
    """Gives texts and headers to the user's function, and keeps what it returns.

    If the function fails or returns something else, the value is not kept: a fault must not show what is secret.

    Attributes:
        hook: the function, its name as `module:function`, or None for none.
    """

    hook: Hook | str | None = field(default=None, repr=False)

    @classmethod
    def read(cls, name: str, value: object) -> Redactor:
        """Return the redactor of a setting.

        Raises:
            InvalidSettingError: if it is neither a function nor a name.
        """
        if isinstance(value, cls):
            return value
        if not callable(value) and not (isinstance(value, str) and all(value.partition(":"))):
            raise InvalidSettingError(name, value, "it is a function, or its name as module:function")
        return cls(value)

    @property
    def is_on(self) -> bool:
        return self.hook is not None

    def check(self) -> None:
        """Import the function.

        Raises:
            InvalidSettingError: if that fails.
        """
        if isinstance(self.hook, str):
            try:
                hook = _imported(self.hook)
            except Exception as error:
                raise InvalidSettingError("rebound_redact", self.hook, f"it cannot be imported: {error!r}") from error
            if not callable(hook):
                raise InvalidSettingError("rebound_redact", self.hook, "it is no function")

    def check_or_exit(self) -> None:
        """Import the function; end the process that starts if that fails.

        Nothing would be kept of any error, and dead letters would lose their headers for good.

        Raises:
            SystemExit: from a signal of Celery's, which logs any other exception and goes on.
        """
        try:
            self.check()
        except InvalidSettingError as error:
            raise SystemExit(f"{type(error).__name__}: {error}") from error

    def text(self, text: str, where: str = ERROR, most: int = MAX_ERROR_TEXT) -> str:
        """Return what is kept of a text, which is at most `most` characters."""
        if self.hook is None or not text:
            return text
        kept = self._ask(where, text)
        return kept[:most] if isinstance(kept, str) else "" if kept is None else "(redacted)"

    def failure(self, failure: Failure) -> Failure:
        """Return the failure with its text and its stack trace redacted."""
        if self.hook is None:
            return failure
        return replace(
            failure,
            message=self.text(failure.message),
            stacktrace=self.text(failure.stacktrace, STACKTRACE, MAX_STACKTRACE),
        )

    def dead_letter(self, message: Message) -> Message:
        """Return a message with its headers redacted if it is a dead letter. A retry keeps its headers as they are."""
        if self.hook is None or message.reason is None or not message.headers:
            return message
        kept = []
        for name, value in message.headers:
            if value is not None:
                value = self._ask(HEADER + name, value)
                if isinstance(value, str):
                    value = value.encode("utf-8", "replace")
                if not isinstance(value, bytes):
                    continue
            kept.append((name, value))
        return replace(message, headers=tuple(kept))

    def log(
        self,
        logger: logging.Logger,
        text: str,
        *args: object,
        error: BaseException,
        extra: dict[str, object],
        level: int = logging.ERROR,
    ) -> None:
        """Log an exception with its stack trace, which is redacted."""
        if self.hook is None:
            logger.log(level, text, *args, exc_info=error, extra=extra, stacklevel=2)
        elif logger.isEnabledFor(level):
            # As a part of the text: a formatter writes the exception itself, with its causes.
            stack = self.text(format_stack(error), STACKTRACE, MAX_STACKTRACE)
            logger.log(level, text + "\n%s", *args, stack, extra=extra, stacklevel=2)

    def _ask(self, where: str, value: Any) -> Any:
        """Return the function's answer; `_FAULT` if it fails."""
        try:
            hook = _imported(self.hook) if isinstance(self.hook, str) else self.hook
            return hook(where, value)  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - the user's function may raise anything
            # Its text may hold the value that it was to redact.
            logger.error(  # noqa: TRY400
                "the function of rebound_redact raised %s for %s, which is not kept",
                type(error).__name__,
                where,
                extra={"event": "redact_failed"},
            )
            return _FAULT


_FAULT = object()

#: Keeps everything as it is.
NO_REDACTION = Redactor()


@lru_cache(64)
def _imported(name: str) -> Hook:
    module, _, attribute = name.partition(":")
    hook: Hook = getattr(importlib.import_module(module), attribute)
    return hook
