"""Listening sockets that the process was started with, and does not bind itself.

A service manager hands them over (socket activation, sd_listen_fds(3)), and so may a proxy that this one replaces. It
is the same to those who need a socket: they ask for the one of an address, and bind one where there is none. Each
socket is taken once, and belongs to whoever has taken it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, TypeAlias

from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.units import counted

_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START
_PID, _COUNT, _NAMES = "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"
_VARIABLES: Final = (_PID, _COUNT, _NAMES, "LISTEN_PIDFDID")

_Host: TypeAlias = tuple[int, str, int]
"""Family, address and zone: what the address of a socket says besides the port."""


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A socket that listens. ``name`` is what its giver calls it; empty: nothing.

    ``lasting``: its giver keeps it as well, so connections may wait in it while no proxy runs. Such a socket must never
    stop listening.
    """

    listening: socket.socket
    name: str = ""
    lasting: bool = False

    @property
    def is_unix(self) -> bool:
        return self.listening.family == socket.AF_UNIX

    @property
    def path(self) -> str:
        """The path of a unix socket; one without a file begins with ``@``."""
        name = self.listening.getsockname()
        return f"@{os.fsdecode(name[1:])}" if isinstance(name, bytes) else str(name)

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    @property
    def host(self) -> _Host:
        return _host(self.listening.family, self.listening.getsockname())

    def __str__(self) -> str:
        place = f"unix:{self.path}" if self.is_unix else str(ListenAddress(self.host[1], self.port))
        return f"{place} ({self.name})" if self.name else place


class InheritedSockets:
    """The sockets that nobody has taken yet."""

    def __init__(self, sockets: Iterable[InheritedSocket] = ()) -> None:
        self._left = list(sockets)

    def take(self, address: ListenAddress) -> list[InheritedSocket]:
        """Return all that listen on this address; none: it has to be bound.

        A name stands for its addresses, of which some may be there. Port 0 is any port. Every address of the machine is
        the one of either family, whether or not the socket of IPv6 takes IPv4 too: that is its giver's choice.
        """
        hosts = _hosts(address)
        fitting = [each for each in self._left if not each.is_unix and each.host in hosts]
        if address.port:
            return self._remove([each for each in fitting if each.port == address.port])
        first_ports = {each.host: each.port for each in reversed(fitting)}
        return self._remove([each for each in fitting if each.port == first_ports[each.host]])

    def take_path(self, path: str) -> list[InheritedSocket]:
        """Return the unix sockets of this path."""
        return self._remove([each for each in self._left if each.is_unix and each.path == path])

    def take_lasting(self) -> list[InheritedSocket]:
        """Return all that their giver keeps as well."""
        return self._remove([each for each in self._left if each.lasting])

    def close(self) -> None:
        """Close those that nobody has taken."""
        for each in self._remove(list(self._left)):
            each.listening.close()

    def _remove(self, sockets: list[InheritedSocket]) -> list[InheritedSocket]:
        self._left = [each for each in self._left if each not in sockets]
        return sockets


def _host(family: int, address: tuple[object, ...]) -> _Host:
    zone = address[3] if family == socket.AF_INET6 else 0
    assert isinstance(zone, int)
    return family, str(address[0]).partition("%")[0], zone


def _hosts(address: ListenAddress) -> set[_Host]:
    if address.host is None:
        return {(socket.AF_INET6, "::", 0), (socket.AF_INET, "0.0.0.0", 0)}
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return set()  # whoever binds it instead will say what is wrong with it
    return {_host(family, place) for family, _, _, _, place in found}


def given_by_service_manager(environ: MutableMapping[str, str], pid: int) -> InheritedSockets:
    """Return the sockets that the environment names for the process ``pid``, and remove the variables: they are not for
    the programs that it starts.

    Raises :class:`ConfigError` for a descriptor that is no stream socket, or does not listen.
    """
    given = {name: environ.pop(name, "") for name in _VARIABLES}
    if given[_PID] != str(pid):
        return InheritedSockets()  # they were for a program that has started this one
    if not (given[_COUNT].isascii() and given[_COUNT].isdecimal()):
        raise ConfigError(f"{_COUNT}: expected a number of descriptors, found {given[_COUNT]!r:.80}")
    count = int(given[_COUNT])
    names = given[_NAMES].split(":") if given[_NAMES] else None
    if names is not None and len(names) != count:
        raise ConfigError(f"{_NAMES}: expected a name for each of {counted(count, 'descriptor')}, found {len(names)}")
    sockets: list[InheritedSocket] = []
    with ExitStack() as closing:
        for number in range(count):
            name = names[number] if names is not None else ""
            listening = closing.enter_context(_adopt(_FIRST_DESCRIPTOR + number, name))
            sockets.append(InheritedSocket(listening, name, lasting=True))
        closing.pop_all()
    return InheritedSockets(sockets)


def _adopt(descriptor: int, name: str) -> socket.socket:
    """Return the socket that listens there, which programs started by this one do not get."""
    label = f"descriptor {descriptor} of {_COUNT}" + (f" ({name})" if name else "")
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise ConfigError(f"{label}: expected a socket: {os.strerror(exc.errno or 0)}") from exc
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise ConfigError(f"{label}: expected a stream socket that listens (ListenStream= and Accept=no)")
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        sock.detach()
        raise ConfigError(f"{label}: expected a TCP or unix socket")
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
