"""The questions that could not be answered, each with the reason: a report without findings is no praise for what
nobody has looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.cluster.nodes import Resume
from cxfr_proxy.doctor.facts import ClusterFacts, NodeFacts


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A question, why it is open, and for which nodes; none: it is about the proxy."""

    question: str
    reason: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _NodeQuestion:
    question: str
    reason: str
    is_open: Callable[[NodeFacts], bool]


def _is_logged_in(node: NodeFacts) -> bool:
    return node.session is not None and node.session.refused is None


_OF_NODES: Final = (
    _NodeQuestion(
        "what it offers to clients, and its certificate",
        "no --domain is given, and its line has no domain=",
        lambda node: node.domain is None,
    ),
    _NodeQuestion(
        "logins, stream management, downgrade protection (XEP-0474), the version of TLS that it tells (XEP-0515), its "
        "clock, the address that it sees",
        "nobody of its domain has logged in: give --user and --password-file",
        lambda node: node.domain is not None and node.failure is None and node.session is None,
    ),
    _NodeQuestion(
        "logins, and what only they show",
        "it offers no mechanism that the doctor knows: SCRAM, or PLAIN where nobody else listens",
        lambda node: node.session is not None and not node.session.tried,
    ),
    _NodeQuestion(
        "its clock",
        "it does not answer XEP-0202 (ejabberd, MongooseIM: mod_time; Prosody: time)",
        lambda node: _is_logged_in(node) and node.session is not None and node.session.ahead is None,
    ),
    _NodeQuestion(
        "whether it sees the clients' addresses",
        "it does not answer XEP-0279 (ejabberd, MongooseIM: mod_sic; Prosody: mod_ipcheck)",
        lambda node: (
            _is_logged_in(node)
            and node.spec.send_proxy is not None
            and node.session is not None
            and node.session.seen_address is None
        ),
    ),
    _NodeQuestion(
        "whether migrate=external works",
        "it takes --node-certificate and --user",
        lambda node: node.spec.migrates and node.failure is None and node.external is None,
    ),
    _NodeQuestion(
        "how many connections may wait at its listener",
        "it is on another machine, or the kernel does not say",
        lambda node: node.failure is None and node.queue is None,
    ),
)


def open_questions(facts: ClusterFacts) -> tuple[OpenQuestion, ...]:
    """Return what nobody could find out."""
    found = []
    for row in _OF_NODES:
        nodes = dict.fromkeys(node.spec.name for node in facts.nodes if row.is_open(node))
        if nodes:
            found.append(OpenQuestion(row.question, row.reason, tuple(nodes)))
    shared = [node.spec.name for node in facts.nodes if node.spec.resume is Resume.SHARED and node.failure is None]
    unmoved = dict.fromkeys(name for name in shared if all(name != move.origin for move in facts.moves))
    if len(set(shared)) > 1 and unmoved:
        reason = "no session could be begun there and resumed elsewhere: it takes --user, and stream management"
        found.append(OpenQuestion("whether resume=shared is true", reason, tuple(unmoved)))
    if facts.own.certificates is None:
        found.append(OpenQuestion("the proxy's own certificates", "no --certificate or --certificates is given"))
    if not facts.own.queues:
        found.append(
            OpenQuestion("the queues of the proxy's listeners", "no proxy listens on this machine at --listen")
        )
    return tuple(found)
