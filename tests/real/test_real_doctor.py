"""The doctor before real servers: sound ones, and some whose configuration has a fault that is planted there."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from real.certs import Authority
from real.ejabberd import EjabberdCluster, version
from real.programs import DOMAIN, HOST, PASSWORD, Need, require
from real.prosody import ProsodyNode
from real.site import Doors

pytestmark = pytest.mark.real

USER = "romeo"
PATIENT = ("node-connect-timeout", "node-greeting-timeout", "tls-handshake-timeout", "negotiation-timeout")
"""The settings that bound what a node may take; the machine may have much else to do."""
PROSODY = ("time", "version")
FIRST_MODERN = (24, 2)
"""ejabberd's version that first has SASL2, and a hash of its mechanisms (XEP-0474)."""
EJABBERD = ("mod_time", "mod_version", "mod_sic")


async def doctor(folder: Path, lines: Sequence[str], *options: str) -> dict[str, Any]:
    """Run the command for these lines of nodes.txt; its answer."""
    (folder / "nodes.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    (folder / "password").write_text(f"{PASSWORD}\n", "utf-8")
    (folder / "password").chmod(0o600)
    account = ("--user", f"{USER}@{DOMAIN}", "--password-file", str(folder / "password"))
    command = (sys.executable, "-m", "cxfr_proxy", "doctor", "--json", "--backends", str(folder / "nodes.txt"))
    patience = [word for name in PATIENT for word in (f"--{name}", "120")]
    with trio.fail_after(600):
        done = await trio.run_process(
            [*command, "--domain", DOMAIN, *account, *patience, *options],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.stderr == b""
    assert PASSWORD.encode() not in done.stdout
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == any(each["severity"] != "note" for each in answer["findings"])
    return answer


def named(answer: dict[str, Any]) -> set[tuple[str, str]]:
    """The findings about nodes: there may be one about this machine."""
    return {(each["rule"], each["node"]) for each in answer["findings"] if each["node"] is not None}


async def test_prosody(tmp_path: Path, authority: Authority) -> None:
    require(Need.PROSODY)
    at = f"{HOST}:{{}}".format
    good, same = (
        ProsodyNode(tmp_path / name, users=[USER], stream_management=True, modules=PROSODY) for name in ("n1", "n2")
    )
    poor = ProsodyNode(
        tmp_path / "n3",
        users=[USER],
        modules=PROSODY,
        settings=['disable_sasl_mechanisms = { "SCRAM-SHA-1" }', "network_settings = { tcp_backlog = 5 }"],
    )
    strange = ProsodyNode(tmp_path / "n4", users=["juliet"], stream_management=True, modules=PROSODY)
    sealed = ProsodyNode(tmp_path / "n5", users=[USER], certificate=authority.issue(DOMAIN), modules=PROSODY)
    async with good, same, poor, strange, sealed:
        sound = await doctor(tmp_path, [f"node1 {at(good.port)}", f"node2 {at(same.port)}"])
        assert named(sound) == set()
        assert sound["nodes"] == [{"node": name, "software": "Prosody"} for name in ("node1", "node2")]
        lines = [
            f"node1 {at(good.port)} resume=shared",
            f"node2 {at(same.port)} resume=shared",
            f"node3 {at(poor.port)}",
            f"node4 {at(strange.port)}",
            f"node5 {at(sealed.port)}",
            f"node6 {at(good.port)} send-proxy=v2",
            f"node7 {at(good.port)} domain=example.com",
            f"node8 {at(sealed.port)} tls=starttls",
            f"node9 {at(sealed.port)} tls=starttls ca={authority.file} verify-name=example.com",
        ]
        answer = await doctor(tmp_path, lines)
    assert named(answer) == {
        *(("resume-not-shared", name) for name in ("node1", "node2")),
        ("mechanisms-differ", "node3"),
        ("stream-management", "node3"),
        ("node-queue", "node3"),
        ("login-refused", "node4"),
        ("tls-required", "node5"),
        ("proxy-header-unexpected", "node6"),
        ("domain-unknown", "node7"),
        ("node-certificate-untrusted", "node8"),
        ("node-certificate-name", "node9"),
    }


async def test_ejabberd(tmp_path: Path, authority: Authority) -> None:
    require(Need.EJABBERD)
    modern = await version() >= FIRST_MODERN
    doors, at = Doors.cut(tmp_path, authority), f"{HOST}:{{}}".format
    async with EjabberdCluster(
        tmp_path / "cluster",
        users=[USER],
        modules=EJABBERD,
        listener=[
            "use_proxy_protocol: true",
            "backlog: 1024",
            *(["allow_unencrypted_sasl2: true"] if modern else []),
        ],
        settings=["disable_sasl_mechanisms: [digest-md5]"],
        doors=[f"{door}    backlog: 5\n    use_proxy_protocol: true\n" for door in doors.listeners],
    ) as cluster:
        ports = [node.port for node in cluster.nodes]
        good = [
            f"node{number} {at(port)} send-proxy=v2 {options}"
            for number, (port, options) in enumerate(zip(ports, doors.options(authority), strict=True), 1)
        ]
        sound = await doctor(tmp_path, good, *doors.settings)
        assert named(sound) == set()
        assert sound["nodes"] == [{"node": name, "software": "ejabberd"} for name in ("node1", "node2")]
        lines = [
            good[0],
            f"node2 {at(ports[1])} resume=shared",
            f"node3 {at(doors.ports[0])} send-proxy=v2 resume=shared tls=direct ca={authority.file}",
            good[1].replace("node2", "node4").replace(str(doors.ports[1]), str(ports[0])),
        ]
        answer = await doctor(tmp_path, lines, *doors.settings)
    protects = {("downgrade-protection", "node3")} if modern else set()
    assert named(answer) == protects | {
        ("proxy-header-missing", "node2"),
        ("channel-binding", "node3"),
        ("node-queue", "node3"),
        ("migrate-refused", "node4"),
    }
