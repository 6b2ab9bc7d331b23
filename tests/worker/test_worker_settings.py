"""Every setting that a reload takes: a worker that has taken another value is like one that began with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from object_graph import differences, values_in
from other_values import OTHER
from relay_tools import write_pem

from cxfr_proxy.config.settings import Reload, Setting
from cxfr_proxy.config.table import SETTINGS, Config
from cxfr_proxy.ipc.channel import in_memory
from cxfr_proxy.ipc.messages import VERSION, Setup
from cxfr_proxy.ipc.questions import Files, TakeSettings
from cxfr_proxy.net.certificate_files import key_pairs_of
from cxfr_proxy.net.node_tls import read_node_certificate
from cxfr_proxy.net.pem import read_pairs
from cxfr_proxy.worker.parts import WorkerParts
from cxfr_proxy.worker.reporter import Reporter

TAKEN = [each for each in SETTINGS if each.row.reload is not Reload.RESTART]
NOT_A_WORKERS = {"lookup-cache", "lookup-timeout", "rebalance", "user-map", "log-format", "log-level"}
"""Settings that make no difference to a worker: those of an endpoint without one, those of the supervisor, and those of
the log, which is the process's."""
DEVELOPMENT = "not a certificate"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Texts for the settings that name files, which have to be there."""
    paths: dict[str, str] = {}
    for name, domain in (("certificate", "example.org"), ("node-certificate", "proxy.example")):
        certificate = write_pem(tmp_path, domain)
        key = certificate.with_suffix(".key")
        key.write_text(f"# the same key in another file\n{certificate.read_text()}")
        for path in (certificate, key):
            path.chmod(0o600)
        paths |= {name: str(certificate), name.replace("certificate", "key"): str(key)}
    return {**paths, "certificates": str(tmp_path)}


def config_with(setting: Setting | None, files: dict[str, str], **more: object) -> Config:
    flags: dict[str, object] = {"control": "c.sock", **more}
    if setting is not None:
        text = files.get(setting.name, OTHER[setting.name][0])
        flags[setting.attribute] = [text] if setting.row.repeatable else text
    return Config.from_sources(flags)


def taking(config: Config, development: str, *, version: int = 1, only_try: bool = False) -> TakeSettings:
    content = read_node_certificate(config.node_key_pair).content
    shown = read_pairs(key_pairs_of(config))
    return TakeSettings(version, config, Files(shown, {}, content, None if shown else development), only_try)


def parts_of(config: Config, development: str) -> WorkerParts:
    setup = Setup(VERSION, taking(config, development), number=1, workers=2, first_id=1, capacity=100)
    return WorkerParts(setup, Reporter(in_memory()[0]))


@pytest.fixture
def development(tmp_path: Path) -> str:
    return write_pem(tmp_path, "localhost").read_text()


NEEDS: dict[str, dict[str, object]] = {
    "lookup-cache": {"user_lookup": "http://127.0.0.1:1/x"},
    "lookup-timeout": {"user_lookup": "http://127.0.0.1:1/x"},
}


@pytest.mark.parametrize("setting", TAKEN, ids=lambda setting: setting.name)
async def test_a_worker_that_takes_it_is_like_one_that_began_with_it(
    setting: Setting, files: dict[str, str], development: str
) -> None:
    also: dict[str, object] = dict(NEEDS.get(setting.name, {}))
    if setting.name == "key":
        also["certificate"] = [files["certificate"]]
    if setting.name == "node-key":
        also["node_certificate"] = files["node-certificate"]
    before, after = config_with(None, files, **also), config_with(setting, files, **also)
    parts = parts_of(before, development)
    began, other = values_in(parts_of(after, development)), values_in(parts_of(before, development))
    noise = differences(values_in(parts), other)
    assert noise <= {path for path in noise if "poller" in path or "fd" in path}, noise
    parts.take_settings(taking(after, development, version=1))
    assert differences(values_in(parts), began) - noise == set()
    assert setting.name in NOT_A_WORKERS - NEEDS.keys() or differences(began, other) - noise, "it makes no difference"
