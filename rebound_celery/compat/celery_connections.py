"""Gives every connection of an app a transport option. For Celery 5.7 (`Celery._connection`).

Celery makes all connections of an app in this private method; its settings have no place for an option that belongs to
the code and not to the user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from celery import Celery

from .versions import warn_of_untested


def add_transport_option(
    app: Celery, name: str, value: str, check: Callable[[Any, Any], None], on_made: Callable[[Any], None]
) -> None:
    """Let each connection of `app` have this transport option.

    Args:
        app: the Celery app.
        name, value: the option.
        check: called with the URL and the options of each connection before it is made. It may raise.
        on_made: called with each connection.
    """
    warn_of_untested("celery")
    make_connection = app._connection

    @wraps(make_connection)
    def connection(url: Any, *args: Any, transport_options: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        configured = app.conf.broker_transport_options
        check(url, {**configured, **(transport_options or {})} if isinstance(configured, Mapping) else configured)
        options = {**(transport_options or {}), name: value}
        made = make_connection(url, *args, transport_options=options, **kwargs)
        on_made(made)
        return made

    app._connection = connection
