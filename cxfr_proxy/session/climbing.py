"""The ladder, climbed: one rung after the other until the client has left."""

from __future__ import annotations

import functools
from typing import Final

from cxfr_proxy.session import ending, exchanging, injecting
from cxfr_proxy.session.client_software import habit_of
from cxfr_proxy.session.closing import Farewell
from cxfr_proxy.session.commands import Answered, Asked, Learned, Outcome, Redirected
from cxfr_proxy.session.ladder import Order, Rung, Traits, next_rung
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.tables import Transition
from cxfr_proxy.session.transfer import TransferAttempt
from cxfr_proxy.xmpp import connection_transfer
from cxfr_proxy.xmpp.connection_transfer import ConnectionTransfer, Server
from cxfr_proxy.xmpp.names import StreamCondition

_server: Final = functools.lru_cache(maxsize=256)(Server.parse)
"""A cache: clients are many and domains few."""


def climb(parts: Parts, transfer: TransferAttempt, *, first: bool = False) -> None:
    """Ask by the next rung; ``first``: it is the first one of its transfer."""
    traits = _traits(parts)
    tried = [rung for rung, _ in transfer.tried]
    transfer.climb(next_rung(traits, transfer.order, tried, try_unknown=parts.policy.try_unknown))
    # The names at hand can't be written in an IQ: go on as if the client had refused.
    if transfer.is_question and not _ask(parts, transfer):
        transfer.note(Outcome.REFUSED)
        climb(parts, transfer, first=first)
        return
    parts.report(Asked(transfer.rung, transfer.order, first=first))
    match transfer.rung:
        case Rung.MIGRATE:
            assert transfer.order.target is not None, "or it would have no node to go to"
            exchanging.begin(parts, transfer.order.target)
        case Rung.CUT:
            _cut(parts, transfer)
        case Rung.SEE_OTHER_HOST:
            if not traits.redirected_home:
                # Reported now and not when the client has left: it may be at the other proxy before that.
                parts.report(Redirected())
            ending.ask_and_close(parts, _redirection(parts, traits, transfer.order))
        case Rung.RESET:
            ending.ask_and_close(parts, Farewell(StreamCondition.RESET, "reconnect"))


def _redirection(parts: Parts, traits: Traits, order: Order) -> Farewell:
    if traits.redirected_home:
        return Farewell(StreamCondition.SEE_OTHER_HOST, content=parts.domain)
    if order.url is not None:
        return Farewell(url=order.url)
    return Farewell(StreamCondition.SEE_OTHER_HOST, content=str(order.server))


def _traits(parts: Parts) -> Traits:
    software = parts.software
    habit = habit_of(software)
    return Traits(
        tls=parts.client.tls,
        resumable=parts.accounting.management.resumable,
        migratable=exchanging.can_begin(parts),
        full_jid_known=parts.negotiation.full_jid is not None,
        knows_cxfr=parts.policy.surroundings.client_software.knows_cxfr(
            software, parts.domain, parts.client.knows_cxfr
        ),
        preferred=habit.rungs if habit is not None else (),
        redirected_home=habit is not None and habit.redirected_home,
    )


def _ask(parts: Parts, transfer: TransferAttempt) -> bool:
    """Send the IQ; return false if the client's names can't be written in one."""
    jid = parts.negotiation.full_jid
    assert jid is not None, "or the rung is another"
    iq_id = connection_transfer.new_id(parts.policy.surroundings.new_token())
    server = ending.address_told(parts, transfer) or _server(parts.domain)
    try:
        request = ConnectionTransfer(iq_id, parts.domain, jid, parts.domain, server)
        transfer.prepare(iq_id, request.to_bytes())
    except ValueError:
        return False
    parts.wait(parts.policy.timeouts.cxfr_timeout)
    send_request_if_due(parts)
    parts.choose_reading()
    return True


def send_request_if_due(parts: Parts) -> None:
    """Send a request that waits for a boundary, if there is one behind the last chunk from the node."""
    transfer = parts.transfer
    if transfer is not None and transfer.due and not parts.node.lane.cutting and parts.client.writable:
        injecting.inject_down(parts, transfer.take_iq())


def learn(parts: Parts, knows_cxfr: bool | None) -> None:
    """Report what this client has shown, if that is news: it holds for all clients with the same capabilities."""
    caps = parts.client.caps
    if caps is not None and parts.policy.surroundings.client_software.is_news(caps, knows_cxfr):
        parts.report(Learned(caps, knows_cxfr))


def try_next_rung(parts: Parts, transfer: TransferAttempt, outcome: Outcome) -> None:
    """Note the outcome of a rung after which the client is still here, and go on."""
    if transfer.recalled or (parts.stays_down and not transfer.order.forced):
        _stay(parts, transfer, outcome)
        return
    transfer.note(outcome)
    parts.report(Answered(transfer.rung, transfer.order, outcome))
    climb(parts, transfer)


def on_stuck(parts: Parts, why: str, outcome: Outcome, *, reachable: bool = True) -> None:
    """Go on where the session can't be taken to the other node, and is where it was. ``reachable``: see
    :meth:`.parts.Parts.drop_exchange`."""
    exchange = parts.exchange
    assert exchange is not None
    exchanging.report_failure(parts, exchanging.at_fault(parts, exchange), why)
    stay_with_node(parts, outcome, reachable=reachable)


def stay_with_node(parts: Parts, outcome: Outcome, *, reachable: bool = True) -> None:
    """Leave the session where it is: its client is told to move instead, or stays if the order was taken back."""
    transfer = parts.transfer
    assert transfer is not None, "a leg is exchanged for a transfer"
    parts.drop_exchange(reachable=reachable)
    try_next_rung(parts, transfer, outcome)


def _stay(parts: Parts, transfer: TransferAttempt, outcome: Outcome) -> None:
    """Let the client stay, and tell it nothing more."""
    parts.wait(None)
    parts.go(Transition.STAYS)
    ending.end_transfer(parts, transfer, outcome)


def _cut(parts: Parts, transfer: TransferAttempt) -> None:
    """End both legs without a word: with XEP-0198 each side can take up where it was cut.

    If the node to which the client goes could not take the session over, or not with the right counts, the node's
    stream is ended instead. Then the node passes on at once what waits for the client, and the client's attempt to
    resume fails in good order.
    """
    if parts.node.writable and not (parts.accounting.can_be_resumed and transfer.order.resumes):
        ending.ask_and_close(parts, Farewell(silent=True))
        return
    # A cut client can't say that it goes; that its connection ends is all there is to see.
    ending.settle_transfer(parts, Outcome.MOVED)
    if parts.client.writable:
        ending.end_client_output(parts, silent=True)
    ending.end_node_output(parts)
    parts.go(Transition.ENDS)
    ending.await_others(parts, parts.policy.timeouts.see_other_host_timeout)
