"""Why a client's TLS handshake has failed, as one of few reasons: for counting, where the log has OpenSSL's own words.

OpenSSL has hundreds of reasons, and a client can bring many of them about. So those that an operator acts upon are
listed here, and all others are one.
"""

from __future__ import annotations

import ssl
from enum import StrEnum
from typing import Final


class TlsFailure(StrEnum):
    TIMEOUT = "timeout"
    """It took too long."""
    CLOSED = "closed"
    """The connection ended in the middle of it, without a word."""
    CERTIFICATE_REFUSED = "certificate-refused"
    """The client does not accept the certificate, and says so (RFC 8446 section 6.2)."""
    PROTOCOL_VERSION = "protocol-version"
    """No version of TLS that both speak."""
    NOTHING_SHARED = "nothing-shared"
    """No cipher suite, group or signature algorithm that both have."""
    NOT_TLS = "not-tls"
    """The client speaks something else."""
    ALERT = "alert"
    """The client has ended it with another alert."""
    OTHER = "other"


_CERTIFICATE_ALERTS: Final = frozenset(
    (
        "BAD_CERTIFICATE",
        "UNSUPPORTED_CERTIFICATE",
        "CERTIFICATE_REVOKED",
        "CERTIFICATE_EXPIRED",
        "CERTIFICATE_UNKNOWN",
        "UNKNOWN_CA",
    )
)
"""OpenSSL's names of the client's alerts, behind ``SSLV3_ALERT_`` or ``TLSV1_ALERT_``."""
_BY_REASON: Final = {
    "UNSUPPORTED_PROTOCOL": TlsFailure.PROTOCOL_VERSION,
    "UNKNOWN_PROTOCOL": TlsFailure.PROTOCOL_VERSION,
    "VERSION_TOO_LOW": TlsFailure.PROTOCOL_VERSION,
    "INAPPROPRIATE_FALLBACK": TlsFailure.PROTOCOL_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": TlsFailure.PROTOCOL_VERSION,
    "NO_SHARED_CIPHER": TlsFailure.NOTHING_SHARED,
    "NO_SUITABLE_KEY_SHARE": TlsFailure.NOTHING_SHARED,
    "NO_SUITABLE_GROUPS": TlsFailure.NOTHING_SHARED,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": TlsFailure.NOTHING_SHARED,
    "NO_SHARED_SIGNATURE_ALGORITHMS": TlsFailure.NOTHING_SHARED,
    "HTTP_REQUEST": TlsFailure.NOT_TLS,
    "HTTPS_PROXY_REQUEST": TlsFailure.NOT_TLS,
    "WRONG_VERSION_NUMBER": TlsFailure.NOT_TLS,
    "BAD_RECORD_TYPE": TlsFailure.NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": TlsFailure.NOT_TLS,
    "UNEXPECTED_EOF_WHILE_READING": TlsFailure.CLOSED,
}


def failure_of(fault: OSError) -> TlsFailure:
    """Return the reason of the handshake that raised this; ``ssl.SSLError`` is an ``OSError``."""
    if not isinstance(fault, ssl.SSLError) or isinstance(fault, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return TlsFailure.CLOSED
    reason = fault.reason or ""
    known = _BY_REASON.get(reason)
    if known is not None:
        return known
    _, is_alert, alert = reason.partition("_ALERT_")
    if alert in _CERTIFICATE_ALERTS:
        return TlsFailure.CERTIFICATE_REFUSED
    return TlsFailure.ALERT if is_alert else TlsFailure.OTHER
