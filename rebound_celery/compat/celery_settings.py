"""Hides more in what `celery inspect conf` and `celery report` show. For Celery 5.7 (`filter_hidden_settings`).

Celery hides the values of settings whose names say that they are secret. Others may hold a secret too, such as a URL
with a password, and an app cannot name them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from celery.app import utils

from .versions import warn_of_untested


def show_settings(shown: Mapping[str, Callable[[Any], object]]) -> None:
    """Let the values of these settings be shown as these functions return them. A second time changes nothing.

    Args:
        shown: from a setting's name in lower case, which may have the namespace of an app before it, to a function.
    """
    warn_of_untested("celery")
    original = utils.filter_hidden_settings
    if hasattr(original, "rebound"):
        return

    @wraps(original)
    def filter_hidden_settings(conf: Mapping[Any, Any]) -> dict[Any, Any]:
        # It calls itself for mappings in mappings, so what this gets may also be a part of a setting.
        filtered: dict[Any, Any] = original(conf)
        for key, value in filtered.items():
            if isinstance(key, str):
                name = key.lower()
                for setting, show in shown.items():
                    if name == setting or name.endswith(f"_{setting}"):
                        filtered[key] = show(value)
        return filtered

    filter_hidden_settings.rebound = True  # type: ignore[attr-defined]
    utils.filter_hidden_settings = filter_hidden_settings
