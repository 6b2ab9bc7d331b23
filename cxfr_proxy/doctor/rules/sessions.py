"""Faults that are seen by logging in alone: sessions that move, tokens, clocks, addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cxfr_proxy.cluster.nodes import Resume
from cxfr_proxy.doctor.facts import ClusterFacts, NodeFacts, SessionFacts
from cxfr_proxy.doctor.findings import PROXY, DoctorRule, Severity, Symptom
from cxfr_proxy.doctor.software import ServerSoftware

MOST_AHEAD_SECONDS: Final = 2.0
"""Seconds by which a node's clock may be off. ejabberd tells two sessions of a name apart by the second in which they
began."""


def _sessions(facts: ClusterFacts) -> Iterator[tuple[NodeFacts, SessionFacts]]:
    """Yield the nodes on which a login worked."""
    for node in facts.nodes:
        if node.session is not None and node.session.refused is None:
            yield node, node.session


def _resume_of(facts: ClusterFacts, name: str) -> Resume | None:
    return next((node.spec.resume for node in facts.nodes if node.spec.name == name), None)


def _login_refused(facts: ClusterFacts) -> Iterator[Symptom]:
    for node in facts.nodes:
        if node.session is not None and node.session.refused is not None and node.session.tried:
            elsewhere = [other.spec.name for other, _ in _sessions(facts) if other.domain == node.domain]
            but = f"; on {elsewhere[0]} the same login works" if elsewhere else ""
            yield Symptom(f"{node.session.refused}{but}", node.spec.name, node.domain)


def _unmanaged(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, session in _sessions(facts):
        if session.managed is False:
            yield Symptom("it offers no stream management", node.spec.name, node.domain)
        elif session.resumable is False:
            yield Symptom("it enables stream management without resumption", node.spec.name, node.domain)


def _not_shared(facts: ClusterFacts) -> Iterator[Symptom]:
    for move in facts.moves:
        both = (_resume_of(facts, move.origin), _resume_of(facts, move.target))
        if move.refused is not None and both == (Resume.SHARED, Resume.SHARED):
            yield Symptom(f"a session of {move.origin} is not resumed: {move.refused}", move.target, move.domain)


def _shared_unsaid(facts: ClusterFacts) -> Iterator[Symptom]:
    for move in facts.moves:
        both = (_resume_of(facts, move.origin), _resume_of(facts, move.target))
        if move.refused is None and move.origin != move.target and Resume.OWN in both:
            yield Symptom(f"a session of {move.origin} was resumed", move.target, move.domain)


def _migrate_refused(facts: ClusterFacts) -> Iterator[Symptom]:
    for node in facts.nodes:
        if node.external:
            yield Symptom(f"{node.spec.for_migration.address}: {node.external}", node.spec.name, node.domain)


def _open_door(facts: ClusterFacts) -> Iterator[Symptom]:
    for node in facts.nodes:
        if node.open_door:
            yield Symptom(
                f"{node.spec.for_migration.address} let the user in by EXTERNAL, without a certificate",
                node.spec.name,
                node.domain,
            )


def _tokens_local(facts: ClusterFacts) -> Iterator[Symptom]:
    for token in facts.tokens:
        if token.refused is not None and token.origin != token.target:
            yield Symptom(f"it refuses a token of {token.origin}: {token.refused}", token.target, token.domain)


def _clock(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, session in _sessions(facts):
        if session.ahead is not None and abs(session.ahead) > MOST_AHEAD_SECONDS + session.ahead_slack:
            way = "ahead of" if session.ahead > 0 else "behind"
            yield Symptom(f"its clock is {abs(session.ahead):.0f} s {way} this machine's", node.spec.name, node.domain)


def _address_hidden(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, session in _sessions(facts):
        seen, told = session.seen_address, session.told_address
        if seen is not None and told is not None and seen != told:
            yield Symptom(f"it was told {_peer(told)}, and thinks of {_peer(seen)}", node.spec.name, node.domain)


def _peer(peer: tuple[str, int]) -> str:
    return f"{peer[0]} port {peer[1]}"


RULES: Final = (
    DoctorRule(
        "login-refused",
        Severity.ERROR,
        "A node refuses the user, or the way in which clients log in",
        "the same account, with the same password, on every node of the domain",
        "users are locked out when they are placed on this node, or moved to it",
        {
            ServerSoftware.EJABBERD: "auth_method: one database for all nodes, or join_cluster for internal",
            ServerSoftware.PROSODY: "authentication, storage: one database for all nodes (such as sql)",
            ServerSoftware.MONGOOSEIM: "auth.methods: one database for all nodes",
            ServerSoftware.OPENFIRE: "provider.auth.className, and one database for all nodes",
        },
        _login_refused,
    ),
    DoctorRule(
        "stream-management",
        Severity.WARNING,
        "A node has no stream management, or none that can be resumed",
        "XEP-0198 with resumption",
        "clients cannot resume: a message on its way is lost when a connection breaks, and a move is a new login",
        {
            ServerSoftware.EJABBERD: "mod_stream_mgmt: {}, with resume_timeout above 0",
            ServerSoftware.PROSODY: 'modules_enabled with "smacks"; smacks_hibernation_time above 0',
            ServerSoftware.MONGOOSEIM: "[modules.mod_stream_management]",
            ServerSoftware.OPENFIRE: "stream.management.active = true",
        },
        _unmanaged,
    ),
    DoctorRule(
        "resume-not-shared",
        Severity.ERROR,
        "Nodes say resume=shared, and a session of one is not resumed on the other",
        "nodes of one cluster, which fetch each other's sessions",
        "clients that are moved lose their session, and what was on its way to them; migrate= cannot work",
        {
            PROXY: "nodes.txt: no resume=shared where nodes are no cluster",
            ServerSoftware.EJABBERD: "ejabberdctl join_cluster; list_cluster has to name all nodes; "
            "mod_stream_mgmt on all of them",
            ServerSoftware.PROSODY: "none: it keeps its sessions to itself",
            ServerSoftware.MONGOOSEIM: "mongooseimctl join_cluster, or CETS; mod_stream_management on all nodes",
            ServerSoftware.OPENFIRE: "none: it keeps its sessions to itself",
        },
        _not_shared,
    ),
    DoctorRule(
        "resume-shared-unsaid",
        Severity.NOTE,
        "Nodes resume each other's sessions, and their lines do not say so",
        "resume=shared where it is true",
        "the proxy makes no use of it: clients that resume are taken back to the node that they come from",
        {PROXY: "nodes.txt: resume=shared on both lines"},
        _shared_unsaid,
    ),
    DoctorRule(
        "migrate-refused",
        Severity.ERROR,
        "A node says migrate=external, and does not let the proxy log in by its certificate",
        "SASL EXTERNAL with the certificate of --node-certificate, and stream management",
        "no session is taken there unnoticed: clients are moved by the next rung",
        {
            PROXY: "nodes.txt: migrate-address=; --node-certificate and --node-key",
            ServerSoftware.EJABBERD: "a listener with tls: true, tls_verify: true, cafile: the authority that has "
            "signed the proxy's certificate; use_proxy_protocol as in nodes.txt",
            ServerSoftware.PROSODY: "none: it keeps its sessions to itself; leave migrate= out",
            ServerSoftware.MONGOOSEIM: 'a [[listen.c2s]] of its own with tls.mode = "tls", tls.verify_mode = "peer", '
            'tls.cacertfile, allowed_auth_methods = ["pki"]; [auth.pki], auth.sasl_mechanisms with "external", '
            'auth.sasl_external = ["auth_id"]',
            ServerSoftware.OPENFIRE: "none: it keeps its sessions to itself; leave migrate= out",
        },
        _migrate_refused,
    ),
    DoctorRule(
        "migrate-open",
        Severity.ERROR,
        "A node lets a program without a certificate log in as any user at its migration address",
        "a listener that asks for a certificate, and refuses EXTERNAL without",
        "each program that reaches the port can log in as any user, without a password",
        {
            PROXY: "nodes.txt: no migrate= for this node, which closes nothing; and nobody else is to reach the port",
            ServerSoftware.EJABBERD: "tls_verify: true and cafile on the listener, and a firewall before it",
            ServerSoftware.MONGOOSEIM: 'tls.verify_mode = "peer" and tls.cacertfile in its [[listen.c2s]]',
        },
        _open_door,
    ),
    DoctorRule(
        "token-local",
        Severity.NOTE,
        "FAST tokens (XEP-0484) of one node are unknown to another",
        "one store of tokens for all nodes",
        "each move costs a client one failed login before it uses its password; without that, a user is asked for it",
        {
            PROXY: "none; docs/failed-logins.md keeps such failures from counting",
            ServerSoftware.EJABBERD: "mod_auth_fast on all nodes of the cluster, with db_type as on the others",
            ServerSoftware.PROSODY: 'the store fast_tokens in one database: storage = { fast_tokens = "sql" }',
            ServerSoftware.MONGOOSEIM: "modules.mod_fast_auth_token with one database for all nodes",
        },
        _tokens_local,
    ),
    DoctorRule(
        "clock",
        Severity.WARNING,
        "A node's clock is wrong",
        f"the same time as on this machine, within {MOST_AHEAD_SECONDS:g} s",
        "ejabberd tells sessions apart by the second in which they began, so a moved session may end the wrong one; "
        "tokens and certificates end too soon or too late, and archives are out of order",
        dict.fromkeys(ServerSoftware, "NTP on the node's machine (chrony, systemd-timesyncd), and on the proxy's"),
        _clock,
    ),
    DoctorRule(
        "address-hidden",
        Severity.WARNING,
        "A node does not see the client's address that its PROXY header tells",
        "the address in the header",
        "bans and limits by address strike all clients of the proxy at once, and logs name the wrong one",
        {
            PROXY: "docs/failed-logins.md: bans by the proxy's own log",
            ServerSoftware.EJABBERD: "use_proxy_protocol: true on the listener",
            ServerSoftware.PROSODY: "proxy_trusted_proxies with the proxy's address",
            ServerSoftware.MONGOOSEIM: "proxy_protocol = true in [[listen.c2s]]",
        },
        _address_hidden,
    ),
)
