"""Where the settings of a process are from: its flags, the file that one of them names, and what was set since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from cxfr_proxy.config.settings import SettingsFile, read_settings_file
from cxfr_proxy.config.table import SETTINGS, Config
from cxfr_proxy.errors import ConfigError

_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_UNREAD: Final[Mapping[str, str]] = MappingProxyType({})


class ValueOrigin(StrEnum):
    """Where a value is from, unless that is the file, which is named with the line."""

    DEFAULT = "default"
    FLAG = "flag"
    PROGRAM = "program"
    """The program in which the proxy is embedded."""
    SET = "set"
    """An operator has set it while the proxy ran."""


class ConfigSource:
    """``flags`` as in :meth:`~.table.Config.from_sources`. The file may change, the flags can't. ``base`` has the
    settings of a program that runs a proxy within itself; ``None``: what is not given has its default."""

    def __init__(self, flags: Mapping[str, object], base: Config | None = None) -> None:
        self._flags = flags
        self._base = base
        self.origins: Mapping[str, str] = _UNREAD
        """By setting, where its value was from when they were read last; those that are not there have defaults."""

    @property
    def path(self) -> str | None:
        """The settings file; ``None``: there is none."""
        path = self._flags.get("config")
        return path if isinstance(path, str) else None

    def read(self, overrides: Mapping[str, object] = _NOTHING) -> Config:
        """Return the settings as they are now, of which ``overrides``, by name, are as they are there.

        Raises :class:`ConfigError`.
        """
        file = read_settings_file(self.path, SETTINGS) if self.path is not None else None
        config = Config.from_sources(self._flags, file, self._base)
        if overrides:
            config = config.with_values(overrides)
            config.check()
        self.origins = dict(self._origins(file, overrides))
        return config

    def gather(self) -> tuple[Config, list[ConfigError]]:
        """Return the settings as far as they are good, and all that is wrong with them."""
        file, faults = None, []
        try:
            file = read_settings_file(self.path, SETTINGS) if self.path is not None else None
        except ConfigError as exc:
            faults.append(exc)
        config, more = Config.gather(self._flags, file, self._base)
        return config, [*faults, *more]

    def _origins(self, file: SettingsFile | None, overrides: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        usual = Config()
        for row in SETTINGS:
            if row.name in overrides:
                yield row.name, ValueOrigin.SET
            elif self._flags.get(row.attribute) is not None:
                yield row.name, ValueOrigin.FLAG
            elif file is not None and row.name in file.values:
                line = file.lines.get(row.name)
                yield row.name, file.path if line is None else f"{file.path}:{line}"
            elif self._base is not None and row.value_in(self._base) != row.value_in(usual):
                yield row.name, ValueOrigin.PROGRAM
