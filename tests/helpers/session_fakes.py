"""Sessions that only remember what they were told, for whoever keeps or moves sessions."""

from __future__ import annotations

from session_script import CLIENT_HEADER, JID, Script

from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.session.commands import Side
from cxfr_proxy.session.ladder import Order, Rung
from cxfr_proxy.session.session import Session
from cxfr_proxy.transfers.client_news import AnyClientNews
from cxfr_proxy.transfers.relayed import Relayed


class FakeRelayed:
    """A live session as the registry and the mover see one; bound, unless ``jid`` is ``None``.

    The session is a real one, as ``jid``'s. Orders are remembered, and given to the session only if ``obeys``.
    """

    def __init__(
        self,
        number: int,
        node: str,
        *,
        jid: str | None = JID,
        obeys: bool = True,
        idle: float = 0.0,
        address: str = "192.0.2.1",
    ) -> None:
        self.id = number
        self.script = Script(header=CLIENT_HEADER, node=node)
        if jid is not None:
            self.script.bind(jid=jid)
        self.session: Session = self.script.session
        self.arrival = Arrival(address, 50000)
        self.opened = 0.0
        self.last_active = -idle
        self.orders: list[Order] = []
        self._obeys = obeys
        self.stopped = self.kicked = False

    placed_early = False
    is_websocket = False
    transport_name = "tcp"

    @property
    def tls_version(self) -> str | None:
        return "TLSv1.3"

    @property
    def rung(self) -> Rung | None:
        return self.session.rung

    @property
    def client_address(self) -> str:
        return self.arrival.address

    @property
    def client_port(self) -> int | None:
        return self.arrival.port

    def unsent(self, side: Side) -> int:
        return 0

    def kick(self) -> None:
        self.kicked = True

    def stop(self) -> None:
        self.stopped = True

    def recall(self) -> None:
        self.script.recall()

    def transfer(self, order: Order) -> None:
        self.orders.append(order)
        if self._obeys:
            self.script.order(order)


class FakeListener:
    """What a registry has to report."""

    def __init__(self) -> None:
        self.news: list[AnyClientNews] = []
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1

    def session_noted(self, relayed: Relayed, *, resumed: bool = False) -> None:
        pass

    def session_removed(self, relayed: Relayed) -> None:
        pass

    def client_news(self, news: AnyClientNews) -> None:
        self.news.append(news)
