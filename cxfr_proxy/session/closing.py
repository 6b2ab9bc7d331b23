"""The parts of a session that exist only while it ends: the last question, the client's farewell, the wait for others.

*The last question* is asked before the proxy ends a node's stream of its own accord, since ending it at once would
leave something open. From the question on, nothing more of the client's goes up: it is answered with ``wait``, or left
unacknowledged.

*Without XEP-0198* the question goes to the node: what does it still owe? A node need not have answered everything that
it took in when it reads the end of the stream (ejabberd handles the end before answers that come from elsewhere in it),
and a client would send again what was neither answered nor acted upon. The answer to a ping comes behind all other
answers; then the stream is ended.

*With XEP-0198* the question goes to the client: what does it have? The node takes for undelivered what the client has
  not acknowledged when the stream ends, and returns it, stores it or sends it elsewhere (XEP-0198 section 5); stanzas
  that the client did get then come twice. So the client is asked, and what the node sends meanwhile is withheld. The
  client's answer is its last word: the node's stream is ended right behind it. The withheld stanzas are dropped then,
  since the node knows by the count that they did not arrive.

A side that does not answer in time is not waited for: the client gets all that was withheld, and the stream is ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cxfr_proxy.session.tables import QUESTION, Question, follow
from cxfr_proxy.xmpp import connection_transfer, stanza
from cxfr_proxy.xmpp.stream_management import MODULUS, h_of

_HALF: Final = MODULUS // 2


@dataclass(frozen=True, slots=True)
class Farewell:
    """The end of the client's stream: an error of the proxy's own, one of the node's as it came, or none.

    ``condition`` ``None``: no error of the proxy's. ``text`` and ``content`` as in
    :func:`cxfr_proxy.xmpp.stanza.stream_error`. ``url`` is named by the end of the stream itself, on WebSocket;
    ``None``: there is none. ``silent``: not even the end tag is sent.
    """

    condition: str | None = None
    text: str | None = None
    content: str | None = None
    verbatim: bytes = b""
    url: str | None = None
    silent: bool = False

    def error(self, prefix: str) -> bytes:
        """Return the error's bytes; empty where there is none. ``prefix``: the stream namespace's, in the client's
        header."""
        if self.condition is None:
            return self.verbatim
        return stanza.stream_error(self.condition, self.text, content=self.content, prefix=prefix)


@dataclass(slots=True)
class LastQuestion:
    """``ping``: the id of the ping whose answer is waited for; ``None``: the client's ``<a/>`` is waited for, with this
    ``h`` or a later one."""

    ping: str | None = None
    h: int = 0
    state: Question = Question.ASKED
    withheld: list[bytes] = field(default_factory=list)
    withheld_bytes: int = 0

    @property
    def withholds(self) -> bool:
        """The node's stanzas are kept back: the client was asked what it has."""
        return self.ping is None

    @property
    def open(self) -> bool:
        """No answer has come yet."""
        return self.state is Question.ASKED

    def withhold(self, data: bytes) -> None:
        """Keep a stanza of the node's back, or a part of one. Behind the answer it is dropped for good."""
        if self.open:
            self.withheld.append(data)
            self.withheld_bytes += len(data)

    def answer(self) -> None:
        """Note that the answer has come: the node will send elsewhere what was withheld."""
        self.state = follow(QUESTION, self.state, Question.ANSWERED)
        self.withheld.clear()
        self.withheld_bytes = 0

    def is_pong(self, data: bytes, context: bytes) -> bool:
        """Return whether an IQ of the node's that may hold an id of ours is the answer that is waited for."""
        if self.ping is None or not self.open:
            return False
        try:
            answer = connection_transfer.answer(stanza.parse(data, context))
        except stanza.MalformedElement:
            return False
        return answer is not None and answer.id == self.ping

    def is_covered(self, data: bytes, context: bytes) -> bool:
        """Return whether an ``<a/>`` of the client's is the answer that is waited for."""
        if not self.withholds or not self.open:
            return False
        h = h_of(data, context)
        # Counts wrap around at 2**32 (XEP-0198 section 4), so "at least" means: less than half of that ahead.
        return h is not None and (h - self.h) % MODULUS < _HALF


class Closing:
    """The end of a session while it goes on. ``since`` is when it began, on the relay's clock. ``wait_seconds`` is how
    long those that are waited for now may take.

    ``farewell`` holds the client's last bytes, which follow the node's; ``None``: they were sent, or there will be
    none.
    """

    __slots__ = ("_answers", "farewell", "question", "since", "wait_seconds")

    def __init__(self, since: float) -> None:
        self.since = since
        self.wait_seconds = 0.0
        self.farewell: Farewell | None = None
        self.question: LastQuestion | None = None
        self._answers = bytearray()  # to stanzas that did not arrive, if the client has no other way to know

    def ask(self, question: LastQuestion) -> None:
        self.question = question

    def take_unanswered(self) -> bytes:
        """Give up waiting for an answer: return what was withheld, which is the client's."""
        question = self.question
        # An answered question has dropped what was withheld: the node sends that elsewhere.
        if question is None or not question.open:
            return b""
        self.question = None
        return b"".join(question.withheld)

    def keep_answer(self, answer: bytes, most: int) -> bool:
        """Keep an answer that is the client's if the node does not count. Return false if they are too many bytes."""
        if len(self._answers) + len(answer) > most:
            return False
        self._answers += answer
        return True

    def take_answers(self) -> bytes:
        """Return the answers that were kept."""
        answers, self._answers = bytes(self._answers), bytearray()
        return answers

    def plan(self, farewell: Farewell | None) -> None:
        """Have the client get this once its node's stream has ended; ``None``: nothing any more."""
        self.farewell = farewell

    def wait(self, seconds: float) -> None:
        self.wait_seconds = seconds
