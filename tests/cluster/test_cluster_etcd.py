"""The source of nodes that several proxies share, on an etcd in memory and a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from fake_etcd import URL, FakeEtcd, backends, encoded
from trio.testing import MockClock

from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.cluster.shared import Directive, ProxyState
from cxfr_proxy.cluster.sources.etcd import EtcdSource
from cxfr_proxy.errors import ConfigError


@pytest.fixture
def etcd() -> FakeEtcd:
    it = FakeEtcd()
    it.put("/cxfr/nodes/a", "10.0.0.1")
    it.put("/cxfr/nodes/b", "10.0.0.2 weight=2")
    return it


@asynccontextmanager
async def running(etcd: FakeEtcd, *names: str) -> AsyncIterator[list[EtcdSource]]:
    """Proxies that have read once and keep up."""
    sources = [EtcdSource(backends(), transport=etcd.transport, identity=name) for name in names or ("one",)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(etcd.expire)
        for source in sources:
            await source.read()
            nursery.start_soon(source.run)
        await settle()
        yield sources
        nursery.cancel_scope.cancel()


async def settle(seconds: float = 0.5) -> None:
    """Let everything happen that happens soon."""
    await trio.sleep(seconds)


async def admin_states(source: EtcdSource) -> dict[str, str]:
    return {spec.name: str(spec.admin_state) for spec in (await source.next_reading()).specs}


def shares(*sources: EtcdSource) -> list[float]:
    return [round(source.share, 3) for source in sources]


# --- nodes


async def test_nodes(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with running(etcd) as (source,):
        await source.next_reading()
        etcd.put("/cxfr/nodes/c", "10.0.0.3 priority=1")
        assert [spec.name for spec in (await source.next_reading()).specs] == ["a", "b", "c"]
        etcd.put("/cxfr/nodes/a", None)
        assert [spec.name for spec in (await source.next_reading()).specs] == ["b", "c"]
        etcd.put("/other/nodes/z", "10.0.0.9")
        with trio.move_on_after(30) as waiting:
            await source.next_reading()
        assert waiting.cancelled_caught  # nothing of ours has changed


async def test_a_list_of_many_pages(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    for number in range(2500):
        etcd.put(f"/cxfr/pins/user{number:04}@example.org", "a")
    async with running(etcd) as (source,):
        assert len(source.pins) == 2500
        assert [body["revision"] for path, body in etcd.asked if path == "kv/range"][:3] == [0, 2503, 2503]


async def test_no_nodes_is_no_reading(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with running(etcd) as (source,):
        await source.next_reading()
        for name in "ab":
            etcd.put(f"/cxfr/nodes/{name}", None)
        await settle()
        with pytest.raises(ConfigError, match="as /cxfr/nodes/NAME, found none"):
            await source.next_reading()


async def test_any_endpoint_will_do(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    etcd.down = {"etcd1"}
    async with running(etcd) as (source,):
        assert source.status.lost_at is None
        etcd.down = {"etcd2"}
        etcd.break_watches()
        await settle()
        assert source.status.reason == "etcd2:2379: the connection has ended"
        await settle(1)
        assert source.status.lost_at is None  # it is the other's turn
    etcd.down = {"etcd1", "etcd2"}
    source = EtcdSource(backends(), transport=etcd.transport)
    with pytest.raises(ConfigError, match=f"{URL}: etcd2:2379: connection refused"):
        await source.read()
    await source.aclose()


# --- orders


async def test_an_order_reaches_all_and_its_own_proxy_at_once(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with running(etcd, "one", "two") as (one, two):
        await one.next_reading()
        await two.next_reading()
        order = Directive(AdminState.DRAIN, grace_end=10.0, deadline=20.5)
        one.set_directive("a", order)
        assert await admin_states(one) == {"a": "drain", "b": "ready"}
        assert await admin_states(two) == {"a": "drain", "b": "ready"}
        reading = await one.read()
        assert reading.directives["a"] == Directive(
            AdminState.DRAIN, grace_end=10.0, deadline=20.5, against=AdminState.READY
        )
        assert one.pending == 0
        one.set_directive("unheard", order)
        assert one.pending == 0


async def test_while_it_is_written_nothing_flickers(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    """The echo of an order comes when there is already another one."""
    async with running(etcd) as (source,):
        await source.next_reading()
        etcd.delay = 0.5
        seen: set[str] = set()
        source.set_directive("a", Directive(AdminState.DRAIN))
        await settle(0.3)
        source.set_directive("a", Directive(AdminState.READY))
        with trio.move_on_after(5):
            while True:
                seen.add((await admin_states(source))["a"])
        assert seen == {"ready"}
        assert (etcd.value("/cxfr/states/a") or "").startswith('{"admin_state": "ready"')


async def test_nor_while_it_comes_back(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    """It is written, and the watch doesn't say so yet."""
    async with running(etcd) as (source,):
        await source.next_reading()
        etcd.watch_delay = 1.0
        source.set_directive("a", Directive(AdminState.DRAIN))
        seen: set[str] = set()
        with trio.move_on_after(5):
            while True:
                seen.add((await admin_states(source))["a"])
        assert seen == {"drain"}


async def test_changes_that_come_late_undo_nothing(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    """An operator has had everything read meanwhile."""
    async with running(etcd) as (source,):
        etcd.watch_delay = 1.0
        etcd.put("/cxfr/states/a", "maint")
        await settle(0.2)
        etcd.put("/cxfr/states/a", "ready")
        await source.read()
        seen: set[str] = set()
        with trio.move_on_after(5):
            while True:
                seen.add((await admin_states(source))["a"])
        assert seen == {"ready"}


async def test_nor_does_a_reading_that_comes_late(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    """The other way round: the watch has brought what happened while everything was being read."""
    async with running(etcd) as (source,):
        old = dict(etcd.keys), etcd.revision

        def as_it_was(body: dict[str, object]) -> dict[str, object]:
            keys, revision = old
            kvs = [{"key": encoded(key), "value": encoded(each.value), "mod_revision": 1} for key, each in keys.items()]
            return {"header": {"revision": revision}, "kvs": kvs}

        etcd.answers["kv/range"] = as_it_was
        etcd.put("/cxfr/states/a", "maint")
        await settle()
        assert (await source.read()).specs[0].admin_state is AdminState.MAINT


async def test_an_order_of_a_time_without_etcd_is_written_later(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with running(etcd) as (source,):
        etcd.down = {"etcd1", "etcd2"}
        etcd.break_watches()
        await settle()
        source.set_directive("a", Directive(AdminState.MAINT))
        source.set_pin("juliet@example.org", "b")
        assert await admin_states(source) == {"a": "maint", "b": "ready"}
        assert (source.pending, source.pins) == (2, {"juliet@example.org": "b"})
        assert etcd.value("/cxfr/states/a") is None
        etcd.down = set()
        await settle(20)
        assert (source.pending, source.pins) == (0, {"juliet@example.org": "b"})
        assert (etcd.value("/cxfr/states/a") or "").startswith('{"admin_state": "maint"')


async def test_what_somebody_else_has_said_meanwhile_holds(
    etcd: FakeEtcd, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(etcd) as (source,):
        etcd.down = {"etcd1", "etcd2"}
        etcd.break_watches()
        await settle()
        source.set_directive("a", Directive(AdminState.MAINT))
        etcd.put("/cxfr/states/a", "drain")
        etcd.down = set()
        await settle(20)
        assert await admin_states(source) == {"a": "drain", "b": "ready"}
        assert etcd.value("/cxfr/states/a") == "drain"
        assert "command-overtaken" in [record.getMessage() for record in caplog.records]


async def test_an_answer_that_got_lost_is_no_overtaking(
    etcd: FakeEtcd, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It was written, and then etcd was gone: what stands there is our own."""
    async with running(etcd) as (source,):

        def write_and_fail(body: dict[str, object]) -> None:
            etcd._kv_txn(body)
            del etcd.answers["kv/txn"]
            raise OSError("reset")

        etcd.answers["kv/txn"] = write_and_fail
        source.set_directive("a", Directive(AdminState.DRAIN))
        await settle(20)
        assert source.pending == 0
        assert [record.getMessage() for record in caplog.records] == ["source-lost"]
        assert await admin_states(source) == {"a": "drain", "b": "ready"}


# --- the pace


async def test_shares(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with running(etcd, "one", "two") as (one, two):
        await settle(10)
        assert shares(one, two) == [0.5, 0.5]
        one.report(ProxyState(100, 30))
        two.report(ProxyState(100, 10))
        await settle(3)
        assert shares(one, two) == [0.725, 0.275]  # 5 % each, and 3 to 1
        one.report(ProxyState(100, 0))
        await settle(3)
        assert shares(one, two) == [0.05, 0.95]


async def test_one_that_dies_gives_its_share_back(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with running(etcd, "one") as (one,):
        await settle(10)
        told: list[float] = []
        one.on_share = told.append
        lease = etcd._lease_grant({"TTL": 5})["ID"]
        etcd.put("/cxfr/proxies/two", ProxyState().encode(), int(lease))
        await settle()
        assert told == [0.5]
        await settle(4)
        assert told == [0.5]
        await settle(2)
        assert told == [0.5, 1.0]


async def test_one_that_stops_says_so(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with running(etcd, "one"):
        assert etcd.value("/cxfr/proxies/one") is not None
    assert etcd.value("/cxfr/proxies/one") is None


async def test_without_etcd_nobody_takes_more_and_after_it_not_at_once(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    async with running(etcd, "one", "two") as (one, two):
        await settle(10)
        etcd.down = {"etcd1", "etcd2"}
        etcd.break_watches()
        await settle(20)
        assert not [key for key in etcd.keys if "proxies" in key]  # their leases are over
        assert shares(one, two) == [0.5, 0.5]
        etcd.down = set()
        highest = 0.0
        for _ in range(300):
            await trio.sleep(0.1)
            highest = max(highest, one.share + two.share)
        assert highest == 1.0
        assert shares(one, two) == [0.5, 0.5]


# --- etcd away, slow, or not in order


async def test_it_says_once_that_it_is_lost(
    etcd: FakeEtcd, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cxfr_proxy")
    async with running(etcd) as (source,):
        etcd.down = {"etcd1", "etcd2"}
        etcd.break_watches()
        await settle(60)
        with pytest.raises(ConfigError, match="connection refused"):
            await source.read()
        assert [record.getMessage() for record in caplog.records] == ["source-lost"]
        etcd.down = set()
        await settle(15)
        assert [record.getMessage() for record in caplog.records] == ["source-lost", "source-back"]


async def test_a_slow_one_is_away(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with running(etcd) as (source,):
        etcd.delay = 1.0
        await settle(20)
        assert source.status.lost_at is None
        etcd.delay = 10.0
        await settle(10)
        assert source.status.reason is not None
        assert source.status.reason.endswith("no answer within 3 s")


async def test_a_watch_that_says_nothing_is_found_out(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    etcd.deaf = True
    async with running(etcd) as (source,):
        await settle(3)
        assert source.status.reason is not None
        assert source.status.reason.endswith("what was written has not come back within 3 s")


async def test_a_compacted_revision_is_read_over(
    etcd: FakeEtcd, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    source = EtcdSource(backends(), transport=etcd.transport)
    reads = 0

    def busy(body: dict[str, object]) -> None:
        nonlocal reads
        reads += 1

    etcd.answers["kv/range"] = busy
    original = etcd._lease_grant

    def grant(body: dict[str, int]) -> dict[str, object]:
        etcd.put("/cxfr/nodes/c", "10.0.0.3")  # between reading and watching
        etcd.put("/cxfr/nodes/d", "10.0.0.4")
        etcd.compact()
        return original(body)

    etcd._lease_grant = grant  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run)
        await settle(3)
        assert len((await source.next_reading()).specs) == 4
        assert (reads, source.status.lost_at) == (2, None)
        nursery.cancel_scope.cancel()


async def test_a_proxy_that_stood_still_comes_back(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with running(etcd) as (source,):
        for lease in list(etcd.leases):
            etcd.end(lease)  # as if it had been stopped for so long
        await settle(10)
        assert source.status.lost_at is None
        assert etcd.value("/cxfr/proxies/one") is not None


# --- who may


async def test_a_token_that_is_too_old_is_made_anew(
    etcd: FakeEtcd, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    etcd.tokens = {"proxy": "open sesame"}
    url = URL.replace("//", "//proxy@")
    environ = {"CXFR_ETCD_PASSWORD": "open sesame"}
    source = EtcdSource(backends(url), environ=environ, transport=etcd.transport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run)
        await settle(3)
        etcd.valid.clear()
        source.set_directive("a", Directive(AdminState.DRAIN))
        await source.read()
        await settle(3)
        assert (source.pending, caplog.records) == (0, [])
        nursery.cancel_scope.cancel()


async def test_a_password_from_a_file_that_begins_with_a_byte_order_mark(
    etcd: FakeEtcd, tmp_path: Path, autojump_clock: MockClock
) -> None:
    etcd.tokens = {"proxy": "open sesame"}
    (tmp_path / "password").write_bytes(b"\xef\xbb\xbfopen sesame\r\n")
    url = backends(f"{URL.replace('//', '//proxy@')}?password-file={tmp_path}/password")
    source = EtcdSource(url, environ={}, transport=etcd.transport)
    await source.read()
    await source.aclose()


async def test_a_wrong_password(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    etcd.tokens = {"proxy": "open sesame"}
    source = EtcdSource(
        backends(URL.replace("//", "//proxy@")), environ={"CXFR_ETCD_PASSWORD": "hunter2"}, transport=etcd.transport
    )
    with pytest.raises(ConfigError, match="authentication failed") as caught:
        await source.read()
    assert "hunter2" not in str(caught.value)
    await source.aclose()


def test_where_the_password_comes_from(tmp_path: Path) -> None:
    url = URL.replace("//", "//proxy@")
    with pytest.raises(ConfigError, match="expected the password of 'proxy' in the environment as CXFR_ETCD_PASSWORD"):
        EtcdSource(backends(url), environ={})
    with pytest.raises(ConfigError, match="none: expected a readable password file, found: No such file"):
        EtcdSource(backends(f"{url}?password-file={tmp_path}/none"), environ={})
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="bytes: expected a password in UTF-8"):
        EtcdSource(backends(f"{url}?password-file={tmp_path}/bytes"), environ={})
    with pytest.raises(ConfigError, match="none: expected certificates in PEM"):
        EtcdSource(backends(f"{URL.replace('etcd:', 'etcds:')}?ca={tmp_path}/none"), environ={})
