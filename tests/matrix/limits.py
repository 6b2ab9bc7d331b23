"""The losses that no proxy can prevent: the cells in which messages may be lost or come twice, how many at most, and
why.

A bound is for one client, both ways together. It comes from the windows (:mod:`matrix.people`): so many messages can be
under way at once in one direction. Everything that is not listed has to be zero, but for what a cluster loses between
its nodes, or brings out of order there: that is told by the taps, message by message (:attr:`Cell.lost_within`,
:attr:`Cell.disordered_within`), and may happen whenever a session ends, or is handed over.
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
        reason="A node that stops treats what its client has not acknowledged (XEP-0198) as undelivered: it returns "
        "it to the sender or keeps it for the client's next session. Clients acknowledge when they are asked, "
        "and the node stops without asking. So messages that the client has received since it was last asked "
        "come twice.",
    ),
    Limit(
        Trigger.SIGTERM,
        frozenset((Nodes.PROSODY,)),
        resuming=None,
        lost=WINDOW,
        twice=WINDOW,
        reason="Prosody ends its sessions one by one. It acknowledges or answers a message to a client whose session "
        "has just ended, and nobody ever gets it: lost. It also closes sockets from which it has not read "
        "everything, so the kernel resets the connection and the node's last answers are gone (the tap has "
        "not seen them either). Clients that were not answered send again, and the message comes twice.",
    ),
    Limit(
        Trigger.SIGTERM,
        frozenset((Nodes.EJABBERD, Nodes.MIGRATING)),
        resuming=None,
        lost=WINDOW,
        twice=WINDOW,
        reason="Messages that are on their way within the cluster, from node2 to a session on node1 that is ending, "
        "are neither delivered nor returned: no tap has seen them, and their senders are told nothing. "
        "Messages that node1 accepted but did not answer any more come twice.",
    ),
    Limit(
        Trigger.KILL,
        frozenset(Nodes),
        resuming=None,
        lost=2 * WINDOW,
        twice=WINDOW,
        reason="A killed node takes with it what it had acknowledged but not passed on, and what other nodes send it "
        "until they notice: lost. Messages that it had passed on but not yet acknowledged are sent again, "
        "since nobody can know: they come twice, with XEP-0198 too, because the session died with the node. "
        "Messages that another node returns when it notices at last are sent again behind those written "
        "meanwhile: out of order.",
        disordered=WINDOW,
    ),
)


def bounds(cell: Cell) -> tuple[int, int, int]:
    """How many may be lost, come twice, and come out of order, in a whole cell."""
    fitting = [(limit.lost, limit.twice, limit.disordered) for limit in UNAVOIDABLE if limit.fits(cell)]
    lost, twice, disordered = (cell.clients * sum(each) for each in zip((0, 0, 0), *fitting, strict=True))
    return lost, twice, disordered


def faults(cells: Iterable[Cell]) -> list[str]:
    """Return the faults by cell; empty: all is as it has to be."""
    found = []
    for cell in cells:
        lost, twice, disordered = bounds(cell)
        tally = cell.tally
        too_many = tally.lost - cell.lost_within > lost or tally.twice > twice
        too_many |= tally.disordered - cell.disordered_within > disordered
        if too_many or not tally.sent:
            found.append(
                f"{cell.nodes}, {cell.trigger}, {cell.kind}: of {tally.sent} messages {tally.lost} lost (may be {lost}"
                f", and {cell.lost_within} in the cluster), {tally.twice} twice (may be {twice})"
                f", {tally.disordered} out of order (may be {disordered}"
                f", and {cell.disordered_within} in the cluster)"
            )
            found += [f"  {line}" for line in cell.traces]
        found += [f"{cell.nodes}, {cell.trigger}, {cell.kind}: noticed by {each}" for each in cell.disturbed]
    return found
