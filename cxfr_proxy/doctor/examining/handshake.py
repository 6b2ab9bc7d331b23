"""TLS that believes any certificate, to read it. Nothing is said on such a connection that a stranger may not hear."""

from __future__ import annotations

import ssl
from typing import Final

from cryptography import x509

from cxfr_proxy.doctor.facts import SeenCertificate
from cxfr_proxy.net.certificate_names import read_names
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.tls import ALPN

_MOST_NAMES: Final = 1000
_BROKEN: Final = (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""The ways in which a certificate that OpenSSL has read can still be no good."""


async def shake_hands(endpoint: Endpoint, name: str) -> None:
    """Put TLS on the connection, whoever is at its other end, and ask for that name. Raises as
    :meth:`~cxfr_proxy.net.endpoint.Endpoint.start_tls`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    await endpoint.start_tls(context, server_side=False, server_hostname=name)


def certificate_of(endpoint: Endpoint) -> SeenCertificate | None:
    """Return the certificate that the other end has shown; ``None`` without TLS, or if it can't be read."""
    transport = endpoint.transport
    der = transport.getpeercert(binary_form=True) if isinstance(transport, ssl.SSLSocket) else None
    if der is None:
        return None
    try:
        return seen(x509.load_der_x509_certificate(der))
    except _BROKEN:
        return None


def seen(certificate: x509.Certificate, label: str = "") -> SeenCertificate:
    """Return what matters of a certificate. Raises ``ValueError`` for one that is broken."""
    return SeenCertificate(
        read_names(certificate).domains[:_MOST_NAMES],
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        label,
    )
