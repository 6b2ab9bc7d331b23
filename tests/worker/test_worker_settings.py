"""Every setting that a reload takes: a worker that has taken another value is like one that began with it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from object_graph import differences, values_in
from other_values import OTHER
from relay_tools import write_pem
from trio.testing import wait_all_tasks_blocked

from cxfr_proxy import events
from cxfr_proxy.cluster.assigned import Assigned
from cxfr_proxy.config.settings import Reload, Setting
from cxfr_proxy.config.table import SETTINGS, Config
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.ipc.channel import Channel, in_memory
from cxfr_proxy.ipc.messages import VERSION, Setup
from cxfr_proxy.ipc.questions import Files, TakeSettings
from cxfr_proxy.net.certificate_files import key_pairs_of
from cxfr_proxy.net.node_tls import read_node_certificate
from cxfr_proxy.net.pem import Pem, read_pairs
from cxfr_proxy.worker.parts import WorkerParts
from cxfr_proxy.worker.reporter import Reporter
from cxfr_proxy.worker.user_endpoint import UserEndpoint

TAKEN = [each for each in SETTINGS if each.row.reload is not Reload.RESTART]
NOT_A_WORKERS = {
    "http-certificate",
    "http-host",
    "http-key",
    "http-tokens",
    "log-format",
    "log-level",
    "lookup-cache",
    "lookup-timeout",
    "rebalance",
    "user-map",
}
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


def parts_of(config: Config, development: str, channel: Channel | None = None) -> WorkerParts:
    setup = Setup(VERSION, taking(config, development), number=1, workers=2, first_id=1, capacity=100)
    return WorkerParts(setup, Reporter(channel if channel is not None else in_memory()[0]))


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
    if setting.name == "http-key":
        also["http_certificate"] = files["certificate"]
    if setting.name in ("node-key", "node-stream-management"):
        also["node_certificate"] = files["node-certificate"]
    before, after = config_with(None, files, **also), config_with(setting, files, **also)
    parts = parts_of(before, development)
    began, other = values_in(parts_of(after, development)), values_in(parts_of(before, development))
    noise = differences(values_in(parts), other)
    assert noise <= {path for path in noise if "poller" in path or "fd" in path}, noise
    parts.take_settings(taking(after, development, version=1))
    assert differences(values_in(parts), began) - noise == set()
    assert setting.name in NOT_A_WORKERS - NEEDS.keys() or differences(began, other) - noise, "it makes no difference"


async def test_the_log_of_a_worker_goes_by_its_settings(files: dict[str, str], development: str) -> None:
    stream, root, package = io.StringIO(), logging.getLogger(), logging.getLogger("cxfr_proxy")
    handlers, level = root.handlers[:], package.level
    events.configure(events.LogFormat.TEXT, events.LogLevel.INFO, stream)
    try:
        parts = parts_of(config_with(None, files), development)
        parts.take_settings(taking(config_with(None, files, log_level="debug", log_format="json"), development))
        events.emit(package, "detail", level=logging.DEBUG)
    finally:
        root.handlers[:] = handlers
        package.setLevel(level)
    assert json.loads(stream.getvalue())["event"] == "detail"


async def test_older_settings_than_those_in_use_are_ignored(files: dict[str, str], development: str) -> None:
    """Two messages may come in another order than they were made in."""
    parts = parts_of(config_with(None, files), development)
    new, old = (config_with(None, files, redirect_window=text) for text in ("20s", "10s"))
    parts.take_settings(taking(new, development, version=3))
    parts.take_settings(taking(old, development, version=2))
    assert values_in(parts)["registry.memory._redirect_window"] == 20
    parts.take_settings(taking(old, development, version=4, only_try=True))
    assert values_in(parts)["registry.memory._redirect_window"] == 20


async def test_where_a_certificate_is_no_good_nothing_is_taken(files: dict[str, str], development: str) -> None:
    parts = parts_of(config_with(None, files), development)
    before = values_in(parts)
    config = config_with(None, files, redirect_window="20s", certificate=[files["certificate"]])
    good = taking(config, development, version=2)
    (file,) = good.files.certificates
    bad = (replace(file, pem=Pem("nothing", "nothing")),)
    with pytest.raises(ConfigError, match="expected a certificate in PEM form"):
        parts.take_settings(TakeSettings(2, config, Files(bad, {})))
    assert differences(values_in(parts), before) == set()
    parts.take_settings(good)
    context = parts.certificates.context_for(None)
    parts.take_settings(taking(config, development, version=3))
    assert parts.certificates.context_for(None) is context, "clients resume TLS with the context that began it"


# --- the endpoint for users


@asynccontextmanager
async def endpoint(node: str) -> AsyncIterator[str]:
    """An endpoint that says that every user belongs on that node; its URL."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            while await stream.receive_some():
                head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(node)}\r\n\r\n"
                await stream.send_all(f"{head}{node}".encode())

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/?jid={{jid}}"
        nursery.cancel_scope.cancel()


async def test_another_endpoint_is_asked_from_then_on() -> None:
    assigned = Assigned()
    users = UserEndpoint(assigned, {"node1", "node2"})
    with trio.fail_after(60):
        async with endpoint("node1") as first, endpoint("node2") as second, trio.open_nursery() as nursery:
            await nursery.start(users.run)
            assert users.knows("kim@h"), "nobody is asked"
            await users.find("kim@h")
            for url, node in ((first, "node1"), (second, "node2")):
                users.use(url, timeout=60.0, cache=60.0)
                await wait_all_tasks_blocked()
                assert not users.knows("kim@h")
                await users.find("kim@h")
                assert assigned.node_of("kim@h") == node
            users.use(second, timeout=1.0, cache=0.1)
            assert assigned.node_of("kim@h") == "node2", "the same endpoint: what it has said still holds"
            users.use(None, timeout=1.0, cache=60.0)
            assert assigned.node_of("kim@h") is None
            nursery.cancel_scope.cancel()
