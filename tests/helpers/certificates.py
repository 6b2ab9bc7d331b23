"""Certificates as a proxy shows them, from files."""

from __future__ import annotations

from collections.abc import Sequence

from cxfr_proxy.config.table import KeyPair
from cxfr_proxy.net.pem import read_pairs
from cxfr_proxy.net.tls import ServerCertificates, show_certificates


def served(pairs: Sequence[KeyPair] = (), *, domains: Sequence[str] = ()) -> ServerCertificates:
    return ServerCertificates(show_certificates(read_pairs(pairs), domains=domains))


def reload(certificates: ServerCertificates) -> None:
    """Read the same files again, and show what is in them."""
    shown = certificates.shown
    files = read_pairs([each.pair for each in shown.files])
    certificates.use(certificates.prepare(files, domains=shown.domains))
