"""TLS towards nodes: whom the proxy believes, and the certificate with which it logs in as its clients.

That certificate is shown where the proxy takes a session to another node, and never on a connection that carries what a
client says before it has logged in: there the client itself could log in as anybody, by SASL EXTERNAL.
"""

from __future__ import annotations

import os
import ssl
import stat
from typing import Final

from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.config.table import KeyPair
from cxfr_proxy.errors import ConfigError, FaultList
from cxfr_proxy.files import content_as_path, open_file, read_file
from cxfr_proxy.net.pem import MAX_PEM_BYTES, Pem, check_pair, load_chain, read_pair, untimely, why_unreadable
from cxfr_proxy.net.tls import ALPN

_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH


def read_authorities(spec: NodeSpec) -> str | None:
    """Return the content of a ``ca=`` file, as Latin-1 text; ``None`` if there is none. Raises :class:`ConfigError`."""
    if spec.ca is None:
        return None
    try:
        return read_file(spec.ca, max_bytes=MAX_PEM_BYTES).decode("latin-1")
    except OSError as exc:
        raise _no_authorities(spec, exc) from exc


def _no_authorities(spec: NodeSpec, exc: OSError) -> ConfigError:
    return ConfigError(
        f"ca= of node '{spec.name}': expected a readable file of CA certificates in PEM form: {why_unreadable(exc)}",
        file=spec.ca,
    )


def node_context(spec: NodeSpec, authorities: str | None, certificate: Pem | None = None) -> ssl.SSLContext:
    """Return a context that verifies nodes' certificates against these authorities; ``None``: the system's.

    ``certificate`` is shown to the node; ``None``: none is. Raises :class:`ConfigError`.
    """
    try:
        if authorities is None:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        else:
            with content_as_path(authorities.encode("latin-1")) as path:
                context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=path)
    except OSError as exc:
        raise _no_authorities(spec, exc) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    if certificate is not None:
        load_chain(context, certificate)
    return context


def node_name(spec: NodeSpec, domain: str) -> str:
    """Return the name that a node's certificate has to have: ``verify-name=``, or the client's domain (RFC 6120
    13.7.2.1)."""
    return spec.verify_name or domain


class NodeCertificate:
    """The certificate that makes the proxy any user of the nodes. ``pair`` ``None``: there is none.

    ``content`` is what is in use; ``None``: nothing yet, or there is none.
    """

    def __init__(self, pair: KeyPair | None = None, content: Pem | None = None) -> None:
        self._pair = pair
        self.content = content

    def read(self) -> Pem | None:
        """Return what the files hold; ``None``: there are none. Raises :class:`ConfigError`, also where others may read
        the key."""
        if self._pair is None:
            return None
        content, faults = read_pair(self._pair), FaultList()
        with faults:
            _refuse_readable(self._pair)
        with faults:
            check_pair(self._pair, content)
        faults.check()
        return content

    @property
    def problem(self) -> str | None:
        """Why no node accepts it; ``None`` if nothing speaks against it."""
        if self._pair is None or self.content is None:
            return None
        certificate = check_pair(self._pair, self.content)
        reason = untimely(certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        return f"{self._pair.certificate} {reason}" if reason is not None else None


def read_node_certificate(pair: KeyPair | None) -> NodeCertificate:
    """Return the certificate as its files hold it now. Raises as :meth:`NodeCertificate.read`."""
    certificate = NodeCertificate(pair)
    certificate.content = certificate.read()
    return certificate


def _refuse_readable(pair: KeyPair) -> None:
    try:
        with open_file(pair.key) as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}", file=str(pair.key)) from exc
    if mode & _OTHERS:
        raise ConfigError(
            "every user of this machine may read this key, and with it log in as any user of the nodes: expected no "
            "permissions for others (chmod o= FILE)",
            file=str(pair.key),
        )
