"""What the consumer and the doctor both know of Kafka's clients: shared options, codecs, and names that are alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

#: The options of `rebound_kafka_options` that begin like this are about the connection. They hold for a consumer too.
_SHARED = ("security_protocol", "sasl_", "ssl_", "proxy_url", "socks5_proxy", "api_version")

#: The numbers of the codecs in a batch of records, and their names.
CODECS = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}

INSTALL_CODECS = 'pip install "kafka-python[lz4,snappy,zstd]"'


def shared_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a producer that a consumer of the same brokers needs too."""
    return {name: value for name, value in options.items() if name.startswith(_SHARED)}


def missing_codecs() -> list[str]:
    """Return the names of the codecs for which no package is installed."""
    # Imported here: kafka takes longer to import than the rest of this package.
    from kafka import codec

    return [name for name in CODECS.values() if not getattr(codec, f"has_{name}")()]


def near_matches(name: str, present: Iterable[str]) -> list[str]:
    """Return the names in `present` that are most like `name`, at most three."""
    return difflib.get_close_matches(name, list(present), n=3)
