"""Close TLS in good order: send the alert close_notify without ending the reading.

A side that closes its stream closes its TLS as well (RFC 6120 section 4.4, RFC 8446 section 6.1: a MUST), or the other
side has to think that somebody on the path has cut it short. The alert says nothing of the other direction, in which
stanzas, and the end of the peer's stream, may still be under way.

OpenSSL can do just that (``SSL_shutdown``, called once). Python's ``SSLSocket.unwrap()`` calls it twice, and the second
call waits for the peer's alert: it reads, and takes anything else that it reads for a fault, after which the connection
can't be read any more. So there must be nothing to read while it is called. For that moment the socket's descriptor
stands for one end of a socket pair of our own, where nothing ever comes in; the caller finds at the other end what
OpenSSL writes, and writes it to the socket. The descriptor is its own again before anybody else runs. epoll's knowledge
of it goes with the connection and not with the number, so it is not concerned.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from typing import Final

from cxfr_proxy.net.tls_errors import WANTS, forget_errors

_MOST_BYTES: Final = 4096
"""Bytes of an alert's record: 24 to 31."""


def _make_quiet_pair() -> tuple[int, int]:
    """Return both ends of a socket pair on which nothing ever comes in. They are descriptors, which are never closed,
    and not sockets, which close themselves."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near.detach(), far.detach()


_NEAR, _FAR = _make_quiet_pair()
_PLACE: Final = os.dup(_NEAR)
"""The descriptor that holds a connection meanwhile. It is reserved, so that closing needs no new descriptor when none
is left."""


def close_notify(tls: ssl.SSLSocket) -> bytes:
    """Return the record that closes one direction, for the caller to write to the socket beneath.

    ``tls`` can write nothing afterwards. It can be read as before, except for what is ``pending()`` in it now, which is
    lost. Empty if the record was made before, or there is no TLS to be closed: it has failed, or not begun. Raises only
    ``OSError``, for a socket that is closed.
    """
    descriptor = tls.fileno()
    # dup2() replaces what a number stands for in one step, so no other thread can be given the number in between.
    os.dup2(descriptor, _PLACE, inheritable=False)
    os.dup2(_NEAR, descriptor, inheritable=False)
    try:
        tls.unwrap()
    except ValueError:
        pass  # both directions were closed before
    except WANTS:
        pass  # SSL_shutdown() has written our alert and now wants the peer's, which the next reader finds
    except OSError:
        forget_errors()  # it was broken before, and must not harm other connections
    finally:
        os.dup2(_PLACE, descriptor, inheritable=False)
        os.dup2(_NEAR, _PLACE, inheritable=False)
    with contextlib.suppress(BlockingIOError):  # there was nothing to write
        return os.read(_FAR, _MOST_BYTES)
    return b""
