"""Tokens for SASL's OAUTHBEARER, from a function of the user's."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

from kafka.net.sasl.oauth import AbstractTokenProvider

from .clock import SYSTEM_CLOCK, Clock

#: How long a token is used whose function does not say how long it is valid, in seconds.
_LIFE_S = 300.0

#: How long before its end a token is replaced, in seconds.
_MARGIN_S = 30.0


class TokenError(Exception):
    """The function of the setting `sasl_token` did not return a token. The text never holds what it returned."""


class TokenProvider(AbstractTokenProvider):
    """Asks a function for tokens, in good time before the last one ends. Threads may share it.

    Args:
        source: the function, or its name as `module:function`. It returns the token, or the token and the seconds for
            which it is valid.
        clock: tells the time.
    """

    def __init__(self, source: Callable[[], Any] | str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._source = source
        self._clock = clock
        self._lock = threading.Lock()
        self._token, self._expires_s, self._replaced_s = "", 0.0, 0.0

    def token(self) -> str:
        """Return a token. kafka-python calls this for each connection."""
        return self.token_and_expiry()[0]

    def token_and_expiry(self) -> tuple[str, float]:
        """Return a token, and the Unix time in seconds at which it ends, as confluent-kafka wants them."""
        with self._lock:
            if (now_s := self._clock.now_ms() / 1000) >= self._replaced_s:
                self._token, life_s = _ask(self._source)
                self._expires_s = now_s + life_s
                self._replaced_s = self._expires_s - min(_MARGIN_S, life_s / 2)
            return self._token, self._expires_s


def load(source: Callable[[], Any] | str) -> Callable[[], Any]:
    """Return the function that `source` is, or names as `module:function`."""
    if not isinstance(source, str):
        return source
    module, _, name = source.partition(":")
    function: Callable[[], Any] = getattr(importlib.import_module(module), name)
    return function


def _ask(source: Callable[[], Any] | str) -> tuple[str, float]:
    try:
        answer = load(source)()
    except Exception as error:  # noqa: BLE001 - the user's function may raise anything
        # Its text may hold the client's secret, and what fails here ends in log lines.
        raise TokenError(f"the function of sasl_token raised {type(error).__name__}") from None
    token, life_s = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, _LIFE_S)
    if not isinstance(token, str) or not token or not isinstance(life_s, int | float) or not life_s > 0:
        raise TokenError("the function of sasl_token returned neither a token, nor a token and its seconds")
    return token, float(life_s)
