"""Hints of ``check`` about settings that are right one by one, and together are hardly what somebody has meant."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from cxfr_proxy.config.table import Config, ProxyHeaderUse

_OWN: Final = tuple(
    map(
        ip_network,
        (
            *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8"),
            *("fc00::/7", "fe80::/10", "::1/128"),
        ),
    )
)
"""Networks that nobody reaches from elsewhere (RFC 1918, 6598, 3927, 4193)."""
_MANY: Final = {4: 1 << 16, 6: 1 << 96}
"""Public addresses that are more than an operator's own, by the IP version: those of a /16, or of a /32."""
_OTHERS_MAY_WRITE: Final = 0o002
TOKENS_IN_THE_CLEAR: Final = (
    "tokens pass there without TLS: see http-certificate, or have a reverse proxy with TLS in front"
)
"""The fault where :attr:`~.table.Config.shows_tokens` is true."""


def config_hints(config: Config) -> Iterator[str]:
    """Yield a line for each hint."""
    for each in config.trusted_proxies:
        if each.network is not None and _is_wide(ip_network(each.network)):
            yield f"note: trusted-proxies: {each}: whoever connects from such a network can speak for any client"
    trusts_unix = any(each.network is None for each in config.trusted_proxies)
    if trusts_unix and not config.listen_unix:
        yield "note: trusted-proxies: unix has no effect without listen-unix"
    for place in config.listen_unix:
        if trusts_unix and place.mode & _OTHERS_MAY_WRITE:
            yield f"note: listen-unix: {place}: everybody on this machine can speak for any client there"
    if config.http_tokens is not None and config.http is None:
        yield "note: http-tokens has no effect without http"
    if config.http_certificate is not None and config.http is None:
        yield "note: http-certificate has no effect without http"
    if config.shows_tokens:
        yield f"note: http: {config.http}: {TOKENS_IN_THE_CLEAR}"
    if config.proxy_header is ProxyHeaderUse.OPTIONAL and not config.trusted_proxies:
        yield "note: proxy-header has no effect without trusted-proxies"


def _is_wide(network: IPv4Network | IPv6Network) -> bool:
    is_own = any(network.version == own.version and network.subnet_of(own) for own in _OWN)  # type: ignore[arg-type]
    return not is_own and network.num_addresses >= _MANY[network.version]
