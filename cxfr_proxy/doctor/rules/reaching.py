"""Whether a node greets a client of the proxy's, and if not, what about its line or its listener is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from cxfr_proxy.cluster.nodes import AdminState, NodeTls
from cxfr_proxy.doctor.facts import ClusterFacts, LookStage, NodeFacts, OtherWay
from cxfr_proxy.doctor.findings import PROXY, DoctorRule, Look, Severity, Symptom
from cxfr_proxy.doctor.software import ServerSoftware
from cxfr_proxy.xmpp.opening.features import NO_LOGIN, TLS_FIRST

_TLS_WORDS: Final[Mapping[NodeTls, str]] = {
    NodeTls.NONE: "no TLS (tls=none)",
    NodeTls.STARTTLS: "STARTTLS (tls=starttls)",
    NodeTls.DIRECT: "TLS from the first byte (tls=direct)",
}


def _failed_at(*stages: LookStage) -> Look:
    """Return a look for nodes that failed there, and greet in no other way that was tried; not for those that are in
    maintenance."""

    def look(facts: ClusterFacts) -> Iterator[Symptom]:
        for node in facts.nodes:
            if node.spec.admin_state is AdminState.MAINT:
                continue  # being down is no surprise
            if node.failure is not None and node.failure.stage in stages and not node.other_ways:
                yield Symptom(node.failure.reason, node.spec.name, node.domain)

    return look


def _greets_otherwise(applies: Callable[[NodeFacts, OtherWay], bool], said: Callable[[OtherWay], str]) -> Look:
    """Return a look for nodes that greet in another way than their line's; ``said`` puts that into words."""

    def look(facts: ClusterFacts) -> Iterator[Symptom]:
        for node in facts.nodes:
            way = next((each for each in node.other_ways if applies(node, each)), None)
            if node.failure is not None and way is not None:
                yield Symptom(f"{node.failure.reason}; {said(way)}", node.spec.name, node.domain)

    return look


def _dead_end(reason: str) -> Look:
    def look(facts: ClusterFacts) -> Iterator[Symptom]:
        for node in facts.nodes:
            if node.offer is not None and node.offer.dead_end == reason:
                yield Symptom(f"it greets, and offers: {_offered(node)}", node.spec.name, node.domain)

    return look


def _offered(node: NodeFacts) -> str:
    assert node.offer is not None
    return "STARTTLS and no login" if node.offer.starttls else "no login"


def _nothing_passes(facts: ClusterFacts) -> Iterator[Symptom]:
    for node in facts.nodes:
        if node.offer is not None and node.offer.mechanisms and not node.offer.passes:
            yield Symptom("it offers " + ", ".join(sorted(node.offer.mechanisms)), node.spec.name, node.domain)


RULES: Final = (
    DoctorRule(
        "unreachable",
        Severity.ERROR,
        "A node cannot be connected to",
        "a connection to the address in its line",
        "nobody is placed on it; all its users are logged in on the others",
        {
            PROXY: "nodes.txt: the node's address and port",
            ServerSoftware.EJABBERD: "listen: ip, port, and module: ejabberd_c2s",
            ServerSoftware.PROSODY: "c2s_ports, c2s_interfaces",
            ServerSoftware.MONGOOSEIM: "[[listen.c2s]]: port, ip_address",
            ServerSoftware.OPENFIRE: "xmpp.socket.plain.active = true, xmpp.socket.plain.port",
        },
        _failed_at(LookStage.CONNECT),
    ),
    DoctorRule(
        "proxy-header-missing",
        Severity.ERROR,
        "A node waits for a PROXY header, and its line sends none",
        "send-proxy= in the node's line if, and only if, its listener expects the header",
        "every login on this node fails",
        {
            PROXY: "nodes.txt: send-proxy=v2",
            ServerSoftware.EJABBERD: "or use_proxy_protocol: false on the listener",
            ServerSoftware.PROSODY: "or the port of c2s_ports, which is none of mod_net_proxy's",
            ServerSoftware.MONGOOSEIM: "or proxy_protocol = false in [[listen.c2s]]",
        },
        _greets_otherwise(
            lambda node, way: node.spec.send_proxy is None and way.send_proxy is not None,
            lambda way: f"it greets behind a PROXY header ({way.send_proxy})",
        ),
    ),
    DoctorRule(
        "proxy-header-unexpected",
        Severity.ERROR,
        "A node does not take the PROXY header that its line sends",
        "a listener that expects the header, in that version",
        "every login on this node fails",
        {
            PROXY: "nodes.txt: no send-proxy= (the node then takes all clients for the proxy), or the other version",
            ServerSoftware.EJABBERD: "use_proxy_protocol: true on the listener",
            ServerSoftware.PROSODY: (
                'mod_net_proxy: modules_enabled = { "net_proxy" }, proxy_ports, proxy_port_mappings to "c2s", '
                "proxy_trusted_proxies with the proxy's address; and that port in nodes.txt"
            ),
            ServerSoftware.MONGOOSEIM: "proxy_protocol = true in [[listen.c2s]]",
            ServerSoftware.OPENFIRE: "it reads no PROXY header: leave send-proxy= out",
        },
        _greets_otherwise(
            lambda node, way: node.spec.send_proxy is not None and way.send_proxy is not node.spec.send_proxy,
            lambda way: (
                f"it greets behind a PROXY header of version {way.send_proxy}"
                if way.send_proxy is not None
                else "it greets without a PROXY header"
            ),
        ),
    ),
    DoctorRule(
        "tls-mode",
        Severity.ERROR,
        "A node does not speak TLS in the way that its line says",
        "tls= in the node's line as its listener has it",
        "every login on this node fails",
        {
            PROXY: "nodes.txt: tls=none, tls=starttls or tls=direct, as the listener has it",
            ServerSoftware.EJABBERD: "starttls: true, or tls: true (direct), on the listener; neither for tls=none",
            ServerSoftware.PROSODY: "c2s_ports (STARTTLS with mod_tls), c2s_direct_tls_ports (direct)",
            ServerSoftware.MONGOOSEIM: 'tls.mode = "starttls" or "tls" (direct) in [[listen.c2s]]; no tls for none',
            ServerSoftware.OPENFIRE: "xmpp.client.tls.policy for 5222; xmpp.socket.ssl.active for direct TLS on 5223",
        },
        _greets_otherwise(
            lambda node, way: node.spec.tls is not way.tls and node.spec.send_proxy is way.send_proxy,
            lambda way: f"it greets with {_TLS_WORDS[way.tls]}",
        ),
    ),
    DoctorRule(
        "tls-failed",
        Severity.ERROR,
        "TLS with a node fails",
        "a handshake of TLS 1.2 or 1.3",
        "every login on this node fails",
        {
            PROXY: "nodes.txt: tls=, and the port that belongs to it",
            ServerSoftware.EJABBERD: "certfiles, c2s_protocol_options, c2s_ciphers; on the listener tls_verify: false",
            ServerSoftware.PROSODY: "certificates, ssl, c2s_ssl; no fail_if_no_peer_cert in its verify; with "
            "tls=direct no verify-name= that is none of its hosts",
            ServerSoftware.MONGOOSEIM: "tls.certfile, tls.keyfile, tls.versions, tls.ciphers in [[listen.c2s]]; "
            'tls.verify_mode = "none", since by default it wants a certificate of the proxy\'s',
            ServerSoftware.OPENFIRE: "the identity store; xmpp.socket.ssl.client.protocols and .ciphersuites; "
            "xmpp.client.cert.policy = disabled",
        },
        _failed_at(LookStage.TLS),
    ),
    DoctorRule(
        "tls-required",
        Severity.ERROR,
        "A node wants TLS before a login, and its line says tls=none",
        "a login on the plain leg, or tls=starttls",
        "every login on this node fails; checks mark it down",
        {
            PROXY: "nodes.txt: tls=starttls and ca= (see channel-binding for what that costs)",
            ServerSoftware.EJABBERD: "starttls_required: false, or better starttls: false, on a listener for the proxy",
            ServerSoftware.PROSODY: "c2s_require_encryption = false",
            ServerSoftware.MONGOOSEIM: "no tls options in a [[listen.c2s]] for the proxy",
            ServerSoftware.OPENFIRE: "xmpp.client.tls.policy = disabled",
        },
        _dead_end(TLS_FIRST),
    ),
    DoctorRule(
        "no-login",
        Severity.ERROR,
        "A node offers no way to log in",
        "SCRAM, or PLAIN, among the features",
        "every login on this node fails; checks mark it down",
        {
            ServerSoftware.EJABBERD: "auth_method, and no disable_sasl_mechanisms that names all of them",
            ServerSoftware.PROSODY: "allow_unencrypted_plain_auth = true, or authentication with SCRAM",
            ServerSoftware.MONGOOSEIM: "auth.methods, auth.sasl_mechanisms",
            ServerSoftware.OPENFIRE: "sasl.mechs",
        },
        _dead_end(NO_LOGIN),
    ),
    DoctorRule(
        "no-login-passes",
        Severity.ERROR,
        "Of the ways to log in that a node offers none works behind a proxy that ends TLS",
        "SCRAM without channel binding, or PLAIN",
        "clients are shown an empty list of mechanisms, and nobody can log in on this node",
        {
            ServerSoftware.EJABBERD: "disable_sasl_mechanisms without scram-sha-1, scram-sha-256 or plain in it",
            ServerSoftware.PROSODY: "disable_sasl_mechanisms without SCRAM-SHA-1, SCRAM-SHA-256 or PLAIN in it",
            ServerSoftware.MONGOOSEIM: 'auth.sasl_mechanisms with "scram_sha256", "scram_sha1" or "plain"',
            ServerSoftware.OPENFIRE: "sasl.mechs with SCRAM-SHA-1 or PLAIN",
        },
        _nothing_passes,
    ),
    DoctorRule(
        "domain-unknown",
        Severity.ERROR,
        "A node does not serve a domain for which users are placed on it",
        "each domain on every node that may get its users",
        "every login for this domain on this node fails",
        {
            PROXY: "nodes.txt: domain= with the domains that the node does serve; --domain",
            ServerSoftware.EJABBERD: "hosts",
            ServerSoftware.PROSODY: "VirtualHost",
            ServerSoftware.MONGOOSEIM: "general.hosts, or a dynamic domain of one of general.host_types",
            ServerSoftware.OPENFIRE: "xmpp.domain",
        },
        _failed_at(LookStage.DOMAIN),
    ),
    DoctorRule(
        "no-greeting",
        Severity.ERROR,
        "A node does not greet a client",
        "a stream header and stream features (RFC 6120 section 4.3)",
        "every login on this node fails; checks mark it down",
        {
            PROXY: "nodes.txt: the port of a listener for clients, and send-proxy= as that listener has it",
            ServerSoftware.EJABBERD: "module: ejabberd_c2s on the listener, and use_proxy_protocol as in nodes.txt",
            ServerSoftware.PROSODY: (
                "c2s_ports; behind mod_net_proxy proxy_trusted_proxies with the proxy's address: all others are "
                "dropped, and without it all but those from Prosody's own machine"
            ),
            ServerSoftware.MONGOOSEIM: "[[listen.c2s]]: port, and proxy_protocol as in nodes.txt",
            ServerSoftware.OPENFIRE: "xmpp.socket.plain.port",
        },
        _failed_at(LookStage.GREETING),
    ),
)
