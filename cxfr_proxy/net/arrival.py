"""How a client's connection has come here: from where, and by way of whom."""

from __future__ import annotations

import sys

from msgspec import Struct
from msgspec.structs import replace

from cxfr_proxy.net.proxy_protocol import UNTOLD_TLS, Peer, ProxiedConnection, address_of, peer_of
from cxfr_proxy.net.transport import Transport

NO_TLS = ""
"""See :attr:`Arrival.told_tls`."""
_MAX_NAME_BYTES = 255
"""Of a domain name (RFC 1035 section 2.3.4), so of a PROXY header's, too."""


class Arrival(Struct, frozen=True, gc=False):
    """Where a client has connected from. There is one for each session, so it refers to nothing that may be large."""

    address: str
    """The client's name in limits and in the log: its IP address; ``local`` for a program on this machine."""
    port: int | None
    """``None``: it has none, by a unix socket; 0: nobody has told."""
    server_name: str | None = None
    """The name that it has asked for by SNI; ``None``: none, or it is no name."""
    via: str | None = None
    """The address of the balancer that has told all this; ``None``: the client has connected itself."""
    target: Peer | None = None
    """Where it has connected to; ``None``: to this end of the connection."""
    told_tls: str | None = None
    """The version of the TLS that the client has with the balancer; :data:`NO_TLS`: it has none there, as far as is
    known, and so none at all; ``None``: none is told of, so what ends here is the client's."""
    unique_id: str | None = None
    """The balancer's name for the connection."""
    has_header: bool = False
    """A PROXY header came in front of all: the balancer passes bytes on, so what follows is the client's own word."""
    accepted: float = 0.0
    """When its connection was accepted, by the relay's clock."""

    @classmethod
    def from_socket(cls, address: object, now: float) -> Arrival:
        """Return the arrival of whoever is at the other end of a socket, by its address there."""
        peer = peer_of(address)
        return cls(address_of(peer), peer[1] if peer is not None else None, accepted=now)

    def told(self, connection: ProxiedConnection) -> Arrival:
        """Return the arrival of the client whose connection this balancer passes on."""
        peer = connection.source
        return Arrival(
            address_of(peer),
            peer[1] if peer is not None else None,
            server_name=connection.server_name,
            via=self.address,
            target=connection.target,
            told_tls=connection.tls_version,
            unique_id=connection.unique_id,
            has_header=True,
            accepted=self.accepted,
        )

    def told_nothing(self) -> Arrival:
        """Return the arrival of somebody whom this balancer does not name, in the balancer's name."""
        return replace(self, has_header=True)

    def forwarded(self, client: Peer | None, via: str, *, on_tls: bool | None) -> Arrival:
        """Return the arrival of the client whose request this proxy passes on. ``on_tls``: whether the client has TLS
        with that proxy; ``None``: it is not told, and so not known.

        TLS that was known so far is between that proxy and this one, and so is the name that was asked for.
        """
        return replace(
            self,
            address=address_of(client),
            port=client[1] if client is not None else None,
            server_name=None,
            via=via,
            told_tls=UNTOLD_TLS if on_tls else NO_TLS,
        )

    @property
    def names_client(self) -> bool:
        """Whether a request that comes behind it may be a trusted proxy's, by the address that it comes from."""
        return not self.has_header or (self.via is not None and self.port is not None)

    @property
    def peer(self) -> Peer | None:
        """The client's address and port; ``None`` where it has no port."""
        return (self.address, self.port) if self.port is not None else None

    def asking_for(self, server_name: bytes | None) -> Arrival:
        """Return it with the name that a ClientHello asks for."""
        if server_name is None or len(server_name) > _MAX_NAME_BYTES or not server_name.isascii():
            return self
        # Most clients ask for one of a few names, so each of these is kept once.
        return replace(self, server_name=sys.intern(server_name.decode("ascii")))

    def tls_version(self, transport: Transport) -> str | None:
        """Return the version of the client's TLS, wherever it ends, as ``TLSv1.3``;
        :data:`~.proxy_protocol.UNTOLD_TLS` where nobody has told which; ``None``: its bytes are in the clear, as far as
        is known. ``transport`` is its connection, as it arrives here."""
        return transport.version() if self.told_tls is None else self.told_tls or None

    def is_encrypted(self, transport: Transport) -> bool:
        """Return whether the client has TLS, wherever it ends."""
        return transport.is_encrypted if self.told_tls is None else bool(self.told_tls)

    def passed_on(self, transport: Transport, session_id: int) -> ProxiedConnection:
        """Return what a node is told of the connection, which ``transport`` is by now."""
        return ProxiedConnection(
            source=self.peer,
            target=self.target or peer_of(transport.getsockname()),
            tls_version=self.tls_version(transport),
            server_name=self.server_name,
            unique_id=str(session_id),
        )
