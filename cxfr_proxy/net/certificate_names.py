"""Read every name that a certificate can carry, and decide for which domains it is shown.

RFC 6120 section 13.7.1.2 lets a server be named by its domain as DNS-ID, wildcards included, as SRV-ID (RFC 4985), and
as XmppAddr, the oldest way. An IP address may be a domain too. The subject's common name counts only if there is
nothing else (RFC 6125 section 6.4.4): such a certificate is shown, since there is no better one, but few clients accept
it for that name. Any other name is another service's, or a user's, and the operator is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from cxfr_proxy.spellings import domain_key

_SRV_NAME: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
_XMPP_ADDR: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")
_SERVICES: Final = ("_xmpp-client", "_xmpps-client")
"""The services of RFC 6120 section 13.7.1.2.1, and XEP-0368's, which some certificates have as well."""
_STRINGS: Final = {0x0C: "utf-8", 0x16: "ascii"}
"""DER's tags of UTF8String, which XmppAddr is, and IA5String, which SRVName is."""


@dataclass(frozen=True, slots=True)
class CertificateNames:
    """``domains``: the domains whose clients see the certificate, by :func:`~cxfr_proxy.spellings.domain_key`; ``*.``
    and a domain stand for all domains one label below it. ``unusable``: names that help no client here, each with the
    reason. ``common_only``: the names are in the subject's common name alone."""

    domains: tuple[str, ...]
    unusable: tuple[str, ...] = ()
    common_only: bool = False


def read_names(certificate: x509.Certificate) -> CertificateNames:
    """Return the names of the extension. Raises ``ValueError`` if it is broken."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    domains: dict[str, None] = {}
    unusable: dict[str, None] = {}
    for domain, why_not in map(_judge_any, names):
        if why_not is None:
            domains[domain_key(domain)] = None
        else:
            unusable[f"{domain} ({why_not})"] = None
    if domains:
        return CertificateNames(tuple(domains), tuple(unusable))
    common = tuple(dict.fromkeys(domain_key(name) for name in _common_names(certificate)))
    return CertificateNames(common, tuple(unusable), common_only=bool(common))


def _judge_any(name: x509.GeneralName) -> tuple[str, str | None]:
    """Return the domain that it names, or the name and why it names none."""
    try:
        return _judge(name)
    except ValueError:
        return type(name).__name__, "it is no text"


def _judge(name: x509.GeneralName) -> tuple[str, str | None]:
    """Return the text of a name. Raises ``ValueError`` if it is no text."""
    match name:
        case x509.DNSName(value=text):
            return text, None if _is_domain(text) else "a wildcard stands alone in the first label"
        case x509.IPAddress(value=address):
            return f"[{address}]" if address.version == 6 else str(address), None
        case x509.OtherName(type_id=kind, value=der) if kind == _SRV_NAME:
            service, _, domain = _text_of(der).partition(".")
            if service.lower() not in _SERVICES:
                return _text_of(der), "SRVName of another service"
            return domain, None
        case x509.OtherName(type_id=kind, value=der) if kind == _XMPP_ADDR:
            text = _text_of(der)
            return text, "XmppAddr of a user" if "@" in text or "/" in text else None
        case x509.OtherName(type_id=kind):
            return kind.dotted_string, "otherName of an unknown kind"
        case _:
            return str(name.value), f"{type(name).__name__}, which names no domain"


def _is_domain(name: str) -> bool:
    return "*" not in name.removeprefix("*.") and name not in ("", "*.")


def _common_names(certificate: x509.Certificate) -> Iterator[str]:
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        text = str(attribute.value)
        if _is_domain(text) and "." in text and not any(map(str.isspace, text)):
            yield text


def _text_of(der: bytes) -> str:
    """Return the text of a DER string. Raises ``ValueError``."""
    encoding = _STRINGS.get(der[0])
    if encoding is None:
        raise ValueError("no string")
    # A length from 128 bytes up has bytes of its own, whose number is said first (X.690 section 8.1.3.5).
    start = 2 + (der[1] & 0x7F if der[1] & 0x80 else 0)
    return der[start:].decode(encoding)
