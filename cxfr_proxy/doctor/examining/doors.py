"""The ways into a node as a user: by password, as a client, or by the certificate for nodes, as the proxy."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import trio

from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.config.table import Limits
from cxfr_proxy.doctor.examining.client import Account, DoctorClient, EntryRefused, LoginSeen
from cxfr_proxy.errors import NodeError
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.proxy_protocol import Peer, ProxiedConnection
from cxfr_proxy.net.transport import Transport
from cxfr_proxy.session.commands import Dial
from cxfr_proxy.upstream.dial import Dialer
from cxfr_proxy.upstream.probe_stream import Greeting
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.opening.header import read_header

TOLD_PORT: Final = 9
"""The client's port in the doctor's PROXY headers, which no connection has by itself (discard, RFC 863): so a node that
has read the header is told from one that looks at the connection."""
FAULTS: Final = (Exception,)
"""All that can go wrong with one node: on its side, on the way there, or in this program, by what the node answers.
None of it hides another node; :func:`why` tells which it was."""


def why(exc: BaseException) -> str:
    """Say what went wrong."""
    match exc:
        case NodeError():
            return exc.text
        case EntryRefused():
            return str(exc)
        case trio.TooSlowError():
            return "the node did not answer in time"
        case OSError():
            return "the node broke the connection"
        case _:  # a defect of this program, which hides no other node
            return f"what it answered was not foreseen ({type(exc).__name__})"


@dataclass(frozen=True, slots=True)
class Place:
    """A node to log in on, and the two ends of the connection by which it was seen."""

    spec: NodeSpec
    ends: tuple[Peer, Peer]

    @property
    def told(self) -> ProxiedConnection | None:
        """The connection of which the PROXY header tells; ``None``: there is no header."""
        if self.spec.send_proxy is None:
            return None
        return ProxiedConnection((self.ends[0][0], TOLD_PORT), self.ends[1])


@dataclass(frozen=True, slots=True)
class Entered:
    """A user who is logged in on a node and has no resource yet. ``seen`` ``None``: by certificate. ``greeting`` is
    the node's after the login; ``None``: there was stream management in it."""

    client: DoctorClient
    endpoint: Endpoint
    seen: LoginSeen | None
    greeting: Greeting | None


@dataclass(frozen=True, slots=True)
class Doors:
    """Logs that account in. ``seconds`` are for one login and what is asked after it."""

    dialer: Dialer
    limits: Limits
    account: Account
    seconds: float

    @property
    def has_certificate(self) -> bool:
        return self.dialer.certificate.content is not None

    def by_certificate(self, *specs: NodeSpec) -> bool:
        """Return whether the proxy would log in on all of these by its certificate."""
        return self.has_certificate and all(each.migrates for each in specs)

    @asynccontextmanager
    async def enter(self, place: Place, *, by_certificate: bool = False) -> AsyncIterator[Entered]:
        """Log in. Behind the block the connection is cut: if the session was not ended, the node keeps it for a while.

        Raises one of :data:`FAULTS`; so does the block if it takes too long.
        """
        with trio.fail_after(self.seconds):
            entered = await (self._by_certificate(place) if by_certificate else self._by_password(place))
            try:
                yield entered
            finally:
                # Not the endpoint, which would end TLS in good order: a node that is told of an end keeps no session.
                entered.endpoint.transport.close()

    async def stands_open(self, place: Place) -> bool:
        """Return whether the node lets the account in by SASL EXTERNAL from a connection without a certificate."""
        let_in = False
        with suppress(*FAULTS):  # they may come once it is in as well
            async with self.reach(place, place.spec.for_migration) as client:
                await client.log_in_by_certificate()
                let_in = True
        return let_in

    @asynccontextmanager
    async def reach(self, place: Place, spec: NodeSpec | None = None) -> AsyncIterator[DoctorClient]:
        """Begin a stream on the node, by its line or another one; the connection is closed behind the block.

        Raises as :meth:`enter` does.
        """
        with trio.fail_after(self.seconds):
            endpoint = await self.dialer.dial(spec or place.spec, self.account.domain, place.told, resolve=True)
            try:
                client = DoctorClient(endpoint, self.account, self.limits)
                await client.open()
                yield client
                await client.close()
            finally:
                endpoint.close()

    async def _by_password(self, place: Place) -> Entered:
        if self.account.password is None:
            raise EntryRefused("no password is known, and the certificate does not log in there")
        endpoint = await self.dialer.dial(place.spec, self.account.domain, place.told, resolve=True)
        try:
            client = DoctorClient(endpoint, self.account, self.limits)
            greeting = await client.open()
            seen, greeting = await client.log_in(greeting, plain_allowed=_is_private(endpoint.transport))
        except BaseException:
            endpoint.close()
            raise
        return Entered(client, endpoint, seen, greeting)

    async def _by_certificate(self, place: Place) -> Entered:
        opening = stanza.stream_header(to=self.account.domain, from_=self.account.jid, stream_id=None)
        dial = Dial(place.spec.name, self.account.jid, read_header(opening, NodeError))
        told = place.told or ProxiedConnection(None, None)
        endpoint, leg = await self.dialer.log_in(place.spec, dial, told)
        client = DoctorClient(endpoint, self.account, self.limits, lane=leg.lane, header=leg.header)
        return Entered(client, endpoint, None, None)


def _is_private(transport: Transport) -> bool:
    """Return whether a password may be sent as it is: nobody but the node hears it, or only a private network."""
    if transport.is_encrypted:
        return True
    assert isinstance(transport, socket.socket), "nodes are connected to by sockets"
    if transport.family == socket.AF_UNIX:
        return True
    return not ipaddress.ip_address(str(transport.getpeername()[0]).partition("%")[0]).is_global
