"""The settings of how clients are served: where they connect, what they must do, where they are placed. A part of the
table (:mod:`.table`)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cxfr_proxy.cluster.addresses import WebSocketUrl
from cxfr_proxy.cluster.backends import Backends
from cxfr_proxy.cluster.placement import PlacementPolicy
from cxfr_proxy.config import values
from cxfr_proxy.config.choices import ForwardingHeader, ProxyHeaderUse, ReusePort, Route, SaslAuthzid, StartTls
from cxfr_proxy.config.settings import Group, Reload, Row, repeatable, setting
from cxfr_proxy.config.values import DomainPolicy, ListenAddress, ListenPath, PeerNetwork

# ruff: noqa: RUF009 - the calls in the dataclass make fields, as dataclasses.field() does

MAX_WORKERS: Final = 256
"More workers than cores gain nothing, while each takes memory and hears what all others report: a larger number was "
"mistyped."


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)))


def _workers_field() -> int:
    row = Row(
        Group.SERVING,
        Reload.RESTART,
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


@dataclass(frozen=True)
class ServingSettings:
    """How clients are served. ``None`` is explained where it may stand."""

    backends: Backends | None = setting(
        Group.SERVING,
        Reload.RESTART,
        values.BACKENDS.or_none,
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
        Reload.RESTART,
        values.LISTEN,
        (ListenAddress(None, 5222),),
        "where clients connect; a host of * (or none) is every address, an IPv6 address stands in brackets",
        "5222 is the registered port for XMPP clients (RFC 6120 section 14.7).",
    )
    listen_unix: tuple[ListenPath, ...] = repeatable(
        Group.SERVING,
        Reload.RESTART,
        values.LISTEN_PATH,
        (),
        "unix socket on which clients connect as well, by way of a balancer on this machine; with its mode (660 unless "
        "it is given), user and group",
        "Only those who may open the socket can connect, which no port of a machine with other users promises.",
        shown="none",
    )
    reuse_port: ReusePort = setting(
        Group.SERVING,
        Reload.RESTART,
        values.one_of(ReusePort),
        ReusePort.NO,
        "whether several proxies of one user may listen on the same addresses of this machine at the same time "
        "(SO_REUSEPORT); each of them needs it. The kernel spreads new connections over them",
        "Two proxies on one port are mostly an accident: each would know half of the clients only.",
    )
    trusted_proxies: tuple[PeerNetwork, ...] = repeatable(
        Group.SERVING,
        Reload.NEW,
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
        Reload.NEW,
        values.one_of(ProxyHeaderUse),
        ProxyHeaderUse.REQUIRED,
        "whether the trusted-proxies have to send a PROXY header. optional: a connection without one is their own, and "
        "has their address",
        "Clients of a balancer that was not told to send it would all have its address. With optional, a client whose "
        "bytes a trusted proxy passes on without a header could begin with a header of its own.",
    )
    forwarded_header: ForwardingHeader = setting(
        Group.SERVING,
        Reload.NEW,
        values.one_of(ForwardingHeader),
        ForwardingHeader.X_FORWARDED_FOR,
        "the header in which trusted-proxies that speak HTTP name the client of a WebSocket; nobody else's is read. "
        "Whether the client has TLS is read from x-forwarded-proto beside the one, from proto= in the other",
        "nginx, HAProxy and most others can write it. A proxy that writes one of them passes the other on as the "
        "client has made it up.",
    )
    domain: tuple[str, ...] = repeatable(
        Group.SERVING,
        Reload.NEW,
        values.DOMAIN,
        (),
        "domain that is served; clients that ask for another domain are refused",
        "The nodes know their domains and refuse others themselves.",
        shown="any: the node hears which one the client asks for",
    )
    certificate: tuple[Path, ...] = repeatable(
        Group.SERVING,
        Reload.NEW,
        values.PATH,
        (),
        "PEM file with a certificate chain, and its key unless --key names another file. Clients see the certificate "
        "for the domain they ask for, and of an RSA and an ECDSA certificate the one that they can verify",
        "Clients accept no made-up certificate, but one is enough to try the proxy.",
        shown="none: those of certificates, else a self-signed one for the domains, made anew at each start",
    )
    key: tuple[Path, ...] = repeatable(
        Group.SERVING,
        Reload.NEW,
        values.PATH,
        (),
        "PEM file with the private key of the certificate at the same place in the order",
        "Many tools write certificate and key into one file.",
        shown="the certificate's file",
    )
    certificates: tuple[Path, ...] = repeatable(
        Group.SERVING,
        Reload.NEW,
        values.DIRECTORY,
        (),
        "directory of certificates: NAME.pem or NAME.crt, with the key in NAME.key if there is one, and else in the "
        "same file; or a directory for each, with fullchain.pem and privkey.pem. It is followed: a certificate that is "
        "added, renewed or taken away counts within seconds",
        "A program that renews certificates writes them where it likes, and need not know of the proxy.",
        shown="none",
    )
    starttls: StartTls = setting(
        Group.SERVING,
        Reload.NEW,
        values.one_of(StartTls),
        StartTls.REQUIRED,
        "whether clients must, may or cannot encrypt by STARTTLS",
        "A client that isn't made to encrypt can be kept from it by anybody in between (RFC 7590 section 3.1).",
    )
    websocket_path: str | None = setting(
        Group.SERVING,
        Reload.NEW,
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
        Reload.NEW,
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
        Reload.NEW,
        values.WEBSOCKET_URL,
        (),
        "URL of the WebSocket to announce in /.well-known/host-meta and host-meta.json (XEP-0156), where web clients "
        "look for it",
        "The proxy does not know by which name browsers reach it, and what is wrong there keeps them out.",
        shown="none: there is no host-meta",
    )
    sasl_authzid: SaslAuthzid = setting(
        Group.SERVING,
        Reload.NEW,
        values.one_of(SaslAuthzid),
        SaslAuthzid.SAME,
        "whether a client may log in as another user than it authenticates as (the authzid of PLAIN, X-OAUTH2 and "
        "SCRAM)",
        "Hardly anybody needs it, and some servers allow it to everybody: ejabberd before 26.07 does for PLAIN.",
    )
    route: Route = setting(
        Group.SERVING,
        Reload.NEW,
        values.one_of(Route),
        Route.LOGIN,
        "when a client gets its node. login: once it begins to log in; until then it is shown the features that all "
        "nodes have in common. connect: at once, by the from of its header, else where the sessions are fewest",
        "Most clients name their user only in the login. Where nodes offer different features, or their features are "
        "not known yet, connect applies anyway.",
    )
    placement: tuple[DomainPolicy, ...] = repeatable(
        Group.SERVING,
        Reload.AT_ONCE,
        values.PLACEMENT,
        (DomainPolicy(None, PlacementPolicy.RENDEZVOUS),),
        "the policy that places users: rendezvous gives each user a home node, least-sessions and first-available "
        "don't. For all domains, or for one",
        "A user's clients meet on one node, which has the roster and archive in memory already, and a node that joins "
        "or leaves moves only its share of users.",
    )
    user_map: Path | None = setting(
        Group.SERVING,
        Reload.AT_ONCE,
        values.PATH.or_none,
        None,
        "file that assigns users to nodes, one 'jid node' per line; all other users are placed by the policy",
        "It is for users whose data is on one node. It is a file, so it outlives restarts and other programs can "
        "write it.",
        shown="none",
    )
    user_lookup: str | None = setting(
        Group.SERVING,
        Reload.AT_ONCE,
        values.LOOKUP_URL.or_none,
        None,
        "HTTP endpoint that assigns users to nodes, asked for users who are not in the user-map. {jid} in the URL "
        "stands for the user; without it ?jid= is added",
        "It is for assignments in a database. docs/placement.md describes the answers.",
        shown="none",
    )
    lookup_cache: float = setting(
        Group.SERVING,
        Reload.AT_ONCE,
        values.seconds(zero=False),
        60.0,
        "how long an answer of user-lookup holds, including the answer that there is none",
        "A client that reconnects does so within a minute. A user who is moved in the database should not wait longer.",
    )
    workers: int = _workers_field()
    logins_per_second: float | None = setting(
        Group.SERVING,
        Reload.AT_ONCE,
        values.RATE_LIMIT,
        None,
        "logins per second to each node; further clients wait for their turn, at most admission-timeout. none for no "
        "limit",
        "Only the operator knows what a node and its database can take. After a node was lost, all its clients come "
        "at once.",
    )
