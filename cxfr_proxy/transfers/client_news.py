"""News of a client that one worker has seen and another one may have to know: the client may come back there.

News are plain values, and travel in one way: the worker's own memory takes them (:meth:`.memory.ClientMemory.apply`),
the other workers get them as they are (:class:`cxfr_proxy.ipc.messages.News`) and take them likewise, and so do workers
that start later, together with how long ago it was.
"""

from __future__ import annotations

from msgspec import Struct

from cxfr_proxy.xmpp import jid
from cxfr_proxy.xmpp.stream_management import Resumption


class ClientNews(Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of them. ``full_jid`` and ``user``, a bare JID, are the client's; it is connected from ``address``."""


class UserRedirected(ClientNews, frozen=True):
    """That user was sent to another address."""

    user: str


class SessionResumable(ClientNews, frozen=True):
    """A client can resume its session (XEP-0198) by that id, or its counts have shifted since the last news."""

    stream_management_id: str
    resumption: Resumption
    address: str

    @property
    def lost(self) -> Lost | None:
        """The news there were if its worker were killed now; ``None`` if nobody should come back for it."""
        known = self.resumption
        even = known.counters is None or known.counters.even
        if not even and known.node_id == self.stream_management_id:
            return None
        user = jid.bare(known.full_jid) if known.full_jid is not None else None
        return Lost(user, self.address, known.node)


class Lost(ClientNews, frozen=True):
    """A client that may resume its session on that node has left. ``user`` is ``None`` if it is not known."""

    user: str | None
    address: str
    node: str


class Moved(ClientNews, frozen=True):
    """That client is about to be asked to move to ``node``, where it belongs; its worker waits until all know.
    ``session`` is its id."""

    session: int
    full_jid: str
    address: str
    node: str


class Stayed(ClientNews, frozen=True):
    """That client has not moved to that node, or not yet, although it was asked or was to be."""

    full_jid: str
    address: str
    node: str


class Returned(ClientNews, frozen=True):
    """That client, which was moved or is taken for one that was, has logged in."""

    full_jid: str
    address: str


class LandedWrong(ClientNews, frozen=True):
    """That client has returned, and sits on a wrong node again."""

    full_jid: str


class SoftwareLearned(ClientNews, frozen=True):
    """Whether clients with these capabilities know the connection transfer, as one of them has shown; ``None``: it
    was silent."""

    caps: str
    knows_cxfr: bool | None


AnyClientNews = UserRedirected | SessionResumable | Lost | Moved | Stayed | Returned | LandedWrong | SoftwareLearned
