"""Reads the addresses of Kafka brokers."""

from __future__ import annotations

from .errors import InvalidSettingError
from .message.address import is_host, is_port
from .shown import shown_url, without_secrets


def parse_brokers(value: object, name: str = "brokers") -> tuple[str, ...]:
    """Return brokers as a tuple of `host:port`; a missing port becomes 9092.

    Args:
        value: `host:port`, several of them with commas, or a list of them.
        name: the name of the setting in the error.

    Raises:
        InvalidSettingError: for anything else.
    """
    rule = "give host:port, or several with commas"
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple | set | frozenset) or not items:
        raise InvalidSettingError(name, value, rule)
    brokers = []
    for item in items:
        text = item.strip() if isinstance(item, str) else ""
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):  # no port, or a bare IPv6 address in brackets
            host, port = text, "9092"
        if not is_host(host) or not is_port(port):
            raise InvalidSettingError(name, _shown_brokers(value), rule)
        brokers.append(f"{host}:{port}")
    return tuple(brokers)


def _shown_brokers(value: object) -> object:
    """Brokers as an error may show them: where a URL was given, it may have a password."""
    if isinstance(value, str):
        return ",".join(map(without_secrets, value.split(",")))
    return [shown_url(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else value
