"""Those who give commands: what they may do, and how the log names them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """The things that somebody may do: each role those of the roles before it, too."""

    VIEW = "view"
    """See what there is, clients' addresses and JIDs included."""
    OPERATE = "operate"
    """Move clients, and say which nodes take some."""
    ADMIN = "admin"
    """Change settings, and replace what runs. The control socket is for those who may do that."""

    def may(self, needed: Role) -> bool:
        """Return whether it suffices for what needs that role."""
        roles = list(Role)
        return roles.index(self) >= roles.index(needed)


class Way(StrEnum):
    """The way by which a command has come."""

    CONTROL = "control"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who gives a command.

    ``name`` is that of a token, or the user's number on this machine (``uid 1000``). ``address`` is the IP address by
    HTTP, and ``pid`` the process on this machine by the control socket; ``None``: it is not known, or there is none.
    """

    name: str
    role: Role
    way: Way
    address: str | None = None
    pid: int | None = None
