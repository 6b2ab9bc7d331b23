"""XEP-0051 for slixmpp: the client's end. Needs slixmpp 1.17 or later, ``pip install 'cxfr-proxy[slixmpp]'``. ::

    import cxfr_proxy.plugins.slixmpp  # makes the plugin known

    client.register_plugin("xep_0051")
    client.add_event_handler("cxfr_requested", lambda departure: departure.wait_for(save_drafts()))

A request is judged by :mod:`cxfr_proxy.plugins.rules` and answered at once, so that the server knows. Then the
application may delay, the stream is closed, and the client connects to the server that was named, which has to show a
certificate for the *domain*, whatever its own name is.

The server named is good for one attempt. Once there, or if it can't be reached or trusted, *home* (the address that the
application connected to, or DNS) is again what the library reconnects to; a move that fails goes home by itself.

Events, each with the :class:`Departure` as its data:

``cxfr_requested``
    The client will leave. :meth:`Departure.wait_for` delays it.
``cxfr_moved``
    A new session has started.
``cxfr_failed``
    The server named was not reached; the client reconnects as it would have without being asked.

Stanzas that the application sends after the client has begun to leave wait, in order, and go out on the next stream,
wherever that is: nobody reads what is written behind a closing tag.

With stream management (XEP-0198) the old session is not resumed: a closed stream can't be. Stanzas that were sent
are acknowledged first, and those that were not are in :attr:`Departure.unacknowledged`.

Servers learn that requests are understood from service discovery, and from the client's capabilities (XEP-0115), whose
node ends in a mark that says so: the plugin loads ``xep_0115`` and sees to it that they are in each presence.

If the connection is lost, or the application closes it, before the client has left by itself, the plugin only points:
the library's ``reconnect()`` then leads to the server named, and ``connect()`` to wherever the application says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar, Final  # Any: a stanza or client of slixmpp
from xml.etree import ElementTree

from slixmpp import JID, Iq, Presence
from slixmpp.plugins import BasePlugin, register_plugin
from slixmpp.stanza.rootstanza import RootStanza
from slixmpp.xmlstream import ElementBase, register_stanza_plugin
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import StanzaPath

from cxfr_proxy.plugins.rules import MAX_MOVES, Condition, Move, Refusal, Situation, judge
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.connection_transfer import CAPS_MARK

_DEFAULT_PORT: Final = 5222
"""RFC 6120 section 3.2.2."""
_TLS_EITHER_WAY: Final = {"enable_direct_tls": True, "enable_starttls": True, "enable_plaintext": False}
"""A request does not say how the server named begins TLS, so both ways are tried; without TLS it was not accepted."""


class Query(ElementBase):  # type: ignore[misc]  # the library may not be installed where types are checked
    """``<query xmlns='urn:xmpp:cxfr'/>``, as far as slixmpp needs it to find the handler."""

    name = "query"
    namespace = names.CXFR
    plugin_attrib = "cxfr"
    interfaces: ClassVar[set[str]] = set()


class Departure:
    """A move under way. ``unacknowledged`` is filled when the client leaves: stanzas that XEP-0198 did not confirm."""

    def __init__(self, move: Move) -> None:
        self.move = move
        self.unacknowledged: tuple[Any, ...] = ()
        self._awaited: list[Awaitable[object]] = []

    def wait_for(self, awaitable: Awaitable[object]) -> None:
        """Do not leave before this is done, within the plugin's ``patience_seconds``. Call it in the event's handler.

        An exception that it raises is the application's own business: the client leaves all the same.
        """
        self._awaited.append(awaitable)

    async def ready(self, patience_seconds: float) -> None:
        """Wait until all is done or patience is at its end; then cancel what is left."""
        tasks = [asyncio.ensure_future(awaitable) for awaitable in self._awaited]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=patience_seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Phase(Enum):
    PREPARING = auto()
    LEAVING = auto()
    TRAVELLING = auto()


@dataclass(frozen=True, slots=True)
class _Home:
    """The library's settings as the application had them. ``address`` is ``None`` if DNS says it."""

    address: tuple[str, int] | None
    domain: str
    ways: dict[str, bool]


class XEP_0051(BasePlugin):  # type: ignore[misc]
    """XEP-0051: Connection Transfer. See the module; ``default_config`` is what ``register_plugin`` takes."""

    name = "xep_0051"
    description = "XEP-0051: Connection Transfer"
    dependencies: ClassVar[set[str]] = {"xep_0030", "xep_0115"}
    default_config: ClassVar[dict[str, object]] = {
        # Domains the client may be sent to beside its own; its password goes there.
        "domains": frozenset(),
        "max_moves": MAX_MOVES,
        # A session that lasts this long ends a row of moves.
        "settled_seconds": 60.0,
        # How long the application may delay. The proxy waits ten seconds by default.
        "patience_seconds": 8.0,
        # How long to wait for the last acknowledgements, and then for the server's end of the stream.
        "close_seconds": 2.0,
        # How long the server named may take until a session has started.
        "connect_seconds": 15.0,
    }

    def plugin_init(self) -> None:
        self._departure: Departure | None = None
        self._phase = _Phase.PREPARING
        self._moves = 0
        self._arrived_at = 0.0
        self._home: _Home | None = None
        self._there: tuple[str, int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._capabilities: asyncio.Future[None] | None = None
        self._caps.caps_node += CAPS_MARK
        register_stanza_plugin(Iq, Query)
        self.xmpp.register_handler(Callback(self.description, StanzaPath("iq@type=set/cxfr"), self._on_request))
        self.xmpp.add_filter("out", self._capabilities_first, 0)
        self.xmpp.add_filter("out_sync", self._outgoing, 0)
        for event, handler in self._handlers().items():
            self.xmpp.add_event_handler(event, handler)

    def plugin_end(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self.xmpp.remove_handler(self.description)
        self.xmpp.del_filter("out", self._capabilities_first)
        self.xmpp.del_filter("out_sync", self._outgoing)
        self._caps.caps_node = self._caps.caps_node.removesuffix(CAPS_MARK)
        for event, handler in self._handlers().items():
            self.xmpp.del_event_handler(event, handler)
        self.xmpp.plugin["xep_0030"].del_feature(feature=names.CXFR)

    def session_bind(self, jid: Any) -> None:
        self.xmpp.plugin["xep_0030"].add_feature(names.CXFR)
        # Of all features, this one and those of plugins that are told later; the library does it for nobody.
        self._capabilities = asyncio.ensure_future(self._caps.update_caps(jid, broadcast=False))

    @property
    def _caps(self) -> Any:
        return self.xmpp.plugin["xep_0115"]

    async def _capabilities_first(self, outgoing: Any) -> Any:
        """Have capabilities ready first: a presence that is sent as soon as a session has started would go out without
        them."""
        if isinstance(outgoing, Presence) and self._capabilities is not None:
            await asyncio.wait([self._capabilities])
        return outgoing

    def _handlers(self) -> dict[str, Any]:
        return {
            "session_start": self._on_session,
            "session_resumed": self._on_session,
            "disconnected": self._on_disconnected,
            "reconnect_delay": self._on_unreachable,
        }

    # -- the request

    def _on_request(self, iq: Any) -> None:
        verdict = self._judge(iq)
        reply = iq.reply()
        if isinstance(verdict, Refusal):
            reply["type"] = "error"
            reply["error"]["type"] = verdict.condition.type
            reply["error"]["condition"] = verdict.condition.value
            reply["error"]["text"] = verdict.text
            reply.send()
            return
        if verdict.id:
            reply.send()
        self._moves += 1
        self._departure = Departure(verdict)
        self._phase = _Phase.PREPARING
        self._task = asyncio.ensure_future(self._leave(self._departure))

    def _judge(self, iq: Any) -> Move | Refusal:
        now = asyncio.get_running_loop().time()
        if now - self._arrived_at >= self.settled_seconds:
            self._moves = 0
        situation = Situation(
            jid=self.xmpp.boundjid.full,
            tls=self._has_tls(),
            moves=self._moves,
            max_moves=self.max_moves,
            domains=self.domains,
        )
        # The library's own tree, written and read again, because it is not lxml's.
        verdict = judge(stanza.parse(ElementTree.tostring(iq.xml)), situation)
        if isinstance(verdict, Move) and self._departure is not None:
            return Refusal(Condition.UNEXPECTED_REQUEST, "on the way already")
        return verdict

    def _has_tls(self) -> bool:
        transport = self.xmpp.transport
        return transport is not None and transport.get_extra_info("ssl_object") is not None

    # -- the move

    async def _leave(self, departure: Departure) -> None:
        self.xmpp.event("cxfr_requested", departure)
        await departure.ready(self.patience_seconds)
        if self._is_lost(departure):
            return
        self._hold()
        await self._all_sent()
        await self._last_acknowledgements(departure)
        if self._is_lost(departure):
            return
        self._phase = _Phase.LEAVING
        self._point_to(departure.move)
        # A closed stream can't be resumed, so the library is to forget the session with it.
        self.xmpp.end_session_on_disconnect = True
        self.xmpp.reconnect(self.close_seconds, "connection transfer")

    def _is_lost(self, departure: Departure) -> bool:
        """Return whether the connection was lost before the client could leave: there may be another one by now."""
        return self._departure is not departure or self._phase is not _Phase.PREPARING

    def _hold(self) -> None:
        """Keep what is sent from now on for the next session. The library does that itself until a session has
        started."""
        self.xmpp._session_started = False

    async def _all_sent(self) -> None:
        """Wait for stanzas that the library has been given before; they may still be in its filters."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.close_seconds):
                await self.xmpp.waiting_queue.join()

    async def _last_acknowledgements(self, departure: Departure) -> None:
        """Have what was sent confirmed, if stream management is on."""
        management = self.xmpp.plugin.get("xep_0198", None)
        if management is None or not management.enabled_out:
            return
        management.request_ack()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.close_seconds):
                while management.unacked_queue:
                    await self.xmpp.wait_until("stanza_acked", self.close_seconds)
        departure.unacknowledged = tuple(each for _, each in management.unacked_queue)

    def _on_disconnected(self, _: object) -> None:
        if self._departure is None:
            return
        if self._phase is _Phase.PREPARING:
            self._point_to(self._departure.move)
        elif self._phase is _Phase.TRAVELLING:
            self._fail()
            return
        self._phase = _Phase.TRAVELLING
        asyncio.get_running_loop().call_later(self.connect_seconds, self._on_late, self._departure)

    def _on_late(self, departure: Departure) -> None:
        if self._departure is not departure:
            return
        if self.xmpp.is_connected():
            self.xmpp.abort()  # and "disconnected" follows
        else:
            self._fail()

    def _on_session(self, _: object) -> None:
        self._arrived_at = asyncio.get_running_loop().time()
        departure, self._departure = self._departure, None
        if departure is not None:
            there = self.xmpp.custom_address == self._there
            home = self._point_home()
            if home is not None and home.domain != self.xmpp.default_domain:
                self.xmpp.custom_address = None  # it was an address of the domain that was left
            self.xmpp.event("cxfr_moved" if there else "cxfr_failed", departure)

    def _on_unreachable(self, _: object) -> None:
        """Go home: the library has tried everything, and would wait before it tries again."""
        if self._departure is not None and self._phase is _Phase.TRAVELLING:
            self._fail()

    def _outgoing(self, outgoing: Any) -> Any:
        """Return what comes out of the library's other filters; ``None``: it does not go out now."""
        departure = self._departure
        if departure is None:
            return outgoing
        if self._phase is _Phase.LEAVING and isinstance(outgoing, RootStanza):
            self.xmpp.send(outgoing)  # a slow filter had it while the stream was closed: it waits with the others
            return None
        return None if self._withholds_login(departure, outgoing) else outgoing

    def _withholds_login(self, departure: Departure, outgoing: Any) -> bool:
        """Keep the password from a server named that offers no TLS, whatever the application allows at home."""
        if (
            departure.move.server is None
            or self._phase is not _Phase.TRAVELLING
            or outgoing.tag_name() != f"{{{names.SASL}}}auth"
            or self._has_tls()
        ):
            return False
        self.xmpp.abort()
        return True

    def _fail(self) -> None:
        departure, self._departure = self._departure, None
        home = self._point_home()
        if home is not None:
            self._log_in_to(home.domain)
        self.xmpp.event("cxfr_failed", departure)
        self._task = asyncio.ensure_future(self._go_home())

    async def _go_home(self) -> None:
        # Anything else that wants to reconnect has its turn first.
        await asyncio.sleep(0)
        if not self.xmpp.is_connected():
            self.xmpp.connect(*(self.xmpp.custom_address or ()))

    # -- where the library connects to

    def _point_to(self, move: Move) -> None:
        if self._home is None:
            ways = {way: getattr(self.xmpp, way) for way in _TLS_EITHER_WAY}
            self._home = _Home(self.xmpp.custom_address, self.xmpp.boundjid.domain, ways)
        if move.server is not None:
            self.xmpp.custom_address = (move.server.host, move.server.port or _DEFAULT_PORT)
            self._allow(_TLS_EITHER_WAY)
        self._there = self.xmpp.custom_address
        self._log_in_to(move.domain)

    def _point_home(self) -> _Home | None:
        home, self._home = self._home, None
        if home is not None:
            self._allow(home.ways)
            if self.xmpp.custom_address == self._there:  # else the application has chosen another
                self.xmpp.custom_address = home.address
        return home

    def _allow(self, ways: dict[str, bool]) -> None:
        for way, allowed in ways.items():
            setattr(self.xmpp, way, allowed)

    def _log_in_to(self, domain: str) -> None:
        """Set the stream's ``to``, the account's domain, and the name that the certificate has to have."""
        self.xmpp.default_domain = domain
        if domain == self.xmpp.requested_jid.domain:
            return
        old, jid = self.xmpp.requested_jid.domain, JID(self.xmpp.requested_jid)
        jid.domain = domain
        self.xmpp.requested_jid = jid
        self.xmpp.boundjid = JID(jid)
        self.xmpp.stream_header = self.xmpp.stream_header.replace(f" to='{old}'", f" to='{domain}'", 1)


register_plugin(XEP_0051)
