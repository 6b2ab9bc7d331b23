"""Certificates: the nodes', those at ``public=``, and the proxy's own, by their names and their dates."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final

from cxfr_proxy.doctor.facts import ClusterFacts, NodeFacts, PublicFacts, SeenCertificate
from cxfr_proxy.doctor.findings import PROXY, DoctorRule, Severity, Symptom
from cxfr_proxy.doctor.software import ServerSoftware
from cxfr_proxy.spellings import domain_key

SOON_SECONDS: Final = 14 * 86_400.0
"""How long before its end a certificate should have been replaced at the latest: those that live for 90 days are
renewed a month before their end, so by then a renewal has failed again and again."""
_SOON_SHARE: Final = 0.25
"""The same for those that live for days or hours, as part of their life: they are renewed when a third is left."""
_NAMES_SHOWN: Final = 8


def _date(seconds: float) -> str:
    try:
        return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):  # a certificate may say any year
        return "a date out of reach"


def untimely(certificate: SeenCertificate, now: float) -> str | None:
    """Say why everybody refuses it by its dates; ``None``: nobody does."""
    if certificate.not_after < now:
        return f"it has expired: it was valid until {_date(certificate.not_after)}"
    if certificate.not_before > now:
        return f"it is not valid before {_date(certificate.not_before)}"
    return None


def _ends_soon(certificate: SeenCertificate, now: float) -> str | None:
    life = certificate.not_after - certificate.not_before
    if now <= certificate.not_after < now + min(SOON_SECONDS, life * _SOON_SHARE):
        return f"it is valid until {_date(certificate.not_after)}"
    return None


def _named(certificate: SeenCertificate) -> str:
    shown = ", ".join(certificate.names[:_NAMES_SHOWN]) or "no domain"
    more = len(certificate.names) - _NAMES_SHOWN
    return f"it is for {shown}" + (f" and {more} more" if more > 0 else "")


def wanted_name(node: NodeFacts) -> str | None:
    """Return the name that the proxy looks for in a node's certificate, as its key; ``None``: there is none yet."""
    name = node.spec.verify_name or node.domain
    return domain_key(name) if name is not None else None


def _of_nodes(facts: ClusterFacts) -> Iterator[tuple[NodeFacts, SeenCertificate]]:
    for node in facts.nodes:
        if node.tls is not None and node.tls.certificate is not None:
            yield node, node.tls.certificate


def _of_public(facts: ClusterFacts) -> Iterator[tuple[NodeFacts, PublicFacts]]:
    for node in facts.nodes:
        if node.public is not None:
            yield node, node.public


def _node_untimely(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, certificate in _of_nodes(facts):
        if (reason := untimely(certificate, facts.now)) is not None:
            yield Symptom(reason, node.spec.name, node.domain)


def _node_soon(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, certificate in _of_nodes(facts):
        if (reason := _ends_soon(certificate, facts.now)) is not None:
            yield Symptom(reason, node.spec.name, node.domain)


def _is_misnamed(node: NodeFacts, certificate: SeenCertificate) -> bool:
    if node.tls is not None and node.tls.misnamed:
        return True
    name = wanted_name(node)
    # Of the addresses in a certificate only OpenSSL knows.
    return name is not None and not _is_ip_address(name) and not certificate.covers(name)


def _node_name(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, certificate in _of_nodes(facts):
        if node.tls is None or node.tls.refused is None:
            continue  # OpenSSL takes more than the names that clients look for: a common name, an IP address
        name = wanted_name(node)
        if name is not None and _is_misnamed(node, certificate) and not untimely(certificate, facts.now):
            seen = f"{_named(certificate)} ({node.tls.refused})"
            yield Symptom(seen, node.spec.name, node.domain, f"a certificate for {name}")


def _node_untrusted(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, certificate in _of_nodes(facts):
        explained = untimely(certificate, facts.now) or _is_misnamed(node, certificate)
        if node.tls is not None and node.tls.refused is not None and not explained:
            against = node.spec.ca or "the system's authorities"
            yield Symptom(f"{node.tls.refused} (against {against})", node.spec.name, node.domain)


def _public_unseen(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, public in _of_public(facts):
        if public.certificate is None:
            yield Symptom(
                f"public={node.spec.public}: {public.reason or 'no certificate was seen'}", node.spec.name, node.domain
            )


def _public_untimely(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, public in _of_public(facts):
        if public.certificate is not None and (reason := untimely(public.certificate, facts.now)) is not None:
            yield Symptom(f"public={node.spec.public}: {reason}", node.spec.name, node.domain)


def _public_name(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, public in _of_public(facts):
        if public.certificate is None or node.spec.public is None or node.domain is None:
            continue
        if not public.certificate.covers(domain_key(node.domain)):
            yield _misnamed(node, public.certificate, domain_key(node.domain))


def _public_host(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, public in _of_public(facts):
        if public.certificate is None or node.spec.public is None or _is_ip_address(node.spec.public.host):
            continue
        if not public.certificate.covers(domain_key(node.spec.public.host)):
            yield _misnamed(node, public.certificate, domain_key(node.spec.public.host))


def _misnamed(node: NodeFacts, certificate: SeenCertificate, name: str) -> Symptom:
    seen = f"public={node.spec.public}: {_named(certificate)}"
    return Symptom(seen, node.spec.name, node.domain, f"a certificate for {name} there")


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _own_problems(facts: ClusterFacts) -> Iterator[Symptom]:
    for problem in facts.own.problems:
        yield Symptom(problem)


def _own_soon(facts: ClusterFacts) -> Iterator[Symptom]:
    for certificate in facts.own.certificates or ():
        if (reason := _ends_soon(certificate, facts.now)) is not None:
            yield Symptom(f"{certificate.label}: {reason}")


_RENEW: Final[Mapping[str, str]] = {
    ServerSoftware.EJABBERD: "certfiles, then ejabberdctl reload_config; or acme",
    ServerSoftware.PROSODY: "certificates, then prosodyctl reload",
    ServerSoftware.MONGOOSEIM: "tls.certfile in [[listen.c2s]]",
    ServerSoftware.OPENFIRE: "the identity store: TLS/SSL Certificates in the admin console",
}

RULES: Final = (
    DoctorRule(
        "node-certificate-expired",
        Severity.ERROR,
        "A node's certificate has expired, or is not valid yet",
        "a certificate that is valid now",
        "the proxy refuses the node: every login on it fails",
        _RENEW,
        _node_untimely,
    ),
    DoctorRule(
        "node-certificate-name",
        Severity.ERROR,
        "A node's certificate is for another name",
        "the domain, or verify-name=, in the node's certificate",
        "the proxy refuses the node: every login for this domain on it fails",
        {PROXY: "nodes.txt: verify-name= with a name that the certificate has", **_RENEW},
        _node_name,
    ),
    DoctorRule(
        "node-certificate-untrusted",
        Severity.ERROR,
        "A node's certificate is signed by nobody whom the proxy believes",
        "a certificate of an authority in ca=",
        "the proxy refuses the node: every login on it fails",
        {
            PROXY: "nodes.txt: ca= with the authority that has signed it",
            ServerSoftware.EJABBERD: "certfiles with the whole chain",
            ServerSoftware.PROSODY: "certificates: a file with the whole chain",
            ServerSoftware.MONGOOSEIM: "tls.certfile with the whole chain",
            ServerSoftware.OPENFIRE: "the identity store, with the whole chain",
        },
        _node_untrusted,
    ),
    DoctorRule(
        "node-certificate-expires-soon",
        Severity.WARNING,
        "A node's certificate expires within two weeks, or is in the last quarter of a life of less than eight",
        "a certificate that was renewed in time",
        "from then on the proxy refuses the node",
        _RENEW,
        _node_soon,
    ),
    DoctorRule(
        "public-unseen",
        Severity.WARNING,
        "Nobody answers where clients of a node are sent",
        "a listener with TLS at public=, for clients that follow a transfer or redirect",
        "clients that are sent there do not come back until they give up; if only this machine can't get there, none",
        {
            PROXY: "nodes.txt: public=, or none, so that clients come back to the proxy",
            ServerSoftware.EJABBERD: "listen: a c2s listener with starttls: true, or tls: true, for clients",
            ServerSoftware.PROSODY: "c2s_ports, c2s_direct_tls_ports and mod_tls",
            ServerSoftware.MONGOOSEIM: "a [[listen.c2s]] with tls",
            ServerSoftware.OPENFIRE: "xmpp.client.tls.policy = required",
        },
        _public_unseen,
    ),
    DoctorRule(
        "public-certificate-expired",
        Severity.ERROR,
        "The certificate has expired where clients of a node are sent",
        "a certificate that is valid now, at public=",
        "clients that are sent there refuse to connect",
        {PROXY: "nodes.txt: no public=, so that clients come back to the proxy", **_RENEW},
        _public_untimely,
    ),
    DoctorRule(
        "public-certificate-name",
        Severity.ERROR,
        "The certificate is not for the domain where clients of a node are sent",
        "the service domain in the certificate at public=",
        "clients that are sent there refuse to connect",
        {PROXY: "nodes.txt: another public=, or none, so that clients come back to the proxy", **_RENEW},
        _public_name,
    ),
    DoctorRule(
        "public-certificate-host",
        Severity.WARNING,
        "The certificate is not for the host where clients of a node are sent",
        "the host of public= in the certificate there, beside the service domain",
        "some clients that are sent there check this name, and refuse to connect (slixmpp 1.17 and later)",
        {PROXY: "nodes.txt: another public=, or none, so that clients come back to the proxy", **_RENEW},
        _public_host,
    ),
    DoctorRule(
        "own-certificate",
        Severity.ERROR,
        "Clients object to a certificate of the proxy's",
        "a valid certificate for each domain that is served",
        "clients refuse to connect to the proxy",
        {PROXY: "--certificate and --key, or --certificates; then cxfr-proxy reload"},
        _own_problems,
    ),
    DoctorRule(
        "own-certificate-expires-soon",
        Severity.WARNING,
        "A certificate of the proxy's expires within two weeks, or is in the last quarter of a life of less than eight",
        "a certificate that was renewed in time",
        "from then on clients refuse to connect to the proxy",
        {PROXY: "renew it; --certificates is followed, files of --certificate take a cxfr-proxy reload"},
        _own_soon,
    ),
)
