"""The loss matrix with real nodes: a pair of Prosody servers, and an ejabberd cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import trio
from matrix.limits import faults
from matrix.report import render
from matrix.run import KINDS, Run, Trigger, users
from matrix.sites import Nodes, open_site

from cxfr_proxy.demo.habits import HABITS
from real.certs import Authority
from real.programs import Need, require

pytestmark = pytest.mark.real

_EACH: Final = 4
"""Clients of each kind; the command plays more."""
_NEEDS = {Nodes.PROSODY: Need.PROSODY, Nodes.MIGRATING: Need.EJABBERD}


@pytest.mark.parametrize("nodes", _NEEDS)
async def test_real_nodes(nodes: Nodes, tmp_path: Path, authority: Authority) -> None:
    """All triggers in one test: the servers are started once, and node1 again where it was ended. The cluster is
    drained by ``migrate``, too, and has each trigger without it."""
    require(_NEEDS[nodes])
    runs = [(nodes, trigger) for trigger in Trigger]
    if nodes is Nodes.MIGRATING:
        runs = [(Nodes.MIGRATING, Trigger.DRAIN), *((Nodes.EJABBERD, trigger) for trigger in Trigger)]
    cells = []
    with trio.fail_after(600):  # five times everything, and the servers started anew
        async with open_site(nodes, tmp_path, users(_EACH)) as site:
            for kind, trigger in runs:
                folder = tmp_path / f"{kind.name}-{trigger.name}"
                cells += await Run(kind, trigger, site, folder, authority, _EACH).play()
    print(render(cells, markdown=False))
    assert faults(cells) == []
    assert len(cells) == len(KINDS) * len(runs)
    taken = {HABITS[cell.kind].resumes for cell in cells if "migrate" in cell.by_rung}
    assert taken == ({True, False} if nodes is Nodes.MIGRATING else set())
