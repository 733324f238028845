"""Addresses of messages: a Kafka topic, an HTTP URL, or the dead set in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec

from ..caching import cached
from ..errors import InvalidSettingError
from ..policy.checks import check_topic
from ..shown import shown_url
from ..urls.http_url import HttpUrl, read_http_url

_URL_RULE = "use kafka://topic, kafka://host:port/topic, http://host/path or https://host/path"


def is_port(text: str) -> bool:
    """Return whether a text is the number of a port."""
    # int() raises its own error for a text of thousands of digits.
    return text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536


def is_host(text: str) -> bool:
    """Return whether a text may be the host of a broker. User and password are no part of it."""
    return bool(text) and not any(character.isspace() or character in "/@;" for character in text)


def _is_broker(text: str) -> bool:
    host, _, port = text.strip().rpartition(":")
    return is_host(host) and is_port(port)


class KafkaAddress(msgspec.Struct, frozen=True, cache_hash=True, gc=False):
    """A Kafka topic.

    Attributes:
        topic: the topic's name.
        brokers: `host:port`, or several with commas; None means the app's own (`rebound_kafka_brokers`).
        partition: a fixed partition; None lets the record's key decide, as it did for the original record.
    """

    kind: ClassVar[str] = "kafka"

    topic: str
    brokers: str | None = None
    partition: int | None = None

    def __post_init__(self) -> None:
        check_topic(self.topic, "destination topic")
        if self.brokers is not None and not (
            isinstance(self.brokers, str) and all(map(_is_broker, self.brokers.split(",")))
        ):
            raise InvalidSettingError("destination brokers", shown_url(self.brokers), "give each as host:port")
        if self.partition is not None and (
            isinstance(self.partition, bool) or not isinstance(self.partition, int) or self.partition < 0
        ):
            raise InvalidSettingError("destination partition", shown_url(self.partition), "it is a whole number from 0")

    def __str__(self) -> str:
        return f"kafka:{self.topic}"

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {"topic": self.topic}
        if self.brokers is not None:
            wire["brokers"] = self.brokers
        if self.partition is not None:
            wire["partition"] = self.partition
        return wire


class HttpAddress(msgspec.Struct, frozen=True, cache_hash=True, gc=False):
    """A URL that takes a POST.

    Attributes:
        url: as it was given. User and password become the header `Authorization`.
        public_only: whether it comes from somebody who is not trusted, so that only public addresses are connected to.
    """

    kind: ClassVar[str] = "http"

    url: str
    public_only: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.public_only, bool):
            raise InvalidSettingError("destination public_only", self.public_only, "it is True or False")
        try:
            read_http_url(self.url)
        except ValueError as error:
            raise InvalidSettingError("destination url", shown_url(self.url), str(error)) from None

    @property
    def parts(self) -> HttpUrl:
        """What a request needs of the URL."""
        return read_http_url(self.url)

    def __str__(self) -> str:
        """The URL without its user, password and query, which may be secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def __repr__(self) -> str:
        guard = ", public_only=True" if self.public_only else ""
        return f"{type(self).__name__}(url={self._shown_url!r}{guard})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("url", self._shown_url)]

    @property
    def _shown_url(self) -> str:
        parts = urlsplit(self.url)
        user = "***@" if "@" in parts.netloc else ""
        query = "?***" if parts.query else ""
        place = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
        return f"{parts.scheme}://{user}{place}{query}"

    def to_wire(self) -> dict[str, Any]:
        return {"url": self.url, "public_only": True} if self.public_only else {"url": self.url}


class DeadSetAddress(msgspec.Struct, frozen=True, cache_hash=True, gc=False):
    """The dead set in Redis. It keeps the dead letters that have no topic or URL to go to."""

    kind: ClassVar[str] = "dead-set"

    def __str__(self) -> str:
        return "dead-set"

    def to_wire(self) -> dict[str, Any]:
        return {"dead_set": True}


Address = KafkaAddress | HttpAddress | DeadSetAddress


@cached
def policy_names(address: Address) -> tuple[str | None, str]:
    """Return the topic of an address, and its name in the policies by destination: `kafka://topic`, or the URL.

    The name has no brokers, no user and no query. A URL has the form in which URLs are compared.
    """
    if isinstance(address, KafkaAddress):
        return address.topic, f"kafka://{address.topic}"
    if isinstance(address, HttpAddress):
        return None, address.parts.endpoint
    return None, str(address)


__all__ = [
    "ADDRESS_FIELDS",
    "DEAD_SET",
    "Address",
    "DeadSetAddress",
    "HttpAddress",
    "KafkaAddress",
    "check_topic",
    "is_host",
    "is_port",
    "parse_address",
    "policy_names",
]

DEAD_SET = DeadSetAddress()

_kafka = cached(KafkaAddress)
_http = cached(HttpAddress)


@cached
def _from_url(text: str, kind: str | None, field: str) -> Address:
    scheme, separator, rest = text.partition("://")
    if not separator and kind == "kafka":
        return KafkaAddress(text)
    if separator and scheme.lower() == "kafka":
        brokers, slash, topic = rest.partition("/")
        if slash:
            return KafkaAddress(topic.rstrip("/"), brokers=brokers or None)
        return KafkaAddress(brokers)
    if separator and scheme.lower() in ("http", "https"):
        return HttpAddress(text)
    raise InvalidSettingError(field, shown_url(text), _URL_RULE)


#: The names of all fields that `to_wire` writes.
ADDRESS_FIELDS = frozenset({"topic", "brokers", "partition", "url", "public_only", "dead_set"})


def _from_mapping(fields: Mapping[str, Any], field: str) -> Address:
    if fields.get("dead_set") is True:
        return DEAD_SET
    unknown = set(fields) - {"host", "port", "topic", "url", "public_only", "brokers", "partition"}
    if unknown:
        raise InvalidSettingError(
            field,
            shown_url(fields),
            f"{shown_url(sorted(map(str, unknown))[0])!r} is unknown; "
            "it takes host, port, topic, partition, url or public_only",
        )
    if fields.get("url"):
        return _http(fields["url"], fields.get("public_only", False))
    if "public_only" in fields:
        raise InvalidSettingError(field, shown_url(fields), "public_only goes with a url")
    brokers = fields.get("brokers")
    if fields.get("host"):
        port = fields.get("port")
        brokers = f"{fields['host']}:{9092 if port is None else port}"
    return _kafka(fields.get("topic"), brokers, fields.get("partition"))


def parse_address(value: object, *, kind: str | None = None, field: str = "destination") -> Address:
    """Read an address from a URL, a mapping, or an address object.

    Args:
        value: `kafka://topic`, `kafka://host:port/topic`, `https://...`; or a mapping with `host`, `port` and
            `topic`, or with `url`; or an address, which is returned as it is.
        kind: the expected destination type, "kafka" or "http"; None accepts both. With "kafka", `value` may also be
            a bare topic name.
        field: the name of this field in error messages.

    Raises:
        InvalidSettingError: if `value` is anything else, or its type is not `kind`.
    """
    if kind not in (None, "kafka", "http"):
        raise InvalidSettingError(f"{field}_type", kind, "it is 'kafka' or 'http'")
    address: Address
    if isinstance(value, KafkaAddress | HttpAddress | DeadSetAddress):
        address = value
    elif isinstance(value, str):
        address = _from_url(value, kind, field)
    elif isinstance(value, Mapping):
        address = _from_mapping(value, field)
    else:
        raise InvalidSettingError(field, shown_url(value), _URL_RULE)
    if kind is not None and address.kind != kind:
        given = address if address is value else shown_url(value)
        raise InvalidSettingError(field, given, f"its type is not {kind!r}, the value of {field}_type")
    return address


def endpoint_lane(endpoint: str) -> str:
    """The lane of what waits because an HTTP endpoint is disabled or wants to be left alone.

    Args:
        endpoint: its name; see `HttpUrl.endpoint`.
    """
    return f"http:{endpoint}"
