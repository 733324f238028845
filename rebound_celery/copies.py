"""What is put on a Celery app is put on its copies too: those in its process, and those of spawned processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from celery import Celery


def keep_in_copies(app: Celery, install: Callable[[Celery], object]) -> None:
    """Call `install` with each copy of `app`, at the end of its making.

    Copies are made by `copy.copy`, and by pickling, as for the children of a pool that spawns them.

    Args:
        app: the Celery app.
        install: it is pickled with the app.
    """
    # A copy of the app has its fixups (see `__reduce_keys__`), and Celery calls them where it makes the copy.
    app.fixups = [*app.fixups, _InCopies(install)]


class _InCopies:
    """A fixup of Celery's that calls `install` once its app is complete: a fixup itself is called before that."""

    def __init__(self, install: Callable[[Celery], object]) -> None:
        self._install = install

    def __call__(self, app: Celery) -> _InCopies:
        then = app.on_init
        # Celery calls it when all else of the app is there, such as its signals.
        app.on_init = partial(self._on_init, app, then)
        return self

    def _on_init(self, app: Celery, then: Callable[[], None]) -> None:
        del app.on_init
        then()
        app.fixups = [fixup for fixup in app.fixups if fixup is not self]
        self._install(app)
