"""What a TLS connection leaves behind when it breaks, and why it must not stay there.

OpenSSL notes errors in a queue, of which each thread has one: all its connections share it. Whoever asks what a call
that moved no bytes meant (``SSL_get_error``) is told of what lies in that queue, whichever connection has put it there;
so it has to be empty before. Python's ``ssl`` empties it when it raises, with one exception: since 3.12.8 and 3.13.1
what the kernel says to OpenSSL 3.2 and later (``ECONNRESET``, ``EPIPE``) is raised as an ``OSError`` that is no
``SSLError``, and stays in the queue. From then on each connection of the thread that is read before its next record is
whole is answered with another one's "broken pipe", until a new connection happens to be made. (Reported there as
python/cpython#148594; shown with Python 3.13.5 and OpenSSL 3.5.) So one client that resets its connection would end
everybody else's session, and take nodes down that are checked by TLS.

Hence the two rules for whoever calls a TLS socket:

* What it raises is passed to :meth:`.transport.Transport.judge` before any other TLS socket is called.
* Only OpenSSL's own "want read" and "want write" mean "not now". ``BlockingIOError`` of a TLS socket does not: where a
  connection is broken for good, OpenSSL says nothing, and Python raises whatever ``errno`` another call has left.

TLS over memory (``trio.SSLStream``) meets no kernel, so it leaves nothing; it is only a victim.
"""

from __future__ import annotations

import ssl
from typing import Final

WANTS: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""Raised by a TLS socket that is well, and has to wait."""

_CONTEXT: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def forget_errors() -> None:
    """Empty this thread's queue of errors. Costs 3 to 4 µs."""
    # Nothing in Python does only that. To make an object for a connection does it first, and can be had without one.
    _CONTEXT.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
