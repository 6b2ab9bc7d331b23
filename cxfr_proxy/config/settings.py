"""Read the settings of a table from flags and a file, and write them as help and documentation.

The table itself is :mod:`cxfr_proxy.config.table`, dataclasses whose fields are its rows; here is the
machinery, which knows no setting by name. A row becomes a field by :func:`setting` or :func:`repeatable`;
:func:`settings_of` collects the rows again as :class:`Setting`. Values reach :meth:`Setting.read` as text, or
as the numbers and lists that TOML has, and all end in the same :class:`cxfr_proxy.config.values.ValueType`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, TypeVar, cast

from cxfr_proxy.config.values import ValueType
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.files import read_file

T = TypeVar("T")


class Group(StrEnum):
    """The headings under which settings stand, in help and documentation, in this order."""

    SERVING = "Serving"
    MOVING = "Moving clients"
    TIMES = "Time limits"
    SIZES = "Size limits"
    OPERATING = "Operating"


class Reload(StrEnum):
    """Whether a proxy that runs takes another value of a setting, and for whom."""

    AT_ONCE = "at once"
    NEW = "new connections"
    """Clients that are connected stay as they are."""
    RESTART = "restart"
    """Not without a restart of the proxy."""


@dataclass(frozen=True, slots=True)
class Row:
    """The table's row about a field. ``default`` is for people, if the value itself doesn't tell."""

    group: Group
    reload: Reload
    value_type: ValueType[Any]  # the field's own type; a row is only ever read through Setting
    help: str
    reason: str
    repeatable: bool
    default: str | None


def setting(
    group: Group,
    reload: Reload,
    value_type: ValueType[T],
    default: T,
    help: str,
    reason: str,
    *,
    shown: str | None = None,
) -> T:
    row = Row(group, reload, value_type, help, reason, repeatable=False, default=shown)
    value: T = field(default=default, metadata={"row": row})
    return value


def repeatable(
    group: Group,
    reload: Reload,
    value_type: ValueType[T],
    default: tuple[T, ...],
    help: str,
    reason: str,
    *,
    shown: str | None = None,
) -> tuple[T, ...]:
    row = Row(group, reload, value_type, help, reason, repeatable=True, default=shown)
    value: tuple[T, ...] = field(default=default, metadata={"row": row})
    return value


@dataclass(frozen=True, slots=True)
class Setting:
    """A row together with what its field says: the name, and the default's text. ``section`` is the attribute
    of :class:`Config` that holds it, empty for ``Config`` itself."""

    name: str
    section: str
    default_texts: tuple[str, ...]
    """The default as an operator would write it, each value of a list; or the row's text for people, if it has one."""
    row: Row

    @property
    def default(self) -> str:
        return " ".join(self.default_texts)

    @property
    def attribute(self) -> str:
        """The name in Python, and of the parsed flag."""
        return self.name.replace("-", "_")

    def text(self, value: object) -> str:
        """Return the value as an operator would write it; of a list, each value."""
        values = cast("Sequence[object]", value) if self.row.repeatable else (value,)
        if value is None or not values:
            return "none"
        return " ".join(self.row.value_type.show(each) for each in values)

    def value_in(self, config: object) -> object:
        """Return the value that ``config``, a :class:`Config`, has for it."""
        owner = getattr(config, self.section) if self.section else config
        return getattr(owner, self.attribute)

    def read(self, value: object, label: str) -> object:
        """Read the value from text, a number or a list of these. ``label`` names the setting in a
        :class:`ConfigError`."""
        if isinstance(value, list) and not self.row.repeatable:
            raise ConfigError(f"{label}: expected {self.row.value_type.expected}, found a list")
        items = value if isinstance(value, list) else [value]
        if self.row.repeatable and items == ["none"]:
            return ()  # as it is shown
        read = tuple(self._read_one(item, label) for item in items)
        return read if self.row.repeatable else read[0]

    def _read_one(self, item: object, label: str) -> object:
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise ConfigError(f"{label}: expected {self.row.value_type.expected}, found {item}")
        try:
            return self.row.value_type.parse(str(item))
        except ConfigError as exc:
            raise ConfigError(f"{label}: {exc.message}") from exc


def _default_texts(each: Field[object], row: Row) -> tuple[str, ...]:
    if row.default is not None:
        return (row.default,)
    assert each.default is not MISSING, each.name
    values = cast("Sequence[object]", each.default) if row.repeatable else (each.default,)
    return tuple(row.value_type.show(value) for value in values)


def settings_of(sections: Mapping[str, type]) -> tuple[Setting, ...]:
    """Return the rows of the dataclasses in ``sections``, in the order of their groups.

    ``sections`` maps the attribute that will hold an instance to its class; the empty name is the class of the whole.
    """
    found = _settings(sections)
    return tuple(sorted(found, key=lambda each: list(Group).index(each.row.group)))


def _settings(sections: Mapping[str, type]) -> Iterator[Setting]:
    for section, owner in sections.items():
        for each in fields(owner):
            row = each.metadata.get("row")
            if isinstance(row, Row):
                yield Setting(each.name.replace("_", "-"), section, _default_texts(each, row), row)


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """The contents of a settings file. ``path`` as the operator wrote it; ``lines`` has the line of each key, from
    1; ``faults`` are its keys that no setting has."""

    path: str
    values: Mapping[str, object]
    lines: Mapping[str, int]
    faults: tuple[ConfigError, ...] = ()

    def read(self, row: Setting) -> object:
        """Read one setting's value. Raises :class:`ConfigError` with its place."""
        try:
            return row.read(self.values[row.name], row.name)
        except ConfigError as exc:
            raise ConfigError(exc.message, file=self.path, line=self.lines.get(row.name)) from exc


MAX_FILE_BYTES: Final = 1 << 20
"""All settings have some 10 KB."""


def read_settings_file(path: str, settings: Sequence[Setting]) -> SettingsFile:
    """Read a TOML file of settings. Raises :class:`ConfigError`: unreadable, or not TOML."""
    try:
        text = read_file(path, max_bytes=MAX_FILE_BYTES).decode()
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}", file=path) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError("expected UTF-8 text", file=path) from exc
    return parse_settings(text, path, settings)


def parse_settings(text: str, path: str, settings: Sequence[Setting]) -> SettingsFile:
    """Read the text of a settings file: the pure part of :func:`read_settings_file`."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise _toml_error(str(exc), text, path) from exc
    except RecursionError as exc:
        raise ConfigError("lists or tables are nested too deep", file=path) from exc
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if match := re.match(r"""\s*\[*\s*["']?([A-Za-z0-9_-]+)""", line):
            lines.setdefault(match[1], number)
    known = [each.name for each in settings]
    unknown = (
        ConfigError(unknown_setting(key, known), file=path, line=lines.get(key)) for key in values if key not in known
    )
    return SettingsFile(path, values, lines, tuple(unknown))


def unknown_setting(name: str, known: Sequence[str]) -> str:
    """Return what there is to say of a name that no setting has."""
    nearest = difflib.get_close_matches(name.replace("_", "-"), known, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown setting {name!r:.80}{hint}"


def _toml_error(message: str, text: str, path: str) -> ConfigError:
    """Return the error with its place, which tomllib has only in its message before Python 3.14."""
    message, end, _ = message.partition(" (at end of document)")
    if end:
        return ConfigError(message, file=path, line=text.count("\n") + 1)
    match = re.fullmatch(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)", message, re.DOTALL)
    if match is None:
        return ConfigError(message, file=path)
    return ConfigError(match[1], file=path, line=int(match[2]), column=int(match[3]))


_MARKDOWN_HEAD: Final = """# Configuration

Drawn from the table in `cxfr_proxy/config/table.py`; a test fails when the two differ.

A setting is a flag (`--transfer-rate 50`), or a line of the TOML file that `--config FILE` names
(`transfer-rate = 50`). A flag wins over the file. Settings marked with * may be repeated: give the flag
again, or write a list in the file; flags replace the file's whole list. Relative paths start from the
directory that the proxy was started in.

```toml
backends = "nodes.txt"
listen = ["*:5222", "[::1]:15222"]
certificate = ["example.org.pem"]
cxfr-timeout = "10s"
max-element-up = "256KiB"
```

Times are seconds, or have a unit (`500ms`, `10s`, `2m`, `1h`).
Sizes are bytes, or have a unit (`8KiB`, `1MiB`).

*Reload* says what a proxy that runs does with another value ([more](reload.md)). At once: it holds for
everything that follows. New connections: clients that are connected stay as they are. Restart: it waits
for the next start of the proxy.
"""


def render_markdown(settings: Sequence[Setting]) -> str:
    """Return the documentation of ``settings``: a table for each group."""
    parts = [_MARKDOWN_HEAD]
    for group in Group:
        rows = [_markdown_row(each) for each in settings if each.row.group is group]
        head = "| Setting | Default | Reload | What it does | Why |"
        parts.append("\n".join([f"## {group}\n", head, "|---|---|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _markdown_row(each: Setting) -> str:
    star = "*" if each.row.repeatable else ""
    name = f"`{each.name}`{star}<br>`{each.row.value_type.metavar}`"
    default = each.default if each.row.default is not None else f"`{each.default}`"
    cells = (name, default, each.row.reload, each.row.help, each.row.reason)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
