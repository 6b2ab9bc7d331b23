"""The rules by which connections are opened: from the settings, the nodes' features and the certificates."""

from __future__ import annotations

import secrets
import ssl

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.config.table import Config, Route, StartTls
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.upstream.common_features import CommonFeatures
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.client_opening import ClientOpening, OpeningRules


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
        self.handshake_timeout = config.timeouts.tls_handshake_timeout
        self.negotiation_timeout = config.timeouts.negotiation_timeout

    def new_lane(self) -> Lane:
        """Return a lane for what the client sends until it is bound."""
        return Lane(max_element_bytes=self._limits.max_element_negotiating, max_depth=self._limits.max_depth)

    def new_opening(self, lane: Lane, *, encrypted: bool) -> ClientOpening:
        """Return the opening of a stream that begins on that lane."""
        return ClientOpening(lane, self._opening_rules, on_tls=encrypted)

    def offers_starttls(self, *, encrypted: bool) -> bool:
        """Return whether the client may choose to begin TLS."""
        return not encrypted and self._opening_rules.offers_tls

    def is_early(self, domain: str) -> bool:
        """Return whether a client of that domain would log in before it gets a node, if the nodes' features were
        known."""
        return self._asks_for_login and self._common_features.are_awaited(domain)

    def tls_context(self, domain: str | None, server_name: bytes | None) -> ssl.SSLContext:
        """Return the context for the next handshake. Ask each time: certificates may be replaced. See
        :class:`ServerCertificates`."""
        return self._certificates.context_for(domain, server_name)


def new_token() -> str:
    """Return an id that nobody can guess: 128 bits."""
    return secrets.token_urlsafe(16)
