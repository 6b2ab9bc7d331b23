"""``cxfr-proxy check``: read the files as a proxy would, and print every fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from cxfr_proxy.admin.text import clean
from cxfr_proxy.cli.connecting import connect
from cxfr_proxy.cli.exit_codes import FAULTS, OK
from cxfr_proxy.config.table import Config
from cxfr_proxy.errors import ConfigError, FileFaults
from cxfr_proxy.units import counted

if TYPE_CHECKING:
    from cxfr_proxy.cluster.nodes import NodeSpec
    from cxfr_proxy.cluster.sources.source import NodeSource, Reading

T = TypeVar("T")
_SHOWN: Final = 5
"""Names of nodes in a line."""


def check(config: Config, faults: Sequence[ConfigError], *, dials: bool) -> int:
    """Print what there is to say of these settings, whose ``faults`` are known, and of their files. ``dials``: connect
    to the nodes as well.

    Raises :class:`ConfigError` for faults of the settings, behind those of the files.
    """
    from cxfr_proxy.cluster.hints import hints
    from cxfr_proxy.config.hints import config_hints

    wrong = [*faults, *_missing(config)]
    code, nodes = _find_faults(config)
    if nodes is not None and dials and not connect(config, nodes):
        code = FAULTS
    if wrong:
        raise FileFaults(wrong)
    for line in (*hints(nodes), *config_hints(config)) if nodes is not None and code == OK else ():
        print(clean(line))
    return code


def _missing(config: Config) -> Iterator[ConfigError]:
    """Yield what is missing for serving."""
    try:
        config.check_serving()
    except ConfigError as exc:
        yield from exc.errors


class _Faults:
    """The faults of all files. Each is printed once, although a file that is named for two purposes is read twice."""

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def read(self, load: Callable[[], T]) -> T | None:
        """Read a file; ``None`` if it has faults, which are printed."""
        try:
            return load()
        except ConfigError as exc:
            for line in map(str, exc.errors):
                if line not in self._printed:
                    print(clean(line))
                self._printed.add(line)
            return None

    @property
    def code(self) -> int:
        """The exit code."""
        return FAULTS if self._printed else OK


def _find_faults(config: Config) -> tuple[int, Sequence[NodeSpec] | None]:
    """Print the faults, file by file. Return the exit code, and the nodes if they have none."""
    from cxfr_proxy.cluster.sources.file import UserMapFile

    faults = _Faults()
    nodes = faults.read(partial(_read_listed, config)) if config.backends is not None else None
    certificates = faults.read(partial(_read_certificates, config))
    for_nodes = faults.read(partial(_read_node_certificate, config))
    faults.read(partial(_read_http_certificate, config))
    faults.read(partial(_read_tokens, config))
    for line in _migration_notes(config, nodes) if nodes is not None and for_nodes is not None else ():
        print(clean(line))
    if certificates:
        print(f"{counted(certificates, 'certificate')}, no faults")
    listed = faults.read(UserMapFile(config.user_map).load) if config.user_map is not None else None
    if listed is not None:
        unknown = set(listed.nodes) - {spec.name for spec in nodes} if nodes is not None else ()
        hint = f"; no such node: {', '.join(sorted(unknown)[:10])}" if unknown else ""
        print(f"{config.user_map}: {counted(len(listed), 'user')}, no faults{hint}")
    return faults.code, nodes


def _read_listed(config: Config) -> Sequence[NodeSpec]:
    """Read the nodes, and the files with CA certificates that they name."""
    from cxfr_proxy.cluster.sources.named import open_source
    from cxfr_proxy.upstream.dial import read_authorities_of

    assert config.backends is not None
    nodes = read_nodes(open_source(config.backends, config.redirection))
    read_authorities_of(nodes)
    print(clean(f"{config.backends}: {counted(len(nodes), 'node')}, no faults"))
    return nodes


def _read_certificates(config: Config) -> int:
    """Check the certificates, each with its key. Return how many there are; none that clients would object to."""
    if not (config.certificate or config.certificates):
        return 0
    from cxfr_proxy.net.certificate_files import key_pairs_of
    from cxfr_proxy.net.pem import read_pairs
    from cxfr_proxy.net.tls import show_certificates

    certificates = show_certificates(read_pairs(key_pairs_of(config)), domains=config.domain)
    for name in certificates.unusable:
        print(clean(f"{name}: no client here is helped by that name"))
    if certificates.problems:
        raise FileFaults(map(ConfigError, certificates.problems))
    return len(certificates.files)


def _read_node_certificate(config: Config) -> bool:
    """Check the certificate for nodes, if there is one."""
    from cxfr_proxy.net.node_tls import read_node_certificate

    problem = read_node_certificate(config.node_key_pair).problem
    if problem is not None:
        raise ConfigError(problem)
    return True


def _read_http_certificate(config: Config) -> bool:
    """Check the certificate of HTTPS, if there is one."""
    from cxfr_proxy.admin.http.certificate import HttpCertificate

    certificate = HttpCertificate(config)
    if certificate.problems:
        raise FileFaults(map(ConfigError, certificate.problems))
    for file in certificate.expiries:
        print(clean(f"{file}: a certificate for HTTPS, no faults"))
    return True


def _read_tokens(config: Config) -> bool:
    """Check the file of tokens, if there is one."""
    if config.http_tokens is not None:
        from cxfr_proxy.admin.http.tokens import read_token_file

        count = len(read_token_file(config.http_tokens).tokens)
        print(clean(f"{config.http_tokens}: {counted(count, 'token')}, no faults"))
    return True


def _migration_notes(config: Config, nodes: Sequence[NodeSpec]) -> Iterator[str]:
    """Say what the certificate for nodes can do, and where something is missing to it."""
    names = [spec.name for spec in nodes if spec.migrates]
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    pair = config.node_key_pair
    if pair is not None and names:
        yield (
            f"note: {pair.key}: whoever has this key can log in to {shown} as any user, without a password. Its CA "
            "must sign nothing else. Keep the key as you keep root's, and let only the proxy reach the nodes' listener"
        )
    elif pair is not None:
        yield f"note: {pair.certificate}: no node says migrate=external, so nothing is done with it"
    elif names:
        yield f"note: {shown}: migrate=external does nothing without --node-certificate"


def read_nodes(source: NodeSource) -> Sequence[NodeSpec]:
    """Read the nodes once. A reading with faults, which a proxy would make the best of, counts as none."""

    async def read() -> Reading:
        try:
            return await source.read()
        finally:
            await source.aclose()

    reading = trio.run(read)
    if reading.faults:
        raise FileFaults(map(ConfigError, reading.faults))
    return reading.specs
