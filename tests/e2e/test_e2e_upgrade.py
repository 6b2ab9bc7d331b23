"""The real command is replaced by a new process while it serves; or is not, and goes on."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from asking import ask, show
from e2e_proxy import DOMAIN, PATIENCE_SECONDS, Command, all_bound, command, connect, nodes_file, running, until
from e2e_talk import PATIENT, balance, come_and_go, talkative
from e2e_workers import world
from fake_manager import FakeManager

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.habits import ClientKind
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.errors import ConfigError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


@contextlib.contextmanager
def successors_ended(proxy: Command) -> Iterator[None]:
    """Kill those that have taken the place of the command at the end of the block."""
    try:
        yield
    finally:
        for line in proxy.log:
            if line.get("event") == "upgrade-begins":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(line["fields"]["pid"], signal.SIGKILL)


async def test_nobody_is_refused_and_nothing_is_lost(tmp_path: Path, certificate: DemoCertificate) -> None:
    """What was ordered holds, no number falls, and no session's number comes twice."""
    async with world(tmp_path, certificate, "--transfer-rate", "50", *PATIENT) as it:
        with successors_ended(it.proxy):
            clients = await talkative(it, [*ClientKind] * 2)
            await ask(it.proxy.control, "pin", jid=f"juliet@{DOMAIN}", node="node2")
            before = await show(it.proxy.control, "info")
            came: list[str] = []
            async with trio.open_nursery() as comers:
                comers.start_soon(come_and_go, it, came)
                it.proxy.process.send_signal(signal.SIGUSR2)
                await it.proxy.event("upgrade-handed-over")
                await it.proxy.event("upgrade-ends")
                at_the_end = len(came)
                await until(lambda: len(came) > at_the_end + 5)
                comers.cancel_scope.cancel()
            assert await it.proxy.process.wait() == 0
            after = await show(it.proxy.control, "info")
            assert (before["pid"], after["state"]) == (it.proxy.process.pid, "serving")
            assert after["pid"] != before["pid"]
            assert [row["user"] for row in await show(it.proxy.control, "pins")] == [f"juliet@{DOMAIN}"]
            await until(lambda: all_bound(clients))
            tally = await balance(it, clients)
            assert (tally.lost, tally.twice) == (0, 0)
            assert not [fault for client in clients for fault in client.faults]
            everybody = {client.full_jid for client in clients}
            await it.proxy.logged("transfer", lambda found: everybody <= {each["jid"] for each in found})
            await counts_agree(it.proxy)
            bound = [each["session"] for each in await it.proxy.event("bound", len(clients))]
            assert len({*bound}) == len(bound), "no session has the number of another one"
            assert it.proxy.silent_about("worker-died", "handover-fault", "handover-unread")


async def counts_agree(proxy: Command) -> None:
    """Wait until the new one has counted each move that either has logged. Both come a little later."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            counted = sum(row["moved"] for row in await show(proxy.control, "nodes"))
            if counted == sum(each["outcome"] == "moved" for each in proxy.so_far("transfer")):
                return
            await trio.sleep(0.05)


async def test_one_that_fails_changes_nothing(tmp_path: Path) -> None:
    """Nor does a program that is none of ours. Afterwards the only worker is replaced with its process, and the service
    manager hears whose the service is before the new process speaks to it."""
    node = DemoNode("node1")
    async with running(node) as nursery:
        file = nodes_file(tmp_path, [node], node1="check=none")
        manager = FakeManager.in_directory(tmp_path)
        within = ("env", f"NOTIFY_SOCKET={manager.address}")
        async with command(nursery, tmp_path, file, "--starttls", "off", "--workers", "1", within=within) as proxy:
            with manager, successors_ended(proxy):
                raw = await connect(proxy.address)
                await raw.log_in("romeo")
                good = file.read_text()
                file.write_text(f"{good}node2\n")
                failed = await ask(proxy.control, "upgrade")
                assert failed["failure"].startswith(f"{file}:2:6: expected an address")
                failed = await ask(proxy.control, "upgrade", **{"with": "/bin/false"})
                assert failed["failure"].startswith("/bin/false has ended with exit code 1")
                file.write_text(good)
                assert (await show(proxy.control, "info"))["sessions"] == 1
                assert not [said for said in manager.heard() if "MAINPID" in said]
                done = await ask(proxy.control, "upgrade")
                assert (done["step"], done["failure"]) == ("done", None)
                heard = [said for said in manager.heard() if not said.startswith("STATUS=")]
                assert heard == [f"MAINPID={done['pid']}", "READY=1"]
                assert "urn:xmpp:cxfr" in await raw.xml() or await raw.error() == "reset"
                assert (await show(proxy.control, "info"))["pid"] == done["pid"] != proxy.process.pid
                again = await connect(proxy.address)
                await again.log_in("romeo")
        nursery.cancel_scope.cancel()


async def test_an_operator_sees_one_proxy(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Clients that do not let themselves be moved are found and kicked where they are. When one of the old workers is
    killed in the midst of it, and then the old process, the new one goes on with its own."""
    options = ("--cxfr-timeout", "10m", "--hard-stop-after", "20m", "--transfer-rate", "1000")
    async with world(tmp_path, certificate, *options) as it:
        with successors_ended(it.proxy):
            await it.log_in(6)
            it.proxy.process.send_signal(signal.SIGUSR2)
            (handed_over,) = await it.proxy.event("upgrade-handed-over")
            await it.log_in(4, "later")
            old, new = it.proxy.process.pid, handed_over["pid"]
            await until_shown(it.proxy, "sessions", 10)
            rows = await show(it.proxy.control, "sessions")
            workers = await show(it.proxy.control, "workers")
            leaving = {row["pid"] for row in workers if row["main_pid"] == old}
            assert [row["main_pid"] for row in workers] == [old, old, None, None]
            states = {row["state"] for row in workers if row["pid"] in leaving}
            assert {"leaving"} <= states <= {"leaving", "gone"}, "one to which the kernel gave nobody ends at once"
            staying = [row for row in rows if row["leaving"] is None]
            going = [row for row in rows if row["leaving"] in leaving]
            assert len(staying) + len(going) == 10
            # An old worker may have taken one of those that came later, before it had heard that it leaves.
            assert {row["jid"] for row in going} >= {f"user{n}@{DOMAIN}/r" for n in range(6)}
            info = await show(it.proxy.control, "info")
            assert (info["pid"], info["sessions"], info["connections"]) == (new, 10, 10)
            details = await show(it.proxy.control, "session", id=rows[0]["id"])
            assert (details["jid"], details["leaving"]) == (rows[0]["jid"], rows[0]["leaving"])
            await until_shown(it.proxy, "transfers", len(going))
            assert await ask(it.proxy.control, "kick", jid=f"user0@{DOMAIN}")
            await until_shown(it.proxy, "sessions", 9)
            with pytest.raises(ConfigError, match="has no session"):
                await ask(it.proxy.control, "kick", jid=f"user0@{DOMAIN}")
            events = await show(it.proxy.control, "events")
            assert f"supervisor of {old}" in {row["process"] for row in events}
            killed = min(leaving)
            with contextlib.suppress(ProcessLookupError):  # it has ended, if the one who was kicked was its last
                os.kill(killed, signal.SIGKILL)
            left = [row for row in rows if row["leaving"] != killed and row["jid"] != f"user0@{DOMAIN}/r"]
            await until_shown(it.proxy, "sessions", len(left))
            with contextlib.suppress(ProcessLookupError):  # so has this one, if nobody is left
                os.kill(old, signal.SIGKILL)
            await it.proxy.event("predecessor-gone")
            await until_shown(it.proxy, "sessions", len(staying))
            assert [row["main_pid"] for row in await show(it.proxy.control, "workers")] == [None, None]
            (raw,) = await it.log_in(1, "last")
            assert await it.pings(raw)


async def until_shown(proxy: Command, what: str, rows: int) -> None:
    """Wait until so many rows are shown."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            if len(await show(proxy.control, what)) == rows:
                return
            await trio.sleep(0.05)
