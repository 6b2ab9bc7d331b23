"""The ladder, climbed: one rung after the other until the client has left."""

from __future__ import annotations

import functools
from typing import Final

from cxfr_proxy.session.client_software import habit_of
from cxfr_proxy.session.commands import Answered, Asked, Learned, Outcome, Redirected
from cxfr_proxy.session.core import Farewell
from cxfr_proxy.session.ladder import Rung, Traits, next_rung
from cxfr_proxy.session.settling import Settling
from cxfr_proxy.session.state import State, Transfer
from cxfr_proxy.xmpp import connection_transfer
from cxfr_proxy.xmpp.connection_transfer import ConnectionTransfer, Server
from cxfr_proxy.xmpp.names import StreamCondition

_server: Final = functools.lru_cache(maxsize=256)(Server.parse)
"""Clients are many and domains few."""


class Moving(Settling):
    """A session that can be told to move."""

    __slots__ = ()

    def _climb(self, *, first: bool = False) -> None:
        """Ask by the next rung; ``first``: nobody has been asked yet."""
        transfer = self._transfer
        assert transfer is not None
        support, software = self._policy.support, self.software
        habit = habit_of(software)
        traits = Traits(
            tls=self._tls,
            resumable=self._negotiation.management.resumable,
            full_jid_known=self.full_jid is not None,
            knows_cxfr=support.knows_cxfr(software, self._domain, self._knows_cxfr),
            preferred=habit.rungs if habit is not None else (),
            redirected_home=habit is not None and habit.redirected_home,
        )
        tried = [rung for rung, _ in transfer.tried]
        transfer.rung = next_rung(traits, transfer.order, tried, try_unknown=self._policy.try_unknown)
        if transfer.rung is Rung.CXFR and not self._ask(transfer):
            transfer.tried.append((Rung.CXFR, Outcome.REFUSED))
            self._climb(first=first)
            return
        self._report(Asked(transfer.rung, transfer.order, first=first))
        match transfer.rung:
            case Rung.CUT:
                self._cut()
            case Rung.SEE_OTHER_HOST:
                address = self._domain if traits.redirected_home else str(transfer.order.server)
                if not traits.redirected_home:
                    self._report(Redirected())
                self._settle_and_close(Farewell(StreamCondition.SEE_OTHER_HOST, content=address))
            case Rung.RESET:
                self._settle_and_close(Farewell(StreamCondition.RESET, "reconnect"))

    def _ask(self, transfer: Transfer) -> bool:
        """Send the IQ; False where the names at hand can't be written in one."""
        jid = self.full_jid
        assert jid is not None
        transfer.iq_id = connection_transfer.new_id(self._policy.token())
        server = self._address_told(transfer) or _server(self._domain)
        try:
            request = ConnectionTransfer(transfer.iq_id, self._domain, jid, self._domain, server)
            self._iq_due = request.to_bytes()
        except ValueError:
            return False
        self.deadline = self._now + self._policy.timeouts.cxfr_timeout
        self._settle_down()
        self._choose_reading()
        return True

    def _settle_down(self) -> None:
        """After a chunk from the node: is there a boundary for an IQ that waits for one?"""
        if self._iq_due is not None and not self._down.cutting and self._client_out:
            iq, self._iq_due = self._iq_due, None
            self._inject_down(iq)

    @property
    def _waits_for_answer(self) -> bool:
        """The request is with the client, which has said nothing to it."""
        transfer = self._transfer
        asked = transfer is not None and transfer.rung is Rung.CXFR and self._iq_due is None
        return asked and transfer is not None and not transfer.accepted

    def _learn(self, knows_cxfr: bool | None) -> None:
        """What this client has shown is told of all with its capabilities, where it is new."""
        if self._caps is not None and self._policy.support.is_news(self._caps, knows_cxfr):
            self._report(Learned(self._caps, knows_cxfr))

    def _next_rung(self, outcome: Outcome) -> None:
        transfer = self._transfer
        assert transfer is not None
        self._iq_due = None
        if transfer.recalled or (self.stays_down and not transfer.order.forced):
            self._stay(outcome)
            return
        transfer.tried.append((transfer.rung, outcome))
        self._report(Answered(transfer.rung, transfer.order, outcome))
        self._climb()

    def _stay(self, outcome: Outcome) -> None:
        """The client has not gone, and is told nothing more."""
        self.deadline = None
        self._move(State.BOUND)
        self._end_transfer(outcome)

    def _cut(self) -> None:
        """Both legs end without a word: with XEP-0198 each side can take up where it was cut.

        Where the client goes to nobody could, or not rightly, so the node's stream is ended: what waits in it does not
        wait for nothing, and the client's attempt to resume fails in good order.
        """
        transfer = self._transfer
        if self._node_out and not (self.can_be_resumed and transfer is not None and transfer.order.resumes):
            self._settle_and_close(Farewell(silent=True))
            return
        self._settle_transfer(Outcome.MOVED)
        if self._client_out:
            self._end_client_output(silent=True)
        self._end_node_output()
        self._move(State.CLOSING)
        self._await_others(self._policy.timeouts.see_other_host_timeout)
