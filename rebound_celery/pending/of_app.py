"""Finds what waits in the schedule of any app that has one."""

from __future__ import annotations

from typing import Any

from .. import registry
from ..errors import NotInstalledError
from ..schedule.port import is_installed, open_schedule
from .acting import teller_of
from .pending import Pending


def pending_of(app: Any) -> Pending:
    """Return what waits in the schedule of an app: with Rebound, or with `install_schedule` alone.

    Raises:
        NotInstalledError: if the app has neither.
    """
    found: Any = registry.installed(app)
    if found is not None:
        pending: Pending = found.pending
        return pending
    if not is_installed(app):
        raise NotInstalledError(str(app.main))

    def queue() -> str:
        return str(app.conf.task_default_queue)

    return Pending(app, lambda: open_schedule(app, queue()), queue, revoked=teller_of(app))
