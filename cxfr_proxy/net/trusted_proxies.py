"""Which peers are believed when they say whose connection they pass on (``trusted-proxies``).

A peer on the list can speak for any address: it could have any client refused as one too many of its address, and
banned for logins that have failed. So nobody is on it by default, not even programs on this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from cxfr_proxy.config.values import PeerNetwork

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def read_ip(address: str | bytes) -> IpAddress:
    """Read an IP address, as text or in its 4 or 16 bytes.

    An IPv4 client is one on whatever socket (RFC 4291 section 2.5.5.2), and a zone (``fe80::1%eth0``) says only by
    which interface it came. Raises ``ValueError``.
    """
    found = ipaddress.ip_address(address.partition("%")[0] if isinstance(address, str) else address)
    return getattr(found, "ipv4_mapped", None) or found


class TrustedProxies:
    """The networks of ``trusted-proxies``; false where there are none."""

    def __init__(self, networks: Iterable[PeerNetwork]) -> None:
        given = tuple(networks)
        self._networks = tuple(ipaddress.ip_network(each.network) for each in given if each.network is not None)
        self._local = any(each.network is None for each in given)

    def __bool__(self) -> bool:
        return self._local or bool(self._networks)

    def trust(self, address: str | None) -> bool:
        """Return whether the peer with this IP address is trusted. ``None``: it is a program on this machine, by a unix
        socket."""
        if address is None:
            return self._local
        return self._networks != () and self.trust_ip(read_ip(address))

    def trust_ip(self, address: IpAddress) -> bool:
        """Trust an address that :func:`read_ip` has read, as :meth:`trust` does."""
        return any(address in network for network in self._networks)
