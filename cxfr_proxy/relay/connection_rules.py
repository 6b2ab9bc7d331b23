"""The rules by which connections are opened: from the settings, the nodes' features and the certificates."""

from __future__ import annotations

import os
import ssl
from http import HTTPStatus

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.config.table import Config, Route, StartTls
from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.forwarded import ForwardedClient, forwarded_client
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.net.transport import Transport
from cxfr_proxy.net.trusted_proxies import TrustedProxies
from cxfr_proxy.relay.websocket_transport import WebSocketTransport
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.upstream.common_features import CommonFeatures
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.client_opening import ClientOpening, OpeningRules
from cxfr_proxy.xmpp.web.pages import pages
from cxfr_proxy.xmpp.web.request import HttpRequest, RequestRefused
from cxfr_proxy.xmpp.web.web_opening import WebOpening, WebRules, is_http


class ConnectionRules:
    """The rules for a connection before it has a session. Times in seconds."""

    def __init__(self, config: Config, cluster: Cluster, certificates: ServerCertificates) -> None:
        self._limits = config.limits
        self._common_features = CommonFeatures(cluster, max_bytes=config.limits.max_element_up)
        self._asks_for_login = config.route is Route.LOGIN
        self._certificates = certificates
        self._opening_rules = OpeningRules(
            new_stream_id=new_token,
            domains=frozenset(map(domain_key, config.domain)),
            moved={domain_key(each.domain): str(each.target) for each in config.redirect_domain},
            requires_tls=config.starttls is StartTls.REQUIRED,
            offers_tls=config.starttls is StartTls.OPTIONAL,
            features=self._common_features if self._asks_for_login else None,
        )
        self._web_rules = _web_rules(config)
        self._trusted = TrustedProxies(config.trusted_proxies)
        self._forwarded_header = config.forwarded_header
        self.handshake_timeout = config.timeouts.tls_handshake_timeout
        self.negotiation_timeout = config.timeouts.negotiation_timeout

    def new_lane(self) -> Lane:
        """Return a lane for what the client sends until it is bound."""
        return Lane(max_element_bytes=self._limits.max_element_negotiating, max_depth=self._limits.max_depth)

    def new_opening(self, lane: Lane, transport: Transport, arrival: Arrival) -> ClientOpening:
        """Return the opening of a stream that begins on that lane, and comes by that transport."""
        on_tls = arrival.is_encrypted(transport)
        return ClientOpening(lane, self._opening_rules, on_tls=on_tls, may_start_tls=_has_starttls(transport))

    def offers_starttls(self, transport: Transport, arrival: Arrival) -> bool:
        """Return whether the client may choose to begin TLS."""
        return self._opening_rules.offers_tls and not arrival.is_encrypted(transport) and _has_starttls(transport)

    def is_http(self, data: bytes) -> bool:
        """Return whether a connection that begins with these bytes speaks HTTP, and HTTP is spoken here."""
        return self._web_rules is not None and is_http(data[0])

    def new_web_opening(self) -> WebOpening:
        """Return the opening of a connection that speaks HTTP."""
        assert self._web_rules is not None, "or no HTTP is spoken"
        return WebOpening(self._web_rules)

    def most_connections(self, arrival: Arrival) -> int | None:
        """Return how many connections there may be from that address; ``None``: any number.

        A trusted proxy's own have no limit: whose they are may be told later, by a request, and no client may use up
        the room of the others until then.
        """
        if self._trusted and arrival.via is None and self._trusted.trust(arrival.peer[0] if arrival.peer else None):
            return None
        return self._limits.connections_per_address

    def client_of(self, request: HttpRequest, arrival: Arrival) -> ForwardedClient:
        """Return whose request that is."""
        if not arrival.names_client:
            return ForwardedClient(arrival.peer)  # by a balancer, which has not written the request
        header = self._forwarded_header
        schemes = request.tokens("x-forwarded-proto")
        return forwarded_client(arrival.peer, request.values(header), header, self._trusted, schemes)

    def check_encryption(self, arrival: Arrival, transport: Transport, client: ForwardedClient) -> None:
        """Raise :class:`~cxfr_proxy.xmpp.web.request.RequestRefused` where a WebSocket on that transport would be in
        the clear, and must not be: it has no STARTTLS. Where a trusted proxy has written the request (``client`` says
        so), TLS is that proxy's business, unless it says itself that there is none. A balancer that passes bytes on
        vouches for no word of the request, which the client has written."""
        if not self._opening_rules.requires_tls or arrival.is_encrypted(transport):
            return
        if client.via is None or client.on_tls is False:
            raise RequestRefused(HTTPStatus.FORBIDDEN, "TLS is needed here: connect by wss://.")

    def upgrade(self, transport: Transport, early: bytes) -> WebSocketTransport:
        """Return the WebSocket that ``transport`` becomes; ``early`` has been received on it already."""
        limits = self._limits
        return WebSocketTransport(
            transport, received=early, max_message_bytes=limits.max_element_up, max_depth=limits.max_depth
        )

    def is_early(self, domain: str) -> bool:
        """Return whether a client of that domain would log in before it gets a node, if the nodes' features were
        known."""
        return self._asks_for_login and self._common_features.are_awaited(domain)

    def tls_context(self, domain: str | None, server_name: bytes | None) -> ssl.SSLContext:
        """Return the context for the next handshake. Ask each time: certificates may be replaced. See
        :class:`ServerCertificates`."""
        return self._certificates.context_for(domain, server_name)


def _has_starttls(transport: Transport) -> bool:
    """There is none on a WebSocket (RFC 7395 section 3.9)."""
    return not isinstance(transport, WebSocketTransport)


def _web_rules(config: Config) -> WebRules | None:
    path = config.websocket_path
    if path is None:
        return None
    announced = [each.text for each in config.host_meta]
    return WebRules(websocket_path=path, origins=frozenset(config.websocket_origin), pages=pages(path, announced))


def new_token() -> str:
    """Return an id that nobody can guess: 128 bits."""
    return os.urandom(16).hex()
