"""The certificate of HTTPS, which is replaced while connections run.

It is not one of those that clients of XMPP are shown: its names are those by which operators ask for the proxy, and it
may be of an authority that nobody else knows.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from cxfr_proxy.config.table import Config
from cxfr_proxy.net.pem import read_pairs
from cxfr_proxy.net.tls import HTTP_ALPN, ShownCertificates, show_certificates


class HttpCertificate:
    """The certificate of ``http-certificate``. Raises :class:`ConfigError` where that can't be used."""

    def __init__(self, config: Config) -> None:
        self.shown: ShownCertificates | None = None
        """The one in use; ``None``: there is no TLS."""
        self.use(self.prepare(config, again=True))

    def prepare(self, config: Config, *, again: bool) -> ShownCertificates | None:
        """Return what these settings name, read ``again`` or only where it is another one now. Raises
        :class:`ConfigError`, and changes nothing."""
        pair, before = config.http_key_pair, self.shown
        if pair is None:
            return None
        if not again and before is not None and [each.pair for each in before.files] == [pair]:
            return before
        files = read_pairs((pair,))
        if before is not None and before.files == files:
            return before
        shown = show_certificates(files, alpn=HTTP_ALPN)
        if before is not None:
            shown.check_dates(before)
        return shown

    def use(self, shown: ShownCertificates | None) -> None:
        """Show this one from the next connection on."""
        self.shown = shown

    @property
    def context(self) -> ssl.SSLContext | None:
        """The one for the next handshake; ``None``: there is no TLS."""
        return self.shown.context if self.shown is not None else None

    @property
    def expiries(self) -> Mapping[str, float]:
        """The end of it, in seconds since 1970, by its file."""
        return self.shown.expiries if self.shown is not None else {}

    @property
    def problems(self) -> tuple[str, ...]:
        """Faults to which those who ask will object."""
        return self.shown.problems if self.shown is not None else ()

    def names(self, host: str) -> bool:
        """Return whether it is for that host, by name: a wildcard is for hosts of others as well."""
        return self.shown is not None and self.shown.names(host)
