"""Every setting, with its default and the reason for it: one table.

The table *is* three dataclasses, two below and :class:`~.timeouts.Timeouts`: a field is a row. Its name with dashes is
the flag (``--transfer-rate``) and the key in the settings file (``transfer-rate = 100``); its :class:`Row` says how the
value is written, what it does and why the default is what it is (:mod:`cxfr_proxy.config.settings`). ``--help``,
``docs/configuration.md`` and the checks are drawn from it, so a setting that isn't here doesn't exist, and
one that is here is documented.

A flag wins over the file, and the file over the default; a repeatable flag replaces the file's whole list.
All here is pure, but for the default of ``control``, which depends on the environment and the user
(:func:`~cxfr_proxy.config.control_places.default_control`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from cxfr_proxy.cluster.addresses import WebSocketUrl
from cxfr_proxy.cluster.backends import Backends
from cxfr_proxy.cluster.placement import PlacementPolicies, PlacementPolicy
from cxfr_proxy.cluster.targets import HostPattern, RedirectTargets
from cxfr_proxy.config import values
from cxfr_proxy.config.choices import (
    CxfrUnknown,
    ForwardingHeader,
    OnNodeDown,
    ProxyHeaderUse,
    RebalanceMode,
    Route,
    SaslAuthzid,
    SmAfterTransfer,
    StartTls,
    TrustNodeRedirects,
    WrongNode,
)
from cxfr_proxy.config.control_places import default_control
from cxfr_proxy.config.settings import Group, Row, SettingsFile, repeatable, setting, settings_of
from cxfr_proxy.config.timeouts import Timeouts
from cxfr_proxy.config.values import (
    ClientMatch,
    DomainPolicy,
    DomainRedirect,
    ListenAddress,
    ListenPath,
    PeerNetwork,
    ValueType,
)
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import LogFormat, LogLevel
from cxfr_proxy.spellings import domain_key

__all__ = [
    "SETTINGS",
    "Config",
    "CxfrUnknown",
    "KeyPair",
    "Limits",
    "ListenAddress",
    "OnNodeDown",
    "ProxyHeaderUse",
    "RebalanceMode",
    "Route",
    "SaslAuthzid",
    "SmAfterTransfer",
    "StartTls",
    "Timeouts",
    "TrustNodeRedirects",
    "WrongNode",
]

# ruff: noqa: RUF009 - the calls in the dataclasses make fields, as dataclasses.field() does


@dataclass(frozen=True, slots=True)
class KeyPair:
    """One certificate chain and its private key; the same file where one file holds both."""

    certificate: Path
    key: Path


def _control_field() -> Path:
    row = Row(
        Group.OPERATING,
        values.PATH,
        "unix socket on which the proxy takes commands (drain, show, reload, …)",
        "A system service, a user's service and a test run may write there, and only root or the user who runs the "
        "proxy can use the socket.",
        repeatable=False,
        default="$CXFR_PROXY_CONTROL, else $RUNTIME_DIRECTORY/control.sock, else $XDG_RUNTIME_DIR/cxfr-proxy.sock, "
        "else /run/cxfr-proxy.sock for root, else a private directory for temporary files",
    )
    value: Path = field(default_factory=default_control, metadata={"row": row})
    return value


MAX_WORKERS: Final = 256
"More workers than cores gain nothing, while each takes memory and hears what all others report: a larger number was "
"mistyped."


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)))


def _workers_field() -> int:
    row = Row(
        Group.SERVING,
        values.whole(minimum=1, maximum=MAX_WORKERS),
        f"processes that serve clients, {MAX_WORKERS} at most; with 1 everything is done in one process",
        "One process uses one core. More workers than cores gain nothing, while each takes memory and hears what all "
        "others report. Each worker has its own sessions and can be lost without the others. Commands and the "
        "transfer rate apply to the proxy as a whole.",
        repeatable=False,
        default="the number of cores",
    )
    value: int = field(default_factory=default_workers, metadata={"row": row})
    return value


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what one client or node may cost."""

    max_element_negotiating: int = setting(
        Group.SIZES,
        values.size(minimum=10_000),
        32_768,
        "longest element before a resource is bound",
        "The client is unknown yet, so little is kept for it. Tokens that replace passwords have up to some 20 KB. "
        "RFC 6120 section 13.12 forbids less than 10000 bytes.",
    )
    max_element_up: int = setting(
        Group.SIZES,
        values.size(minimum=10_000),
        262_144,
        "longest element from a client",
        "Servers accept as much from clients by default. RFC 6120 section 13.12 forbids less than 10000 bytes.",
    )
    max_element_down: int = setting(
        Group.SIZES,
        values.size(minimum=10_000),
        1_048_576,
        "longest element from a node that is held back until it is complete; longer ones are cut through, that is, "
        "passed on in pieces",
        "Only whole elements leave a client's stream intact when a node dies. Large rosters and archives fit. This "
        "much memory may be held for each session.",
    )
    max_depth: int = setting(
        Group.SIZES,
        values.whole(minimum=8),
        64,
        "deepest nesting of elements",
        "A forwarded, encrypted, archived message nests about 10 deep. Parsers that recurse fail at some hundreds.",
    )
    connections_per_address: int | None = setting(
        Group.SIZES,
        values.MAXIMUM,
        1000,
        "most connections from one client address at a time; none (or 0) for no limit",
        "An office or a mobile carrier may have hundreds of users behind one address. A thousand idle connections "
        "cost less than 20 MB. Behind a balancer, trusted-proxies makes them known; where that can't be, set none.",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one proxy. ``None`` is explained where it may stand."""

    backends: Backends | None = setting(
        Group.SERVING,
        cast("ValueType[Backends | None]", values.BACKENDS),
        None,
        "where the nodes come from: a file that lists them, one per line; SRV records, as in "
        "dns+srv://[SERVER/]_xmpp-client._tcp.example.org; or etcd, which several proxies share, as in "
        "etcd://[USER@]HOST[:PORT][,HOST...]/PREFIX (with TLS: etcds://)",
        "There is no sensible guess. `check` reads the nodes and reports every fault.",
        shown="none: required to serve",
    )
    """``None`` in every command that doesn't serve."""
    listen: tuple[ListenAddress, ...] = repeatable(
        Group.SERVING,
        values.LISTEN,
        (ListenAddress(None, 5222),),
        "where clients connect; a host of * (or none) is every address, an IPv6 address stands in brackets",
        "5222 is the registered port for XMPP clients (RFC 6120 section 14.7).",
    )
    listen_unix: tuple[ListenPath, ...] = repeatable(
        Group.SERVING,
        values.LISTEN_PATH,
        (),
        "unix socket on which clients connect as well, by way of a balancer on this machine; with its mode (660 unless "
        "it is given), user and group",
        "Only those who may open the socket can connect, which no port of a machine with other users promises.",
        shown="none",
    )
    trusted_proxies: tuple[PeerNetwork, ...] = repeatable(
        Group.SERVING,
        values.PEER_NETWORK,
        (),
        "address or network of a balancer that says by a PROXY header (version 1 or 2) whose connections it passes on; "
        "unix stands for programs on this machine that connect by a unix socket. A PROXY header from any other address "
        "is refused",
        "Whoever is trusted can speak for any address: limits, logs, bans and the nodes go by it.",
        shown="none: clients connect themselves",
    )
    proxy_header: ProxyHeaderUse = setting(
        Group.SERVING,
        values.one_of(ProxyHeaderUse),
        ProxyHeaderUse.REQUIRED,
        "whether the trusted-proxies have to send a PROXY header. optional: a connection without one is their own, and "
        "has their address",
        "Clients of a balancer that was not told to send it would all have its address. With optional, a client whose "
        "bytes a trusted proxy passes on without a header could begin with a header of its own.",
    )
    forwarded_header: ForwardingHeader = setting(
        Group.SERVING,
        values.one_of(ForwardingHeader),
        ForwardingHeader.X_FORWARDED_FOR,
        "the header in which trusted-proxies that speak HTTP name the client of a WebSocket; nobody else's is read. "
        "Whether the client has TLS is read from x-forwarded-proto beside the one, from proto= in the other",
        "nginx, HAProxy and most others can write it. A proxy that writes one of them passes the other on as the "
        "client has made it up.",
    )
    domain: tuple[str, ...] = repeatable(
        Group.SERVING,
        values.DOMAIN,
        (),
        "domain that is served; clients that ask for another domain are refused",
        "The nodes know their domains and refuse others themselves.",
        shown="any: what the client asks for is passed on to the node",
    )
    certificate: tuple[Path, ...] = repeatable(
        Group.SERVING,
        values.PATH,
        (),
        "PEM file with a certificate chain, and its key unless --key names another file. Clients see the certificate "
        "for the domain they ask for, and of an RSA and an ECDSA certificate the one that they can verify",
        "Clients accept no made-up certificate, but one is enough to try the proxy.",
        shown="none: a self-signed one for the domains, made anew at each start",
    )
    key: tuple[Path, ...] = repeatable(
        Group.SERVING,
        values.PATH,
        (),
        "PEM file with the private key of the certificate at the same place in the order",
        "Many tools write certificate and key into one file.",
        shown="the certificate's file",
    )
    starttls: StartTls = setting(
        Group.SERVING,
        values.one_of(StartTls),
        StartTls.REQUIRED,
        "whether clients must, may or cannot encrypt by STARTTLS",
        "A client that isn't made to encrypt can be kept from it by anybody in between (RFC 7590 section 3.1).",
    )
    websocket_path: str | None = setting(
        Group.SERVING,
        values.WEBSOCKET_PATH,
        "/xmpp-websocket",
        "path at which clients connect by WebSocket (RFC 7395), on the same ports as all others; none: HTTP is not "
        "spoken there",
        "Servers and clients have agreed on this one. What begins with a letter is HTTP, and nothing else that is "
        "served there does.",
    )
    """``None``: no HTTP."""
    websocket_origin: tuple[str, ...] = repeatable(
        Group.SERVING,
        values.ORIGIN,
        (),
        "web pages that may connect by WebSocket, by their origin, such as https://chat.example.org (null: pages that "
        "have none); those of other origins are refused. What is no browser says no origin, and is let in",
        "A page of whatever origin has to log in like any other client, with a password that its user gives to it: "
        "browsers keep nothing that would log it in by itself.",
        shown="any",
    )
    host_meta: tuple[WebSocketUrl, ...] = repeatable(
        Group.SERVING,
        values.WEBSOCKET_URL,
        (),
        "URL of the WebSocket to announce in /.well-known/host-meta and host-meta.json (XEP-0156), where web clients "
        "look for it",
        "The proxy does not know by which name browsers reach it, and what is wrong there keeps them out.",
        shown="none: there is no host-meta",
    )
    sasl_authzid: SaslAuthzid = setting(
        Group.SERVING,
        values.one_of(SaslAuthzid),
        SaslAuthzid.SAME,
        "whether a client may log in as another user than it authenticates as (the authzid of PLAIN, X-OAUTH2 and "
        "SCRAM)",
        "Hardly anybody needs it, and some servers allow it to everybody: ejabberd before 26.07 does for PLAIN.",
    )
    route: Route = setting(
        Group.SERVING,
        values.one_of(Route),
        Route.LOGIN,
        "when a client gets its node. login: once it begins to log in; until then it is shown the features that all "
        "nodes have in common. connect: at once, by the from of its header, else where the sessions are fewest",
        "Most clients name their user only in the login. Where nodes offer different features, or their features are "
        "not known yet, connect applies anyway.",
    )
    placement: tuple[DomainPolicy, ...] = repeatable(
        Group.SERVING,
        values.PLACEMENT,
        (DomainPolicy(None, PlacementPolicy.RENDEZVOUS),),
        "the policy that places users: rendezvous gives each user a home node, least-sessions and first-available "
        "don't. For all domains, or for one",
        "A user's clients meet on one node, which has the roster and archive in memory already, and a node that joins "
        "or leaves moves only its share of users.",
    )
    user_map: Path | None = setting(
        Group.SERVING,
        cast("ValueType[Path | None]", values.PATH),
        None,
        "file that assigns users to nodes, one 'jid node' per line; all other users are placed by the policy",
        "It is for users whose data is on one node. It is a file, so it outlives restarts and other programs can "
        "write it.",
        shown="none",
    )
    user_lookup: str | None = setting(
        Group.SERVING,
        cast("ValueType[str | None]", values.LOOKUP_URL),
        None,
        "HTTP endpoint that assigns users to nodes, asked for users who are not in the user-map. {jid} in the URL "
        "stands for the user; without it ?jid= is added",
        "It is for assignments in a database. docs/placement.md describes the answers.",
        shown="none",
    )
    lookup_cache: float = setting(
        Group.SERVING,
        values.seconds(zero=False),
        60.0,
        "how long an answer of user-lookup holds, including the answer that there is none",
        "A client that reconnects does so within a minute. A user who is moved in the database should not wait longer.",
    )
    workers: int = _workers_field()
    transfer_rate: float = setting(
        Group.MOVING,
        values.RATE,
        100.0,
        "clients that are asked to move per second, by drains, rebalances and everything else together",
        "Each of them logs in again within seconds, and a login is the most expensive thing a node does. 10,000 "
        "clients move in 100 seconds.",
    )
    logins_per_second: float | None = setting(
        Group.SERVING,
        values.RATE_LIMIT,
        None,
        "logins per second to each node; further clients wait for their turn, at most admission-timeout. none for no "
        "limit",
        "Only the operator knows what a node and its database can take. After a node was lost, all its clients come "
        "at once.",
    )
    on_node_down: OnNodeDown = setting(
        Group.MOVING,
        values.one_of(OnNodeDown),
        OnNodeDown.TRANSFER,
        "what happens to the clients of a node that is down, while another node is up: transfer moves them at the "
        "transfer rate, close tells all at once, keep leaves them",
        "Clients of a node that hangs get nothing, and mostly don't notice. A node that has closed its listener is "
        "about to end its sessions anyway. If the node is up again in time, the remaining clients stay.",
    )
    node_certificate: Path | None = setting(
        Group.MOVING,
        cast("ValueType[Path | None]", values.PATH),
        None,
        "PEM file with the certificate, and its key unless --node-key names another file, with which the proxy logs in "
        "to nodes that say migrate=external, as any of their users, and resumes sessions there for their clients",
        "It takes a listener of the nodes that trusts it (docs/migration.md). Whoever has the key is every user.",
        shown="none: no session is taken to another node by the proxy",
    )
    """``None``: there is none."""
    node_key: Path | None = setting(
        Group.MOVING,
        cast("ValueType[Path | None]", values.PATH),
        None,
        "PEM file with the private key of --node-certificate. The proxy does not start if others may read it",
        "Many tools write certificate and key into one file.",
        shown="the certificate's file",
    )
    cxfr_unknown: CxfrUnknown = setting(
        Group.MOVING,
        values.one_of(CxfrUnknown),
        CxfrUnknown.TRY,
        "whether clients of which nothing is known are asked by connection transfer (XEP-0051) first, or skip to the "
        "next rung",
        "A client that doesn't know the request answers with an error and loses nothing; one that does moves without "
        "a gap.",
    )
    sm_after_transfer: SmAfterTransfer = setting(
        Group.MOVING,
        values.one_of(SmAfterTransfer),
        SmAfterTransfer.END,
        "what happens to a stream with XEP-0198 that was asked by connection transfer when its client leaves: end "
        "closes it on the node; wrap gives all clients ids by which they can resume through this proxy only",
        "The node has counted fewer stanzas than the client. If the client resumed by another way, the node might "
        "believe a wrong count and lose a stanza. With wrap, nothing can be resumed that began before the proxy was "
        "restarted.",
    )
    cxfr_allow: tuple[ClientMatch, ...] = repeatable(
        Group.MOVING,
        values.CLIENTS,
        (),
        "clients that are known to understand connection transfer (XEP-0051), by a trait",
        "The proxy learns from what clients say and answer. This is for clients that say nothing.",
        shown="none except those that say so",
    )
    cxfr_deny: tuple[ClientMatch, ...] = repeatable(
        Group.MOVING,
        values.CLIENTS,
        (),
        "clients that are never asked by connection transfer (XEP-0051), by a trait",
        "A client that doesn't know the request loses nothing by being asked except the time that it takes to answer.",
        shown="none",
    )
    wrong_node: WrongNode = setting(
        Group.MOVING,
        values.one_of(WrongNode),
        WrongNode.TRANSFER,
        "transfer moves a client that has logged in on another node than its user's home; keep leaves it there",
        "The user may be known only after the login. The client would stay apart from the user's other clients for as "
        "long as it is connected.",
    )
    rebalance: RebalanceMode = setting(
        Group.MOVING,
        values.one_of(RebalanceMode),
        RebalanceMode.AUTO,
        "whether users whose home changes, because a node joins, is back or has another weight, are moved there by "
        "themselves (auto) or only by the command rebalance (manual)",
        "A node that joins would stay empty until users happen to log in again. They are moved at transfer-rate, and "
        "only those whose home has changed.",
    )
    redirect_window: float = setting(
        Group.MOVING,
        values.seconds(zero=True),
        60.0,
        "time within which a user is not redirected to another host twice, and a client is not moved home twice",
        "Two proxies that disagree would send a client back and forth. Clients give up after 2 to 5 redirects in a "
        "row.",
    )
    redirect_targets: tuple[HostPattern, ...] = repeatable(
        Group.MOVING,
        values.HOST_PATTERN,
        (),
        "host that clients may be sent to, *.example.org for all hosts below it; any other public= is an error",
        "The list of nodes says where clients are sent, and another program or team may write it.",
        shown="any",
    )
    redirect_domain: tuple[DomainRedirect, ...] = repeatable(
        Group.MOVING,
        values.REDIRECT,
        (),
        "domain that is not served here any more: over TLS its clients are sent to that address by see-other-host",
        "A domain that moves to other servers keeps its users. DNS takes its time, and some clients have the address "
        "written down.",
        shown="none",
    )
    trust_node_redirects: TrustNodeRedirects = setting(
        Group.MOVING,
        values.one_of(TrustNodeRedirects),
        TrustNodeRedirects.NO,
        "whether a node's see-other-host is passed on to its client, over TLS and within redirect-targets; otherwise "
        "the proxy moves the client",
        "A node's redirect leads around the proxy, and a node that was broken into could send clients anywhere.",
    )
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    control: Path = _control_field()
    http: ListenAddress | None = setting(
        Group.OPERATING,
        cast("ValueType[ListenAddress | None]", values.LISTEN),
        None,
        "address that answers /metrics, /livez and /readyz by HTTP, without TLS or password: best a loopback address "
        "like 127.0.0.1:9222",
        "HTTP changes nothing and names no client, but the nodes' state is nobody else's business.",
        shown="none: no HTTP",
    )
    """``None``: not at all."""
    log_format: LogFormat = setting(
        Group.OPERATING,
        values.one_of(LogFormat),
        LogFormat.TEXT,
        "how log lines are written",
        "People read it first; JSON is for log collectors.",
    )
    log_level: LogLevel = setting(
        Group.OPERATING,
        values.one_of(LogLevel),
        LogLevel.INFO,
        "the least severe events that are logged",
        "One line for each session that comes, moves and goes; debug adds what leads to them.",
    )

    @classmethod
    def from_sources(cls, flags: Mapping[str, object], file: SettingsFile | None = None) -> Config:
        """Return settings from parsed flags (``vars()`` of a namespace) and a settings file.

        ``flags`` maps attribute names to text, or to a list of texts for a repeatable setting; names that are missing
        or ``None`` were not given, and names that are no setting's are ignored. Raises :class:`ConfigError`.
        """
        given: dict[str, dict[str, Any]] = {"": {}, "timeouts": {}, "limits": {}}
        for row in SETTINGS:
            value = flags.get(row.attribute)
            if value is not None:
                given[row.section][row.attribute] = row.read(value, f"--{row.name}")
            elif file is not None and row.name in file.values:
                given[row.section][row.attribute] = file.read(row)
        config = cls(timeouts=Timeouts(**given["timeouts"]), limits=Limits(**given["limits"]), **given[""])
        if len(config.key) > len(config.certificate):
            raise ConfigError(
                f"--key: expected at most one for each --certificate, found {len(config.key)} keys "
                f"for {len(config.certificate)} certificates"
            )
        if config.node_key is not None and config.node_certificate is None:
            raise ConfigError("--node-key: expected --node-certificate as well")
        if config.host_meta and config.websocket_path is None:
            raise ConfigError("host-meta: expected a websocket-path as well; without it HTTP is not spoken")
        config._check_redirects()
        return config

    def _check_redirects(self) -> None:
        """Refuse redirects in a circle, and those to hosts to which the operator allows none."""
        moved = [domain_key(each.domain) for each in self.redirect_domain]
        served = set(map(domain_key, self.domain))
        for each in self.redirect_domain:
            domain, host, label = domain_key(each.domain), domain_key(each.target.host), f"redirect-domain: {each}"
            if moved.count(domain) > 1:
                raise ConfigError(f"{label}: expected each domain once")
            if domain in served:
                raise ConfigError(f"{label}: expected a domain that is not served here too")
            if host in moved or host in served:
                raise ConfigError(f"{label}: expected a host elsewhere; its clients would come back here")
            if not self.redirection.allow(each.target.host):
                raise ConfigError(f"{label}: expected a host that redirect-targets allows ({self.redirection})")

    def differences(self, other: Config) -> list[str]:
        """Return the names of the settings that have another value there."""
        return [row.name for row in SETTINGS if row.value_in(self) != row.value_in(other)]

    @property
    def key_pairs(self) -> tuple[KeyPair, ...]:
        """The certificates in the order given, each with its key."""
        keys = self.key + self.certificate[len(self.key) :]
        return tuple(map(KeyPair, self.certificate, keys))

    @property
    def node_key_pair(self) -> KeyPair | None:
        """The certificate for nodes; ``None``: there is none."""
        if self.node_certificate is None:
            return None
        return KeyPair(self.node_certificate, self.node_key or self.node_certificate)

    @property
    def policies(self) -> PlacementPolicies:
        """By what the users of each domain are placed; of two for the same, the later one counts."""
        by_domain = {each.domain: each.policy for each in self.placement if each.domain is not None}
        usual = next(
            (each.policy for each in reversed(self.placement) if each.domain is None), PlacementPolicy.RENDEZVOUS
        )
        return PlacementPolicies(usual, by_domain)

    @property
    def redirection(self) -> RedirectTargets:
        """To which hosts clients may be sent."""
        return RedirectTargets(self.redirect_targets)

    def check_serving(self) -> None:
        """Check that everything is set that serving needs; files are not opened. Raises :class:`ConfigError`."""
        if self.backends is None:
            raise ConfigError("--backends FILE is needed: it names the nodes (try --help, or the command demo)")
        if not self.listen and not self.listen_unix:
            raise ConfigError("listen: expected at least one ADDRESS:PORT, or a path of listen-unix")


SETTINGS: Final = settings_of({"": Config, "timeouts": Timeouts, "limits": Limits})
