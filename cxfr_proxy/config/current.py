"""The settings of a proxy that runs, and what becomes of others: which it takes, and which wait for a restart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cxfr_proxy.config.settings import Reload, Setting
from cxfr_proxy.config.source import ConfigSource, ValueOrigin
from cxfr_proxy.config.table import RESTART_ONLY, SETTINGS, Config, setting_named
from cxfr_proxy.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """Other settings for a proxy that runs: ``config`` is what it can take of them. ``taken`` are the names of those
    that differ from the ones in use; ``waiting``: of those that wait for a restart."""

    config: Config
    taken: tuple[str, ...]
    waiting: tuple[str, ...]
    origins: Mapping[str, str]
    overrides: Mapping[str, object]


class CurrentSettings:
    """The settings in use: ``config``. Changes are worked out here, and count once they are taken: :meth:`use`.

    ``source`` is where they are from, by which ``config`` was read.
    """

    def __init__(self, config: Config, source: ConfigSource) -> None:
        self.config = config
        self._source = source
        self._origins: Mapping[str, str] = source.origins
        self._overrides: Mapping[str, object] = {}

    @property
    def file(self) -> str | None:
        """The settings file; ``None``: there is none."""
        return self._source.path

    def any_given(self, *names: str) -> bool:
        """Return whether flags, file or program give one of these settings; else they have their defaults."""
        return any(name in self._origins for name in names)

    def reread(self) -> SettingsChange:
        """Return what flags and file say now, beside what was set. Raises :class:`ConfigError`."""
        wanted = self._source.read(self._overrides)
        wanted.check_serving()
        return self._change_to(wanted, self._source.origins, self._overrides)

    def with_set(self, name: str, texts: Sequence[str]) -> SettingsChange:
        """Return the change that gives that setting another value, until the proxy is restarted; several texts for one
        that is a list. Raises :class:`ConfigError`."""
        setting = _changeable(name)
        if len(texts) != 1 and not setting.row.repeatable:
            raise ConfigError(f"{name}: expected one value, found {len(texts)}")
        value = setting.read(list(texts) if setting.row.repeatable else texts[0], name)
        wanted = self.config.with_values({name: value})
        wanted.check()
        return self._change_to(wanted, {**self._origins, name: ValueOrigin.SET}, {**self._overrides, name: value})

    def without_set(self, name: str) -> SettingsChange:
        """Return the change that takes back what was set, for the value that flags and file give. Raises
        :class:`ConfigError`."""
        _changeable(name)
        if name not in self._overrides:
            raise ConfigError(f"{name} is not set (show config tells which are)")
        overrides = {each: value for each, value in self._overrides.items() if each != name}
        wanted = self.config.with_those_of(self._source.read(), (name,))
        wanted.check()
        origins = {each: origin for each, origin in self._origins.items() if each != name}
        if name in self._source.origins:
            origins[name] = self._source.origins[name]
        return self._change_to(wanted, origins, overrides)

    def _change_to(self, wanted: Config, origins: Mapping[str, str], overrides: Mapping[str, object]) -> SettingsChange:
        differ = self.config.differences(wanted)
        waiting = tuple(name for name in differ if name in RESTART_ONLY)
        # A value that waits is not the one in use, which is from where it was from.
        told = {name: origin for name, origin in origins.items() if name not in waiting}
        told |= {name: self._origins[name] for name in waiting if name in self._origins}
        return SettingsChange(
            config=wanted.with_those_of(self.config, RESTART_ONLY),
            taken=tuple(name for name in differ if name not in RESTART_ONLY),
            waiting=waiting,
            origins=told,
            overrides=overrides,
        )

    def use(self, change: SettingsChange) -> None:
        """Have these settings be the current ones: they are taken."""
        self.config, self._origins, self._overrides = change.config, change.origins, change.overrides

    def __iter__(self) -> Iterator[tuple[Setting, str]]:
        """Yield each setting, and where its value is from."""
        for row in SETTINGS:
            yield row, self._origins.get(row.name, ValueOrigin.DEFAULT)


def _changeable(name: str) -> Setting:
    """Return the setting of that name. Raises :class:`ConfigError` for one that can't be changed while a proxy runs."""
    setting = setting_named(name)
    if setting.row.reload is Reload.RESTART:
        raise ConfigError(f"{name} takes a restart of the proxy: change it in the settings file")
    return setting
