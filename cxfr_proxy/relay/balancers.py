"""Find the client of a connection that a balancer passes on: the PROXY headers of ``trusted-proxies``.

A header comes before everything else, so it is read before a connection is counted by its address. Until then the
balancer has it in its own name, and all of these together are bounded by the limit of all connections and by the time
that one may take: no client uses up what another one may have.

A connection that is the balancer's own, to look whether somebody is here, is served like any other, from the balancer's
address. One that ends before it has begun is such a look as well, and nothing to write down.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from cxfr_proxy.config.table import Config, ProxyHeaderUse
from cxfr_proxy.events import emit
from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.incoming_header import MalformedProxyHeader, may_begin, receive
from cxfr_proxy.net.trusted_proxies import TrustedProxies
from cxfr_proxy.relay.openings import GivenUp, PumpWaits
from cxfr_proxy.transfers.statistics import Totals

_REFUSED: Final = "proxy-header"

_log = logging.getLogger(__name__)


class Balancers:
    """The balancers in front of this proxy; false where there are none."""

    def __init__(self, config: Config, totals: Totals) -> None:
        self._trusted = TrustedProxies(config.trusted_proxies)
        self._optional = config.proxy_header is ProxyHeaderUse.OPTIONAL
        self._seconds = config.timeouts.tls_handshake_timeout
        self._totals = totals

    def __bool__(self) -> bool:
        return bool(self._trusted)

    async def who_is_it(self, endpoint: Endpoint, arrival: Arrival, waits: PumpWaits) -> Arrival | None:
        """Return whose connection it is that has come from there; ``None``: nobody's who is to be served, and what
        there is to say of that is in the log.

        Raises ``OSError`` where the connection is broken.
        """
        if not self._trusted.trust(arrival.address if arrival.port is not None else None):
            return arrival
        try:
            waits.begin(waits.now + self._seconds)
            return await self._read(endpoint, arrival)
        except MalformedProxyHeader as exc:
            self._refuse(arrival, f"it is malformed: {exc}")
            return None
        except (trio.TooSlowError, GivenUp):
            if not waits.stopping:
                self._refuse(arrival, "it took too long")
            return None
        finally:
            waits.settle()

    async def _read(self, endpoint: Endpoint, arrival: Arrival) -> Arrival | None:
        first = await endpoint.peek()
        if first and not may_begin(first):
            if self._optional:
                return arrival
            self._refuse(arrival, "there is none, and proxy-header is required")
            return None
        header = await receive(endpoint)
        if header is None:
            return None  # a check that did not even wait for an answer
        if header.connection is None:
            return arrival.told_nothing()
        told = arrival.told(header.connection)
        emit(
            _log,
            "passed-on",
            level=logging.DEBUG,
            client=told.address,
            port=told.port,
            via=told.via,
            target=told.target[0] if told.target is not None else None,
            target_port=told.target[1] if told.target is not None else None,
            tls=told.told_tls,
            server_name=told.server_name,
            alpn=header.connection.alpn,
            unique_id=told.unique_id,
        )
        return told

    def _refuse(self, arrival: Arrival, reason: str) -> None:
        # Not as client=, by which somebody's filter might have the balancer banned.
        self._totals.count_refused(_REFUSED)
        emit(_log, "proxy-header-refused", level=logging.WARNING, peer=arrival.address, reason=reason)
