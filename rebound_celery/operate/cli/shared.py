"""What most commands have: an option for JSON, and the Rebound of the app."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

if TYPE_CHECKING:
    from rebound_celery.app import Rebound

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, with stable keys.")


def rebound_of(ctx: click.Context) -> Rebound:
    """Return the Rebound of the command's app.

    Raises:
        NotInstalledError: if the app has none.
    """
    from rebound_celery import registry

    return cast("Rebound", registry.find(ctx.obj.app))
