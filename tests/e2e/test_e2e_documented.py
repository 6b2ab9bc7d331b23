"""Commands that the pages show are carried out by a proxy that runs: all that look, and orders that end at once."""

from __future__ import annotations

import re
import shlex
from contextlib import aclosing
from pathlib import Path
from typing import Final

from e2e_workers import world
from test_documented_commands import PARSER, SHOWN

from cxfr_proxy.admin.commands.table import Command
from cxfr_proxy.admin.control import client
from cxfr_proxy.cli.parser import joined
from cxfr_proxy.demo.certificate import make_certificate
from cxfr_proxy.errors import ConfigError

LINES: Final = sorted({line for _, line in SHOWN})
KINDS: Final = (
    r"show (?!session |proxies).*",
    r"\w+ .*--plan",
    r"set \S+ \S+",
    r"unset \S+",
    r"pin \S+@\S+ \S+",
    r"unpin \S+@\S+",
    r"drain node1",
    r"abort node1",
    r"undrain node1",
    r"reload",
    r"rebalance",
)
"""In this order: what one does, a later one takes back."""


async def carry_out(control: Path, line: str) -> None:
    """Give the command, as the program does. Raises :class:`ConfigError` for a mistake."""
    words = [word for word in shlex.split(line) if word != "node3"]  # there are two nodes
    flags = joined(vars(PARSER.parse_args(words)))
    command = flags["command"]
    assert isinstance(command, Command)
    given = {each.name: flags[each.name] for each in command.arguments if flags[each.name] is not None}
    async with aclosing(client.call(control, *command.request(given), client.SILENCE_SECONDS)) as answers:
        async for answer in answers:
            if isinstance(answer, client.Result):
                return
    raise AssertionError("no result")


async def test_commands_that_pages_show_are_carried_out(tmp_path: Path) -> None:
    faults = []
    async with world(tmp_path, make_certificate(tmp_path, "localhost")) as it:
        await it.proxy.event("control-listening")
        for kind in KINDS:
            given = [line for line in LINES if re.fullmatch(kind, line)]
            assert given, kind
            for line in given:
                try:
                    await carry_out(it.proxy.control, line)
                except ConfigError as exc:
                    faults.append(f"{line}: {exc}")
    assert faults == []
