"""The process at the other end of a unix socket, as the kernel knows it: nobody can claim to be another one."""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

import trio

_CREDENTIALS: Final = struct.Struct("3i")
"""``struct ucred`` of unix(7)."""


class PeerProcess(NamedTuple):
    """A process and its user, as they were when it connected, or began to listen."""

    pid: int
    uid: int
    gid: int


def peer_of(stream: trio.SocketStream) -> PeerProcess:
    """Return the process at the other end."""
    found = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return PeerProcess(*_CREDENTIALS.unpack(found))
