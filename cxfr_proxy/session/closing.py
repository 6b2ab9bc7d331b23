"""What exists only while a session ends: the last question, the client's farewell, and how long others are waited for.

*The last question* is asked before the proxy ends a node's stream of its own accord. Ending it at once leaves something
open. So the question comes first, and from then on nothing more of the client's goes up: it is answered with ``wait``,
or left unacknowledged.

*Without XEP-0198*, what the node still owes. A node need not have answered what it took in when it reads the end of the
stream (ejabberd handles the end before answers that are due from elsewhere in it), and a client would send again what
was neither answered nor acted upon. A ping's answer comes behind all others; then the stream is ended.

*With XEP-0198*, what the client has. What it has not acknowledged when the stream ends, the node takes for undelivered,
and gives back, stores or sends elsewhere (XEP-0198 section 5); what it did get then comes twice. So it is asked, what
the node sends meanwhile is withheld, and its answer is the last word: the node's stream is ended right behind it. What
was withheld is dropped then, since the node knows, by a count, that it did not arrive.

A side that does not answer in time is not waited for: the client gets all that was withheld, and the stream is ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cxfr_proxy.session.tables import QUESTION, Question, follow
from cxfr_proxy.xmpp import connection_transfer, stanza
from cxfr_proxy.xmpp.stream_management import MODULUS, read_h

_HALF: Final = MODULUS // 2


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
        """Return the error's bytes; empty where there is none. ``prefix``: the stream namespace's, in the client's
        header."""
        if self.condition is None:
            return self.verbatim
        return stanza.stream_error(self.condition, self.text, content=self.content, prefix=prefix)


@dataclass(slots=True)
class LastQuestion:
    """``ping``: the id of the ping whose answer is waited for; ``None``: what is waited for is the client's ``h``, or a
    later one."""

    ping: str | None = None
    h: int = 0
    state: Question = Question.ASKED
    withheld: list[bytes] = field(default_factory=list)

    @property
    def withholds(self) -> bool:
        """The node's stanzas are kept, as the client's last word on what it has is asked for or was said."""
        return self.ping is None

    @property
    def open(self) -> bool:
        """No answer has come."""
        return self.state is Question.ASKED

    def withhold(self, data: bytes) -> None:
        """Keep a stanza of the node's; behind the answer, for good."""
        if self.open:
            self.withheld.append(data)

    def answer(self) -> None:
        """There is an answer, and the node's stream is ended."""
        self.state = follow(QUESTION, self.state, Question.ANSWERED)
        self.withheld.clear()

    def is_pong(self, data: bytes, context: bytes) -> bool:
        """Whether an IQ of the node's, which may hold an id of ours, is the answer that is waited for."""
        if self.ping is None or not self.open:
            return False
        try:
            answer = connection_transfer.answer(stanza.parse(data, context))
        except stanza.MalformedElement:
            return False
        return answer is not None and answer.id == self.ping

    def is_covered(self, data: bytes, context: bytes) -> bool:
        """Whether an ``<a/>`` of the client's is the last word that is waited for."""
        if not self.withholds or not self.open:
            return False
        try:
            h = read_h(stanza.parse(data, context))
        except stanza.MalformedElement:
            return False
        return h is not None and (h - self.h) % MODULUS < _HALF


class Closing:
    """``since`` is when it began, on the relay's clock. ``wait_seconds`` is how long those who are waited for now may
    take.

    ``farewell`` are the client's last bytes, once the node has nothing more for it; ``None``: they were said, or are
    not to be.
    """

    __slots__ = ("farewell", "question", "since", "wait_seconds")

    def __init__(self, since: float) -> None:
        self.since = since
        self.wait_seconds = 0.0
        self.farewell: Farewell | None = None
        self.question: LastQuestion | None = None

    def ask(self, question: LastQuestion) -> None:
        self.question = question

    def take_unanswered(self) -> bytes:
        """There will be no last word: return what was withheld, which is the client's."""
        question = self.question
        if question is None or not question.open:
            return b""
        self.question = None
        return b"".join(question.withheld)

    def plan(self, farewell: Farewell | None) -> None:
        """The client gets this once its node's stream has ended; ``None``: nothing any more."""
        self.farewell = farewell

    def wait(self, seconds: float) -> None:
        self.wait_seconds = seconds
