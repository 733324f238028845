"""Puts transports under kombu's own aliases. For kombu 5.7 (`TRANSPORT_ALIASES`, `_transport_cache`).

Tools that read the URL's scheme, as Flower does, know only kombu's own schemes.
"""

from __future__ import annotations

from collections.abc import Mapping

import kombu.transport

from .versions import warn_of_untested


def replace_transports(classes: Mapping[str, str]) -> None:
    """Let each alias name this class, written as `module:Class`."""
    warn_of_untested("kombu")
    for alias, name in classes.items():
        kombu.transport.TRANSPORT_ALIASES[alias] = name
        # kombu remembers what it has resolved.
        kombu.transport._transport_cache.pop(alias, None)
