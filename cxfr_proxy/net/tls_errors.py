"""Clear what a broken TLS connection leaves to all others of its thread.

OpenSSL notes errors in a queue, one per thread: all connections of the thread share it. ``SSL_get_error``, which says
what a call that moved no bytes meant, answers from that queue, whichever connection has put the error there; so the
queue has to be empty before. Python's ``ssl`` empties it when it raises, with one exception: since 3.12.8 and 3.13.1
the kernel's answers to OpenSSL 3.2 and later (``ECONNRESET``, ``EPIPE``) are raised as an ``OSError`` that is no
``SSLError``, and stay in the queue. From then on each connection of the thread that is read before its next record is
whole is answered with another one's "broken pipe", until a new connection happens to be made. (Reported as
python/cpython#148594; shown with Python 3.13.5 and OpenSSL 3.5.) So one client that resets its connection would end all
other sessions, and take nodes down that are checked by TLS.

Hence two rules for code that calls a TLS socket:

* Its exceptions are passed to :meth:`.transport.Transport.judge` before any other TLS socket is called.
* Only OpenSSL's own "want read" and "want write" mean "not now". ``BlockingIOError`` of a TLS socket does not: if a
  connection is broken for good, OpenSSL says nothing, and Python raises whatever ``errno`` another call has left.

TLS over memory (``trio.SSLStream``) meets no kernel, so it leaves nothing; it is only a victim.
"""

from __future__ import annotations

import ssl
from typing import Final

WANTS: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""Raised by a TLS socket that is in order, and has to wait."""

_CONTEXT: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def forget_errors() -> None:
    """Empty this thread's queue of errors. Costs 3 to 4 µs."""
    # Python's ssl has no function for it (ERR_clear_error). Making an SSLObject calls it first, and needs no
    # connection.
    _CONTEXT.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
