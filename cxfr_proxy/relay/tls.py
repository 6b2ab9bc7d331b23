"""TLS contexts: the server's by the name the client asks for (SNI), the nodes', and a development certificate.

A certificate is chosen by the names in it. The first one serves clients that send no name, or one that none has.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.config import KeyPair
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.spellings import dns_name

ALPN: Final = ["xmpp-client"]
"""XEP-0368. A client that offers something else, or nothing, is served all the same."""


class ServerCertificates:
    """The contexts for clients, replaceable while connections run: :attr:`context` is asked for each handshake."""

    def __init__(
        self, key_pairs: Sequence[KeyPair], *, domains: Sequence[str] = (), development: bytes | None = None
    ) -> None:
        """``development``: the self-signed certificate to use where there is no other; ``None``: a fresh one."""
        self.self_signed = not key_pairs
        self._key_pairs = tuple(key_pairs)
        self._domains = tuple(domains)
        self._development = development
        self.problems: tuple[str, ...] = ()
        """What clients will object to in the certificates."""
        self.context = self._load()

    def reload(self) -> None:
        """Read the files again. Raises :class:`ConfigError`, and then goes on with what there was."""
        if not self.self_signed:
            self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        self.problems = ()
        if not self._key_pairs:
            return _development_context(self._development or development_certificate(self._domains or ("localhost",)))
        loaded = [_load_pair(pair) for pair in self._key_pairs]
        first = loaded[0].context
        by_name: dict[str, ssl.SSLContext] = {}
        for certificate in loaded:
            self.problems += certificate.problems
            for name in certificate.names:
                by_name.setdefault(name, certificate.context)
        if len(loaded) > 1:  # else there is nothing to choose, at each handshake
            first.sni_callback = _ByServerName(by_name)  # type: ignore[assignment]
        return first


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: ssl.SSLContext
    names: tuple[str, ...]
    problems: tuple[str, ...]


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    # A TLS 1.3 server sends two session tickets with each handshake; one is enough to resume with.
    context.num_tickets = 1
    return context


def _load_pair(pair: KeyPair) -> _Loaded:
    """Raises :class:`ConfigError`, which names the one file of the two that is at fault."""
    try:
        certificate = x509.load_pem_x509_certificate(_read(pair.certificate))
        names = _names(certificate)
    except ValueError as exc:
        raise ConfigError("expected a certificate in PEM form", file=str(pair.certificate)) from exc
    context = _server_context()
    try:
        if b" PRIVATE KEY-----" not in _read(pair.key):
            raise ValueError("expected a private key in PEM form")
        context.load_cert_chain(pair.certificate, pair.key, password=_no_password)
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(_why_no_pair(exc), file=str(pair.key)) from exc
    expired = certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC)
    return _Loaded(context, names, (f"{pair.certificate} has expired",) if expired else ())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}", file=str(path)) from exc


def _no_password() -> str:
    raise ValueError("the key is protected by a password; expected one that isn't")


def _why_no_pair(exc: ssl.SSLError | ValueError) -> str:
    if not isinstance(exc, ssl.SSLError):
        return str(exc)
    if exc.reason == "KEY_VALUES_MISMATCH":
        return "the key does not belong to the certificate"
    return f"expected a private key and its certificate in PEM form: {_why(exc)}"


def _why(exc: OSError) -> str:
    if isinstance(exc, ssl.SSLError):
        return exc.reason or "not readable as PEM"
    return exc.strerror or str(exc)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))


class _ByServerName:
    """OpenSSL's callback for the name a client asks for."""

    def __init__(self, by_name: dict[str, ssl.SSLContext]) -> None:
        self._by_name = by_name

    def __call__(self, sock: ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        if name is None:
            return
        name = name.lower()
        wildcard = "*." + name.partition(".")[2]
        chosen = self._by_name.get(name) or self._by_name.get(wildcard)
        if chosen is not None and chosen is not context:
            sock.context = chosen


def _development_context(certificate: bytes) -> ssl.SSLContext:
    """A context with that certificate and key. They touch no disk where ``/proc`` is mounted."""
    context = _server_context()
    with _as_file(certificate) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path that has this content for the duration of the block, for this process, or at least for its user alone."""
    with open(os.memfd_create("cxfr-proxy-development-certificate", os.MFD_CLOEXEC), "wb", buffering=0) as memory:
        path = f"/proc/self/fd/{memory.fileno()}"
        if Path(path).exists():
            memory.write(content)
            yield path
            return
    with tempfile.NamedTemporaryFile(prefix="cxfr-proxy-", suffix=".pem", buffering=0) as file:  # its mode is 0600
        file.write(content)
        yield file.name


def development_certificate(domains: Sequence[str]) -> bytes:
    """The two of :func:`self_signed` in one text."""
    certificate, key = self_signed(domains)
    return key + certificate


def self_signed(domains: Sequence[str]) -> tuple[bytes, bytes]:
    """A certificate for these names that is its own authority, and its key, in PEM form.

    Good for 30 days, and for trying things.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cxfr-proxy development certificate")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([_general_name(domain) for domain in domains]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), secret


def _general_name(domain: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(domain))
    except ValueError:
        pass
    try:
        return x509.DNSName(dns_name(domain))
    except ValueError as exc:
        raise ConfigError(f"expected a domain that a certificate can name, found {domain!r}") from exc


# --- towards nodes


def node_context(spec: NodeSpec) -> ssl.SSLContext:
    """How a node's certificate is verified: against ``ca=``, else the system's. Raises :class:`ConfigError`."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=spec.ca)
    except OSError as exc:
        raise ConfigError(
            f"ca= of node '{spec.name}': expected a readable file of CA certificates in PEM form: {_why(exc)}",
            file=spec.ca,
        ) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    return context


def node_name(spec: NodeSpec, domain: str) -> str:
    """The name a node's certificate has to bear: ``verify-name=``, or the client's domain (RFC 6120 13.7.2.1)."""
    return spec.verify_name or domain
