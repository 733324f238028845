"""What the options of a destination mean for a request: made once for each address."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlencode

from ..config import Settings
from ..environment import environment_proxies
from ..http_options import HttpOptions, HttpTable
from ..message.address import HttpAddress
from ..urls.http_url import HttpUrl
from .addresses import AddressGuard
from .http_answer import MAX_RETRY_AFTER_S, AnswerRules
from .http_proxy import Proxies
from .http_signatures import Signer

#: How many requests of a process to one host run at once, where no option says so.
DEFAULT_CONCURRENCY = 8
#: Hours of nothing but failures after which an endpoint is disabled, where no option says so.
DISABLE_AFTER_HOURS = 120.0

#: How many addresses' plans are kept.
_KEPT = 4_096


@dataclass(frozen=True, slots=True)
class Tls:
    """How servers are checked, and by which certificate this client is known; see `HttpOptions`."""

    verify: bool = True
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    password: str | None = field(default=None, repr=False)

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """What changes when a file is replaced, as certificates are when they are renewed.

        Raises:
            ValueError: naming the file that is not there.
        """
        found = []
        for name in ("ca_file", "client_cert", "client_key"):
            path = getattr(self, name)
            if path is not None:
                try:
                    state = Path(path).stat()
                except OSError as error:
                    raise ValueError(f"{name}={path!r} cannot be used: {error}") from error
                found.append((state.st_mtime_ns, state.st_ino))
        return tuple(found)

    def context(self) -> ssl.SSLContext:
        """Load the files.

        Raises:
            ValueError: naming the file that cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca_file is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(self.ca_file)
            except OSError as error:
                raise ValueError(f"ca_file={self.ca_file!r} cannot be used: {error}") from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_cert is not None:
            try:
                # Without a password, OpenSSL would ask the terminal for the one of an encrypted key.
                context.load_cert_chain(self.client_cert, self.client_key, self.password or "")
            except OSError as error:
                raise ValueError(f"client_cert={self.client_cert!r} cannot be used: {error}") from error
        return context


@dataclass(frozen=True, slots=True)
class Plan:
    """How messages are sent to one address.

    Attributes:
        url: where to, with the query of the options.
        method: of HTTP.
        headers: what the options add.
        signer: signs; None where there is no key.
        rules: what answers mean.
        connect_s, read_s, timeout_s: time-outs; None for what the destination has.
        concurrency: how many requests to the host run at once.
        rate: how many requests to the host begin in a second at most; None for no limit.
        guard: which addresses are connected to; None for all.
        tls: how servers are checked; None for the system's way.
        proxies: which proxy the request goes through.
        endpoint: the URL without user and query, by which people know the receiver.
        disable_after_s: seconds of nothing but failures after which the endpoint is disabled; 0 for never.
    """

    url: HttpUrl
    method: str
    headers: Mapping[str, str] | None
    signer: Signer | None
    rules: AnswerRules
    connect_s: float | None
    read_s: float | None
    timeout_s: float | None
    concurrency: int
    rate: float | None
    guard: AddressGuard | None
    tls: Tls | None
    proxies: Proxies
    endpoint: str
    disable_after_s: float

    @property
    def shown(self) -> str:
        """Method and URL, for people."""
        return f"{self.method} {self.endpoint}"


class Plans:
    """Makes the plan of each address.

    Args:
        table: the options.
        proxies: the proxies where the options name none.
    """

    def __init__(self, table: HttpTable | None = None, proxies: Proxies | None = None) -> None:
        self._table = HttpTable() if table is None else table
        self._proxies = Proxies() if proxies is None else proxies
        self.of: Callable[[HttpAddress], Plan] = lru_cache(_KEPT)(self._of)

    @classmethod
    def with_settings(cls, settings: Settings) -> Plans:
        """Plans with an app's settings, and with the proxies of this process' environment."""
        return cls(settings.http_destinations, Proxies(settings.http_proxy, environment_proxies()))

    def _of(self, address: HttpAddress) -> Plan:
        """The plan of an address.

        Raises:
            ClientNotInstalledError: if a key needs a package that is not installed.
        """
        url = address.parts
        endpoint = url.endpoint
        options = self._table.of(endpoint)
        guarded = address.public_only if options.public_only is None else options.public_only
        return Plan(
            url=HttpUrl(url.scheme, url.host, url.port, _with_query(url.target, options.query), url.authorization),
            method=options.method or "POST",
            headers=_further(options),
            signer=Signer(options.keys) if options.keys else None,
            rules=AnswerRules(
                bool(options.strict),
                options.max_redirects or 0,
                MAX_RETRY_AFTER_S if options.max_retry_after is None else options.max_retry_after,
            ),
            connect_s=options.connect_timeout,
            read_s=options.read_timeout,
            timeout_s=options.timeout,
            concurrency=options.concurrency or DEFAULT_CONCURRENCY,
            rate=options.rate,
            guard=AddressGuard(options.networks) if guarded else None,
            tls=_tls_of(options),
            proxies=self._proxies if options.proxy is None else Proxies(options.proxy),
            endpoint=endpoint,
            disable_after_s=3600 * (DISABLE_AFTER_HOURS if options.disable_after is None else options.disable_after),
        )


def _with_query(target: str, query: Mapping[str, str] | None) -> str:
    if not query:
        return target
    joint = "" if target.endswith(("?", "&")) else "&" if "?" in target else "?"
    return f"{target}{joint}{urlencode(query)}"


def _further(options: HttpOptions) -> Mapping[str, str] | None:
    if options.content_type is None:
        return options.headers
    return {**(options.headers or {}), "content-type": options.content_type}


def _tls_of(options: HttpOptions) -> Tls | None:
    verify = options.verify is not False
    ca_file, cert, key = map(_text, (options.ca_file, options.client_cert, options.client_key))
    if verify and ca_file is None and cert is None:
        return None
    return Tls(verify, ca_file, cert, key, options.client_key_password)


def _text(path: object) -> str | None:
    return None if path is None else str(path)


def check(options: HttpOptions) -> None:
    """Load what options name.

    Raises:
        ClientNotInstalledError: if a key needs a package that is not installed.
        ValueError: if a file cannot be used.
    """
    if options.keys:
        Signer(options.keys)
    if (tls := _tls_of(options)) is not None:
        tls.context()
