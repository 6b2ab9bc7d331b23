"""The proxy's own side: its certificates as clients see them, and its listeners on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cryptography import x509

from cxfr_proxy.config.table import Config
from cxfr_proxy.doctor.examining.handshake import seen
from cxfr_proxy.doctor.examining.queues import ListeningSocket, most_queued
from cxfr_proxy.doctor.facts import OwnFacts, QueueFacts
from cxfr_proxy.net.certificate_files import key_pairs_of
from cxfr_proxy.net.pem import read_pairs
from cxfr_proxy.net.tls import show_certificates


def own_facts(config: Config, domains: Sequence[str]) -> OwnFacts:
    """Return what its files say, and the kernel's bound. Raises :class:`~cxfr_proxy.errors.ConfigError` for files that
    can't be read."""
    if not (config.certificate or config.certificates):
        return OwnFacts(domains=tuple(domains), most_queued=most_queued())
    files = read_pairs(key_pairs_of(config))
    shown = show_certificates(files, domains=domains)
    return OwnFacts(
        tuple(
            seen(x509.load_pem_x509_certificate(each.pem.certificate.encode("latin-1")), str(each.pair.certificate))
            for each in files
        ),
        shown.problems,
        tuple(domains),
        most_queued=most_queued(),
    )


def own_queues(config: Config, listening: Iterable[ListeningSocket]) -> tuple[QueueFacts, ...]:
    """Return the queues where the proxy listens. ``listening`` are the sockets that are none of the nodes'."""
    return tuple(queue_facts(each) for each in listening if _is_ours(config, each))


def queue_facts(sock: ListeningSocket) -> QueueFacts:
    """Return the facts about a listener's queue."""
    host = f"[{sock.host}]" if ":" in sock.host else sock.host
    return QueueFacts(f"{host}:{sock.port}", sock.most, sock.waiting)


def _is_ours(config: Config, sock: ListeningSocket) -> bool:
    return any(
        sock.port == each.port and (sock.host in ("0.0.0.0", "::") if each.host is None else sock.host == each.host)
        for each in config.listen
    )
