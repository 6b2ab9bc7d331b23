"""Certificates, keys and the nodes' CA certificates, as they were last read and found good.

The supervisor alone reads them, so that all workers serve the same, whatever is in the files when they begin.
"""

from __future__ import annotations

from collections.abc import Iterable

from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.ipc.questions import Files
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.supervisor.startup_log import log_certificates
from cxfr_proxy.supervisor.workers import Workers
from cxfr_proxy.upstream.dial import Dialer


class ServedFiles:
    """The files that workers use: those in ``certificates``, and of the nodes those in ``dialer``."""

    def __init__(self, certificates: ServerCertificates, dialer: Dialer, workers: Workers) -> None:
        self.certificates = certificates
        self._dialer = dialer
        self._workers = workers

    @property
    def current(self) -> Files:
        dialer = self._dialer
        return Files(self.certificates.contents, dict(dialer.authorities), dialer.certificate.content)

    def reload_certificates(self) -> None:
        """Read them again, for this process. Raises :class:`ConfigError`, and then nothing has changed."""
        for_nodes = self._dialer.certificate.read()
        self.certificates.reload()
        self._dialer.take(self._dialer.authorities, for_nodes)
        log_certificates(self.problems)

    @property
    def problems(self) -> tuple[str, ...]:
        """Faults in the certificates to which clients and nodes will object."""
        problem = self._dialer.certificate.problem
        return self.certificates.problems if problem is None else (*self.certificates.problems, problem)

    def read_authorities(self, specs: Iterable[NodeSpec]) -> None:
        """Read the files that these nodes name; if they have changed, all workers use them soon.

        Raises :class:`ConfigError`, and then nothing has changed.
        """
        if self._dialer.read_files(specs):
            self.send()

    def send(self) -> None:
        """Have all workers use them, without waiting; errors are logged by the workers."""
        self._workers.send_files(self.current)

    async def take(self) -> list[str]:
        """Have all workers use them. Return the errors, if there were some."""
        return await self._workers.take_files(self.current)
