"""Choose a port before somebody listens there, for programs that have to be told one.

Several runs of the tests may share a machine, and each chooses some time before its program binds. So whoever chooses
also takes a name that goes with the port: an abstract unix socket's, of which there is one in each network namespace,
as of the port itself, and which vanishes with the process.
"""

from __future__ import annotations

import random
import socket
from collections import deque
from typing import Final

_KEPT: Final = 300
"""How many choices stay reserved. A test needs a handful, and its programs may be started again on them."""
_reserved: Final[deque[socket.socket]] = deque()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on or has chosen, outside the range from which the kernel serves outgoing
    connections."""
    for _ in range(100):
        port = random.randint(20_000, 32_000)
        if _is_free(host, port) and _reserve(port):
            return port
    raise RuntimeError("no free port found")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


def _reserve(port: int) -> bool:
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0cxfr-proxy-tests-port-{port}")
    except OSError:
        name.close()
        return False
    _reserved.append(name)
    if len(_reserved) > _KEPT:
        _reserved.popleft().close()
    return True
