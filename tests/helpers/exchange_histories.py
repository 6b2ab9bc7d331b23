"""Random histories in which a session's node leg is exchanged, and breaks, at every step and after any byte.

Three kinds: clients with XEP-0198, whose sessions are taken to other nodes (:class:`Exchanges`); the same where the
proxy keeps what the node has not acknowledged, and the connection to the node breaks now and then (:class:`CutLegs`);
and clients without XEP-0198, for which the proxy stands in (:class:`StandIns`), some of which ask for it late.

Where a session is lost with its node, or a client without XEP-0198 loses its connection, nobody can know what had
arrived. Up to there nothing may be missing in between, come twice or be out of turn.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import ClassVar, Final

from lxml import etree
from session_histories import History, reader
from session_script import BIND, ENABLE, SM_FEATURES

from cxfr_proxy.session.commands import Dial, NodeRegained, Side

_OURS: Final = ("forge", "urn:xmpp:cxfr")


class Exchanges(History):
    """A history in which the node's leg is exchanged now and then."""

    KINDS: ClassVar = History.KINDS | {
        "exchange": 6.0,
        "dial": 10.0,
        "lose": 0.3,
        "order": 0.5,
        "tick": 0.3,
        "recall": 0.3,
    }
    LIVELY: ClassVar[tuple[str, ...]] = ("exchanged", "resumed by the client", "asked")
    """What has to have happened in a quarter of them at least."""

    def __init__(self, rng: random.Random) -> None:
        self.exchanged = 0
        self.legs: list[int] = []
        self.detached = False
        super().__init__(rng)

    def connect(self) -> None:
        self.legs = []  # where, in what the nodes were sent, this connection's legs were exchanged, as the node knows
        self.detached = False  # what the node says goes to a leg that nobody reads any more
        super().connect()

    def happened(self) -> Counter[str]:
        asked = sum(each.startswith("urn:xmpp:cxfr") for each in self.client.received)
        return Counter({"exchanged": self.exchanged, "resumed by the client": self.resumed, "asked": asked})

    def do(self, kind: str) -> None:
        script = self.script
        if kind == "exchange" and self.in_use:
            script.migrate(f"node{self.number}")
        elif kind == "dial" and script.dialling:
            script.dialled(node=self.asked_for()) if self.rng.random() < 0.8 else script.not_dialled(
                broke=self.rng.random() < 0.5
            )
        elif kind == "recall":
            script.recall()
        else:
            super().do(kind)

    def settle(self) -> bool:
        if not super().settle():
            return False
        if self.script.session.node_lost:
            self.lose()  # a client that has lost its node is told to move, and comes back
            return False
        return True

    def asked_for(self) -> str:
        return next(command.node for command in reversed(self.script.commands) if isinstance(command, Dial))

    def move(self, side: Side, size: int) -> None:
        if self.detached and side is Side.NODE:
            self.hear(side, everything=False)
        if self.detached:
            self.node.take()
        super().move(side, size)
        while len(self.script.exchanged_at) > len(self.legs):
            self.change_legs(self.script.exchanged_at[len(self.legs)])

    def change_legs(self, at: int) -> None:
        missed = self.script.sent[Side.NODE][self.seen[Side.NODE] : at]
        assert b"<message" not in missed, "it had said that it has handled everything"
        assert b"<iq" not in missed
        self.hear_new_leg(at)

    def hear_new_leg(self, at: int) -> None:
        self.legs.append(at)
        self.seen[Side.NODE] = max(self.seen[Side.NODE], at)
        self.reads[Side.NODE] = reader()
        self.under_way[Side.NODE] = b""
        self.node.take()
        self.detached = True

    def node_hears(self, element: etree._Element) -> None:
        if self.detached and etree.QName(element).localname == "resume":
            self.detached = False
            self.exchanged += 1
            self.node.take()
        super().node_hears(element)


class CutLegs(Exchanges):
    """The proxy keeps what the node has not acknowledged, and the connection to the node breaks now and then."""

    KINDS: ClassVar = Exchanges.KINDS | {"cut": 3.0, "wait": 1.0}
    OPTIONS: ClassVar = {"stands_in": True, "max_unacknowledged": 3_000}
    FEATURES: ClassVar = SM_FEATURES
    LIVELY: ClassVar = (*Exchanges.LIVELY, "regained")

    def __init__(self, rng: random.Random) -> None:
        self.cut = False
        self.regained = 0
        super().__init__(rng)

    def connect(self) -> None:
        if hasattr(self, "script"):
            self.regained += sum(isinstance(event, NodeRegained) for event in self.script.events)
        self.cut = False  # the connection to the node is gone, and there is no other one yet
        super().connect()

    def happened(self) -> Counter[str]:
        regained = self.regained + sum(isinstance(event, NodeRegained) for event in self.script.events)
        return super().happened() + Counter({"regained": regained})

    def do(self, kind: str) -> None:
        if kind == "cut" and self.in_use and self.script.session.wants(Side.NODE):
            self.cut_leg()
        elif kind == "wait":
            self.script.wait(1.5)
        else:
            super().do(kind)

    def cut_leg(self) -> None:
        """Some bytes arrive, on either side, and the rest is gone. Perhaps the node does not know yet."""
        self.move(Side.NODE, self.rng.randrange(600) if self.rng.random() < 0.7 else 0)
        if not self.script.session.wants(Side.NODE):
            return
        self.hear(Side.NODE, everything=False)
        self.cut = True
        self.script.node_ends()
        self.node.take()
        self.under_way[Side.NODE] = b""

    def hear(self, side: Side, *, everything: bool) -> None:
        if not (self.cut and side is Side.NODE):
            super().hear(side, everything=everything)

    def move(self, side: Side, size: int) -> None:
        if self.cut:
            self.node.take()
        if self.cut and side is Side.NODE:
            return self.look_for_new_leg()
        super().move(side, size)
        return None

    def look_for_new_leg(self) -> None:
        while len(self.script.exchanged_at) > len(self.legs):
            self.cut = False
            self.hear_new_leg(self.script.exchanged_at[len(self.legs)])

    def change_legs(self, at: int) -> None:
        if self.cut:
            self.look_for_new_leg()
        else:
            super().change_legs(at)

    def settle(self) -> bool:
        if self.script.dialling:
            self.script.dialled(node=self.asked_for())
        return super().settle()


class StandIns(CutLegs):
    """The client knows nothing of XEP-0198, or asks for it late."""

    KINDS: ClassVar = CutLegs.KINDS | {"lose": 0.02, "order": 0.1, "tick": 0.1, "presence": 3.0, "late": 0.8}
    LIVELY: ClassVar = ("exchanged", "regained", "late", "kept")

    def __init__(self, rng: random.Random) -> None:
        self.managed = False
        self.lost = False
        self.bound = False
        self.unclaimed: set[str] = set()  # sent before it asked: that these arrive is nobody's promise
        self.forgotten: set[str] = set()  # of these, what had not arrived when its connection was lost
        super().__init__(rng)

    def happened(self) -> Counter[str]:
        return super().happened() + Counter({"late": int(self.managed), "kept": int(not self.lost)})

    def bind(self) -> None:
        self.lost = self.managed  # the session that it could have resumed was ended
        self.client.write(BIND)

    def client_hears(self, element: etree._Element) -> None:
        self.bound = self.bound or element.get("id") == "b"
        if etree.QName(element).localname == "failed" and element.get("h") is None:
            self.managed = self.client.counts_sent = False  # it is about to be moved
            self.client.unacknowledged.clear()
        else:
            super().client_hears(element)

    @property
    def client_speaks(self) -> bool:
        return self.client.counts_sent if self.managed else self.bound

    @property
    def in_use(self) -> bool:
        return self.node.counts_sent and (not self.managed or self.client.counts_handled)

    def act(self) -> None:
        if not self.lost:
            super().act()

    def do(self, kind: str) -> None:
        if kind == "presence" and self.client_speaks:
            self.client.send(f"p{self.number}", f"<presence id='p{self.number}'/>")
        elif kind == "late" and not self.managed and self.node.counts_sent:
            self.managed = True
            self.unclaimed = set(self.client.sent)
            self.client.write(ENABLE)
            self.client.counts_sent = True
        else:
            super().do(kind)

    def lose(self) -> None:
        """Without XEP-0198 this is the end: nobody knows what was under way."""
        if self.managed and self.client.counts_handled:
            super().lose()
            self.forgotten |= self.unclaimed - set(self.node.received)
        else:
            self.lost = True

    def returned(self) -> set[str]:
        return super().returned() | self.forgotten

    def finish(self) -> None:
        self.come_to_rest()
        if self.managed and self.client.counts_handled and not self.lost:
            super().finish()
            return
        self.node.request()
        self.come_to_rest()
        self.hear(Side.CLIENT, everything=True)
        self.check_order()

    def come_to_rest(self) -> None:
        for _ in range(20):
            if self.lost or self.settle():
                break

    def check_order(self) -> None:
        """Nothing is missing in between, and nothing came twice; where the session was kept, all of it has come."""
        returned = self.returned()
        arrived = [each for each in self.client.received if not each.startswith(_OURS) and each not in returned]
        up = [each for each in self.client.sent if not each.startswith(_OURS) and each not in returned]
        handled = [each for each in self.node.received if not each.startswith(_OURS)]
        down = [each for each in self.node.sent if not each.startswith(_OURS)]
        if self.lost:
            up, down = up[: len(handled)], down[: len(arrived)]
        assert handled == up
        assert arrived == down
        assert self.lost or not self.node.unacknowledged
