"""Connects what Celery's worker connects for an app's framework, such as Django."""

from __future__ import annotations

from celery import Celery
from celery.fixups.django import DjangoFixup


def install_worker_fixups(app: Celery) -> None:
    """Connect Django's clean-up to the signals around tasks, if the app is used with Django.

    Celery's worker does this when it sends `worker_init`. A consumer is no worker: other receivers of that signal may
    expect one. So the fixup that the app has is called directly. It closes database connections that became unusable.
    """
    for fixup in app._fixups or ():
        if isinstance(fixup, DjangoFixup):
            fixup.worker_fixup.install()
