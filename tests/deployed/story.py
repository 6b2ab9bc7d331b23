"""What an operator does with the Debian package under systemd: install it, upgrade it under load and with a new
certificate, stop it, purge it; and what goes wrong meanwhile. Demo nodes and clients are in the machine's network."""

from __future__ import annotations

import json
import random
import re
import ssl
from functools import partial
from pathlib import Path
from typing import Final

import trio
from e2e_proxy import DOMAIN, all_bound, connect
from waiting import until

from cxfr_proxy.demo.account import MessageCounts, judge
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import ClientKind, ClientLogin, Security, Traffic
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.wire import HostPort
from deployed.booted import Machine

ADDRESS: Final = HostPort("127.0.0.1", 5222)
SETTINGS: Final = "etc/cxfr-proxy"
NODES: Final = f"/{SETTINGS}/nodes.txt"
CLIENTS: Final = 40
COME_EVERY_SECONDS: Final = 0.02


class Story:
    """``old`` and ``new`` are packages. Raises ``AssertionError`` where something is not as it has to be."""

    def __init__(self, machine: Machine, old: Path, new: Path, folder: Path) -> None:
        self._machine = machine
        self._packages = [old, new]
        cluster = DemoCluster(shared=True)
        self._nodes = [DemoNode(name, cluster=cluster) for name in ("node1", "node2")]
        self._certificates = [make_certificate(_folder(folder / name), DOMAIN) for name in ("old", "new")]
        # Which certificate is shown is looked at apart from that.
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._clients: list[DemoClient] = []
        self._came = 0

    async def play(self) -> None:
        async with trio.open_nursery() as nursery:
            for node in self._nodes:
                await nursery.start(node.serve)
            await self._install()
            await self._log_in(nursery)
            await self._upgrade(nursery)
            await self._fail_to_upgrade()
            await self._kill()
            await self._stop_and_purge()
            nursery.cancel_scope.cancel()

    # --- the chapters

    async def _install(self) -> None:
        self._machine.call("systemctl", "stop", "prosody", "ejabberd")  # Debian starts servers that are installed
        await self._package(self._packages[0])
        nodes = "".join(f"{node.name} {node.address}\n" for node in self._nodes)
        self._machine.put(NODES, nodes.encode())
        settings = f'backends = "{NODES}"\ncertificates = ["/{SETTINGS}/certificates"]\nrebalance = "manual"\n'
        self._machine.put(f"/{SETTINGS}/settings.toml", settings.encode())
        await self._run("install", "-d", f"/{SETTINGS}/certificates")
        await self._put(self._certificates[0])
        await self._run(
            *("runuser", "--user=cxfr-proxy", "--", "cxfr-proxy", "check", "--connect"),
            *("--domain", DOMAIN, "--config", f"/{SETTINGS}/settings.toml"),
        )
        await self._run("systemctl", "enable", "--now", "cxfr-proxy")
        assert await self._shown_certificate() == self._certificates[0].certificate.read_text()
        print("installed, and serves", flush=True)

    async def _log_in(self, nursery: trio.Nursery) -> None:
        kinds = (
            [kind for kind in ClientKind if kind is not ClientKind.SILENT]
            if hasattr(ClientKind, "SILENT")
            else [*ClientKind]
        )
        self._clients += [
            DemoClient(
                f"talker{number}@{DOMAIN}",
                kinds[number % len(kinds)],
                ADDRESS,
                rng=random.Random(number),
                login=ClientLogin(security=list(Security)[1 + number % 2], tls=self._tls),
                back_off_seconds=0.05,
                traffic=Traffic(0.2),
            )
            for number in range(CLIENTS)
        ]
        async with trio.open_nursery() as starting:
            for client in self._clients:
                starting.start_soon(nursery.start, client.run)

    async def _upgrade(self, nursery: trio.Nursery) -> None:
        """No connection is refused or reset, and no message lost that did not cross with the proxy's last word."""
        before = await self._main()
        async with trio.open_nursery() as comers:
            comers.start_soon(self._come_and_go)
            await self._put(self._certificates[1])
            await self._package(self._packages[1])
            comers.cancel_scope.cancel()
        after = await self._main()
        assert after not in (before, 0)
        assert json.loads(await self._run("cxfr-proxy", "show", "info", "--json"))["pid"] == after
        assert await self._shown_certificate() == self._certificates[1].certificate.read_text()
        await until(lambda: all_bound(self._clients))
        for client in self._clients:
            client.quiet()
        await until(lambda: all(client.account.settled for client in self._clients))
        records = self._nodes[0].cluster.records
        counts = sum((judge(client.account, records) for client in self._clients), MessageCounts())
        late = sum(
            map(int, re.findall(r"\blate=(\d+)", await self._run("journalctl", "--unit=cxfr-proxy", "--output=cat")))
        )
        assert (counts.lost <= late, counts.twice) == (True, 0), (counts, late)
        await self._run("systemctl", "daemon-reload")
        await self._run("systemctl", "reload", "cxfr-proxy")
        assert await self._main() == after
        print(
            f"upgraded: {self._came} logins meanwhile, none refused or reset; {counts}, of them late: {late}",
            flush=True,
        )

    async def _fail_to_upgrade(self) -> None:
        good, before = await self._run("cat", NODES), await self._main()
        self._machine.put(NODES, f"{good}node3\n".encode())
        done = await trio.to_thread.run_sync(partial(self._machine.call, "cxfr-proxy", "upgrade"))
        self._machine.put(NODES, good.encode())
        assert (done.returncode, await self._main()) == (1, before), done
        assert await self._property("ActiveState") == "active"
        print("a failed upgrade has changed nothing", flush=True)

    async def _kill(self) -> None:
        """systemd replaces a main process that is none of its own children."""
        killed = await self._main()
        await self._run("kill", "-9", str(killed))
        while await self._property("ActiveState") != "active" or await self._main() in (0, killed):  # noqa: ASYNC110
            await trio.sleep(0.2)
        assert await self._property("NRestarts") == "1"
        await until(lambda: all_bound(self._clients))
        print("killed, and replaced", flush=True)

    async def _stop_and_purge(self) -> None:
        await self._run("cxfr-proxy", "upgrade")
        await self._run("systemctl", "stop", "cxfr-proxy")
        assert await self._property("Result") == "success"
        journal = await self._run("journalctl", "--unit=cxfr-proxy", "--output=cat", "--lines=50")
        assert " stopped cut=no " in journal, journal
        await self._run("apt-get", "purge", "--yes", "cxfr-proxy")
        assert not (self._machine.root / "usr/lib/cxfr-proxy").exists()
        assert not (self._machine.root / "var/lib/cxfr-proxy").exists()
        print("stopped without cutting anybody, and purged", flush=True)

    # --- what they are made of

    async def _run(self, *words: str) -> str:
        return await trio.to_thread.run_sync(partial(self._machine.run, *words))

    async def _property(self, name: str) -> str:
        return await trio.to_thread.run_sync(self._machine.property, name)

    async def _main(self) -> int:
        return int(await self._property("MainPID"))

    async def _package(self, package: Path) -> None:
        self._machine.put(f"/srv/{package.name}", package.read_bytes())  # noqa: ASYNC240 - nothing else happens
        await self._run("apt-get", "install", "--yes", f"/srv/{package.name}")

    async def _put(self, certificate: DemoCertificate) -> None:
        """Have the proxy use it."""
        for file, name in ((certificate.key, "localhost.key"), (certificate.certificate, "localhost.crt")):
            self._machine.put(f"/srv/{name}", file.read_bytes())
            owned = ("-o", "root", "-g", "cxfr-proxy", "-m", "640")
            await self._run("install", *owned, f"/srv/{name}", f"/{SETTINGS}/certificates/{name}")

    async def _shown_certificate(self) -> str:
        return await trio.to_thread.run_sync(ssl.get_server_certificate, (ADDRESS.host, ADDRESS.port))

    async def _come_and_go(self) -> None:
        while True:
            raw = await connect(ADDRESS, self._tls)
            await raw.log_in(f"comer{self._came}")
            self._came += 1
            await raw.close()
            await trio.sleep(COME_EVERY_SECONDS)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
