"""Certificates, keys and the nodes' CA certificates, as they were last read and found good, with the settings in use.

The supervisor alone reads them, so that all workers serve the same, whatever is in the files when they begin. Settings
and files go to workers together: each of the two says something of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cxfr_proxy.config.current import CurrentSettings
from cxfr_proxy.config.table import Config, KeyPair
from cxfr_proxy.errors import FaultList
from cxfr_proxy.ipc.questions import Files, TakeSettings
from cxfr_proxy.net.certificate_files import key_pairs_of
from cxfr_proxy.net.node_tls import NodeCertificate, read_node_certificate
from cxfr_proxy.net.pem import read_pairs
from cxfr_proxy.net.tls import ServerCertificates, ShownCertificates
from cxfr_proxy.supervisor.startup_log import log_certificates
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.upstream.dial import Dialer


@dataclass(frozen=True, slots=True)
class PreparedFiles:
    """Certificates that can be used, once everything else is found to be good."""

    shown: ShownCertificates
    for_nodes: NodeCertificate


class ServedFiles:
    """The files that workers use: those in ``certificates``, and of the nodes those in ``dialer``."""

    def __init__(
        self, settings: CurrentSettings, certificates: ServerCertificates, dialer: Dialer, workers: Workers
    ) -> None:
        self._settings = settings
        self.certificates = certificates
        self._dialer = dialer
        self._workers = workers
        self.version = 1
        """The version of what workers are to use: a newer one takes the place of an older one, whichever comes
        first."""

    def for_workers(self) -> TakeSettings:
        """Return what all workers are to use from now on."""
        prepared = PreparedFiles(self.certificates.shown, self._dialer.certificate)
        return self._asking(self._settings.config, prepared, self._dialer.authorities)

    def _asking(self, config: Config, prepared: PreparedFiles, authorities: Mapping[str, str]) -> TakeSettings:
        shown = prepared.shown
        development = shown.development.decode() if shown.development is not None else None
        files = Files(shown.files, dict(authorities), prepared.for_nodes.content, development)
        # A worker is told the nodes, and need not know from where.
        return TakeSettings(self.version, replace(config, backends=None), files)

    # --- the certificates

    def prepare(self, config: Config, *, again: bool) -> PreparedFiles:
        """Return the certificates that these settings name, read ``again`` or only where there are others now.

        Raises :class:`ConfigError` for all that is wrong with them, and changes nothing.
        """
        shown, for_nodes, faults = self.certificates.shown, self._dialer.certificate, FaultList()
        with faults:
            pairs = self._pairs(config, again=again)
            same = not again and tuple(each.pair for each in shown.files) == pairs
            shown = self.certificates.prepare(shown.files if same else read_pairs(pairs), domains=config.domain)
        with faults:
            if again or config.node_key_pair != self._settings.config.node_key_pair:
                for_nodes = read_node_certificate(config.node_key_pair)
        faults.check()
        return PreparedFiles(shown, for_nodes)

    def _pairs(self, config: Config, *, again: bool) -> tuple[KeyPair, ...]:
        """Return the files of all certificates. A directory is looked through ``again``, or where there is another."""
        named = ("certificate", "key", "certificates")
        if again or set(named) & set(self._settings.config.differences(config)):
            return key_pairs_of(config)
        return tuple(each.pair for each in self.certificates.shown.files)

    async def try_out(self, config: Config, prepared: PreparedFiles) -> list[str]:
        """Have all workers try these. Return the errors, if there were some."""
        asking = self._asking(config, prepared, self._dialer.authorities)
        return await self._workers.take_settings(
            TakeSettings(asking.version, asking.config, asking.files, only_try=True)
        )

    def use(self, prepared: PreparedFiles) -> None:
        """Use these, and the settings that are current by now, in this process."""
        config = self._settings.config
        self.certificates.use(prepared.shown)
        self._dialer.use(config.timeouts, config.limits, prepared.for_nodes)
        log_certificates(self.problems)

    @property
    def problems(self) -> tuple[str, ...]:
        """Faults in the certificates to which clients and nodes will object."""
        problem, problems = self._dialer.certificate.problem, self.certificates.shown.problems
        return problems if problem is None else (*problems, problem)

    # --- the nodes' CA certificates

    def take_authorities(self, authorities: Mapping[str, str]) -> None:
        """Use these, which were found good; if they have changed, all workers use them soon."""
        changed = authorities != self._dialer.authorities
        self._dialer.take(authorities)
        if changed:
            self.version += 1
            self._workers.send_settings(self.for_workers())

    # --- the workers

    async def hand_over(self) -> list[str]:
        """Have all workers use what there is now. Return the errors, if there were some."""
        self.version += 1
        return await self._workers.take_settings(self.for_workers())
