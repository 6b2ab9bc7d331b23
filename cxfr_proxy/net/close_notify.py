"""Closing TLS in good order: the alert close_notify, said without an end to the reading.

Whoever closes a stream says so in TLS as well (RFC 6120 section 4.4, RFC 8446 section 6.1: a MUST), or the other side
has to think that somebody on the way has cut it short. It says nothing of the other direction, in which stanzas, and
the end of the peer's stream, may still be under way.

OpenSSL can do just that (``SSL_shutdown``, called once). What Python has, ``SSLSocket.unwrap()``, calls it twice, and
the second call waits for the peer's alert: it reads, and what it reads instead is a fault, after which the connection
can't be read any more. So while it is called there is nothing to read. For that moment the socket's descriptor stands
for one end of a pair of sockets of our own, where nothing ever comes in; what OpenSSL writes is found at the other end,
and the caller writes it to the socket. The descriptor is its own again before anybody else runs. What epoll knows of it
goes with the connection and not with the number, so it is not concerned.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from typing import Final

from cxfr_proxy.net.tls_errors import WANTS, forget_errors

_MOST_BYTES: Final = 4096
"""An alert's record has 24 to 31."""


def _make_quiet_pair() -> tuple[int, int]:
    """Descriptors and no sockets: they are never closed."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near.detach(), far.detach()


_NEAR, _FAR = _make_quiet_pair()
_PLACE: Final = os.dup(_NEAR)
"""Where a connection is kept meanwhile. Reserved, so that closing needs no new descriptor where there is none left."""


def close_notify(tls: ssl.SSLSocket) -> bytes:
    """The record that closes one direction, for the caller to write to the socket beneath.

    Nothing can be written by ``tls`` afterwards; it can be read as before, but for what is ``pending()`` in it now,
    which is lost. Empty where the record was made before, or there is no TLS any more to be closed: it has failed, or
    not begun. Raises nothing but ``OSError``, for a socket that is closed.
    """
    descriptor = tls.fileno()
    os.dup2(descriptor, _PLACE, inheritable=False)
    os.dup2(_NEAR, descriptor, inheritable=False)
    try:
        tls.unwrap()
    except ValueError:
        pass  # both directions were closed before
    except WANTS:
        pass  # it wants to read the peer's alert; that is for whoever reads on
    except OSError:
        forget_errors()  # it was broken before, and must not harm other connections
    finally:
        os.dup2(_PLACE, descriptor, inheritable=False)
        os.dup2(_NEAR, _PLACE, inheritable=False)
    with contextlib.suppress(BlockingIOError):
        return os.read(_FAR, _MOST_BYTES)
    return b""
