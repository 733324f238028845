"""Shows rebound's settings in `celery inspect conf`, `celery report` and Flower without the secrets in them.

The answer of `inspect conf` also travels through Redis. Celery itself hides what has `secret`, `password` or `key` in
its name, also in a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .compat.celery_settings import show_settings
from .shown import shown_url

#: Options of HTTP destinations whose values may be secret, such as a header `Authorization`.
_HIDDEN_OPTIONS = ("headers", "query")


def hide_secrets() -> None:
    """Hide them in this process."""
    show_settings(
        {
            "rebound_http_proxy": shown_url,
            "rebound_operator_url": shown_url,
            "rebound_http_destinations": _shown_destinations,
        }
    )


def _shown_destinations(value: Any) -> object:
    # The `repr` of HttpOptions shows no secret.
    if not isinstance(value, Mapping):
        return value
    return {shown_url(name): _shown_options(options) for name, options in value.items()}


def _shown_options(options: Any) -> object:
    if not isinstance(options, Mapping):
        return options
    shown = dict(options)
    for name in _HIDDEN_OPTIONS:
        if isinstance(given := shown.get(name), Mapping):
            shown[name] = dict.fromkeys(given, "***")
        elif given is not None:
            shown[name] = "***"
    if "proxy" in shown:
        shown["proxy"] = shown_url(shown["proxy"])
    return shown
