"""The list of nodes in DNS: SRV records, asked for again when their TTL is over.

An answer without records, and no answer, are the same to a proxy that runs: it goes on with the last ones. Zones are
edited by hand and name servers come up empty; to take all nodes away, operators stop the proxy.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver
import trio
from dns.rdtypes.IN.SRV import SRV

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.backends import SrvBackends
from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.cluster.sources.source import Reading, Shared, SourceStatus
from cxfr_proxy.cluster.srv import SrvRecord, next_query, specs_from
from cxfr_proxy.cluster.targets import RedirectTargets
from cxfr_proxy.errors import ConfigError

QUERY_SECONDS = 5.0
"""Seconds for one query, all servers and repetitions included."""


LookUp = Callable[[SrvBackends], Awaitable[tuple[list[SrvRecord], float]]]
"""Return the records, and the seconds for which they are good."""


async def look_up(backends: SrvBackends) -> tuple[list[SrvRecord], float]:
    """Ask the name server. Raises :class:`~cxfr_proxy.errors.ConfigError`."""
    try:
        answer = await _resolver(backends.server).resolve(
            dns.name.from_text(backends.name), dns.rdatatype.SRV, lifetime=QUERY_SECONDS, raise_on_no_answer=False
        )
    except dns.exception.DNSException as exc:
        raise ConfigError(f"the query failed: {_reason(exc)}", file=str(backends)) from exc
    records = [
        SrvRecord(each.priority, each.weight, each.port, each.target.to_text())
        for each in answer.rrset or ()
        if isinstance(each, SRV)
    ]
    return records, answer.chaining_result.minimum_ttl


class SrvSource:
    """``chance`` gives numbers from 0 to 1, for the time of the next query."""

    def __init__(self, backends: SrvBackends, chance: random.Random | None = None, look_up: LookUp = look_up) -> None:
        self.name = str(backends)
        self.status = SourceStatus(self.name)
        self.shared: Shared | None = None
        self._backends = backends
        self._chance = chance or random.Random()
        self._look_up = look_up
        self._specs: tuple[NodeSpec, ...] = ()
        self._ask_at = 0.0

    async def read(self) -> Reading:
        """Ask now. Raises :class:`~cxfr_proxy.errors.ConfigError`."""
        records, ttl = await self._look_up(self._backends)
        self._specs = specs = specs_from(records, self._backends.common, self.name)
        self._ask_at = trio.current_time() + next_query(ttl, self._chance.random())
        self.status.well()
        return Reading(specs)

    async def next_reading(self) -> Reading:
        """See :class:`~.source.NodeSource`. Never raises for what can't be had: that is :attr:`status`'s."""
        while True:
            await trio.sleep_until(self._ask_at)
            before = self._specs
            try:
                reading = await self.read()
            except ConfigError as exc:
                self.status.lost(exc.message)
                self._ask_at = trio.current_time() + self.status.next_pause()
                continue
            if reading.specs != before:
                return reading

    def unread(self) -> None:
        self._specs, self._ask_at = (), trio.current_time()

    def allow(self, targets: RedirectTargets) -> None:
        pass  # records name no public addresses

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def _resolver(server: Address | None) -> dns.asyncresolver.Resolver:
    """Return a new resolver each time, without a cache: the system's servers may have changed."""
    resolver = dns.asyncresolver.Resolver(configure=server is None)
    if server is not None:
        resolver.nameservers = [server.host]
        resolver.port = server.port
    return resolver


def _reason(exc: dns.exception.DNSException) -> str:
    match exc:
        case dns.resolver.NXDOMAIN():
            return "there is no such name (NXDOMAIN)"
        case dns.resolver.LifetimeTimeout():
            return f"no answer within {QUERY_SECONDS:g} s"
        case _:
            return str(exc) or type(exc).__name__
