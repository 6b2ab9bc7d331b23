"""A certificate for the demo's one domain: its own authority, made anew for every run, worthless afterwards."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from cxfr_proxy.net.tls import self_signed


@dataclass(frozen=True, slots=True)
class DemoCertificate:
    """Two PEM files; the certificate is its own trust anchor."""

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """Return a context for nodes. One serves any number of connections."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def migration_context(self, proxy: DemoCertificate) -> ssl.SSLContext:
        """Return a context for nodes where a proxy logs in as their users: it has to show that certificate."""
        context = self.server_context()
        context.load_verify_locations(proxy.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a context for clients: it trusts this certificate only, and checks the name."""
        return ssl.create_default_context(cafile=str(self.certificate))


def make_certificate(directory: Path, domain: str, name: str = "demo") -> DemoCertificate:
    """Write ``name.crt`` and ``name.key`` (readable by the owner only) for the domain and 127.0.0.1."""
    certificate, key = self_signed((domain, "127.0.0.1"))
    files = DemoCertificate(directory / f"{name}.crt", directory / f"{name}.key")
    files.certificate.write_bytes(certificate)
    files.key.touch(mode=0o600)
    files.key.write_bytes(key)
    return files
