"""How a session ends, whichever side began it.

The order of closing is chosen so that nothing is lost on the way down: first the last question (:mod:`.closing`), then
the end of the node's stream, then everything that the node still sends goes to the client, and only then follows the
client's farewell. Stanzas that the client sends in between are answered with an error of type ``wait``
(:mod:`.client_stream`). So a client whose stream ends knows that what was neither acted upon nor answered did not
arrive.

The counts of XEP-0198 add two promises. Nobody acknowledges or answers what the node had not acknowledged before it
went: the client will send it again, and must not have it acted upon twice. And a stream whose counts differ is not left
behind to be resumed by somebody who does not know: it is ended on the node, unless the id that the client has for it is
the proxy's own.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.session import injecting, standing_in
from cxfr_proxy.session.closing import Farewell, LastQuestion
from cxfr_proxy.session.commands import (
    Close,
    Ended,
    EndOutput,
    LoginFailed,
    Outcome,
    Reason,
    Redirect,
    Redirected,
    Reroute,
    Side,
    Upgrade,
)
from cxfr_proxy.session.node_owes import End
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.tables import Incoming, Outgoing, State, Transition
from cxfr_proxy.session.transfer import TransferAttempt
from cxfr_proxy.xmpp import connection_transfer, stanza
from cxfr_proxy.xmpp.connection_transfer import Server
from cxfr_proxy.xmpp.names import StreamCondition

_GOES_ON: Final = frozenset((Reason.STARTTLS, Reason.REROUTED))
"""Ends of a session after which another session takes up the client's connection, and its login."""
_CLIENTS: Final = frozenset((Reason.CLIENT_CLOSED, Reason.CLIENT_LOST, Reason.CLIENT_FAULT))


# --- the last question


def ask_and_close(parts: Parts, farewell: Farewell) -> None:
    """Ask the last question, and end the node's stream when it is answered; the client's farewell comes last."""
    node, client, timeouts = parts.node, parts.client, parts.policy.timeouts
    # Without one of the three there is nobody to ask, or nobody to tell.
    can_ask = node.writable and node.wanted and client.writable
    # In the middle of an element neither question can be put in; and it is asked once.
    if not can_ask or node.lane.cutting or not parts.unquestioned:
        close_node_first(parts, farewell)
        return
    closing, counters = parts.close(), parts.accounting.management.counters
    closing.plan(farewell)
    # XEP-0198 is on: the client's <a/> for everything it was sent is the best answer there is.
    if counters is not None:
        closing.ask(LastQuestion(h=counters.down.receivers_count(node.lane.stanzas)))
        parts.send(Side.CLIENT, parts.accounting.request())
        _wait(parts, timeouts.see_other_host_timeout)
    else:
        ping = connection_transfer.new_id(parts.policy.surroundings.new_token())
        closing.ask(LastQuestion(ping))
        injecting.inject_up(parts, stanza.ping(ping, to=parts.domain))  # a node that has read <enable/> counts it
        _wait(parts, timeouts.node_close_timeout)
    # A transfer ends when the client leaves, so that it is reported with the rung that did it.
    if parts.state is not State.TRANSFERRING:
        parts.go(Transition.ENDS)
    parts.choose_reading()


def on_last_answer(parts: Parts) -> None:
    """Go on closing: the last question is answered."""
    closing = parts.close()
    assert closing.question is not None
    closing.question.answer()
    _go_on_closing(parts)


def on_no_last_answer(parts: Parts) -> None:
    """Go on closing without an answer: the time for it is up."""
    _release(parts)
    _go_on_closing(parts)


def _go_on_closing(parts: Parts) -> None:
    farewell = parts.farewell
    assert farewell is not None, "it was planned when the question was asked"
    close_node_first(parts, farewell)


def _release(parts: Parts) -> None:
    """Send the client what was withheld, if its answer did not come."""
    if parts.closing is not None:
        parts.pass_down(parts.closing.take_unanswered())


# --- one stream after the other


def close_node_first(parts: Parts, farewell: Farewell) -> None:
    """End the node's stream, pass on what it still sends, then send the client's farewell."""
    if parts.node.writable and parts.accounting.management.on:
        # The client learns by the answer how many of its stanzas have arrived: there will be no later one.
        parts.send(Side.NODE, parts.accounting.request())
    parts.close().plan(farewell)
    end_node_stream(parts)
    # As in ask_and_close().
    if parts.state is not State.TRANSFERRING:
        parts.go(Transition.ENDS)
    parts.choose_reading()
    if parts.node.wanted:
        _wait(parts, parts.policy.timeouts.node_close_timeout)
    else:
        say_farewell(parts)


def say_farewell(parts: Parts) -> None:
    """End the client's stream as planned: the node has nothing more for it."""
    farewell = parts.farewell
    assert farewell is not None
    parts.close().plan(None)
    end_client(parts, farewell)


def end_client(parts: Parts, farewell: Farewell) -> None:
    """Write the client's last bytes, and wait until it has left."""
    _release(parts)
    end_node_stream(parts)
    end_node_output(parts)
    if parts.client.writable:
        # In the middle of an element an end tag, or an error, would be part of that element.
        silent = parts.cuts_client or farewell.silent
        if not silent:
            if parts.closing is not None and not parts.accounting.management.on:
                parts.send(Side.CLIENT, parts.closing.take_answers())
            if farewell.url is not None:
                parts.issue(Redirect(farewell.url))
            parts.send(Side.CLIENT, _last_words(parts, farewell))
        end_client_output(parts, silent=silent)
    parts.go(Transition.ENDS)
    await_others(parts, parts.policy.timeouts.see_other_host_timeout)


def _last_words(parts: Parts, farewell: Farewell) -> bytes:
    """Return the farewell: an error, if there is one, and the end of the stream, behind a header if the client has got
    none (RFC 6120 section 4.9.1.2)."""
    client = parts.client
    if client.outgoing is Outgoing.NEW or client.shown is None:
        header = stanza.stream_header(
            to=client.header.from_, from_=parts.domain, stream_id=parts.policy.surroundings.new_token(), lang="en"
        )
        return header + farewell.error("stream") + stanza.STREAM_END
    return farewell.error(client.shown.prefix) + client.shown.end


def end_client_output(parts: Parts, *, silent: bool = False) -> None:
    parts.client.close_output()
    parts.close().plan(None)
    parts.issue(EndOutput(Side.CLIENT, silent))


def end_node_stream(parts: Parts, *, at_once: bool = False) -> None:
    """End the node's stream, unless that was done or can't be; ``at_once`` as for :func:`.standing_in.sign_off`."""
    if parts.node.writable:
        standing_in.sign_off(parts, at_once=at_once)
        parts.send(Side.NODE, parts.node.end_stream())


def end_node_output(parts: Parts) -> None:
    """Half-close the node's connection; without a TLS alert if the stream has not ended in good order, so that the node
    takes it for cut and keeps its session."""
    if parts.node.outgoing is not Outgoing.CLOSED:
        ended = parts.node.close_output()
        parts.issue(EndOutput(Side.NODE, silent=not ended))


def apologise(parts: Parts) -> None:
    """End the client's stream: the node went away before there was a session worth moving."""
    parts.because(Reason.NODE_LOST, StreamCondition.REMOTE_CONNECTION_FAILED)
    end_client(parts, Farewell(StreamCondition.REMOTE_CONNECTION_FAILED, "the server went away, try again"))


# --- waiting


def _wait(parts: Parts, seconds: float) -> None:
    parts.close().wait(seconds)
    parts.wait(seconds)


def await_others(parts: Parts, seconds: float) -> None:
    """Wait until both sides have left; nothing more is sent."""
    _wait(parts, seconds)
    parts.client.hold(False)
    finish_if_over(parts)


def finish_if_over(parts: Parts) -> None:
    """Close both connections if neither side is waited for any more.

    A client that has not ended its stream may still be sending. Closing now would reset its connection, and what is on
    its way to the client might never be read.
    """
    if parts.state is State.CLOSING and parts.client.done and not (parts.client.writable or parts.node.wanted):
        end(parts, Close())


# --- the transfer's end, and the session's


def settle_transfer(parts: Parts, outcome: Outcome) -> None:
    """End the transfer, if there is one: the client has left, or is being left."""
    transfer = parts.transfer
    if transfer is not None and transfer.is_migration:
        end_migration(parts, transfer, Outcome.CUT_OFF)  # it has not left because it was told to
    elif transfer is not None:
        parts.because(Reason.TRANSFERRED)
        if transfer.is_question and outcome is Outcome.MOVED and not transfer.accepted:
            note_redirect(parts, transfer)
        end_transfer(parts, transfer, outcome)


def end_transfer(parts: Parts, transfer: TransferAttempt, outcome: Outcome) -> None:
    parts.end_transfer()
    parts.report(transfer.end(outcome, parts.now))


def end_migration(parts: Parts, transfer: TransferAttempt, outcome: Outcome) -> None:
    """End a transfer of which the client has heard nothing: its stream goes on."""
    end_transfer(parts, transfer, outcome)
    parts.go(Transition.STAYS)


def address_told(parts: Parts, transfer: TransferAttempt) -> Server | None:
    """Return the address that the client is told; ``None``: its domain. In plaintext no address is told, since anybody
    on the path could have written it."""
    return transfer.order.server if parts.client.tls else None


def note_redirect(parts: Parts, transfer: TransferAttempt) -> None:
    """Report that the client goes where it was sent, if it was sent to another address."""
    if address_told(parts, transfer) is not None:
        parts.report(Redirected())


def give_up(parts: Parts, reason: Reason) -> None:
    """End the session at once, without waiting for anybody."""
    if parts.state is State.CLOSED:
        return
    # Client and node count differently, and only the proxy knows by how much; or nobody would come for the session.
    shifted = parts.accounting.management.shifted and not parts.accounting.can_be_resumed
    if shifted or standing_in.ends_on_node(parts):
        end_node_stream(parts, at_once=True)
    parts.because(reason)
    left = parts.state is State.CLOSING  # it had got its last bytes, or the rung that ends its stream
    settle_transfer(parts, Outcome.MOVED if left else Outcome.CUT_OFF)
    end(parts, Close(at_once=True))


def end(parts: Parts, last: Close | Upgrade | Reroute) -> None:
    """End the session by that command."""
    parts.wait(None)
    parts.client.receive(Incoming.GONE)
    parts.node.receive(Incoming.GONE)
    if parts.client.outgoing is not Outgoing.CLOSED:
        parts.client.close_output()
    if parts.node.outgoing is not Outgoing.CLOSED:
        parts.node.close_output()
    parts.go(Transition.IS_OVER)
    # A session that goes on elsewhere takes its login along.
    if parts.reason not in _GOES_ON:
        _report_unfinished_login(parts)
    accounting = parts.accounting
    parts.report(Ended(parts.reason, parts.condition, accounting.late, accounting.undelivered))
    parts.issue(last)


# --- logins that come to nothing


def blame_node(parts: Parts, how: End) -> None:
    """Report a login that ends so, if the node is at fault."""
    opening = parts.negotiating
    if opening is not None and opening.is_nodes_fault(how, parts.now):
        parts.report(LoginFailed(how.value))


def _report_unfinished_login(parts: Parts) -> None:
    by_client = parts.reason in _CLIENTS
    failed = parts.negotiation.end_unfinished(parts.condition or parts.reason, by_client=by_client)
    if failed is not None:
        parts.report(failed)
