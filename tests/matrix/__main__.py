from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import trio

from matrix.run import Run, Trigger, users
from matrix.sites import Nodes, open_site
from real.certs import Authority


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority(folder / "ca")
        for nodes in Nodes:
            if len(sys.argv) > 1 and nodes.name.lower() not in sys.argv[1:]:
                continue
            async with open_site(nodes, folder, users()) as site:
                for trigger in Trigger:
                    began = time.monotonic()
                    cells = await Run(nodes, trigger, site, folder / f"{nodes.name}-{trigger.name}", authority).play()
                    print(f"== {nodes} {trigger} {time.monotonic() - began:.1f}s")
                    for cell in cells:
                        t = cell.tally
                        print(
                            f"{cell.kind:20} sent={t.sent} again={t.resent} ref={t.refused} lost={t.lost} twice={t.twice} dis={t.disordered} res={cell.resumed} {dict(cell.rungs)}"
                        )
                        for f in cell.faults[:3] + cell.traces[:6]:
                            print("      ", f)


trio.run(main)
