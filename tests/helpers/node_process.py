"""``python node_process.py NAME PORT``: one demo node in a process of its own, for what only a process can do, such as
being stopped. Says its port (0: any) on a line when it serves."""

from __future__ import annotations

import sys

import trio

from cxfr_proxy.demo.node import DemoNode


async def main(name: str, port: int) -> None:
    node = DemoNode(name, port=port)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.serve)
        print(node.address.port, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
