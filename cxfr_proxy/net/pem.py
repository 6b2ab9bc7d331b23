"""Certificates and keys as the operator's files hold them, in PEM form."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from cxfr_proxy.config.table import KeyPair
from cxfr_proxy.errors import ConfigError, FaultList
from cxfr_proxy.files import content_as_path, read_file

MAX_PEM_BYTES: Final = 4 << 20
"""Most bytes of a file of authorities: those of all the world are some 200 KB."""


@dataclass(frozen=True, slots=True)
class Pem:
    """The contents of a certificate's two files, as Latin-1 text: PEM, and whatever stands around it."""

    certificate: str = field(repr=False)  # the file may hold the key as well
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CertificateFile:
    """A certificate with its key, as they were read from these files."""

    pair: KeyPair
    pem: Pem


def read_pairs(pairs: Iterable[KeyPair]) -> tuple[CertificateFile, ...]:
    """Read these files. Raises :class:`ConfigError` for all that can't be read, and for faults in the others."""
    files, faults = [], FaultList()
    for pair in pairs:
        with faults:
            files.append(CertificateFile(pair, read_pair(pair)))
    if faults.errors:  # else whoever loads them finds the faults in them
        for file in files:
            with faults:
                check_pair(file.pair, file.pem)
    faults.check()
    return tuple(files)


def read_pair(pair: KeyPair) -> Pem:
    """Read both files. Raises :class:`ConfigError`, for both where that is so."""
    texts, faults = [], FaultList()
    for path in dict.fromkeys((pair.certificate, pair.key)):  # it may be one file
        with faults:
            texts.append(_read(path).decode("latin-1"))
    faults.check()
    return Pem(texts[0], texts[-1])


def check_pair(pair: KeyPair, pem: Pem) -> x509.Certificate:
    """Return the certificate, which has to belong to the key. Raises :class:`ConfigError`, which names the one file of
    the two that is at fault."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.certificate.encode("latin-1"))
        certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError("expected a certificate in PEM form", file=str(pair.certificate)) from exc
    try:
        if " PRIVATE KEY-----" not in pem.key:
            raise ValueError("expected a private key in PEM form")
        load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pem)
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(_why_no_pair(exc), file=str(pair.key)) from exc
    return certificate


def load_chain(context: ssl.SSLContext, pem: Pem) -> None:
    """Load a certificate from what was read, and not by the files' names: they may hold something else by now.

    Raises ``ssl.SSLError`` and ``ValueError`` for what is no good, and :class:`ConfigError` where this machine can't
    hand it to OpenSSL.
    """
    try:
        with (
            content_as_path(pem.certificate.encode("latin-1")) as certificate,
            content_as_path(pem.key.encode("latin-1")) as key,
        ):
            context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError:
        raise
    except OSError as exc:
        raise ConfigError(f"certificate and key can't be handed to OpenSSL: {exc.strerror}") from exc


def untimely(not_before: datetime.datetime, not_after: datetime.datetime) -> str | None:
    """Return why everybody refuses a certificate by these dates; ``None`` if nobody does."""
    now = datetime.datetime.now(datetime.UTC)
    if not_after < now:
        return f"has expired: it was valid until {not_after:%Y-%m-%d %H:%M} UTC"
    if not_before > now:
        return f"is not valid yet, but from {not_before:%Y-%m-%d %H:%M} UTC on"
    return None


def why_unreadable(exc: OSError) -> str:
    """Say why a file could not be read, or OpenSSL could not make anything of it."""
    if isinstance(exc, ssl.SSLError):
        return exc.reason or "not readable as PEM"
    return exc.strerror or str(exc)


def _read(path: Path) -> bytes:
    try:
        return read_file(path, max_bytes=MAX_PEM_BYTES)
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}", file=str(path)) from exc


def _no_password() -> str:
    raise ValueError("the key is protected by a password; expected one that isn't")


def _why_no_pair(exc: ssl.SSLError | ValueError) -> str:
    if not isinstance(exc, ssl.SSLError):
        return str(exc)
    if exc.reason == "KEY_VALUES_MISMATCH":
        return "the key does not belong to the certificate"
    return f"expected a private key and its certificate in PEM form: {why_unreadable(exc)}"
