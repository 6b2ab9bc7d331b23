"""The whole examination: every node for every domain, side by side, and then the sessions of a user."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.config.table import Config
from cxfr_proxy.doctor.examining.client import Account
from cxfr_proxy.doctor.examining.doors import Doors, Place, why
from cxfr_proxy.doctor.examining.own import own_facts, own_queues, queue_facts
from cxfr_proxy.doctor.examining.queues import ListeningSocket, accepting, listening_sockets
from cxfr_proxy.doctor.examining.sessions import SessionRound, SessionsSeen
from cxfr_proxy.doctor.examining.together import together
from cxfr_proxy.doctor.examining.tokens import try_tokens
from cxfr_proxy.doctor.examining.visit import Visitor
from cxfr_proxy.doctor.facts import ClusterFacts, Failure, LookStage, NodeFacts, QueueFacts, TokenFacts
from cxfr_proxy.doctor.offer import Offer
from cxfr_proxy.net.node_tls import read_node_certificate
from cxfr_proxy.net.proxy_protocol import Peer
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.upstream.dial import Dialer, read_authorities_of

_AT_A_TIME: Final = 50
"""Nodes that are looked at side by side."""
_MOST_ELEMENT: Final = 65_536
"""Longest element that is read of a node: features have three kilobytes."""
_MOST_DEPTH: Final = 32


@dataclass
class _Visits:
    nodes: dict[int, NodeFacts] = field(default_factory=dict)
    ends: dict[int, tuple[Peer, Peer]] = field(default_factory=dict)

    async def visit(self, visitor: Visitor, number: int, spec: NodeSpec, domain: str | None) -> None:
        try:
            facts, ends = await visitor.visit(spec, domain)
            if domain is not None:
                facts = replace(facts, public=await visitor.public(spec, domain))
        except Exception as exc:  # one node that provokes a defect of this program hides no other
            facts, ends = NodeFacts(spec, domain, Failure(LookStage.GREETING, why(exc))), None
        self.nodes[number] = facts
        if ends is not None:
            self.ends[number] = ends


async def examine(config: Config, specs: Sequence[NodeSpec], account: Account | None) -> ClusterFacts:
    """Return the facts about these nodes. ``account`` ``None``: nobody logs in.

    Nodes that misbehave are part of the facts. Raises :class:`~cxfr_proxy.errors.ConfigError` for files of the
    operator's that are no good.
    """
    # Smaller than for clients' sake: a node whose greeting has no end is a finding, and fifty are read at once.
    most = min(config.limits.max_element_down, _MOST_ELEMENT)
    limits = replace(config.limits, max_element_down=most, max_depth=min(config.limits.max_depth, _MOST_DEPTH))
    dialer = Dialer(config.timeouts, limits, read_node_certificate(config.node_key_pair))
    dialer.take(read_authorities_of(specs))
    seconds = config.timeouts.node_connect_timeout + config.timeouts.node_greeting_timeout
    visitor = Visitor(dialer, seconds, account.local if account is not None else None)
    asked = list(_questions(config, specs, account))
    domains = tuple(dict.fromkeys(domain for _, domain in asked if domain is not None))
    own = own_facts(config, domains)  # before a node hears of it: a file may be no good
    found = _Visits()
    visits = (partial(found.visit, visitor, number, *question) for number, question in enumerate(asked))
    await together(visits, at_a_time=_AT_A_TIME)
    seen = SessionsSeen()
    tokens: list[TokenFacts] = []
    if account is not None:
        doors = Doors(dialer, limits, account, config.timeouts.negotiation_timeout)
        places = list(_places(found, account))
        seen = await SessionRound(doors, [place for place, _ in places]).run()
        # Where the password is refused, one failed login is enough.
        tokens = await try_tokens(doors, [each for each in places if seen.is_let_in(each[0].spec.name)])
    listening = listening_sockets()
    theirs, nodes = _with_queues(found, listening)
    return ClusterFacts(
        tuple(_with_sessions(each, seen, account) for each in nodes),
        replace(own, queues=own_queues(config, [each for each in listening if each not in theirs])),
        tuple(seen.moves),
        tuple(tokens),
        now=time.time(),
    )


def _questions(
    config: Config, specs: Sequence[NodeSpec], account: Account | None
) -> Iterator[tuple[NodeSpec, str | None]]:
    """Yield the nodes, each with every domain for which a client may come to it."""
    usual = config.domain or ((account.domain,) if account is not None else (None,))
    for spec in specs:
        for domain in spec.domain or usual:
            yield spec, domain


def _places(found: _Visits, account: Account) -> Iterator[tuple[Place, Offer]]:
    """Yield the nodes on which the user may log in, with what they offer them."""
    for number, facts in sorted(found.nodes.items()):
        is_theirs = facts.domain is not None and domain_key(facts.domain) == domain_key(account.domain)
        if is_theirs and facts.offer is not None and facts.offer.passes and number in found.ends:
            yield Place(facts.spec, found.ends[number]), facts.named or facts.offer


def _with_sessions(facts: NodeFacts, seen: SessionsSeen, account: Account | None) -> NodeFacts:
    if account is None or facts.domain is None or domain_key(facts.domain) != domain_key(account.domain):
        return facts
    name = facts.spec.name
    return replace(
        facts,
        session=seen.sessions.get(name),
        external=seen.external.get(name),
        open_door=seen.stands_open.get(name),
    )


def _with_queues(found: _Visits, listening: Sequence[ListeningSocket]) -> tuple[set[ListeningSocket], list[NodeFacts]]:
    """Return the listeners on this machine that are nodes', and the facts about nodes with them."""
    theirs: set[ListeningSocket] = set()
    queues: defaultdict[int, list[QueueFacts]] = defaultdict(list)
    for number, (mine, other) in found.ends.items():
        # A connection to an address of this machine comes from the same address.
        accept = accepting(listening, *other) if mine[0] == other[0] else []
        theirs.update(accept)
        queues[number] += map(queue_facts, accept)
    nodes = []
    for number, facts in sorted(found.nodes.items()):
        smallest = min(queues[number], key=lambda queue: queue.most, default=None)
        nodes.append(replace(facts, queue=smallest))
    return theirs, nodes
