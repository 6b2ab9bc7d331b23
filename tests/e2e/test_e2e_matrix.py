"""The loss matrix with the built-in nodes, and that it sees what it is there to see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trio
from matrix.limits import UNAVOIDABLE, bounds, faults
from matrix.report import render
from matrix.run import KINDS, Cell, Run, Trigger, users
from matrix.sites import Nodes, open_site
from real.certs import Authority

from cxfr_proxy.demo.account import ClientAccount, MessageCounts, Numbered, judge_flow, out_of_order
from cxfr_proxy.demo.habits import HABITS, ClientKind

_EACH: Final = 3
"""Clients of each kind; the command plays more."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.mark.parametrize(
    ("nodes", "trigger"),
    [*((Nodes.BUILT_IN, trigger) for trigger in Trigger), (Nodes.SHARED, Trigger.DRAIN)],
)
async def test_built_in_nodes(nodes: Nodes, trigger: Trigger, tmp_path: Path, authority: Authority) -> None:
    with trio.fail_after(600):
        async with open_site(nodes, tmp_path, users(_EACH)) as site:
            cells = await Run(nodes, trigger, site, tmp_path / "run", authority, _EACH).play()
    assert faults(cells) == []
    assert [cell.kind for cell in cells] == list(KINDS)
    rungs = {cell.kind: set(cell.by_rung) for cell in cells}
    for kind in KINDS:
        assert rungs[kind] == {_rung(kind)}, (kind, rungs)
    if nodes is Nodes.SHARED:
        assert all(c.resumed == c.clients for c in cells if _rung(c.kind) == "cut"), "whoever is cut resumes"


def _rung(kind: ClientKind) -> str:
    habits = HABITS[kind]
    return "cxfr" if habits.knows_cxfr else "cut" if habits.resumes else "see-other-host"


# --- the judge


def _cell(
    trigger: Trigger, kind: ClientKind = ClientKind.PLAIN, *, nodes: Nodes = Nodes.BUILT_IN, tally: MessageCounts
) -> Cell:
    return Cell(nodes, trigger, kind, 2, tally, {"cut": tally}, 0, traces=("up a #1 came 0 times; taps: ",))


@pytest.mark.parametrize(
    ("trigger", "tally", "good"),
    [
        (Trigger.DRAIN, MessageCounts(sent=9), True),
        (Trigger.DRAIN, MessageCounts(sent=9, lost=1), False),
        (Trigger.DRAIN, MessageCounts(sent=9, twice=1), False),
        (Trigger.DRAIN, MessageCounts(sent=9, disordered=1), False),
        (Trigger.DRAIN, MessageCounts(), False),
        (Trigger.SIGTERM, MessageCounts(sent=9, lost=1), False),
        (Trigger.KILL, MessageCounts(sent=99, lost=20, twice=10), True),
        (Trigger.KILL, MessageCounts(sent=99, lost=21), False),
        (Trigger.KILL, MessageCounts(sent=99, twice=11), False),
        (Trigger.KILL, MessageCounts(sent=99, disordered=10), True),
        (Trigger.KILL, MessageCounts(sent=99, disordered=11), False),
    ],
)
def test_what_is_a_fault(trigger: Trigger, tally: MessageCounts, good: bool) -> None:
    cell = _cell(trigger, tally=tally)
    assert (faults([cell]) == []) == good
    assert good or "came 0 times" in faults([cell])[1]


def test_whoever_is_taken_must_not_notice() -> None:
    cell = replace(_cell(Trigger.DRAIN, nodes=Nodes.MIGRATING, tally=MessageCounts(sent=9)), disturbed=("a: ['cut']",))
    assert faults([cell]) == ["ejabberd cluster, with migrate, drain, plain: noticed by a: ['cut']"]
    assert faults([replace(cell, disturbed=())]) == []


def test_what_a_cluster_loses_between_its_nodes_is_not_the_proxy_s() -> None:
    cell = replace(_cell(Trigger.DRAIN, nodes=Nodes.EJABBERD, tally=MessageCounts(sent=9, lost=2)), lost_within=2)
    assert faults([cell]) == []
    assert faults([replace(cell, lost_within=1)]) != []
    cell = replace(cell, tally=MessageCounts(sent=9, disordered=3), disordered_within=3)
    assert faults([cell]) == []
    assert faults([replace(cell, disordered_within=2)]) != []


def test_nothing_is_excused_where_the_node_lives() -> None:
    for nodes in Nodes:
        for kind in KINDS:
            for trigger in (Trigger.DRAIN, Trigger.REMOVED):
                assert bounds(_cell(trigger, kind, nodes=nodes, tally=MessageCounts())) == (0, 0, 0)
    assert all(limit.reason for limit in UNAVOIDABLE)


@pytest.mark.parametrize("markdown", [False, True])
def test_the_table_shows_what_is_not_zero_and_why(markdown: bool) -> None:
    text = render([_cell(Trigger.KILL, tally=MessageCounts(sent=50, lost=3))], markdown=markdown)
    assert "**3 / 0 / 0** [4] (cut)" in text
    assert UNAVOIDABLE[3].reason in text


def test_a_flow_is_judged_by_what_came() -> None:
    sender = ClientAccount("a@b")
    for _ in range(6):
        sender.number()
    arrived = [Numbered("a@b", n) for n in (1, 2, 5, 3, 3, 6)] + [Numbered("x@y", 4)]
    assert judge_flow(sender, arrived) == MessageCounts(sent=6, received=5, lost=1, twice=1, disordered=1)


@pytest.mark.parametrize(("numbers", "count"), [("123", 0), ("132", 1), ("1232", 0), ("3121", 2), ("", 0)])
def test_out_of_order(numbers: str, count: int) -> None:
    assert out_of_order(Numbered("a", int(n)) for n in numbers) == count


def test_what_comes_back_late_is_behind_what_was_written_meanwhile() -> None:
    """Its order is judged where the sender could have kept it: it knew that the message was still under way."""
    for known in (False, True):
        sender = ClientAccount("a@b")
        for _ in range(2):
            sender.number()
        if not known:
            sender.handled(1)
        sender.bounced(1, wait=True)
        assert [str(each) for each in sender.again()] == ["a@b #1"]
        tally = judge_flow(sender, [Numbered("a@b", 2), Numbered("a@b", 1)])
        assert (tally.lost, tally.twice, tally.disordered) == (0, 0, int(known))
