"""What a Celery app's user has configured, and when that is known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from difflib import get_close_matches
from functools import partial
from types import ModuleType
from typing import Any

from celery import Celery

from .shown_settings import hide_secrets

logger = logging.getLogger(__name__)


def when_configured(app: Celery, call: Callable[[], None]) -> None:
    """Call now if the app is configured, and whenever it reads its configuration (again)."""
    if app.configured:
        call()
    app.on_after_configure.connect(lambda **_: call(), weak=False)


def when_finalized(app: Celery, call: Callable[[], object]) -> None:
    """Call now if the app is finalized, or as soon as it is."""
    if app.finalized:
        call()
    else:
        app.on_after_finalize.connect(lambda **_: call(), weak=False)


def is_set(app: Celery, name: str) -> bool:
    """Whether the app's user has set this Celery setting, under whichever of its names."""
    names = {name, name.upper()}
    if app.namespace:
        names.add(f"{app.namespace}_{name}".upper())
    return any(candidate in layer for layer in (app.conf.changes, app.loader.conf or {}) for candidate in names)


def unknown_settings(app: Celery, prefix: str, known: Collection[str]) -> list[str]:
    """Return a text for each setting with this prefix that the app's user has set and that is not known.

    Celery ignores them without a word. They may belong to a later version, so they are no error.

    Args:
        app: the Celery app.
        prefix: how the names of the settings begin, in lower case.
        known: the names of all settings.
    """
    app.conf.get(prefix)  # Until Celery has read the configuration, its layers are not to be told apart.
    namespace = f"{app.namespace}_".lower() if app.namespace else ""
    found = set()
    for layer, begin in ((app.conf.changes, prefix), (app.loader.conf or {}, namespace + prefix)):
        for key in list(layer):
            name = str(key).lower()
            # A module of settings also has what it imports, such as `rebound_celery`.
            if name.startswith(begin) and not (callable(layer[key]) or isinstance(layer[key], ModuleType)):
                found.add(prefix + name[len(begin) :])
    texts = []
    for name in sorted(found.difference(known)):
        near = get_close_matches(name, known, n=1, cutoff=0.8)
        texts.append(f"there is no setting {name}, so it has no effect{f'; is it {near[0]}?' if near else ''}")
    return texts


def warn_of_unknown_settings(app: Celery, prefix: str, known: Collection[str], more: Collection[str] = ()) -> None:
    """Log a warning for each of the `unknown_settings`, and the texts `more`."""
    for text in (*unknown_settings(app, prefix, known), *more):
        logger.warning(text)


def prepare(app: Celery) -> None:
    """Let Flower see the tasks of an app, and nobody the secrets in rebound's settings."""
    # At once: Celery chooses how settings are shown before it reads them.
    hide_secrets()
    when_configured(app, partial(turn_on_events, app))


def turn_on_events(app: Celery) -> None:
    """Let Flower see tasks, unless the app says otherwise: without events it shows nothing."""
    for name in ("worker_send_task_events", "task_send_sent_event"):
        if not is_set(app, name):
            app.conf[name] = True


class LiveSetting:
    """A Celery setting that is read each time, for a tenth of what `app.conf` takes.

    Celery looks it up under all of its names in all of its layers. Here only what the app has changed is looked up
    each time; what lies below is read once, and again if the app gets another configuration.

    Args:
        app: the Celery app.
        name: the setting's name.
    """

    def __init__(self, app: Celery, name: str) -> None:
        self._app = app
        self._name = name
        self._conf: Any = None
        self._names: tuple[str, ...] = ()
        self._below: Any = None

    def __call__(self) -> Any:
        conf = self._app.conf
        changes = conf.changes
        if self._conf is not conf:
            self._names = conf._to_keys(self._name)  # noqa: SLF001 - of celery: all of its names
            below = conf.copy()
            for name in self._names:
                below.changes.pop(name, None)
            self._below, self._conf = below.get(self._name), conf
        for name in self._names:
            if name in changes:
                return changes[name]
        return self._below
