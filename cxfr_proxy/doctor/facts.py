"""The facts about a cluster that the doctor judges: what it saw of each node, and of the proxy's own side.

All are values, made by :mod:`cxfr_proxy.doctor.examining` or by a test. ``None`` stands for what is not known, never
for "no". Texts are a node's, or the system's: they are cleaned where they are printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from cxfr_proxy.cluster.nodes import NodeSpec, NodeTls, ProxyProtocol
from cxfr_proxy.doctor.offer import Offer
from cxfr_proxy.doctor.software import ServerSoftware
from cxfr_proxy.net.proxy_protocol import Peer


class LookStage(Enum):
    """How far a look at a node came before it failed."""

    CONNECT = auto()
    """No connection: refused, silent, or no such name."""
    TLS = auto()
    """The handshake, or the question for it, failed."""
    CERTIFICATE = auto()
    """The node's certificate was not accepted."""
    DOMAIN = auto()
    """The node does not serve the domain."""
    GREETING = auto()
    """It did not greet a client."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a node could not be seen, and at which stage. The reason is for people."""

    stage: LookStage
    reason: str


@dataclass(frozen=True, slots=True)
class OtherWay:
    """A way in which a node greets, other than that of its line: these two options would have to be so."""

    send_proxy: ProxyProtocol | None
    tls: NodeTls


@dataclass(frozen=True, slots=True)
class SeenCertificate:
    """A certificate as a handshake has shown it, or a file holds it. ``names`` are the domains that it is for, a
    wildcard as ``*.example.org``; the times are seconds since 1970."""

    names: tuple[str, ...]
    not_before: float
    not_after: float
    label: str = ""
    """The file that it is from; empty for one that was shown."""

    def covers(self, domain: str) -> bool:
        """Return whether it is for that domain (its key)."""
        return domain in self.names or "*." + domain.partition(".")[2] in self.names


@dataclass(frozen=True, slots=True)
class NodeTlsFacts:
    """TLS on the leg to a node: its version as OpenSSL has it (``TLSv1.3``), and the node's certificate. ``refused``
    is OpenSSL's reason for not accepting that; ``None``: it was accepted. ``misnamed``: the reason is its names,
    some of which OpenSSL takes for nothing (``*.org``)."""

    version: str | None
    certificate: SeenCertificate | None
    refused: str | None = None
    misnamed: bool = False


@dataclass(frozen=True, slots=True)
class PublicFacts:
    """The certificate that a client finds at ``public=``. ``reason`` says why none was seen."""

    certificate: SeenCertificate | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """All that was learned by logging in. ``refused`` says why that failed; then nothing else is known. ``tried`` is
    false where the doctor sent nothing that the node could have refused.

    ``scram`` holds the names of the attributes in the node's challenge, and ``told_tls`` the version of TLS in it, as
    XEP-0515 writes it (``0304``). ``managed``: XEP-0198 is on offer; ``resumable``: and with resumption. ``version`` is
    the node's answer to XEP-0092. ``ahead`` is how many seconds its clock is before this machine's, and
    ``ahead_slack`` how far that may be wrong. ``seen_address`` is where the node thinks that the client is, and
    ``told_address`` what the PROXY header has told it.
    """

    refused: str | None = None
    tried: bool = True
    mechanism: str | None = None
    scram: frozenset[str] = frozenset()
    told_tls: str | None = None
    managed: bool | None = None
    resumable: bool | None = None
    version: str | None = None
    ahead: float | None = None
    ahead_slack: float = 0.0
    seen_address: Peer | None = None
    told_address: Peer | None = None


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """A listening socket on this machine: how many connections may wait in its queue, and how many do."""

    address: str
    most: int
    waiting: int


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """All that was seen of a node for one domain. ``domain`` ``None``: none is known, so it was only connected to.

    ``failure`` ``None``: it has greeted; then ``offer`` holds its features to a client that does not say who it is, and
    ``named`` to one that does. ``other_ways`` were tried where it failed. ``behind_tls``: what a node with a plain leg
    offers once STARTTLS has been done. ``external``: what SASL EXTERNAL by the certificate for nodes came to, empty
    for a login, and ``open_door``: whether it lets somebody in without one.
    """

    spec: NodeSpec
    domain: str | None
    failure: Failure | None = None
    other_ways: tuple[OtherWay, ...] = ()
    tls: NodeTlsFacts | None = None
    offer: Offer | None = None
    named: Offer | None = None
    behind_tls: Offer | None = None
    public: PublicFacts | None = None
    session: SessionFacts | None = None
    external: str | None = None
    open_door: bool | None = None
    queue: QueueFacts | None = None

    @property
    def software(self) -> ServerSoftware | None:
        """The program that the node runs, as far as it has said so."""
        said = self.session.version if self.session is not None else None
        offered = next((each.software for each in (self.named, self.offer, self.behind_tls) if each is not None), None)
        return ServerSoftware.named(said) or offered


@dataclass(frozen=True, slots=True)
class MoveFacts:
    """An attempt to resume a session of one node on another one, for a domain. ``refused``: the reason; ``None``: it
    was resumed there. ``by_certificate``: as ``migrate=external`` does it, not as a client does."""

    origin: str
    target: str
    domain: str
    refused: str | None
    by_certificate: bool = False


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """An attempt to log in by a FAST token of one node at another one. ``refused`` as in :class:`MoveFacts`."""

    origin: str
    target: str
    domain: str
    refused: str | None


@dataclass(frozen=True, slots=True)
class OwnFacts:
    """The proxy's own side: its certificates, their faults in words, its domains, and its listeners on this machine.

    ``certificates`` ``None``: no setting names any, so nothing is known of those that the proxy shows.
    """

    certificates: tuple[SeenCertificate, ...] | None = None
    problems: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    queues: tuple[QueueFacts, ...] = ()
    most_queued: int | None = None
    """The kernel's bound for all queues (``net.core.somaxconn``)."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """Everything. ``now`` is when, in seconds since 1970."""

    nodes: tuple[NodeFacts, ...]
    own: OwnFacts = field(default_factory=OwnFacts)
    moves: tuple[MoveFacts, ...] = ()
    tokens: tuple[TokenFacts, ...] = ()
    now: float = 0.0

    def by_domain(self) -> Iterator[tuple[str, list[NodeFacts]]]:
        """Yield each domain with the nodes that have greeted for it."""
        found: dict[str, list[NodeFacts]] = {}
        for each in self.nodes:
            if each.domain is not None and each.failure is None:
                found.setdefault(each.domain, []).append(each)
        yield from found.items()

    def address_of(self, node: str) -> str | None:
        """Return the address in the line of the node of that name; ``None``: there is no such node."""
        return next((str(each.spec.address) for each in self.nodes if each.spec.name == node), None)

    def software_of(self, node: str) -> ServerSoftware | None:
        """Return the program of the node of that name, as far as it is known for any domain."""
        return next((each.software for each in self.nodes if each.spec.name == node and each.software), None)
