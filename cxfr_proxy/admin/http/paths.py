"""The paths of the API. Those of commands are their words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cxfr_proxy.admin.commands.table import COMMANDS, Command

BASE: Final = "/api/v1"
EVENTS: Final = f"{BASE}/events"
OPENAPI: Final = f"{BASE}/openapi.json"


def path_of(command: Command) -> str:
    """Return the path of a command."""
    return f"{BASE}/{command.name.replace(' ', '/')}"


BY_PATH: Final[Mapping[str, Command]] = {path_of(command): command for command in COMMANDS}
"""The commands by their paths."""
