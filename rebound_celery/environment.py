"""Reads from the process' environment what is no setting: proxies, and names that are nearly those of settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches

from .config import PREFIX, SETTING_NAMES
from .kafka_security import variables


def misspelt_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a text for each environment variable whose name is nearly that of a setting, and so has no effect."""
    known = [*(name.upper() for name in SETTING_NAMES), *variables()]
    # Other names may belong to the user's own programs.
    return [
        f"the environment variable {name} has no effect; is it {near[0]}?"
        for name in sorted(os.environ if environ is None else environ)
        if name.startswith(PREFIX.upper()) and name not in known and (near := get_close_matches(name, known, 1, 0.9))
    ]


def environment_proxies() -> dict[str, str]:
    """The proxies that the environment names to all HTTP clients: by scheme, `all`, and as `no` what needs none."""
    from urllib.request import getproxies

    return getproxies()
