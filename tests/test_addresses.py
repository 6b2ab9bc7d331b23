"""Every kind of address in every place that takes one: what it comes to, or that it is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from cxfr_proxy.cluster.backends import EtcdBackends, SrvBackends, parse_url
from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.targets import HostPattern, RedirectTargets
from cxfr_proxy.config.table import Config
from cxfr_proxy.errors import ConfigError


def spec_of(line: str) -> NodeSpec:
    [spec] = parse_nodes(line, "nodes")
    return spec


def node(host: str) -> str:
    return str(spec_of(f"a {host}:5000").address)


def node_without_port(host: str) -> str:
    return str(spec_of(f"a {host}").address).replace(":5222", ":5000")


def public(host: str) -> str:
    return str(spec_of(f"a 10.9.9.9 public={host}:5000").public)


def verify_name(host: str) -> str:
    return f"{spec_of(f'a 10.9.9.9 tls=direct verify-name={host}').verify_name}:5000"


def listen(host: str) -> str:
    return str(Config.from_sources({"listen": [f"{host}:5000"]}).listen[0])


def http(host: str) -> str:
    return str(Config.from_sources({"http": f"{host}:5000"}).http)


def etcd(host: str) -> str:
    found = parse_url(f"etcds://10.9.9.9:1,{host}:5000,{host}/cxfr")
    assert isinstance(found, EtcdBackends)
    assert [each.host for each in found.endpoints[1:]] == [found.endpoints[1].host] * 2
    assert parse_url(str(found)) == found
    return str(found.endpoints[1])


def name_server(host: str) -> str:
    found = parse_url(f"dns+srv://{host}:5000/_xmpp-client._tcp.example.org")
    assert isinstance(found, SrvBackends)
    return str(found.server)


def redirect_domain(host: str) -> str:
    return str(Config.from_sources({"redirect_domain": [f"moved.example={host}:5000"]}).redirect_domain[0].target)


def redirect_target(host: str) -> str:
    pattern = HostPattern.parse(host)
    assert RedirectTargets((pattern,)).allow(pattern.text)
    return f"{pattern}:5000"


PLACES: Final = {
    place.__name__: place
    for place in (
        node,
        node_without_port,
        public,
        verify_name,
        listen,
        http,
        etcd,
        name_server,
        redirect_domain,
        redirect_target,
    )
}
REFUSED: Final = None
DIALLED: Final = {"node", "node_without_port", "listen", "http", "etcd"}
"""Where a name goes to the resolver, to which the dot at its end means something."""
NO_NAMES: Final = {"name_server"}
WITHOUT_BRACKETS: Final = {"verify_name"}
WITH_ZONE: Final = {"node", "node_without_port", "listen", "http", "name_server"}
"""A zone means something on this machine, and nothing to a client, in a certificate or in HTTP."""


def expected(place: str, host: str) -> str | None:
    shown: str | None
    match host:
        case "xmpp1.example.org":
            shown = REFUSED if place in NO_NAMES else host
        case "xmpp1.example.org.":
            shown = REFUSED if place in NO_NAMES else host if place in DIALLED else host[:-1]
        case "192.0.2.1":
            shown = host
        case "[2001:DB8:0:0::1]":
            shown = "[2001:db8::1]"
        case "[::ffff:192.0.2.1]":
            shown = "192.0.2.1"
        case "[fe80::1%eth0]":
            shown = host if place in WITH_ZONE else REFUSED
        case _:
            shown = REFUSED
    if shown is None:
        return None
    return f"{shown.strip('[]') if place in WITHOUT_BRACKETS else shown}:5000"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "host",
    [
        "xmpp1.example.org",
        "xmpp1.example.org.",
        "192.0.2.1",
        "[2001:DB8:0:0::1]",
        "[::ffff:192.0.2.1]",
        "[fe80::1%eth0]",
        "192.0.2.1.",
        "192.0.2",
        "xmpp1..example.org",
        "xmpp1.example.org..",
        ".",
        "[]",
        "[2001:db8::1",
        "[xmpp1.example.org]",
        "[192.0.2.1]",
    ],
)
def test_every_kind_of_address_in_every_place(place: str, host: str) -> None:
    read: Callable[[str], str] = PLACES[place]
    wanted = expected(place, host)
    if wanted is not None:
        assert read(host) == wanted
        return
    with pytest.raises((ConfigError, ValueError)) as refused:
        read(host)
    assert place == "redirect_target" or "expected" in str(refused.value)
