"""The settings of how clients are moved. A part of the table (:mod:`.table`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxfr_proxy.cluster.targets import HostPattern
from cxfr_proxy.config import values
from cxfr_proxy.config.choices import (
    CxfrUnknown,
    NodeStreamManagement,
    OnNodeDown,
    RebalanceMode,
    SmAfterTransfer,
    TrustNodeRedirects,
    WrongNode,
)
from cxfr_proxy.config.settings import Group, Reload, repeatable, setting
from cxfr_proxy.config.values import ClientMatch, DomainRedirect

# ruff: noqa: RUF009 - the calls in the dataclass make fields, as dataclasses.field() does


@dataclass(frozen=True)
class MovingSettings:
    """How clients are moved. ``None`` is explained where it may stand."""

    transfer_rate: float = setting(
        Group.MOVING,
        Reload.AT_ONCE,
        values.RATE,
        100.0,
        "clients that are asked to move per second, by drains, rebalances and everything else together",
        "Each of them logs in again within seconds, and a login is the most expensive thing a node does. 10,000 "
        "clients move in 100 seconds.",
    )
    on_node_down: OnNodeDown = setting(
        Group.MOVING,
        Reload.AT_ONCE,
        values.one_of(OnNodeDown),
        OnNodeDown.TRANSFER,
        "what happens to the clients of a node that is down, while another node is up: transfer moves them at the "
        "transfer rate, close tells all at once, keep leaves them",
        "Clients of a node that hangs get nothing, and mostly don't notice. A node that has closed its listener is "
        "about to end its sessions anyway. If the node is up again in time, the remaining clients stay.",
    )
    node_certificate: Path | None = setting(
        Group.MOVING,
        Reload.AT_ONCE,
        values.PATH.or_none,
        None,
        "PEM file with the certificate, and its key unless --node-key names another file, with which the proxy logs in "
        "to nodes that say migrate=external, as any of their users, and resumes sessions there for their clients",
        "It takes a listener of the nodes that trusts it (docs/migration.md). Whoever has the key is every user.",
        shown="none: no session is taken to another node by the proxy",
    )
    """``None``: there is none."""
    node_key: Path | None = setting(
        Group.MOVING,
        Reload.AT_ONCE,
        values.PATH.or_none,
        None,
        "PEM file with the private key of --node-certificate. The proxy does not start if others may read it",
        "Many tools write certificate and key into one file.",
        shown="the certificate's file",
    )
    node_stream_management: NodeStreamManagement = setting(
        Group.MOVING,
        Reload.NEW,
        values.one_of(NodeStreamManagement),
        NodeStreamManagement.OFF,
        "whether the proxy speaks XEP-0198 with nodes that say migrate=external in the place of clients that don't, so "
        "that these are taken to other nodes as well, and whether a session is resumed when the connection to such a "
        "node breaks. It needs --node-certificate",
        "Stanzas of these clients are looked at and kept until the node has acknowledged them, which costs time and "
        "memory (docs/migration.md).",
    )
    cxfr_unknown: CxfrUnknown = setting(
        Group.MOVING,
        Reload.AT_ONCE,
        values.one_of(CxfrUnknown),
        CxfrUnknown.TRY,
        "whether clients of which nothing is known are asked by connection transfer (XEP-0051) first, or skip to the "
        "next rung",
        "A client that doesn't know the request answers with an error and loses nothing; one that does moves without "
        "a gap.",
    )
    sm_after_transfer: SmAfterTransfer = setting(
        Group.MOVING,
        Reload.NEW,
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
        Reload.AT_ONCE,
        values.CLIENTS,
        (),
        "clients that are known to understand connection transfer (XEP-0051), by a trait",
        "The proxy learns from what clients say and answer. This is for clients that say nothing.",
        shown="none except those that say so",
    )
    cxfr_deny: tuple[ClientMatch, ...] = repeatable(
        Group.MOVING,
        Reload.AT_ONCE,
        values.CLIENTS,
        (),
        "clients that are never asked by connection transfer (XEP-0051), by a trait",
        "A client that doesn't know the request loses nothing by being asked except the time that it takes to answer.",
        shown="none",
    )
    wrong_node: WrongNode = setting(
        Group.MOVING,
        Reload.AT_ONCE,
        values.one_of(WrongNode),
        WrongNode.TRANSFER,
        "transfer moves a client that has logged in on another node than its user's home; keep leaves it there",
        "The user may be known only after the login. The client would stay apart from the user's other clients for as "
        "long as it is connected.",
    )
    rebalance: RebalanceMode = setting(
        Group.MOVING,
        Reload.AT_ONCE,
        values.one_of(RebalanceMode),
        RebalanceMode.AUTO,
        "whether users whose home changes, because a node joins, is back or has another weight, are moved there by "
        "themselves (auto) or only by the command rebalance (manual)",
        "A node that joins would stay empty until users happen to log in again. They are moved at transfer-rate, and "
        "only those whose home has changed.",
    )
    redirect_window: float = setting(
        Group.MOVING,
        Reload.AT_ONCE,
        values.seconds(zero=True),
        60.0,
        "time within which a user is not redirected to another host twice, and a client is not moved home twice",
        "Two proxies that disagree would send a client back and forth. Clients give up after 2 to 5 redirects in a "
        "row.",
    )
    redirect_targets: tuple[HostPattern, ...] = repeatable(
        Group.MOVING,
        Reload.AT_ONCE,
        values.HOST_PATTERN,
        (),
        "host that clients may be sent to, *.example.org for all hosts below it; any other public= is an error",
        "The list of nodes says where clients are sent, and another program or team may write it.",
        shown="any",
    )
    redirect_domain: tuple[DomainRedirect, ...] = repeatable(
        Group.MOVING,
        Reload.NEW,
        values.REDIRECT,
        (),
        "domain that is not served here any more: over TLS its clients are sent to that address by see-other-host",
        "A domain that moves to other servers keeps its users. DNS takes its time, and some clients have the address "
        "written down.",
        shown="none",
    )
    trust_node_redirects: TrustNodeRedirects = setting(
        Group.MOVING,
        Reload.AT_ONCE,
        values.one_of(TrustNodeRedirects),
        TrustNodeRedirects.NO,
        "whether a node's see-other-host is passed on to its client, over TLS and within redirect-targets; otherwise "
        "the proxy moves the client",
        "A node's redirect leads around the proxy, and a node that was broken into could send clients anywhere.",
    )
