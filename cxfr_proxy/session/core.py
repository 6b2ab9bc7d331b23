"""What every layer of a session stands on: who may still speak, what is sent, and how it all ends.

Order of closing, so that nothing is lost down: the node's stream first, everything that it still sends goes to the
client, and only then the client's farewell. What the client sends in between is answered with a stanza error of type
``wait`` (:mod:`.client_side`). A client that sees its stream end hence knows: what was neither acted upon nor answered
did not arrive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cxfr_proxy.session.client_software import Software
from cxfr_proxy.session.commands import (
    Chosen,
    Close,
    Command,
    Ended,
    EndOutput,
    Event,
    LoginFailed,
    Outcome,
    Reason,
    Redirected,
    Report,
    Reroute,
    Send,
    Side,
    Transferred,
    Upgrade,
)
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.session.node_owes import End, Turn
from cxfr_proxy.session.state import MOVES, Policy, Settlement, State, Transfer
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.connection_transfer import Server
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.opening.opening import Negotiation

_ANY_DEPTH: Final = 2**31 - 1
"""From the node: what it lets pass may be a stranger's, and must not end the stream of whom it is sent to."""

_GOES_ON: Final = frozenset((Reason.STARTTLS, Reason.REROUTED))
"""Ends of a session whose client's connection, and login, another one takes up."""
_CLIENTS: Final = frozenset((Reason.CLIENT_CLOSED, Reason.CLIENT_LOST, Reason.CLIENT_FAULT))

INTRODUCTION: Final = 32
"""Elements of a bound client that are looked at for its capabilities. Its first presence has them as a rule, behind a
few requests."""


@dataclass(frozen=True, slots=True)
class Farewell:
    """What ends the client's stream: an error of the proxy's own, one of the node's as it came, or none.

    ``condition`` ``None``: no error of the proxy's. ``text`` and ``content`` as in
    :func:`cxfr_proxy.xmpp.stanza.stream_error`. ``silent``: not even the stream's end is said.
    """

    condition: str | None = None
    text: str | None = None
    content: str | None = None
    verbatim: bytes = b""
    silent: bool = False

    def error(self, prefix: str) -> bytes:
        """The error's bytes; empty where there is none. ``prefix``: the stream namespace's, in the client's header."""
        if self.condition is None:
            return self.verbatim
        return stanza.stream_error(self.condition, self.text, content=self.content, prefix=prefix)


class SessionCore:
    """See the module. ``unread`` of ``up`` is what the client has sent already. ``chosen``: another node may still be
    chosen, by who logs in; what it was shown already, it does not get from this node again. ``None``: this node is
    final."""

    __slots__ = (
        "_answer_due",
        "_caps",
        "_chosen",
        "_client_ended",
        "_client_in",
        "_client_out",
        "_client_over",
        "_closing_since",
        "_closing_wait",
        "_condition",
        "_domain",
        "_down",
        "_ended",
        "_farewell",
        "_features_due",
        "_greeted",
        "_header_due",
        "_header_may_repeat",
        "_header_of_node",
        "_header_to_client",
        "_header_to_node",
        "_hold_client",
        "_iq_due",
        "_knows_cxfr",
        "_late",
        "_login_by",
        "_looks_left",
        "_negotiation",
        "_node_ended",
        "_node_in",
        "_node_open",
        "_node_out",
        "_node_told",
        "_now",
        "_out",
        "_ping_id",
        "_policy",
        "_pongs_due",
        "_reason",
        "_refusal",
        "_settlement",
        "_silent",
        "_tls",
        "_transfer",
        "_turn",
        "_undelivered",
        "_up",
        "deadline",
        "fast",
        "node",
        "state",
    )

    def __init__(
        self,
        header: StreamHeader,
        up: Lane,
        policy: Policy,
        *,
        node: str,
        tls: bool,
        offer_starttls: bool = False,
        chosen: Chosen | None = None,
        silent: tuple[str, ...] = (),
    ) -> None:
        limits = policy.limits
        self.state = State.NEGOTIATING
        self.node = node
        self.deadline: float | None = None
        """When to call :meth:`tick`; ``None``: no need to."""
        self.fast: list[Lane | None] = [None, None]
        """By :class:`Side`: the lane that may be scanned without asking."""
        self._policy = policy
        self._tls = tls
        self._domain = header.to or ""
        self._up = up
        self._down = Lane(max_element_bytes=limits.max_element_down, max_depth=_ANY_DEPTH)
        self._negotiation = Negotiation(
            offer_starttls=offer_starttls,
            max_bytes=limits.max_element_up,
            check_authzid=policy.check_authzid,
            resumption=policy.resumption,
            new_id=policy.token if policy.wrap_resumable_ids else None,
        )
        self._header_to_node = header  # the client's
        self._header_of_node: StreamHeader | None = None
        self._silent = silent  # nodes that have not greeted this client
        self._login_by = 0.0  # on the relay's clock
        self._chosen = chosen  # None as well: the node has begun what no other could go on with
        self._header_to_client = chosen.shown if chosen is not None else None  # the node's, or the proxy's
        self._greeted = self._header_to_client is not None  # so the node's header and features are not for the client
        self._header_may_repeat = (
            not self._greeted
        )  # some clients say it twice on direct TLS (QXmpp), and mean one stream
        self._header_due = not self._greeted  # the client's current stream has not got its header yet
        self._features_due = not self._greeted  # nor has it got the node's features
        self._answer_due = b""  # to what it asked for before it knew them
        self._hold_client = chosen is not None  # a login may be a password: it waits for a node that has greeted
        # In: its connection may still bring something. Out: its stream may still be written to.
        self._client_in = self._client_out = self._node_in = self._node_out = True
        self._client_ended = False  # it has said </stream:stream>
        self._client_over = False  # its stream has ended or failed: what else it sends is dropped
        self._node_open = True  # its stream has a header; between <success/> and the next one there is none to end
        self._node_told = False  # it was told that its stream has ended
        self._node_ended = False  # its output was told to end
        self._transfer: Transfer | None = None
        self._iq_due: bytes | None = None  # waits for a boundary, behind an element that is being cut through
        self._farewell: Farewell | None = None  # the client's last bytes, once the node has nothing more for it
        self._settlement: Settlement | None = None  # before the node's stream is ended
        self._closing_since: float | None = None  # the first stream's end
        self._closing_wait = 0.0  # seconds of what is waited for now
        self._ping_id = ""  # of the pings that stand for what was kept from the client; none yet
        self._pongs_due = 0
        self._knows_cxfr: bool | None = None  # what it has shown itself
        self._caps: str | None = None
        self._refusal: str | None = None  # the words in which it has refused a request
        self._looks_left = INTRODUCTION
        self._turn: Turn | None = Turn()  # None: bound
        self._reason = Reason.STOPPED
        self._condition: str | None = None
        self._ended = False
        self._late = 0
        self._undelivered = 0
        self._out: list[Command] = []
        self._now = 0.0

    # --- what others ask

    @property
    def full_jid(self) -> str | None:
        """Known from bind on; ``None`` for a resumed session that began elsewhere."""
        return self._negotiation.full_jid

    @property
    def domain(self) -> str:
        """The domain the client asked for."""
        return self._domain

    @property
    def software(self) -> Software:
        """What the client has said about itself so far."""
        resource = (self.full_jid or "").partition("/")[2]
        return Software(self._caps, resource or None, self._negotiation.agent, self._refusal)

    @property
    def tls(self) -> bool:
        return self._tls

    @property
    def stream_management(self) -> bool:
        """XEP-0198 is on."""
        return self._negotiation.management.on

    @property
    def resumable_id(self) -> str | None:
        """What the client can resume its stream with; ``None`` where it can't."""
        management = self._negotiation.management
        return management.id if management.resumable else None

    @property
    def can_be_resumed(self) -> bool:
        """Whether the client may take this stream up again elsewhere, and finds its counts to be right there."""
        management = self._negotiation.management
        return management.resumable and (not management.shifted or management.id != management.node_id)

    @property
    def inactive(self) -> bool:
        """The client has said that nobody looks at it (XEP-0352)."""
        return self._negotiation.inactive

    @property
    def stays_down(self) -> bool:
        """The client is known not to come back once its stream has ended: only what forces it moves it."""
        return self._policy.support.stays_down(self.software, self._domain, self._knows_cxfr)

    @property
    def rung(self) -> Rung | None:
        """The rung being tried; ``None`` when no transfer runs."""
        return self._transfer.rung if self._transfer is not None else None

    @property
    def transfer_under_way(self) -> Transfer | None:
        """To look at; ``None`` when no transfer runs."""
        return self._transfer

    @property
    def node_lost(self) -> bool:
        """The node's stream is over although the client's is not."""
        return not self._node_out

    def wants(self, side: Side) -> bool:
        """Whether bytes from that side should be read now."""
        if side is Side.CLIENT:
            return self._client_in and not self._hold_client
        return self._node_in

    # --- small tools

    def _take(self) -> list[Command]:
        out, self._out = self._out, []
        return out

    def _send(self, side: Side, data: bytes) -> None:
        if data:
            self._out.append(Send(side, data))

    def _report(self, event: Event) -> None:
        self._out.append(Report(event))

    def _move(self, state: State) -> None:
        if state is self.state:
            return
        if state not in MOVES[self.state]:
            raise AssertionError(f"no way from {self.state} to {state}")
        self.state = state
        self._choose_reading()

    def _choose_reading(self) -> None:
        """Which directions need no attention now."""
        bound = self.state is State.BOUND
        self.fast[Side.CLIENT] = self._up if bound and self._node_out and not self._hold_client else None
        self._up.note_every(self.fast[Side.CLIENT] is None or self._looks_left > 0)
        moving = self.state is State.TRANSFERRING and self._client_out and self._iq_due is None
        self.fast[Side.NODE] = self._down if (bound or moving) and self._node_in else None

    def _pass_up(self, data: bytes) -> None:
        if self._node_out:
            self._send(Side.NODE, data)

    def _pass_down(self, data: bytes) -> None:
        if self._client_out:
            self._send(Side.CLIENT, data)
        else:
            self._undelivered += len(data)

    # --- the closing

    def _last_words(self, farewell: Farewell) -> bytes:
        """An error, if there is one, and the end of the client's stream, behind a header if it has got none."""
        if self._header_due or self._header_to_client is None:
            header = stanza.stream_header(
                to=self._header_to_node.from_, from_=self._domain, stream_id=self._policy.token(), lang="en"
            )
            return header + farewell.error("stream") + stanza.STREAM_END
        return farewell.error(self._header_to_client.prefix) + self._header_to_client.end

    def _close_node_first(self, farewell: Farewell) -> None:
        """End the node's stream, pass on what it still sends, then say farewell to the client."""
        self._farewell = farewell
        if self._node_out:
            self._end_node_stream(cleanly=True)
        if self.state is not State.TRANSFERRING:
            self._move(State.CLOSING)
        self._choose_reading()
        if self._node_in:
            self._wait_to_close(self._policy.timeouts.node_close_timeout)
        else:
            self._say_farewell()

    def _say_farewell(self) -> None:
        farewell, self._farewell = self._farewell, None
        assert farewell is not None
        self._end_client(farewell)

    def _end_client(self, farewell: Farewell) -> None:
        """Write the client's last bytes, and wait until it has left."""
        if self._node_out:
            self._end_node_stream(cleanly=True)
        self._end_node_output()
        if self._client_out:
            silent = self._down.cutting or farewell.silent  # in the middle of an element nothing can be said any more
            if not silent:
                self._send(Side.CLIENT, self._last_words(farewell))
            self._end_client_output(silent=silent)
        self._move(State.CLOSING)
        self._await_others(self._policy.timeouts.see_other_host_timeout)

    def _end_client_output(self, *, silent: bool = False) -> None:
        self._client_out = False
        self._farewell = None
        self._out.append(EndOutput(Side.CLIENT, silent))

    def _end_node_stream(self, *, cleanly: bool) -> None:
        if self._node_out and cleanly:
            if self._node_open:
                self._send(Side.NODE, self._header_to_node.end)
            self._node_told = True
        self._node_out = False

    def _end_node_output(self) -> None:
        self._node_out = False
        if not self._node_ended:
            self._node_ended = True
            self._out.append(EndOutput(Side.NODE, silent=not self._node_told))

    def _wait_to_close(self, seconds: float) -> None:
        if self._closing_since is None:
            self._closing_since = self._now
        self._closing_wait = seconds
        self.deadline = self._now + seconds

    def _await_others(self, seconds: float) -> None:
        self._wait_to_close(seconds)
        self._hold_client = False
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        # A client that has not ended its stream may still be sending: closing now would make a reset of it, and what is
        # on its way to the client might never be read.
        client_done = not self._client_in or self._client_ended
        if self.state is State.CLOSING and client_done and not (self._client_out or self._node_in):
            self._end(Close())

    def _settle_transfer(self, outcome: Outcome) -> None:
        """The client has left, or is being left: the transfer, if there is one, is over."""
        transfer = self._transfer
        if transfer is not None:
            self._reason = Reason.TRANSFERRED
            if transfer.rung is Rung.CXFR and outcome is Outcome.MOVED and not transfer.accepted:
                self._note_redirect(transfer)
            self._end_transfer(outcome)

    def _end_transfer(self, outcome: Outcome) -> None:
        transfer, self._transfer = self._transfer, None
        assert transfer is not None
        transfer.tried.append((transfer.rung, outcome))
        self._report(Transferred(transfer.order, tuple(transfer.tried), self._now - transfer.started))

    def _address_told(self, transfer: Transfer) -> Server | None:
        """Where the client is to go; ``None``: home. In plaintext anybody on the way could have written an address."""
        return transfer.order.server if self._tls else None

    def _note_redirect(self, transfer: Transfer) -> None:
        """The client does as it was asked."""
        if self._address_told(transfer) is not None:
            self._report(Redirected())

    def _give_up(self, reason: Reason) -> None:
        if self.state is not State.CLOSED:
            self._reason = reason
            left = self.state is State.CLOSING  # it was told all there was to tell
            self._settle_transfer(Outcome.MOVED if left else Outcome.CUT_OFF)
            self._end(Close(at_once=True))

    def _end(self, last: Close | Upgrade | Reroute) -> None:
        self.deadline = None
        self._client_in = self._client_out = self._node_in = self._node_out = False
        self._move(State.CLOSED)
        if not self._ended:
            self._ended = True
            if self._reason not in _GOES_ON:
                self._report_unfinished_login()
            self._report(Ended(self._reason, self._condition, self._late, self._undelivered))
        self._out.append(last)

    def _blame(self, end: End) -> None:
        """A login ends so; tell, where it is the node's fault."""
        if self.state is State.NEGOTIATING and self._turn is not None and self._turn.is_its_fault(end, self._now):
            self._report(LoginFailed(end.value))

    def _report_unfinished_login(self) -> None:
        by_client = self._reason in _CLIENTS
        failed = self._negotiation.end_unfinished(self._condition or self._reason, by_client=by_client)
        if failed is not None:
            self._report(failed)
