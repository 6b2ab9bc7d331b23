"""``cxfr-proxy check --connect``: connect to each node as a client would be connected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import trio

from cxfr_proxy.admin.text import clean

if TYPE_CHECKING:
    from cxfr_proxy.cluster.nodes import NodeSpec
    from cxfr_proxy.config.table import Config
    from cxfr_proxy.upstream.dial import Dialer

_AT_A_TIME: Final = 50


def connect(config: Config, nodes: Sequence[NodeSpec]) -> bool:
    """Connect to each of these nodes for each domain that is served there, and print how it went. Return whether all
    could be reached."""
    return trio.run(_connect, config, nodes)


async def _connect(config: Config, nodes: Sequence[NodeSpec]) -> bool:
    from cxfr_proxy.upstream.dial import Dialer, read_authorities_of

    dialer = Dialer(config.timeouts, config.limits)
    dialer.take(read_authorities_of(nodes))
    asked = list(_questions(config, nodes))
    said: dict[int, tuple[bool, str]] = {}
    limit = trio.CapacityLimiter(_AT_A_TIME)

    async def ask(number: int, spec: NodeSpec, domain: str | None) -> None:
        async with limit:
            said[number] = await _try(dialer, config, spec, domain)

    async with trio.open_nursery() as asking:
        for number, (spec, domain) in enumerate(asked):
            asking.start_soon(ask, number, spec, domain)
    for number in range(len(asked)):
        print(clean(said[number][1]))
    return all(good for good, _ in said.values())


def _questions(config: Config, nodes: Sequence[NodeSpec]) -> Iterator[tuple[NodeSpec, str | None]]:
    """Yield the nodes, each with every domain for which a client may come to it; ``None``: no domain is known."""
    for spec in nodes:
        for domain in spec.domain or config.domain or (None,):
            yield spec, domain


async def _try(dialer: Dialer, config: Config, spec: NodeSpec, domain: str | None) -> tuple[bool, str]:
    from cxfr_proxy.cluster.health import Finding
    from cxfr_proxy.upstream.probe import probe

    times, began = config.timeouts, trio.current_time()
    seen = await probe(dialer, spec, domain, seconds=times.node_connect_timeout + times.node_greeting_timeout)
    whom = f"{spec.name} ({spec.address})" + (f" for {domain}" if domain is not None else "")
    if seen.finding is not Finding.OK:
        return False, f"{whom}: {seen.reason or seen.finding}"
    how = "greets" if domain is not None else "is there; no --domain is given for which it could be asked"
    return True, f"{whom}: {how} ({1000 * (trio.current_time() - began):.0f} ms)"
