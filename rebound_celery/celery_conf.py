"""What a Celery app's user has configured, and when that is known."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery


def when_configured(app: Celery, call: Callable[[], None]) -> None:
    """Call now if the app is configured, and whenever it reads its configuration (again)."""
    if app.configured:
        call()
    app.on_after_configure.connect(lambda **_: call(), weak=False)


def is_set(app: Celery, name: str) -> bool:
    """Whether the app's user has set this Celery setting, under whichever of its names."""
    names = {name, name.upper()}
    if app.namespace:
        names.add(f"{app.namespace}_{name}".upper())
    return any(candidate in layer for layer in (app.conf.changes, app.loader.conf or {}) for candidate in names)
