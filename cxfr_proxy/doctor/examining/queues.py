"""The queues of listening TCP sockets on this machine, from the kernel: netlink's sock_diag(7).

``/proc/net/tcp`` does not say how much room a queue has. Any user may ask, and hears of the network namespace that the
program is in.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_DONE: Final = 3  # NLMSG_DONE
_ERROR: Final = 2  # NLMSG_ERROR
_LISTEN: Final = 1 << 10  # TCP_LISTEN
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBBI48s")
_ANSWER: Final = struct.Struct("=BBBB2s2s16s16s4s8sIIIII")
_SECONDS: Final = 2.0
_READ_BYTES: Final = 65_536
_MOST: Final = 10_000
"""Most sockets that are read."""
_BOUND: Final = Path("/proc/sys/net/core/somaxconn")


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A socket that listens: its address and port, how many connections may wait in its queue, and how many do."""

    host: str
    port: int
    most: int
    waiting: int


def accepting(listening: Iterable[ListeningSocket], host: str, port: int) -> list[ListeningSocket]:
    """Return those of the sockets that accept connections to that address: the kernel prefers one that has the address
    itself, and one for all IPv4 addresses to one for all of both kinds."""
    address = ipaddress.ip_address(host.partition("%")[0])
    at_port = [each for each in listening if each.port == port]
    for mine in (str(address), "0.0.0.0" if address.version == 4 else "::", "::"):
        found = [each for each in at_port if each.host == mine]
        if found:
            return found
    return []


def listening_sockets() -> list[ListeningSocket]:
    """Return all that listen; none where the kernel does not tell."""
    found: list[ListeningSocket] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):  # it may be forbidden, or the kernel may lack it
            found += _ask(family)
    return found[:_MOST]


def most_queued() -> int | None:
    """Return the kernel's bound for all queues; ``None`` if it does not tell."""
    try:
        return int(_BOUND.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _ask(family: int) -> Iterator[ListeningSocket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as sock:
        sock.settimeout(_SECONDS)
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _LISTEN, bytes(48))
        sock.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 1, 0) + request)
        while True:
            for kind, body in _messages(sock.recv(_READ_BYTES)):
                if kind in (_DONE, _ERROR):
                    return
                yield _listener(family, body)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[max(length + 3 & ~3, _HEADER.size) :]


def _listener(family: int, body: bytes) -> ListeningSocket:
    _, _, _, _, port, _, address, *_, waiting, most, _, _ = _ANSWER.unpack_from(body)
    host = ipaddress.ip_address(address[:4] if family == socket.AF_INET else address)
    host = getattr(host, "ipv4_mapped", None) or host  # an IPv6 socket may have an IPv4 address (Java, Erlang)
    return ListeningSocket(str(host), int.from_bytes(port, "big"), most, waiting)
