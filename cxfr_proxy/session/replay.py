"""The stanzas that went to the node and that it has not acknowledged: they are sent again where the session is resumed.

XEP-0198 has the rule for every sender (section 5): keep what is not acknowledged, drop it by the other side's ``h``,
and after a resumption send the rest again. A client does so by itself when *its* connection breaks. When the node's
connection breaks the client knows nothing of it, so the proxy has to have kept the stanzas.

The buffer is bounded: while it is full, the client is not read. One stanza always fits, or a client with a long one
would never be read again, and so does the rest of a chunk that was read already.
"""

from __future__ import annotations

import math
from typing import Final

from cxfr_proxy.xmpp.stream_management import MODULUS

ASK_EVERY: Final = 8
"""Stanzas behind which the node is asked for an acknowledgement. So an idle session keeps fewer than that, and the node
writes an ``<a/>`` for every eighth stanza of a client's."""
ASK_AT: Final = 4
"""The node is asked as well when the stanzas since the last time take this part of what may be kept: the answer is back
before the buffer is full."""
MOST_BREAKS: Final = 10
"""Connections to the node that may break one soon after the other. Each replacement costs it a TLS handshake and a
login, and one that breaks at once each time would be made again without end."""
FORGIVEN_SECONDS: Final = 0.5
"""Seconds after which one break is forgiven. So a session may live with a break each half second, and be of use."""
_HALF: Final = MODULUS // 2


class Replay:
    """``acknowledged`` is how many of the client's stanzas the node has acknowledged, and ``confirmed`` how many of the
    node's the client has, both by the node's counts. ``full``: the client is not to be read.

    ``full_since`` is when it became full, or the node last acknowledged a stanza, on the relay's clock; ``None``: it is
    not full. ``trusted``: the counts have fitted so far. A node that acknowledges what was never sent counts otherwise,
    and what it lacks can't be known any more: nothing is kept then.
    """

    __slots__ = (
        "_asked_at",
        "_breaks",
        "_broke_at",
        "_bytes",
        "_bytes_unasked",
        "_max_bytes",
        "_stanzas",
        "acknowledged",
        "confirmed",
        "full_since",
        "trusted",
    )

    def __init__(self, max_bytes: int, acknowledged: int = 0, confirmed: int = 0) -> None:
        self._max_bytes = max_bytes
        self._stanzas: list[bytes] = []  # a list: an empty deque takes 600 bytes
        self._bytes = 0
        self._asked_at = acknowledged
        self._bytes_unasked = 0
        self.acknowledged = acknowledged
        self.confirmed = confirmed
        self._broke_at = -math.inf
        self._breaks = 0.0
        self.full_since: float | None = None
        self.trusted = True

    @property
    def sent(self) -> int:
        """How many stanzas the node will have counted once it has read everything."""
        return (self.acknowledged + len(self._stanzas)) % MODULUS

    @property
    def full(self) -> bool:
        return self._bytes >= self._max_bytes

    @property
    def due(self) -> bool:
        """The node is to be asked for an acknowledgement."""
        unasked = (self.sent - self._asked_at) % MODULUS
        return unasked >= ASK_EVERY or self._bytes_unasked * ASK_AT >= self._max_bytes

    def keep(self, stanza: bytes, now: float) -> None:
        """Keep a stanza that goes to the node now, if it is there."""
        if not self.trusted:
            return
        self._stanzas.append(stanza)
        self._bytes += len(stanza)
        self._bytes_unasked += len(stanza)
        if self.full and self.full_since is None:
            self.full_since = now

    def note_asked(self) -> None:
        """Note that the node is asked for an acknowledgement, by whomever."""
        self._asked_at, self._bytes_unasked = self.sent, 0

    def acknowledge(self, h: int, now: float) -> None:
        """Drop what the node's ``<a/>`` acknowledges."""
        more = (h - self.acknowledged) % MODULUS
        if more <= len(self._stanzas):
            self._drop(more, now)
        elif more < _HALF:  # else it repeats an older one
            self.distrust()

    def resume(self, h: int, now: float) -> bool:
        """Drop what the node had before it resumed the session. Return false, and leave all as it is, if that can't be:
        it has got another session, or less of this one than it has acknowledged."""
        more = (h - self.acknowledged) % MODULUS
        if not self.trusted or more > len(self._stanzas):
            return False
        self._drop(more, now)
        return True

    def breaks_again(self, now: float) -> bool:
        """Note that the connection to the node broke, be it before the session was resumed on it. Return whether that
        happens too often for another attempt."""
        self._breaks = max(0.0, self._breaks - (now - self._broke_at) / FORGIVEN_SECONDS) + 1
        self._broke_at = now
        return self._breaks > MOST_BREAKS

    def _drop(self, count: int, now: float) -> None:
        if count:
            # Any stanza that was handled starts the time anew: slow is not stuck.
            self.full_since = now
            self._bytes -= sum(map(len, self._stanzas[:count]))
            del self._stanzas[:count]
            self.acknowledged = (self.acknowledged + count) % MODULUS
        if not self.full:
            self.full_since = None

    def distrust(self) -> None:
        """Keep nothing from here on: the node counts otherwise."""
        self.trusted = False
        self._stanzas.clear()
        self._bytes = 0
        self.note_asked()
        self.full_since = None

    def unacknowledged(self) -> bytes:
        """Return all that is kept, in order."""
        return b"".join(self._stanzas)

    def confirm(self, count: int) -> None:
        """Note how many of the node's stanzas the client has acknowledged."""
        self.confirmed = count
