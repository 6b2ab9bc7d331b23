"""Every setting, with its default and the reason for it: one table.

The table *is* dataclasses, :class:`Config` with what it is made of: a field is a row. Its name with dashes is the flag
(``--transfer-rate``) and the key in the settings file (``transfer-rate = 100``); its :class:`~.settings.Row` says how
the value is written, what it does, why the default is what it is, and whether a proxy that runs takes another value
(:mod:`cxfr_proxy.config.settings`). ``--help``, ``docs/configuration.md`` and the checks are drawn from it, so a
setting that isn't here doesn't exist, and one that is here is documented.

A flag wins over the file, and the file over the default; a repeatable flag replaces the file's whole list.
All here is pure, but for the default of ``control``, which depends on the environment and the user
(:func:`~cxfr_proxy.config.control_places.default_control`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cxfr_proxy.cluster.placement import PlacementPolicies, PlacementPolicy
from cxfr_proxy.cluster.targets import RedirectTargets
from cxfr_proxy.config.choices import (
    CxfrUnknown,
    NodeStreamManagement,
    OnNodeDown,
    ProxyHeaderUse,
    RebalanceMode,
    Route,
    SaslAuthzid,
    SmAfterTransfer,
    StartTls,
    TrustNodeRedirects,
    WrongNode,
)
from cxfr_proxy.config.limits import Limits
from cxfr_proxy.config.moving import MovingSettings
from cxfr_proxy.config.operating import OperatingSettings
from cxfr_proxy.config.serving import ServingSettings
from cxfr_proxy.config.settings import Reload, Setting, SettingsFile, settings_of, unknown_setting
from cxfr_proxy.config.timeouts import Timeouts
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.errors import ConfigError, FileFaults
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.units import counted

__all__ = [
    "SETTINGS",
    "Config",
    "CxfrUnknown",
    "KeyPair",
    "Limits",
    "ListenAddress",
    "NodeStreamManagement",
    "OnNodeDown",
    "ProxyHeaderUse",
    "RebalanceMode",
    "Route",
    "SaslAuthzid",
    "SmAfterTransfer",
    "StartTls",
    "Timeouts",
    "TrustNodeRedirects",
    "WrongNode",
]


@dataclass(frozen=True, slots=True)
class KeyPair:
    """One certificate chain and its private key; the same file where one file holds both."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Config(ServingSettings, MovingSettings, OperatingSettings):
    """The settings of one proxy."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def from_sources(
        cls, flags: Mapping[str, object], file: SettingsFile | None = None, base: Config | None = None
    ) -> Config:
        """Return settings from parsed flags (``vars()`` of a namespace) and a settings file.

        ``flags`` maps attribute names to text, or to a list of texts for a repeatable setting; names that are missing
        or ``None`` were not given, and names that are no setting's are ignored. ``base`` has the others; ``None``: they
        have their defaults. Raises :class:`ConfigError` for all that is wrong.
        """
        config, faults = cls.gather(flags, file, base)
        if faults:
            raise FileFaults(faults)
        return config

    @classmethod
    def gather(
        cls, flags: Mapping[str, object], file: SettingsFile | None, base: Config | None
    ) -> tuple[Config, list[ConfigError]]:
        """Return settings as :meth:`from_sources` does, and all that is wrong: such a value is as if it were not
        given."""
        faults = list(file.faults) if file is not None else []
        given: dict[str, object] = {}
        for row in SETTINGS:
            value = flags.get(row.attribute)
            try:
                if value is not None:
                    given[row.name] = row.read(value, f"--{row.name}")
                elif file is not None and row.name in file.values:
                    given[row.name] = file.read(row)
            except ConfigError as exc:
                faults.append(exc)
        config = (base if base is not None else cls()).with_values(given)
        return config, [*faults, *config._disagreements()]

    def with_values(self, values: Mapping[str, object]) -> Config:
        """Return these settings with other values, by the settings' names; they are not checked."""
        changed: dict[str, dict[str, Any]] = {"": {}, "timeouts": {}, "limits": {}}
        for row in SETTINGS:
            if row.name in values:
                changed[row.section][row.attribute] = values[row.name]
        return replace(
            self,
            timeouts=replace(self.timeouts, **changed["timeouts"]),
            limits=replace(self.limits, **changed["limits"]),
            **changed[""],
        )

    def check(self) -> None:
        """Raise :class:`ConfigError` for settings that don't go together."""
        faults = list(self._disagreements())
        if faults:
            raise FileFaults(faults)

    def _disagreements(self) -> Iterator[ConfigError]:
        """Yield what is wrong with settings that are right one by one."""
        if len(self.key) > len(self.certificate):
            yield ConfigError(
                f"--key: expected at most one for each --certificate, found {counted(len(self.key), 'key')} "
                f"for {counted(len(self.certificate), 'certificate')}"
            )
        if self.node_key is not None and self.node_certificate is None:
            yield ConfigError("--node-key: expected --node-certificate as well")
        if self.http_key is not None and self.http_certificate is None:
            yield ConfigError("--http-key: expected --http-certificate as well")
        if self.node_stream_management is NodeStreamManagement.ON and self.node_certificate is None:
            yield ConfigError("--node-stream-management: expected --node-certificate as well")
        if self.host_meta and self.websocket_path is None:
            yield ConfigError("host-meta: expected a websocket-path as well; without it HTTP is not spoken")
        yield from self._wrong_redirects()

    def _wrong_redirects(self) -> Iterator[ConfigError]:
        """Yield the redirects in a circle, and those to hosts to which the operator allows none."""
        moved = [domain_key(each.domain) for each in self.redirect_domain]
        served = set(map(domain_key, self.domain))
        for each in self.redirect_domain:
            domain, host, label = domain_key(each.domain), domain_key(each.target.host), f"redirect-domain: {each}"
            if moved.count(domain) > 1:
                yield ConfigError(f"{label}: expected each domain once")
            elif domain in served:
                yield ConfigError(f"{label}: expected a domain that is not served here too")
            elif host in moved or host in served:
                yield ConfigError(f"{label}: expected a host elsewhere; its clients would come back here")
            elif not self.redirection.allow(each.target.host):
                yield ConfigError(f"{label}: expected a host that redirect-targets allows ({self.redirection})")

    def differences(self, other: Config) -> list[str]:
        """Return the names of the settings that have another value there."""
        return [row.name for row in SETTINGS if row.value_in(self) != row.value_in(other)]

    def with_those_of(self, other: Config, names: Collection[str]) -> Config:
        """Return these settings, of which those of these names are as they are there."""
        return self.with_values({row.name: row.value_in(other) for row in SETTINGS if row.name in names})

    @property
    def key_pairs(self) -> tuple[KeyPair, ...]:
        """The certificates in the order given, each with its key."""
        keys = self.key + self.certificate[len(self.key) :]
        return tuple(map(KeyPair, self.certificate, keys))

    @property
    def node_key_pair(self) -> KeyPair | None:
        """The certificate for nodes; ``None``: there is none."""
        if self.node_certificate is None:
            return None
        return KeyPair(self.node_certificate, self.node_key or self.node_certificate)

    @property
    def http_key_pair(self) -> KeyPair | None:
        """The certificate for HTTPS; ``None``: there is none."""
        if self.http_certificate is None:
            return None
        return KeyPair(self.http_certificate, self.http_key or self.http_certificate)

    @property
    def shows_tokens(self) -> bool:
        """Whether tokens of the API pass a network in the clear."""
        in_the_clear = self.http_tokens is not None and self.http_certificate is None
        return in_the_clear and self.http is not None and not self.http.is_loopback

    @property
    def migrates(self) -> bool:
        """Whether there is a certificate with which the proxy can take sessions to other nodes."""
        return self.node_certificate is not None

    @property
    def policies(self) -> PlacementPolicies:
        """By what the users of each domain are placed; of two for the same, the later one counts."""
        by_domain = {each.domain: each.policy for each in self.placement if each.domain is not None}
        usual = next(
            (each.policy for each in reversed(self.placement) if each.domain is None), PlacementPolicy.RENDEZVOUS
        )
        return PlacementPolicies(usual, by_domain)

    @property
    def redirection(self) -> RedirectTargets:
        """To which hosts clients may be sent."""
        return RedirectTargets(self.redirect_targets)

    def check_serving(self) -> None:
        """Check that everything is set that serving needs; files are not opened. Raises :class:`ConfigError`."""
        faults = []
        if self.backends is None:
            faults.append(
                ConfigError("--backends FILE is needed: it names the nodes (try --help, or the command demo)")
            )
        if not self.listen and not self.listen_unix:
            faults.append(ConfigError("listen: expected at least one ADDRESS:PORT, or a path of listen-unix"))
        if faults:
            raise FileFaults(faults)


SETTINGS: Final = settings_of({"": Config, "timeouts": Timeouts, "limits": Limits})
RESTART_ONLY: Final = frozenset(each.name for each in SETTINGS if each.row.reload is Reload.RESTART)
"""The settings that a proxy which runs can't take anew."""


def setting_named(name: str) -> Setting:
    """Return the setting of that name. Raises :class:`ConfigError` for one that isn't in the table."""
    for each in SETTINGS:
        if each.name == name:
            return each
    raise ConfigError(unknown_setting(name, [each.name for each in SETTINGS]))
