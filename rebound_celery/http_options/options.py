"""The options of an HTTP destination."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..errors import InvalidSettingError
from .keys import SigningKey
from .rules import RULES, Network


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpOptions:
    """How messages are sent to an HTTP destination. What is None is as `*` says, or else as here.

    Attributes:
        method: "POST"; or "PUT", "PATCH" or "DELETE".
        headers: further headers. They win over a message's own, and are not sent where a redirect leaves the host.
        content_type: in place of the one that the message has.
        query: parameters that are added to the URL's query.
        secret: keys that sign each request as Standard Webhooks says: a text `whsec_...` (HMAC-SHA256, `v1`) or
            `whsk_...` (Ed25519, `v1a`), a mapping with `key` and `until`, or a list of these. All that are not past
            their `until` sign.
        strict: False; with True, an answer 4xx other than 408, 410, 421, 425 and 429 makes a dead letter at once.
        max_redirects: 0; how many redirects are followed, at most 10.
        connect_timeout: seconds to connect, TLS included; `rebound_http_connect_timeout`.
        read_timeout: seconds without a byte of the answer; None for no limit of its own.
        timeout: seconds for a request as a whole; at most `rebound_http_timeout`.
        max_retry_after: 86400; the longest wait that an answer's `Retry-After` can ask for, in seconds.
        concurrency: 8; how many requests of a process to one host run at once, at most 64.
        rate: how many requests a second a process begins to one host at most; None for no limit.
        public_only: False; with True, only public addresses are connected to. Messages whose address says so
            (`{"url": ..., "public_only": True}`) are guarded unless this is False.
        allowed_networks: networks that are connected to in spite of `public_only`, such as "10.1.0.0/16".
        verify: True; False accepts any certificate.
        ca_file: PEM file of the authorities that are trusted, in place of the system's.
        client_cert, client_key, client_key_password: PEM files of the certificate by which this client is known, and
            of its key where that is another file.
        proxy: as `rebound_http_proxy`, for these destinations.
        disable_after: 120; hours of nothing but failures after which an endpoint is disabled. 0 disables none.
    """

    method: str | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    content_type: str | None = None
    query: Mapping[str, str] | None = field(default=None, repr=False)
    secret: Any = field(default=None, repr=False)
    strict: bool | None = None
    max_redirects: int | None = None
    connect_timeout: float | None = None
    read_timeout: float | None = None
    timeout: float | None = None
    max_retry_after: float | None = None
    concurrency: int | None = None
    rate: float | None = None
    public_only: bool | None = None
    allowed_networks: Any = None
    verify: bool | None = None
    ca_file: str | os.PathLike[str] | None = None
    client_cert: str | os.PathLike[str] | None = None
    client_key: str | os.PathLike[str] | None = None
    client_key_password: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    disable_after: float | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidSettingError: naming the option, its value, and what is allowed.
        """
        for name, read in RULES.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, read(name, value))
        if self.client_key is not None and self.client_cert is None:
            raise InvalidSettingError("client_key", self.client_key, "give client_cert too")

    @property
    def keys(self) -> tuple[SigningKey, ...]:
        """What `secret` has been read as."""
        return self.secret or ()

    @property
    def networks(self) -> tuple[Network, ...]:
        """What `allowed_networks` has been read as."""
        return self.allowed_networks or ()

    def over(self, others: HttpOptions) -> HttpOptions:
        """These options, and those of `others` where these have none."""
        values = {f.name: getattr(others, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **values)
