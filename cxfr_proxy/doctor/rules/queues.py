"""The queues in which new connections wait: the nodes' on this machine, and the proxy's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cxfr_proxy.doctor.facts import ClusterFacts
from cxfr_proxy.doctor.findings import PROXY, DoctorRule, Severity, Symptom
from cxfr_proxy.doctor.software import ServerSoftware
from cxfr_proxy.net.listen import BACKLOG

LEAST_QUEUE: Final = 128
"""Room that a node's listener should have: the proxy connects as fast as clients come, a thousand in a second."""


def _node_queue(facts: ClusterFacts) -> Iterator[Symptom]:
    seen: set[str] = set()
    for node in facts.nodes:
        if node.queue is not None and node.queue.most < LEAST_QUEUE and node.spec.name not in seen:
            seen.add(node.spec.name)  # not once more for its next domain
            yield Symptom(f"{node.queue.address}: room for {node.queue.most}", node.spec.name)


def _own_queue(facts: ClusterFacts) -> Iterator[Symptom]:
    bound = facts.own.most_queued
    for queue in facts.own.queues:
        if bound is not None and queue.most < min(bound, BACKLOG):
            continue  # the proxy gets as much as the kernel gives: a program that has asked for less listens there
        if queue.most < BACKLOG:
            yield Symptom(f"{queue.address}: room for {queue.most}, {queue.waiting} wait")
    if not facts.own.queues and bound is not None and bound < BACKLOG:
        yield Symptom(f"net.core.somaxconn is {bound}")


RULES: Final = (
    DoctorRule(
        "node-queue",
        Severity.WARNING,
        "A node's listener has little room for connections that wait to be accepted",
        f"room for {LEAST_QUEUE} at least, better 1024",
        "when many clients come at once, logins take a second longer, or several: the kernel drops what has no room, "
        "and TCP tries again",
        {
            ServerSoftware.EJABBERD: "backlog: 1024 on the listener",
            ServerSoftware.PROSODY: "network_settings = { tcp_backlog = 1024 }",
            ServerSoftware.MONGOOSEIM: "backlog = 1024 in [[listen.c2s]]",
            ServerSoftware.OPENFIRE: "xmpp.socket.backlog = 1024 (without it 50), then a restart",
        },
        _node_queue,
    ),
    DoctorRule(
        "own-queue",
        Severity.WARNING,
        "The kernel gives the proxy's listeners little room for connections that wait to be accepted",
        f"room for {BACKLOG}, which the proxy asks for",
        "when many clients come at once, their first connection takes a second longer, or several",
        {PROXY: f"sysctl net.core.somaxconn={BACKLOG} or more, then a restart of the proxy"},
        _own_queue,
    ),
)
