"""What no proxy can save: the cells in which messages may be lost or come twice, how many at most, and why.

A bound is for one client, both ways together. It comes from the windows (:mod:`matrix.people`): so many messages can be
under way at once in one direction. What is not listed has to be zero, but for what a cluster loses between its nodes:
that is told by the taps, message by message (:attr:`Cell.lost_within`), and may happen whenever a session ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.demo.habits import HABITS
from matrix.people import WINDOW
from matrix.run import Cell, Trigger
from matrix.sites import Nodes


@dataclass(frozen=True, slots=True)
class Limit:
    """For ``trigger``, at these ``nodes``; ``resuming``: with XEP-0198 only, or, if ``None``, with and without."""

    trigger: Trigger
    nodes: frozenset[Nodes]
    resuming: bool | None
    lost: int
    twice: int
    reason: str
    disordered: int = 0

    def fits(self, cell: Cell) -> bool:
        resumes = HABITS[cell.kind].resumes
        return cell.trigger is self.trigger and cell.nodes in self.nodes and self.resuming in (None, resumes)


UNAVOIDABLE: Final = (
    Limit(
        Trigger.SIGTERM,
        frozenset(Nodes),
        resuming=True,
        lost=0,
        twice=2 * WINDOW,
        reason="A node that stops takes for undelivered what its client has not acknowledged (XEP-0198), and gives it "
        "back to its sender or keeps it for the client's next session. Clients acknowledge when they are asked, and "
        "the node stops without asking: what the client had got since the last time comes twice.",
    ),
    Limit(
        Trigger.SIGTERM,
        frozenset((Nodes.PROSODY,)),
        resuming=None,
        lost=WINDOW,
        twice=WINDOW,
        reason="Prosody throws its sessions off one by one. It acknowledges or answers a message to somebody whom it "
        "has just thrown off, and nobody ever gets it: lost. And it closes sockets from which it has not read all, so "
        "the kernel resets the connection and its last answers are gone (the tap has not seen them either): whoever "
        "was not answered sends again, and it comes twice.",
    ),
    Limit(
        Trigger.SIGTERM,
        frozenset((Nodes.EJABBERD,)),
        resuming=None,
        lost=WINDOW,
        twice=WINDOW,
        reason="What is on its way within the cluster, from node2 to a session on node1 that is ending, is neither "
        "delivered nor given back: no tap has seen it, and its sender is told nothing. What node1 took in but did not "
        "answer any more comes twice.",
    ),
    Limit(
        Trigger.KILL,
        frozenset(Nodes),
        resuming=None,
        lost=2 * WINDOW,
        twice=WINDOW,
        reason="A killed node takes along what it had taken in and acknowledged, but not passed on, and what other "
        "nodes send it until they notice: lost. What it had passed on but not yet acknowledged is sent again, since "
        "nobody can know: it comes twice. With XEP-0198 too: the session died with the node. What another node gives "
        "back when it notices at last is sent again behind what was written meanwhile: out of order.",
        disordered=WINDOW,
    ),
)


def bounds(cell: Cell) -> tuple[int, int, int]:
    """How many may be lost, come twice, and come out of order, in a whole cell."""
    fitting = [(limit.lost, limit.twice, limit.disordered) for limit in UNAVOIDABLE if limit.fits(cell)]
    lost, twice, disordered = (cell.clients * sum(each) for each in zip((0, 0, 0), *fitting, strict=True))
    return lost, twice, disordered


def faults(cells: Iterable[Cell]) -> list[str]:
    """What is wrong in which cell; empty: all is as it has to be."""
    found = []
    for cell in cells:
        lost, twice, disordered = bounds(cell)
        tally = cell.tally
        too_many = tally.lost - cell.lost_within > lost or tally.twice > twice or tally.disordered > disordered
        if too_many or not tally.sent:
            found.append(
                f"{cell.nodes}, {cell.trigger}, {cell.kind}: of {tally.sent} messages {tally.lost} lost (may be {lost}"
                f", and {cell.lost_within} in the cluster), {tally.twice} twice (may be {twice})"
                f", {tally.disordered} out of order (may be {disordered})"
            )
            found += [f"  {line}" for line in cell.traces]
    return found
