"""Settings and files that are taken anew: all of it, or nothing; and every worker hears of it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
import trio
from fake_workers import FakeWorker, House, house
from object_graph import differences, values_in
from other_values import OTHER
from relay_tools import write_pem
from shortages import few_descriptors
from trio.testing import MockClock

from cxfr_proxy import events
from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.console.reloads import ReloadPart, ReloadRefused
from cxfr_proxy.admin.http.tokens import make_token
from cxfr_proxy.admin.rows.rows import SettingRow
from cxfr_proxy.config.settings import Reload, Setting
from cxfr_proxy.config.source import ConfigSource
from cxfr_proxy.config.table import SETTINGS, Config
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.ipc.messages import Listed
from cxfr_proxy.ipc.questions import TakeSettings
from cxfr_proxy.proxy import Proxy
from cxfr_proxy.supervisor.supervisor import Supervisor


def told(worker: FakeWorker) -> list[tuple[bool, float]]:
    """What it was asked to take: whether only to try it, and the transfer rate."""
    return [(each.only_try, each.config.transfer_rate) for each in worker.asked(TakeSettings)]


def write(path: Path, text: str) -> None:
    path.write_text(text)


def write_tokens(path: Path, *who: str) -> None:
    """Roles and names in turn."""
    path.touch(mode=0o600)
    named = zip(who[::2], who[1::2], strict=True)
    path.write_text("".join(f"{make_token(Role(role), name)[1]}\n" for role, name in named))


def names_of(it: House) -> list[str] | None:
    """The names of the tokens that let somebody in."""
    tokens = it.supervisor._management._access.tokens
    return [each.name for each in tokens.tokens] if tokens is not None else None


def make(directory: Path) -> None:
    directory.mkdir()


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "proxy.toml"
    path.write_text("transfer-rate = 20\n")
    return path


async def test_every_worker_tries_it_before_any_takes_it(
    tmp_path: Path, settings: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with house(tmp_path, settings=settings) as it:
        assert it.workers[1].setup.taking.config.transfer_rate == 20
        write(settings, "transfer-rate = 50\nworkers = 3\n")
        assert await it.supervisor.console.files.reload() == (
            "2 nodes (unchanged), certificates read again; transfer-rate: taken; "
            "workers: changed, which takes a restart of the proxy"
        )
        for worker in it.workers.values():
            assert told(worker) == [(True, 50), (False, 50)]
            assert worker.asked(TakeSettings)[-1].config.workers == 2
            assert worker.asked(TakeSettings)[-1].config.backends is None
        it.workers[1].die()
        await trio.sleep(5)
        assert it.workers[1].setup.taking == it.workers[2].asked(TakeSettings)[-1]
    assert "settings-taken" in caplog.messages
    assert "settings-not-taken" in caplog.messages


async def test_where_one_worker_can_t_nobody_does(tmp_path: Path, settings: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path, settings=settings) as it:
        it.workers[2].refuses = "no such cipher"
        write(settings, "transfer-rate = 50\n")
        with pytest.raises(ReloadRefused, match="no such cipher"):
            await it.supervisor.console.files.reload()
        assert [told(each) for each in it.workers.values()] == [[(True, 50)]] * 2
        assert rate_of(it) == "20/s"


async def test_every_fault_is_named_and_nothing_is_taken(
    tmp_path: Path, settings: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    users, certificate = tmp_path / "users.txt", write_pem(tmp_path, "example.org")
    write(users, "kim@h node1\n")
    write(settings, f"user-map = '{users}'\ncertificate = '{certificate}'\n")
    async with house(tmp_path, settings=settings) as it:
        before = it.supervisor._management.files.for_workers()
        write(settings, f"user-map = '{users}'\ncertificate = '{certificate}'\ntransfer-rate = 'x'\n")
        write(users, "kim\n")
        write(certificate, "nothing")
        write(it.nodes, "node1 10.0.0.1:x\n")
        with pytest.raises(ReloadRefused) as caught:
            await it.supervisor.console.files.reload()
        assert [(part, Path(exc.file or "").name) for part, exc in caught.value.by_part] == [
            (ReloadPart.SETTINGS, "proxy.toml"),
            (ReloadPart.CERTIFICATES, "example.org.pem"),
            (ReloadPart.USER_MAP, "users.txt"),
            (ReloadPart.NODES, "nodes.txt"),
        ]
        assert it.supervisor._management.files.for_workers() == before
        assert not it.workers[1].asked(TakeSettings)
        caplog.clear()
        it.supervisor.reload_on_signal()
        while caplog.messages.count("reload-failed") < 4:
            await trio.lowlevel.checkpoint()


async def test_every_file_is_looked_at_whatever_is_wrong_in_the_one_before(
    tmp_path: Path, settings: Path, autojump_clock: MockClock
) -> None:
    names = ("first.example", "second.example", "nodes.example", "https.example")
    first, second, for_nodes, https = certificates = [write_pem(tmp_path, name) for name in names]
    for certificate in certificates:
        certificate.chmod(0o600)
    tokens, directory = tmp_path / "tokens.txt", tmp_path / "more"
    write_tokens(tokens, "view", "grafana")
    make(directory)
    (directory / "third.pem").write_bytes(first.read_bytes())
    write(
        settings,
        f"certificate = ['{first}', '{second}']\ncertificates = ['{directory}']\nnode-certificate = '{for_nodes}'\n"
        f"http-certificate = '{https}'\nhttp-tokens = '{tokens}'\n",
    )
    async with house(tmp_path, settings=settings) as it:
        first.unlink()
        for garbled in (second, for_nodes, https):
            write(garbled, "nothing")
        (directory / "third.pem").write_text("nothing")
        write(tokens, "view\nadmin\n")
        cas = [tmp_path / "no-ca1.pem", tmp_path / "no-ca2.pem"]
        write(it.nodes, "".join(f"node{number} 10.0.0.1 tls=direct ca={ca}\n" for number, ca in enumerate(cas)))
        with pytest.raises(ReloadRefused) as caught:
            await it.supervisor.console.files.reload()
        named = [(part, [Path(each.file or "").name for each in exc.errors]) for part, exc in caught.value.by_part]
        assert named == [
            (
                ReloadPart.CERTIFICATES,
                ["first.example.pem", "second.example.pem", "third.pem", "nodes.example.pem", "https.example.pem"],
            ),
            (ReloadPart.HTTP_TOKENS, ["tokens.txt", "tokens.txt"]),
            (ReloadPart.NODES, ["no-ca1.pem", "no-ca2.pem"]),
        ]
        outcomes = it.supervisor._management.reloads.outcomes
        assert {part for part, outcome in outcomes.items() if not outcome.worked} == {part for part, _ in named}


async def test_each_fault_that_workers_find_is_named_once(
    tmp_path: Path, settings: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path, settings=settings) as it:
        it.workers[1].refuses, it.workers[2].refuses = "no such cipher", "no such cipher\nno such curve"
        with pytest.raises(ReloadRefused) as caught:
            await it.supervisor.console.files.reload()
        assert [str(each) for each in caught.value.errors] == ["no such cipher", "no such curve"]


def test_a_proxy_that_can_t_start_names_all_of_its_certificates(tmp_path: Path, settings: Path) -> None:
    write(
        settings,
        f"backends = '{tmp_path}/nodes.txt'\n"
        f"certificate = ['{tmp_path}/a.pem', '{tmp_path}/b.pem']\nkey = '{tmp_path}/a.key'\n"
        f"node-certificate = '{tmp_path}/c.pem'\nhttp-certificate = '{tmp_path}/d.pem'\n",
    )
    with pytest.raises(ConfigError) as caught:
        Proxy(ConfigSource({"config": str(settings)}).read())
    assert [Path(each.file or "").name for each in caught.value.errors] == ["a.pem", "a.key", "b.pem", "c.pem", "d.pem"]


async def test_tokens_are_taken_with_the_rest(tmp_path: Path, settings: Path, autojump_clock: MockClock) -> None:
    tokens = tmp_path / "tokens.txt"
    async with house(tmp_path, settings=settings) as it:
        assert names_of(it) is None
        write_tokens(tokens, "view", "grafana")
        write(settings, f"http-tokens = '{tokens}'\n")
        assert "http-tokens: taken" in await it.supervisor.console.files.reload()
        assert names_of(it) == ["grafana"]
        write(tokens, "view grafana\n")
        with pytest.raises(ReloadRefused, match=r"tokens\.txt:1:6: expected a role, a name and a digest") as caught:
            await it.supervisor.console.files.reload()
        assert [part for part, _ in caught.value.by_part] == [ReloadPart.HTTP_TOKENS]
        assert names_of(it) == ["grafana"], "as before"
        write_tokens(tokens, "view", "grafana", "admin", "alice")
        await trio.sleep(5)
        assert names_of(it) == ["grafana", "alice"], "a changed file is taken by itself"
        tokens.chmod(0o644)
        with pytest.raises(ReloadRefused, match="nobody else can read"):
            await it.supervisor.console.files.reload()
        write(settings, "transfer-rate = 20\n")
        await it.supervisor.console.files.reload()
        assert names_of(it) is None


async def test_a_token_that_is_taken_out_is_worth_nothing_whatever_else_is_wrong(
    tmp_path: Path, settings: Path, autojump_clock: MockClock
) -> None:
    tokens = tmp_path / "tokens.txt"
    write_tokens(tokens, "view", "grafana", "admin", "mallory")
    write(settings, f"http-tokens = '{tokens}'\n")
    async with house(tmp_path, settings=settings) as it:
        assert names_of(it) == ["grafana", "mallory"]
        write(it.nodes, "node1 10.0.0.1:x\n")
        write_tokens(tokens, "view", "grafana")
        await trio.sleep(5)
        assert names_of(it) == ["grafana"]
        write_tokens(tmp_path / "others.txt", "view", "bob")
        write(settings, f"http-tokens = '{tmp_path / 'others.txt'}'\n")
        await trio.sleep(5)
        assert names_of(it) == ["grafana"], "a setting that is not taken names no tokens"


async def test_what_somebody_has_seen_who_is_gone_is_read_again(
    tmp_path: Path, settings: Path, autojump_clock: MockClock
) -> None:
    tokens = tmp_path / "tokens.txt"
    write_tokens(tokens, "view", "grafana", "admin", "mallory")
    write(settings, f"http-tokens = '{tokens}'\n")
    async with house(tmp_path, settings=settings) as it:
        write_tokens(tokens, "view", "grafana")
        with trio.CancelScope() as scope:
            scope.cancel()
            await it.supervisor.console.files.reload()
        assert names_of(it) == ["grafana", "mallory"]
        await trio.sleep(5)
        assert names_of(it) == ["grafana"]


async def test_nodes_that_are_good_are_followed_although_settings_are_not(
    tmp_path: Path, settings: Path, autojump_clock: MockClock
) -> None:
    """They are followed anyway: what was read for nothing is not lost."""
    async with house(tmp_path, settings=settings) as it:
        write(settings, "transfer-rate = 0\n")
        write(it.nodes, "node1 10.0.0.1 check=none\nnode3 10.0.0.3 check=none\n")
        with pytest.raises(ReloadRefused):
            await it.supervisor.console.files.reload()
        assert [row.name for row in await it.supervisor.console.nodes.rows()] == ["node1", "node2"]
        await trio.sleep(5)
        assert [row.name for row in await it.supervisor.console.nodes.rows()] == ["node1", "node3"]


def rate_of(it: House) -> str:
    return row_of(it, "transfer-rate").value


def row_of(it: House, name: str) -> SettingRow:
    (row,) = (row for row in it.supervisor.console.settings.rows() if row.name == name)
    return row


async def test_what_is_set_stays_until_it_is_unset(tmp_path: Path, settings: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path, settings=settings) as it:
        console = it.supervisor.console.settings
        assert row_of(it, "transfer-rate").source == f"{settings}:1"
        assert await console.set("transfer-rate", ["50"]) == "transfer-rate is 50/s now, until the proxy is restarted"
        assert [told(each) for each in it.workers.values()] == [[(True, 50), (False, 50)]] * 2
        row = row_of(it, "transfer-rate")
        assert (row.value, row.default, row.source, row.changeable) == ("50/s", "100/s", "set", "at once")
        write(settings, "transfer-rate = 30\nmax-depth = 32\n")
        await it.supervisor.console.files.reload()
        assert (rate_of(it), row_of(it, "max-depth").value) == ("50/s", "32")
        assert await console.unset("transfer-rate") == "transfer-rate is 30/s now, as before it was set"
        assert row_of(it, "transfer-rate").source == f"{settings}:1"
        with pytest.raises(ConfigError, match="transfer-rate is not set"):
            await console.unset("transfer-rate")


@pytest.mark.parametrize(
    ("name", "given", "fault"),
    [
        ("transfer-rate", ["fast"], "transfer-rate: expected a number per second above 0, found 'fast'"),
        ("transfer-rate", ["1", "2"], "transfer-rate: expected one value, found 2"),
        ("transfer-rat", ["1"], "unknown setting 'transfer-rat'; did you mean 'transfer-rate'?"),
        ("listen", ["*:1"], "listen takes a restart of the proxy"),
        ("certificate", ["none.pem"], "none.pem: cannot be read"),
        ("key", ["none.pem"], "expected at most one for each --certificate"),
        ("user-map", ["none.txt"], "none.txt: expected a readable list of users"),
    ],
)
async def test_what_can_t_be_set_changes_nothing(
    name: str, given: Sequence[str], fault: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path) as it:
        with pytest.raises(ConfigError, match=fault.replace("?", r"\?")):
            await it.supervisor.console.settings.set(name, given)
        assert not it.workers[1].asked(TakeSettings)
        assert {row.source for row in it.supervisor.console.settings.rows()} <= {"default", "program"}


async def test_what_is_set_reads_no_other_file(tmp_path: Path, settings: Path, autojump_clock: MockClock) -> None:
    """A rate has to be changed in a hurry, whatever else is wrong at the moment."""
    async with house(tmp_path, settings=settings) as it:
        write(settings, "nonsense")
        write(it.nodes, "node1 nonsense:x\n")
        outcomes = dict(it.supervisor._management.reloads.outcomes)
        await it.supervisor.console.settings.set("transfer-rate", ["50"])
        assert rate_of(it) == "50/s"
        assert dict(it.supervisor._management.reloads.outcomes) == outcomes, "nothing was read again"


async def test_a_list_is_set_to_nothing(tmp_path: Path, settings: Path, autojump_clock: MockClock) -> None:
    write(settings, "domain = ['a.example', 'b.example']\n")
    async with house(tmp_path, settings=settings) as it:
        assert (await it.supervisor.console.settings.set("domain", ["none"])).startswith("domain is none now")
        assert it.workers[1].asked(TakeSettings)[-1].config.domain == ()


async def test_a_value_that_waits_is_not_where_the_one_in_use_is_from(
    tmp_path: Path, settings: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path, settings=settings) as it:
        before = row_of(it, "workers")
        write(settings, "transfer-rate = 20\nworkers = 3\n")
        await it.supervisor.console.files.reload()
        assert row_of(it, "workers") == before


async def test_a_reload_whose_asker_has_gone_loses_no_change(
    tmp_path: Path, settings: Path, autojump_clock: MockClock
) -> None:
    """The user map was read by then, and the next look has to find it changed still."""
    users = tmp_path / "users.txt"
    write(users, "kim@h node1\n")
    write(settings, f"user-map = '{users}'\n")
    async with house(tmp_path, settings=settings) as it:
        worker = it.workers[1]
        before = len(worker.of(Listed))
        write(users, "kim@h node2\n")
        worker.hangs = True
        with trio.move_on_after(1):
            await it.supervisor.console.files.reload()
            pytest.fail("a worker has not answered")
        assert len(worker.of(Listed)) == before
        for _ in range(10_000):  # seconds of the test's clock, which doesn't wait for the thread that reads
            if len(worker.of(Listed)) > before:
                break
            await trio.sleep(1)
        assert len(worker.of(Listed)) > before


async def test_a_worker_that_is_starting_hears_of_it(tmp_path: Path, settings: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path, settings=settings) as it:
        it.greet = False
        it.workers[1].die()
        await trio.sleep(1)
        (starting,) = (each for each in it.all if each.alive and each.setup.number == 1)
        assert starting.setup.taking.config.transfer_rate == 20
        await it.supervisor.console.settings.set("transfer-rate", ["50"])
        await trio.sleep(1)
        assert told(starting) == [(False, 50)]


async def test_the_log_goes_by_its_settings(tmp_path: Path, autojump_clock: MockClock) -> None:
    stream, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], logging.getLogger("cxfr_proxy").level
    events.configure(events.LogFormat.TEXT, events.LogLevel.ERROR, stream)
    try:
        async with house(tmp_path) as it:
            await it.supervisor.console.settings.set("log-level", ["debug"])
            await it.supervisor.console.settings.set("log-format", ["json"])
    finally:
        root.handlers[:] = handlers
        logging.getLogger("cxfr_proxy").setLevel(level)
    text, line = [line for line in stream.getvalue().splitlines() if "settings-taken" in line]
    assert text.endswith("settings-taken settings=log-level")
    assert json.loads(line)["fields"] == {"settings": "log-format"}


# --- files that are followed


def shown(worker: FakeWorker) -> list[str]:
    """The files of the certificates that it is to show."""
    taking = [worker.setup.taking, *(each for each in worker.asked(TakeSettings) if not each.only_try)][-1]
    return [each.pair.certificate.name for each in taking.files.certificates]


async def test_a_directory_of_certificates_is_followed(
    tmp_path: Path, settings: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "certificates"
    make(directory)
    write_pem(directory, "a.example")
    write(settings, f"certificates = '{directory}'\n")
    async with house(tmp_path, settings=settings) as it:
        worker = it.workers[1]
        assert shown(worker) == ["a.example.pem"]
        write_pem(directory, "b.example")
        await trio.sleep(5)
        assert shown(worker) == ["a.example.pem", "b.example.pem"]
        (directory / "a.example.pem").unlink()
        await trio.sleep(5)
        assert shown(worker) == ["b.example.pem"]
        write(directory / "c.example.pem", "not there yet")
        await trio.sleep(5)
        assert shown(worker) == ["b.example.pem"]
        write_pem(directory, "c.example")
        await trio.sleep(5)
        assert shown(worker) == ["b.example.pem", "c.example.pem"]
    failed = [record for record in caplog.records if record.message == "reload-failed"]
    assert len(failed) == 1, "what is wrong is not tried again until it has changed"


async def test_a_directory_that_is_new_is_read_once(tmp_path: Path, settings: Path, autojump_clock: MockClock) -> None:
    """Together with the setting that names it, whichever way that comes; and followed from then on."""
    directory = tmp_path / "certificates"
    make(directory)
    write_pem(directory, "a.example")
    async with house(tmp_path, settings=settings) as it:
        worker = it.workers[1]
        write(settings, f"certificates = '{directory}'\n")
        await it.supervisor.console.files.reload()
        await trio.sleep(5)
        assert (len(told(worker)), shown(worker)) == (2, ["a.example.pem"])
        await it.supervisor.console.settings.set("certificates", [str(make_another(tmp_path))])
        await trio.sleep(5)
        assert (len(told(worker)), shown(worker)) == (4, ["c.example.pem"])
        write_pem(tmp_path / "others", "d.example")
        await trio.sleep(5)
        assert (len(told(worker)), shown(worker)) == (6, ["c.example.pem", "d.example.pem"])


def make_another(folder: Path) -> Path:
    make(folder / "others")
    write_pem(folder / "others", "c.example")
    return folder / "others"


async def test_a_change_is_not_lost_in_an_order_that_does_not_read_it(
    tmp_path: Path, settings: Path, autojump_clock: MockClock
) -> None:
    directory = tmp_path / "certificates"
    make(directory)
    write_pem(directory, "a.example")
    write(settings, f"certificates = '{directory}'\n")
    async with house(tmp_path, settings=settings) as it:
        write_pem(directory, "b.example")
        await it.supervisor.console.settings.set("transfer-rate", ["50"])
        assert shown(it.workers[1]) == ["a.example.pem"]
        await trio.sleep(5)
        assert shown(it.workers[1]) == ["a.example.pem", "b.example.pem"]


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("more", [[], ["b.example.pem"]])
async def test_what_could_not_be_read_for_want_of_descriptors_is_read_by_and_by(
    tmp_path: Path,
    settings: Path,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    asks: bool,
    more: list[str],
) -> None:
    """A certificate is renewed once: it would expire if it were refused for good."""
    users, directory, pair = tmp_path / "users.txt", tmp_path / "certificates", write_pem(tmp_path, "first.example")
    make(directory)
    write_pem(directory, "a.example")
    write(users, "kim@h node1\n")
    certificates = f"certificates = '{directory}'\n" if more else ""
    write(settings, f"user-map = '{users}'\n{certificates}http-certificate = '{pair}'\n")
    async with house(tmp_path, settings=settings) as it:
        worker, https = it.workers[1], it.supervisor._management._access.certificate
        before = shown(worker)
        await trio.sleep(5)
        pair.write_bytes(write_pem(tmp_path, "second.example").read_bytes())
        write_pem(directory, "b.example")
        write(it.nodes, "node3 10.0.0.3 check=none\n")
        write(users, "kim@h node3\nromeo@h node3\n")
        with few_descriptors():
            if asks:
                with pytest.raises(ReloadRefused, match="Too many open files"):
                    await it.supervisor.console.files.reload()
            await trio.sleep(20)
            assert shown(worker) == before
            assert [row.name for row in await it.supervisor.console.nodes.rows()] == ["node1", "node2"]
        failed = [record.message for record in caplog.records if record.message == "reload-failed"]
        assert len(failed) < 10, "not once a second"
        await trio.sleep(70)
        assert shown(worker) == [*before, *more]
        assert https.names("second.example")
        assert [row.name for row in await it.supervisor.console.nodes.rows()] == ["node3"]
        assert len(it.supervisor._management.users._assigned.listed) == 2
    assert "fault" not in caplog.messages


async def test_what_a_worker_could_not_use_is_tried_again(
    tmp_path: Path, settings: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its files are good: this process has tried them. It is workers that have nearly all of the descriptors."""
    directory = tmp_path / "certificates"
    make(directory)
    write_pem(directory, "a.example")
    write(settings, f"certificates = '{directory}'\n")
    async with house(tmp_path, settings=settings) as it:
        it.workers[2].refuses = "certificate and key can't be handed to OpenSSL: Too many open files"
        write_pem(directory, "b.example")
        await trio.sleep(20)
        assert caplog.messages.count("reload-failed") == 1
        it.workers[2].refuses = None
        await trio.sleep(70)
        assert shown(it.workers[2]) == ["a.example.pem", "b.example.pem"]


async def test_a_list_that_a_command_had_no_descriptor_for_is_followed(
    tmp_path: Path, settings: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path, settings=settings) as it:
        write(it.nodes, "node3 10.0.0.3 check=none\n")
        with few_descriptors(), pytest.raises(ReloadRefused, match="Too many open files"):
            await it.supervisor.console.files.reload()
        await trio.sleep(5)
        assert [row.name for row in await it.supervisor.console.nodes.rows()] == ["node3"]


async def test_a_signal_that_found_few_descriptors_counts_by_and_by(
    tmp_path: Path, settings: Path, autojump_clock: MockClock
) -> None:
    """Nobody reads an answer to it, and this file is followed by nobody."""
    pair = write_pem(tmp_path, "first.example")
    write(settings, f"certificate = '{pair}'\n")
    async with house(tmp_path, settings=settings) as it:
        pair.write_bytes(write_pem(tmp_path, "second.example").read_bytes())
        with few_descriptors():
            it.supervisor.reload_on_signal()
            await trio.sleep(5)
        certificates = it.supervisor._management.files.certificates
        assert certificates.shown.names("first.example")
        await trio.sleep(70)
        assert certificates.shown.names("second.example")


async def test_the_certificate_of_https_is_followed(
    tmp_path: Path, settings: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = write_pem(tmp_path, "proxy.example.net"), write_pem(tmp_path, "other.example")
    async with house(tmp_path, settings=settings) as it:
        certificate = it.supervisor._management._access.certificate
        assert certificate.context is None
        write(settings, f"http-certificate = '{path}'\n")
        assert "http-certificate: taken" in await it.supervisor.console.files.reload()
        assert certificate.names("proxy.example.net")
        write(path, "half of it")
        await trio.sleep(5)
        assert certificate.names("proxy.example.net"), "as before"
        path.write_bytes(other.read_bytes())
        await trio.sleep(5)
        assert certificate.names("other.example")
        expiries = it.supervisor._management.about._http_certificate.expiries
        assert [*expiries] == [str(path)]
        write(settings, "transfer-rate = 20\n")
        await trio.sleep(5)
        assert certificate.context is None
    assert [each.message for each in caplog.records if each.levelno >= logging.ERROR] == ["reload-failed"]


async def test_a_renewed_certificate_is_not_lost_because_nodes_could_not_be_read(
    tmp_path: Path, settings: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = write_pem(tmp_path, "proxy.example.net"), write_pem(tmp_path, "other.example")
    write(settings, f"http-certificate = '{path}'\n")
    async with house(tmp_path, settings=settings) as it:
        certificate, nodes = it.supervisor._management._access.certificate, it.nodes.read_text()
        write(it.nodes, "node1 10.0.0.1:x\n")
        await trio.sleep(5)
        path.write_bytes(other.read_bytes())
        await trio.sleep(10)
        assert certificate.names("proxy.example.net"), "all of it, or nothing"
        assert caplog.messages.count("reload-failed") == 2, "once for the nodes, once for all"
        write(it.nodes, nodes)
        await trio.sleep(60)
        assert certificate.names("other.example")
        assert caplog.messages.count("reload-failed") == 2


async def test_the_settings_file_is_followed_once_it_has_come_to_rest(
    tmp_path: Path, settings: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path, settings=settings) as it:
        for number in range(1, 8):
            write(settings, f"transfer-rate = 50\n{'#' * number}")
            await trio.sleep(0.9)
            assert rate_of(it) == "20/s"
        await trio.sleep(5)
        assert rate_of(it) == "50/s"
        assert told(it.workers[1]) == [(True, 50), (False, 50)]
        write(settings, "transfer-rate = 60\n")
        await it.supervisor.console.files.reload()
        await trio.sleep(5)
        assert told(it.workers[1])[2:] == [(True, 60), (False, 60)], "it is not read twice"


# --- every setting


TAKEN = [each for each in SETTINGS if each.row.reload is not Reload.RESTART]
NOT_THE_SUPERVISOR_S = "a worker's alone"


class NoWorkers:
    async def launch(self, listening: object) -> object:
        raise AssertionError


async def supervisor_with(config: Config, source: ConfigSource | None = None) -> Supervisor:
    it = Supervisor(config, NoWorkers(), source)  # type: ignore[arg-type]
    await it._management.begin()
    return it


@pytest.mark.parametrize("setting", TAKEN, ids=lambda setting: setting.name)
async def test_a_supervisor_that_takes_it_is_like_one_that_began_with_it(setting: Setting, tmp_path: Path) -> None:
    first, second = write_pem(tmp_path, "example.org"), write_pem(tmp_path, "other.example")
    for path in (first, second):
        path.chmod(0o600)
    users, nodes = tmp_path / "users.txt", tmp_path / "nodes.txt"
    tokens = tmp_path / "tokens.txt"
    write(users, "kim@example.org node1\n")
    write(nodes, "node1 10.0.0.1 check=none\n")
    write_tokens(tokens, "view", "viewer")
    files = {
        "http-certificate": second,
        "http-key": second,
        "http-tokens": tokens,
        "certificate": second,
        "key": first,
        "node-certificate": second,
        "node-key": second,
        "user-map": users,
        "certificates": tmp_path,
    }
    flags: dict[str, object] = {"backends": str(nodes), "control": str(tmp_path / "c.sock"), "workers": "2"}
    flags |= {"certificate": [str(first)], "listen": ["127.0.0.1:0"]}
    if setting.name in ("node-key", "node-stream-management"):
        flags["node_certificate"] = str(second)
    if setting.name == "http-key":
        flags["http_certificate"] = str(second)
    text = str(files.get(setting.name, OTHER[setting.name][0]))
    source = ConfigSource(flags)
    taken = await supervisor_with(source.read(), source)
    before = values_in(await supervisor_with(source.read(), source))
    wanted = ConfigSource({**flags, setting.attribute: [text] if setting.row.repeatable else text})
    began = values_in(await supervisor_with(wanted.read(), wanted))
    await taken.console.settings.set(setting.name, [text])
    left = differences(values_in(taken), began) - differences(before, values_in(await supervisor_with(source.read())))
    assert not [path for path in left if not is_history(path)]


def is_history(path: str) -> bool:
    """Whether it tells how a supervisor came to where it is: versions, origins, readings, times."""
    return any(word in path for word in _HISTORY)


_HISTORY: Final = ("_settings.", "version", "outcomes", "_worked_out", "_loaded", "._bucket._at", "_seen")
