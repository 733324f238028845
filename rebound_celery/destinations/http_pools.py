"""The pools of connections of the HTTP destination."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from queue import Empty
from typing import Any

import urllib3

from ..http_options import MAX_CONCURRENCY, Network
from ..urls.http_url import HttpUrl
from .deadline import HTTPConnectionPool, HTTPSConnectionPool
from .http_plan import DEFAULT_CONCURRENCY, Plan, Tls

#: What requests need to have in common to share connections: the proxy, the files of TLS, and the networks that are
#: allowed beside public addresses, or None if all are. A connection that was opened with a weaker check must not serve
#: a request with a stricter one.
_Shared = tuple[HttpUrl | None, Tls | None, tuple[Network, ...] | None]

#: See `Tls.stamp`; None without TLS options.
_Stamp = tuple[tuple[int, int], ...] | None


class Pools:
    """Pools of connections, made when first needed.

    Args:
        hosts: of how many hosts connections are kept.
    """

    def __init__(self, hosts: int) -> None:
        self._hosts = hosts
        #: With the stamp of the files that they have read.
        self._pools: dict[tuple[_Shared, int], tuple[_Stamp, urllib3.PoolManager]] = {}
        self._lock = threading.Lock()

    def of(self, plan: Plan, proxy: HttpUrl | None) -> urllib3.PoolManager:
        """The pool for a request. It is made anew when a file of its TLS options was replaced.

        Raises:
            ValueError: if a file of its TLS options cannot be used.
        """
        stamp = None if plan.tls is None else plan.tls.stamp()
        size = DEFAULT_CONCURRENCY if plan.concurrency <= DEFAULT_CONCURRENCY else MAX_CONCURRENCY
        key = ((proxy, plan.tls, None if plan.guard is None else plan.guard.allowed), size)
        found = self._pools.get(key)
        if found is None or found[0] != stamp:
            with self._lock:
                found = self._pools.get(key)
                if found is None or found[0] != stamp:
                    # Requests that are under way keep the earlier pool until they end.
                    found = self._pools[key] = (stamp, self._new(plan.tls, proxy, size))
        return found[1]

    def _new(self, tls: Tls | None, proxy: HttpUrl | None, size: int) -> urllib3.PoolManager:
        context = None if tls is None else tls.context()
        if proxy is None:
            return pool_manager(self._hosts, size, context)
        headers = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
        return proxied_pool_manager(proxy.origin, headers, self._hosts, size, context)

    def clear(self) -> None:
        """Close all connections that are idle."""
        for pool in self.all:
            pool.clear()

    def close_idle(self) -> None:
        """Close the connections that no request uses, for their file descriptors are needed.

        Unlike `clear`, it does not fail a request that takes a connection meanwhile.
        """
        for manager in self.all:
            for key in manager.pools.keys():  # noqa: SIM118 - of urllib3, which allows no iteration
                pool = manager.pools.get(key)
                idle = None if pool is None else pool.pool
                with suppress(Empty):
                    # A place that is taken away is not missed: a pool that does not block makes a connection then.
                    while idle is not None:
                        connection = idle.get(block=False)
                        if connection is not None:
                            connection.close()

    @property
    def all(self) -> list[urllib3.PoolManager]:
        return [pool for _, pool in list(self._pools.values())]


_POOLS = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}


def pool_manager(hosts: int, per_host: int, tls: ssl.SSLContext | None = None) -> urllib3.PoolManager:
    """A pool of connections that keep to `limits`: for at most `hosts` hosts, and `per_host` for each.

    Args:
        hosts: of how many hosts connections are kept.
        per_host: how many connections to each.
        tls: how the certificates of servers are checked, and which this client has; None for the system's way.
    """
    # `HostThreads` bounds the posts to a host. A pool that blocks would wait for a place beyond the deadline.
    manager = urllib3.PoolManager(num_pools=hosts, maxsize=per_host, block=False, retries=False, **_tls_options(tls))
    manager.pool_classes_by_scheme = _POOLS
    return manager


def proxied_pool_manager(
    proxy: str, headers: Mapping[str, str], hosts: int, per_host: int, tls: ssl.SSLContext | None = None
) -> urllib3.PoolManager:
    """The same through an HTTP proxy: `http` with the whole URL in the request, `https` in a tunnel (CONNECT).

    Args:
        proxy: its URL, without user and password.
        headers: for the proxy only.
        hosts: of how many hosts connections are kept.
        per_host: how many connections to each.
        tls: as for `pool_manager`.
    """
    # All hosts of `http` share the connections to the proxy.
    manager = urllib3.ProxyManager(
        proxy,
        num_pools=hosts,
        maxsize=max(hosts, per_host),
        block=False,
        retries=False,
        proxy_headers=headers,
        **_tls_options(tls),
    )
    manager.pool_classes_by_scheme = _POOLS
    return manager


def _tls_options(tls: ssl.SSLContext | None) -> dict[str, Any]:
    return {} if tls is None else {"ssl_context": tls}
