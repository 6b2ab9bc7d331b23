"""TLS contexts for clients, by the domain that they ask for, and a development certificate.

A certificate is chosen by the names in it (:mod:`.certificate_names`). With STARTTLS the domain is the stream header's
``to`` (RFC 6120 section 5.4.3.1: a MUST), and only where no certificate has that, or with direct TLS, it is the name in
the handshake (SNI). The first certificate serves clients that say no name, or one that none has. Of certificates with
the same name and keys of different kinds, RSA and ECDSA, clients get the one that they can verify.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cxfr_proxy.config.table import KeyPair
from cxfr_proxy.errors import ConfigError, FaultList, FileFaults
from cxfr_proxy.net.certificate_names import CertificateNames, read_names
from cxfr_proxy.net.pem import CertificateFile, Pem, check_pair, load_chain, untimely
from cxfr_proxy.spellings import dns_name, domain_key

ALPN: Final = ["xmpp-client"]
"""The ALPN protocol of XEP-0368."""
HTTP_ALPN: Final = ["http/1.1"]
"""The one of RFC 7301 section 6."""
_SERVED: Final = [*ALPN, *HTTP_ALPN]
"""The protocols that clients may choose; browsers offer the second. A client that offers something else, or nothing, is
served all the same: its first byte tells what it speaks."""


@dataclass(frozen=True, slots=True, eq=False)
class ShownCertificates:
    """Certificates that were found good, as clients are shown them, and what there is to say of them.

    ``development`` is the self-signed one, where there are no ``files``. ``context`` is for a client that has named no
    domain yet, and chooses by SNI; ``plain`` shows the usual certificate, whatever SNI says. ``problems`` are faults
    that clients will object to, and certificates that are never shown; ``unusable`` are names in them that help no
    client here, which is no fault; ``expiries`` the end of each, in seconds since 1970, by its file as the operator
    wrote it; ``untimely``, by file, why every client refuses one by its dates.
    """

    files: tuple[CertificateFile, ...]
    domains: tuple[str, ...]
    context: ssl.SSLContext
    plain: ssl.SSLContext
    by_domain: Mapping[str, ssl.SSLContext] = field(default_factory=dict)
    development: bytes | None = None
    problems: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    expiries: Mapping[str, float] = field(default_factory=dict)
    untimely: Mapping[str, str] = field(default_factory=dict)

    @property
    def self_signed(self) -> bool:
        """Whether there is only one that the proxy has made."""
        return not self.files

    def names(self, domain: str) -> bool:
        """Return whether one of them has that very name, in any spelling; a wildcard has none."""
        return domain_key(domain) in self.by_domain

    def check_dates(self, in_use: ShownCertificates) -> None:
        """Raise :class:`ConfigError` for the certificates that every client would refuse by their dates, and that are
        not among those ``in_use`` already, or refused already."""
        same = {str(each.pair.certificate) for each in in_use.files if each in self.files}
        faults = [
            ConfigError(f"{reason}; what was read before is shown still", file=file)
            for file, reason in self.untimely.items()
            if file not in in_use.untimely and file not in same
        ]
        if faults:
            raise FileFaults(faults)


def show_certificates(
    files: Sequence[CertificateFile],
    *,
    domains: Sequence[str] = (),
    development: bytes | None = None,
    alpn: Sequence[str] = _SERVED,
) -> ShownCertificates:
    """Load certificates for clients of these domains. Raises :class:`ConfigError`.

    ``development``: the self-signed certificate to use if there is no other; ``None``: a fresh one. ``alpn``: the
    protocols that clients may choose.
    """
    if not files:
        made = development or development_certificate(domains or ("localhost",))
        context = _development_context(made)
        return ShownCertificates((), tuple(domains), context, context, development=made)
    loaded = _load_pairs(files)
    shown = _shown(loaded)
    contexts = {each: _context(each, alpn) for each in dict.fromkeys(shown.values())}
    usual = _beside(loaded[0], shown)
    context = _context(usual, alpn)
    by_domain = {domain: contexts[each] for domain, each in shown.items()}
    if any(each != usual for each in contexts):  # else there is nothing to choose, at each handshake
        context.sni_callback = _ByServerName(by_domain)  # type: ignore[assignment]  # typeshed allows functions alone
    objections = (problem for each in loaded for problem in each.problems)
    uncovered = _without_certificate(domains, by_domain, loaded[0])
    return ShownCertificates(
        files=tuple(files),
        domains=tuple(domains),
        context=context,
        plain=contexts.get(usual) or _context(usual, alpn),
        by_domain=by_domain,
        problems=(*objections, *_never_shown(loaded, shown, usual), *uncovered),
        unusable=tuple(f"{each.file}: {name}" for each in loaded for name in each.names.unusable),
        expiries={each.file: each.not_after.timestamp() for each in loaded},
        untimely={each.file: reason for each in loaded if (reason := each.untimely) is not None},
    )


class ServerCertificates:
    """The TLS contexts for clients, replaceable while connections run: call :meth:`context_for` at each handshake."""

    def __init__(self, shown: ShownCertificates) -> None:
        self.shown = shown
        """Those in use."""

    def context_for(self, domain: str | None, server_name: bytes | None = None) -> ssl.SSLContext:
        """Return the context for the next handshake.

        ``domain`` is the header's ``to``, in any spelling, ``None`` if there was none. ``server_name`` is what SNI will
        say, as far as that is known (:mod:`.client_hello`).
        """
        shown = self.shown
        chosen = _look_up(shown.by_domain, domain_key(domain)) if domain is not None else None
        return chosen or (shown.context if (server_name or b"").isascii() else shown.plain)

    def load(
        self, files: Sequence[CertificateFile], *, domains: Sequence[str], development: bytes | None
    ) -> ShownCertificates:
        """Load certificates as :func:`show_certificates` does. The same as those in use are the ones in use: clients
        resume TLS sessions with the context that began them."""
        shown = self.shown
        if (shown.files, shown.domains) == (tuple(files), tuple(domains)) and development == shown.development:
            return shown
        return show_certificates(files, domains=domains, development=development)

    def prepare(self, files: Sequence[CertificateFile], *, domains: Sequence[str] = ()) -> ShownCertificates:
        """Load what is to take the place of those in use (:meth:`use`); a self-signed one stays as long as it is for
        the same domains.

        Raises :class:`ConfigError`, also for a certificate that every client would refuse by its dates, unless it is
        refused already.
        """
        if not files and self.shown.self_signed and self.shown.domains == tuple(domains):
            return self.shown
        shown = show_certificates(files, domains=domains)
        shown.check_dates(self.shown)
        return shown

    def use(self, shown: ShownCertificates) -> None:
        """Show these from now on."""
        self.shown = shown


def _without_certificate(
    domains: Sequence[str], by_domain: Mapping[str, ssl.SSLContext], first: _Loaded
) -> Iterator[str]:
    for domain in domains:
        if _look_up(by_domain, domain_key(domain)) is None:
            yield f"no certificate is for {domain}: its clients are shown {first.file}, and refuse it"


@dataclass(frozen=True, slots=True)
class _Loaded:
    """``kind`` of the key: a client that can't verify one may verify another."""

    pair: KeyPair
    pem: Pem
    names: CertificateNames
    kind: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    problems: tuple[str, ...]

    @property
    def file(self) -> str:
        return str(self.pair.certificate)

    @property
    def untimely(self) -> str | None:
        """Return why every client refuses it by its dates; ``None`` if none does."""
        return untimely(self.not_before, self.not_after)


_Together = tuple[_Loaded, ...]
"""Certificates for the same domains, of which each client sees the one that it can verify: no two have keys of one
kind."""


def _shown(loaded: Sequence[_Loaded]) -> dict[str, _Together]:
    """Group certificates by domain, in the operator's order."""
    shown: dict[str, _Together] = {}
    for each in loaded:
        for domain in each.names.domains:
            shown[domain] = _joined(shown.get(domain, ()), (each,))
    return {domain: _joined(those, shown.get(_wildcard_over(domain), ())) for domain, those in shown.items()}


def _joined(together: _Together, others: _Together) -> _Together:
    kinds = [each.kind for each in together]
    return (*together, *(other for other in others if other.kind not in kinds))


def _beside(first: _Loaded, shown: Mapping[str, _Together]) -> _Together:
    """Return the certificates for clients of no known domain: the first one, with those that stand beside it for all
    of its names."""
    everywhere = [shown[domain] for domain in first.names.domains]
    others = everywhere[0] if everywhere else ()
    return (first, *(each for each in others if each != first and all(each in those for those in everywhere)))


def _never_shown(loaded: Sequence[_Loaded], shown: Mapping[str, _Together], usual: _Together) -> Iterator[str]:
    for each in loaded:
        missed = [domain for domain in each.names.domains if each not in shown[domain]]
        if missed:
            never = "never" if len(missed) == len(each.names.domains) else "not"
            yield (
                f"{each.pair.certificate} is {never} shown for {', '.join(missed)}: "
                f"one before it has that name, and a key of the same kind ({each.kind})"
            )
        elif not each.names.domains and each not in usual:
            yield f"{each.pair.certificate} is never shown: it has no name that a client could ask for"


def _context(together: _Together, alpn: Sequence[str]) -> ssl.SSLContext:
    context = _server_context(alpn)
    for each in together:
        load_chain(context, each.pem)
    return context


def _server_context(alpn: Sequence[str] = _SERVED) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(alpn))
    # OpenSSL sends two session tickets with each TLS 1.3 handshake; one is enough to resume with.
    context.num_tickets = 1
    return context


def _load_pairs(files: Sequence[CertificateFile]) -> Sequence[_Loaded]:
    """Load all of them. Raises :class:`ConfigError` for all that are at fault."""
    loaded, faults = [], FaultList()
    for each in files:
        with faults:
            loaded.append(_load_pair(each.pair, each.pem))
    faults.check()
    return loaded


def _load_pair(pair: KeyPair, pem: Pem) -> _Loaded:
    """Load certificate and key. Raises :class:`ConfigError`, which names the one file of the two that is at fault."""
    certificate = check_pair(pair, pem)
    try:
        names = read_names(certificate)
    except ValueError as exc:
        raise ConfigError("expected a certificate in PEM form", file=str(pair.certificate)) from exc
    kind = type(certificate.public_key()).__name__.removesuffix("PublicKey").lstrip("_")
    valid = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    loaded = _Loaded(pair, pem, names, kind, *valid, problems=())
    return replace(loaded, problems=tuple(_objections(loaded)))


def _objections(loaded: _Loaded) -> Iterator[str]:
    if (reason := loaded.untimely) is not None:
        yield f"{loaded.file} {reason}"
    if loaded.names.common_only:
        common = ", ".join(loaded.names.domains)
        yield f"{loaded.file} has {common} in its common name alone, where clients do not look for it any more"


def _look_up(by_domain: Mapping[str, ssl.SSLContext], domain: str) -> ssl.SSLContext | None:
    return by_domain.get(domain) or by_domain.get(_wildcard_over(domain))


def _wildcard_over(domain: str) -> str:
    return "*." + domain.partition(".")[2]


class _ByServerName:
    """Choose by the name a client asks for: OpenSSL's callback."""

    def __init__(self, by_domain: Mapping[str, ssl.SSLContext]) -> None:
        self._by_domain = by_domain

    def __call__(self, sock: ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        chosen = _look_up(self._by_domain, domain_key(name)) if name is not None else None
        if chosen is not None:
            sock.context = chosen


def _development_context(certificate: bytes) -> ssl.SSLContext:
    """Return a context with that certificate and key. They touch no disk where ``/proc`` is mounted."""
    context, both = _server_context(), certificate.decode("latin-1")
    load_chain(context, Pem(both, both))
    return context


def development_certificate(domains: Sequence[str]) -> bytes:
    """Return the two texts of :func:`self_signed` in one."""
    certificate, key = self_signed(domains)
    return key + certificate


def self_signed(domains: Sequence[str]) -> tuple[bytes, bytes]:
    """Return a certificate for these names that is its own authority, and its key, in PEM form.

    It is good for 30 days, and for trying things.
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
        name = dns_name(domain)
    except ValueError as exc:
        raise ConfigError(f"expected a domain that a certificate can name, found {domain!r}") from exc
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
