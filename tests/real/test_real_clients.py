"""The client matrix, played for what is here wherever the tests are: slixmpp as it comes, and with the plugin."""

from __future__ import annotations

from pathlib import Path

import pytest
from clients.catalogue import PROGRAMS
from clients.run import Run, Trigger, users
from matrix.sites import Nodes, open_site

from real.certs import Authority
from real.programs import Need, require

pytestmark = pytest.mark.real


@pytest.mark.parametrize("trigger", [Trigger.DRAIN, Trigger.SIGTERM])
async def test_slixmpp_is_back_as_it_comes_and_with_the_plugin(
    trigger: Trigger, tmp_path: Path, authority: Authority
) -> None:
    """Without a handler nothing but a redirect to its own domain brings it back; the plugin is asked, although no
    server has asked for its features while this proxy looked on."""
    require(Need.PROSODY, Need.SLIXMPP)
    programs = {each: each.prepare(tmp_path) for each in PROGRAMS if each.user.startswith("slixmpp")}
    async with open_site(Nodes.PROSODY, tmp_path, users(list(programs))) as site:
        cells = await Run(Nodes.PROSODY, trigger, site, tmp_path / "run", authority, programs).play()
    assert {cell.program.user: (cell.tried, cell.seconds is not None) for cell in cells} == {
        "slixmpp": ("cxfr:refused,see-other-host:moved", True),
        "slixmppsm": ("cut:moved", True),
        "slixmppplugin": ("cxfr:moved", True),
    }
