"""How messages are sent to HTTP destinations: the options of each, and which URLs they are for."""

from __future__ import annotations

from .keys import SigningKey
from .options import HttpOptions
from .rules import HEADER_NAME, MAX_CONCURRENCY, OF_CONNECTION, Network
from .table import HttpTable, read_http_table

__all__ = [
    "HEADER_NAME",
    "MAX_CONCURRENCY",
    "OF_CONNECTION",
    "HttpOptions",
    "HttpTable",
    "Network",
    "SigningKey",
    "read_http_table",
]
