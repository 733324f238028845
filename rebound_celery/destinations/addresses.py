"""Which IP addresses may be connected to, where a URL comes from somebody who is not trusted.

The check is of the addresses that are connected to, after the look-up of the host's name: a name whose addresses change
between a check and a connection gains nothing, and neither does a redirect.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from ..http_options import Network

#: Networks that are not public, although `ipaddress` says so, at least in some versions of Python: Azure's address for
#: its own machines; the addresses of protocols, with the metadata service of Oracle's cloud; and those of examples.
_NOT_PUBLIC = tuple(map(ip_network, ("168.63.129.16/32", "192.0.0.0/24", "3fff::/20")))

#: IPv6 addresses that lead to the IPv4 address in their last 32 bits.
_NAT64 = ip_network("64:ff9b::/96")
#: The IPv6 addresses that are given out to the public.
_PUBLIC_IPV6 = ip_network("2000::/3")


class RefusedAddressError(Exception):
    """A host has no address that may be connected to."""


class AddressGuard:
    """Refuses all addresses that are not public.

    Args:
        allowed: networks that are allowed all the same.

    Attributes:
        allowed: the same.
    """

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        self.allowed = tuple(allowed)

    def allows(self, text: str) -> bool:
        """Whether this address may be connected to."""
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return False
        if any(address in network for network in self.allowed):
            return True
        return all(map(_is_public, (address, *_within(address))))

    def allowed_of(self, host: str, found: Sequence[Any]) -> list[Any]:
        """Those of the addresses that `getaddrinfo` found that may be connected to.

        Raises:
            RefusedAddressError: if there is none.
        """
        allowed = [entry for entry in found if self.allows(str(entry[4][0]))]
        if not allowed:
            shown = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found)) or "none"
            raise RefusedAddressError(
                f"{host} has no public address ({shown}), and only public ones may be connected to: "
                "allow it with the options allowed_networks or public_only of rebound_http_destinations"
            )
        return allowed


def _within(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses to which an IPv6 address leads."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address in _NAT64):
        # The address to which it leads is looked at by itself.
        return True
    if isinstance(address, IPv6Address) and address not in _PUBLIC_IPV6:
        return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _NOT_PUBLIC)
