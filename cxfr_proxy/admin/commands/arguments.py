"""The arguments of commands, checked once for every way by which a command comes in."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxfr_proxy.config.values import ValueType
from cxfr_proxy.errors import ConfigError

Arguments = Mapping[str, Any]
"""By keyword; each value is what its argument's value type gives, or ``None``."""


class BadArguments(ConfigError):
    """Arguments are wrong, whatever the state of the proxy."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument. ``value_type`` is ``None`` for a switch, which is given or not; ``positional`` ones are
    required.

    ``stays``: the command line keeps the value for itself, and the proxy is told only whether there is one. ``local``:
    it counts on the control socket only.
    """

    name: str
    help: str
    value_type: ValueType[Any] | None = None
    positional: bool = False
    many: bool = False
    """It may be given several times: its value is a tuple. It is required, unless it is ``optional``."""
    optional: bool = False
    stays: bool = False
    local: bool = False

    @property
    def keyword(self) -> str:
        """The parameter that it is given as."""
        name = self.name.replace("-", "_")
        return f"{name}_" if keyword.iskeyword(name) else name

    @property
    def is_required(self) -> bool:
        return self.positional or (self.many and not self.optional)

    def read(self, value: object) -> object:
        """Return the argument's value from text or JSON; ``None`` where an option wasn't given.

        Raises :class:`ConfigError`.
        """
        if not self.many:
            return self._read_one(value)
        items = value if isinstance(value, list) else [] if value is None else [value]
        return tuple(map(self._read_one, items or ([] if self.optional else [None])))

    def _read_one(self, value: object) -> object:
        if self.value_type is None or self.stays:
            if value is None or isinstance(value, bool):
                return bool(value)
            raise self._unfit(f"{value!r:.80}")
        if value is None:
            if self.positional or self.many:
                raise self._unfit("nothing")
            return None
        # To Python, true is a number.
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._unfit(f"{value!r:.80}")
        # A surrogate comes from a byte on the command line that was none of UTF-8's, or from an escape in JSON.
        if not str(value).isascii() and any("\ud800" <= char <= "\udfff" for char in str(value)):
            raise self._unfit(f"{value!r:.80}")
        try:
            return self.value_type.parse(str(value))
        except ConfigError as exc:
            raise ConfigError(f"{self.name}: {exc.message}") from exc

    def _unfit(self, found: str) -> ConfigError:
        return ConfigError(f"{self.name}: expected {self._expected()}, found {found}")

    def _expected(self) -> str:
        return self.value_type.expected if self.value_type is not None and not self.stays else "true or false"


def read_arguments(arguments: Sequence[Argument], given: Mapping[str, object]) -> Arguments:
    """Return all of these arguments by keyword, checked.

    Raises :class:`ConfigError` for one that is wrong, missing or unknown.
    """
    known = {argument.name for argument in arguments}
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown argument {name!r:.80}")
    return {each.keyword: each.read(given.get(each.name)) for each in arguments}
