"""The loss matrix with real nodes: a pair of Prosody servers, and an ejabberd cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from matrix.limits import faults
from matrix.report import render
from matrix.run import Run, Trigger, users
from matrix.sites import Nodes, open_site

from real.certs import Authority
from real.programs import Need, require

pytestmark = pytest.mark.real

_NEEDS = {Nodes.PROSODY: Need.PROSODY, Nodes.EJABBERD: Need.EJABBERD}


@pytest.mark.parametrize("nodes", _NEEDS)
async def test_real_nodes(nodes: Nodes, tmp_path: Path, authority: Authority) -> None:
    """All triggers in one test: the servers are started once, and node1 again where it was ended."""
    require(_NEEDS[nodes])
    cells = []
    with trio.fail_after(600):  # four times everything, and the servers started anew
        async with open_site(nodes, tmp_path, users()) as site:
            for trigger in Trigger:
                cells += await Run(nodes, trigger, site, tmp_path / trigger.name, authority).play()
    print(render(cells, markdown=False))
    assert faults(cells) == []
    assert len(cells) == 8 * len(Trigger)
