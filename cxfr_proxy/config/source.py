"""Where the settings of a process are from: its flags, and the file that one of them names."""

from __future__ import annotations

from collections.abc import Mapping

from cxfr_proxy.config.settings import SettingsFile, read_settings_file
from cxfr_proxy.config.table import SETTINGS, Config


class ConfigSource:
    """``flags`` as in :meth:`~.table.Config.from_sources`. The file may change, the flags can't."""

    def __init__(self, flags: Mapping[str, object]) -> None:
        self._flags = flags
        self._file: SettingsFile | None = None

    def read(self) -> Config:
        """Return the settings as they are now. Raises :class:`ConfigError`."""
        path = self._flags.get("config")
        self._file = read_settings_file(path, SETTINGS) if isinstance(path, str) else None
        return Config.from_sources(self._flags, self._file)

    def gives(self, name: str) -> bool:
        """Return whether that setting, a word of one part, was given when they were read last."""
        return name in self._flags or (self._file is not None and name in self._file.values)
