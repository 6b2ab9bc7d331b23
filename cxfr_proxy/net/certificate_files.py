"""Certificates from directories: which files belong together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cxfr_proxy.config.table import Config, KeyPair
from cxfr_proxy.errors import ConfigError, FaultList

_CHAIN: Final = "fullchain.pem"
_CHAINS_KEY: Final = "privkey.pem"
"""As ACME clients name the files of one certificate, in a directory of its own."""
_SUFFIXES: Final = (".crt", ".pem")
_KEYS: Final = (".key", "-key.pem")
"""The ends of a key's name, behind the name of its certificate."""


def key_pairs_of(config: Config) -> tuple[KeyPair, ...]:
    """Return the files of all certificates, those that are named first, then those of directories, by name.

    Raises :class:`ConfigError` for all directories that can't be read, or hold none.
    """
    found, faults = list(config.key_pairs), FaultList()
    for directory in config.certificates:
        with faults:
            pairs = list(_pairs_in(directory))
            if not pairs:
                raise ConfigError(
                    "expected a directory of certificates: NAME.pem, or NAME.crt and NAME.key", file=str(directory)
                )
            found += pairs
    faults.check()
    return tuple(dict.fromkeys(found))


def files_of(config: Config) -> tuple[Path, ...]:
    """Return the files in directories that hold certificates now; none for a directory that can't be read."""
    try:
        pairs = [pair for directory in config.certificates for pair in _pairs_in(directory)]
    except ConfigError:
        return ()
    return tuple(dict.fromkeys(file for pair in pairs for file in (pair.certificate, pair.key)))


def _pairs_in(directory: Path) -> Iterator[KeyPair]:
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}", file=str(directory)) from exc
    if _CHAIN in names:
        yield _chain_in(directory)
        return
    for name in names:
        path = directory / name
        if path.is_dir():
            if (path / _CHAIN).exists():
                yield _chain_in(path)
        elif path.suffix in _SUFFIXES and not _is_key(name, names):
            yield KeyPair(path, _key_of(path, names))


def _chain_in(directory: Path) -> KeyPair:
    return KeyPair(directory / _CHAIN, directory / _CHAINS_KEY)


def _is_key(name: str, names: list[str]) -> bool:
    """Return whether that is the key of a certificate beside it, in a file that could be a certificate's by its
    name."""
    stem = name.removesuffix("-key.pem")
    return stem != name and any(stem + suffix in names for suffix in _SUFFIXES)


def _key_of(certificate: Path, names: list[str]) -> Path:
    return next(
        (certificate.with_name(certificate.stem + end) for end in _KEYS if certificate.stem + end in names), certificate
    )
