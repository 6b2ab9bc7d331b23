"""The harness, checked against the bare servers: what it says about them must be true before it judges the proxy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest
import trio
from waiting import until

from real.accounting import balance
from real.certs import Authority
from real.clients.fleet import Fleet, Library, Tls, open_fleet
from real.ejabberd import EjabberdCluster
from real.hand_over import Loser, Party, who_lost
from real.programs import DOMAIN, Need, require, wait_accepting
from real.prosody import ProsodyNode
from real.raw import open_raw
from real.tap import Tap, open_tap
from real.wire import Chunk, Recording, read_stream

pytestmark = pytest.mark.real

_NEEDS: Final = {Library.SLIXMPP: Need.SLIXMPP, Library.AIOXMPP: Need.AIOXMPP}
_USERS: Final = ["u1", "u2", "u3"]

_HEADER: Final = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
)
_STANZA: Final = b"<message id='m1' to='a@b/c'><body>x &lt; y</body></message>"


# -- reading a recorded stream ---------------------------------------------------------------------------------------


def _bytewise(data: bytes) -> list[Chunk]:
    return [Chunk(float(at), data[at : at + 1]) for at in range(len(data))]


def test_reader_stamps_an_element_with_its_last_byte() -> None:
    data = _HEADER + _STANZA + _STANZA + b"<iq/>"
    ends = [len(_HEADER) + len(_STANZA) - 1, len(_HEADER) + 2 * len(_STANZA) - 1, len(data) - 1]
    transcript = read_stream(_bytewise(data))
    assert [element.at for element in transcript.elements] == ends
    assert transcript.message_ids == ["m1", "m1"]
    assert transcript.bodies == ["x < y", "x < y"]


def test_reader_starts_over_at_each_header_whole_and_bytewise() -> None:
    data = _HEADER + b"<auth/>" + _HEADER + _STANZA + b"</stream:stream>"
    for chunks in ([Chunk(0.0, data)], _bytewise(data)):
        transcript = read_stream(chunks)
        assert len(transcript.stream_ids) == 2
        assert [element.kind for element in transcript.elements] == ["auth", "message"]
        assert transcript.ended_at == chunks[-1].at
        assert transcript.fault is None


def test_reader_leaves_out_what_was_cut_off() -> None:
    for length in range(len(_STANZA)):
        transcript = read_stream([Chunk(0.0, _HEADER + _STANZA + _STANZA[:length])])
        assert transcript.message_ids == ["m1"]
        assert transcript.fault is None
        assert transcript.ended_at is None


def test_reader_stops_at_tls() -> None:
    transcript = read_stream([Chunk(0.0, _HEADER + b"<proceed/>"), Chunk(1.0, b"\x16\x03\x01\x00\xff" + _STANZA)])
    assert [element.kind for element in transcript.elements] == ["proceed"]
    assert transcript.fault is not None


# -- accounting ------------------------------------------------------------------------------------------------------

_JID: Final = "a@b/c"
_BOUND: Final = (
    _HEADER + b"<iq type='result' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>a@b/c</jid></bind></iq>"
)
_END: Final = b"</stream:stream>"


def _said(*ids: str) -> bytes:
    return b"".join(b"<message id='%b' to='x@b'/>" % i.encode() for i in ids)


def _connection(up: bytes | list[tuple[float, bytes]], down: bytes, *, ended: float = 10.0) -> Recording:
    """``down`` is read at once at second 0, but for a closing tag at its end, which comes at ``ended``."""
    written = [(0.0, up)] if isinstance(up, bytes) else up
    before, end = (down.removesuffix(_END), _END) if down.endswith(_END) else (down, b"")
    return Recording(
        opened_at=0.0,
        up_chunks=[Chunk(0.0, _HEADER), *(Chunk(at, data) for at, data in written)],
        down_chunks=[Chunk(0.0, _BOUND + before), *([Chunk(ended, end)] if end else [])],
    )


def test_what_arrived_once_balances() -> None:
    leg = client = _connection(_said("1", "2"), _said("3") + _END)
    account = balance(_JID, [leg], [client])
    assert not account.faults
    assert (account.up, account.down) == (2, 2)  # down: the bind result as well


def test_a_gap_is_a_loss_however_late() -> None:
    client = _connection([(9.99, _said("1", "2", "3"))], _END)
    assert [e.id for e in balance(_JID, [_connection(_said("1", "3"), b"")], [client]).lost_up] == ["2"]


def test_what_crossed_the_end_is_late_and_what_had_time_is_lost() -> None:
    leg = _connection(_said("1"), b"")
    client = _connection([(1.0, _said("1", "2")), (9.99, _said("3"))], _END)
    account = balance(_JID, [leg], [client])
    assert [e.id for e in account.late] == ["3"]
    assert [e.id for e in account.lost_up] == ["2"]


def test_nothing_is_late_while_the_stream_lives() -> None:
    account = balance(_JID, [_connection(b"", b"")], [_connection([(9.99, _said("1"))], b"")])
    assert [e.id for e in account.lost_up] == ["1"]


def test_twice_and_invented_are_told_apart() -> None:
    leg = _connection(_said("1", "1", "9"), _said("2"))
    client = _connection(_said("1"), _said("2", "2", "8"))
    account = balance(_JID, [leg], [client])
    assert sorted(str(e.id) for e in account.twice) == ["1", "2"]
    assert sorted(str(e.id) for e in account.invented) == ["8", "9"]


def test_an_answer_excuses_a_stanza_but_not_one_that_was_forwarded_too() -> None:
    answers = b"<message type='error' id='1'/><message type='error' id='2'/>"
    account = balance(_JID, [_connection(_said("1"), b"")], [_connection(_said("1", "2"), answers)])
    assert [e.id for e in account.answered] == ["2"]
    assert [e.id for e in account.twice] == ["1"]


def test_the_nodes_own_errors_excuse_nothing() -> None:
    error = b"<message type='error' id='1'/>"
    account = balance(_JID, [_connection(b"", error)], [_connection(_said("1"), error)])
    assert [e.id for e in account.lost_up] == ["1"]


def test_the_proxys_request_and_its_answer_are_nobodys_loss() -> None:
    request = b"<iq type='set' id='t'><query xmlns='urn:xmpp:cxfr'/></iq>"
    account = balance(_JID, [_connection(b"", b"")], [_connection(b"<iq type='error' id='t'/>", request)])
    assert not account.faults
    assert account.asked == len(account.swallowed) == 1


def test_what_a_node_said_has_to_be_read() -> None:
    account = balance(_JID, [_connection(b"", _said("1", "2"))], [_connection(b"", _said("2"))])
    assert [e.id for e in account.lost_down] == ["1"]


# -- who has lost it, where a stream was resumed -----------------------------------------------------------------------

_ENABLED: Final = b"<enabled xmlns='urn:xmpp:sm:3' id='sm1' resume='true'/>"


def _bodies(bodies: str) -> bytes:
    return b"".join(b"<message from='x@b/c'><body>%b</body></message>" % body.encode() for body in bodies.split())


def _parts(first: str, handled: int | None, second: str) -> list[tuple[bytes, bytes]]:
    """The words of one side on a connection and on the one that resumes it (``None``: there is none), each with what
    the other side says about it."""
    parts = [(_ENABLED + _bodies(first), b"")]
    if handled is not None:
        parts.append((_bodies(second), b" previd='sm1' h='%d'/>" % handled))
    return parts


def _receiving(first: str, handled: int | None, second: str) -> list[Recording]:
    """A stream, as a node gives it out."""
    (before, _), *after = _parts(first, handled, second)
    resumed = b"<resumed xmlns='urn:xmpp:sm:3' previd='sm1' h='0'/>"
    return [_connection(b"", before)] + [
        Recording(
            opened_at=1.0,
            up_chunks=[Chunk(1.0, _HEADER + b"<resume xmlns='urn:xmpp:sm:3'" + h)],
            down_chunks=[Chunk(1.0, _HEADER + resumed + down)],
        )
        for down, h in after
    ]


def _sending(first: str, handled: int | None, second: str) -> list[Recording]:
    """A stream, as a client's library writes it."""
    (_, _), *after = _parts(first, handled, second)
    resume = b"<resume xmlns='urn:xmpp:sm:3' previd='sm1' h='0'/>"
    return [_connection(b"<enable xmlns='urn:xmpp:sm:3'/>" + _bodies(first), _ENABLED)] + [
        Recording(
            opened_at=1.0,
            up_chunks=[Chunk(1.0, _HEADER + resume + up)],
            down_chunks=[Chunk(1.0, _HEADER + b"<resumed xmlns='urn:xmpp:sm:3'" + h)],
        )
        for up, h in after
    ]


_SAID = [
    ("1", 1, "3", False),  # never said
    ("1 2", 1, "3", False),  # said in vain, and not again
    ("1 2", 2, "3", True),  # the other side has it, says the resumption
    ("1 2", 1, "2 3", True),  # said again
    ("1", 1, "2 3", True),
    ("1 2", None, "", True),  # the stream goes on, without it
]
"""The words of one side before and after a resumption, from which stanza on, and whether the second of three is
lost by somebody else."""


@pytest.mark.parametrize(("first", "handled", "second", "by_proxy"), _SAID)
def test_who_lost_what_a_node_has_taken_in(first: str, handled: int | None, second: str, by_proxy: bool) -> None:
    sender = _connection(_bodies("1 2 3"), b"")
    legs = [sender, *_receiving(first, handled, second)]
    receiver = Party(_JID, [_connection(b"", _bodies("1 3"))])
    loser = who_lost("2", Party("x@b/c", [sender]), receiver, legs)
    assert loser is (Loser.PROXY if by_proxy else Loser.NODES)


@pytest.mark.parametrize(("first", "handled", "second", "by_proxy"), _SAID)
def test_who_lost_what_no_node_has_got(first: str, handled: int | None, second: str, by_proxy: bool) -> None:
    sender = Party(_JID, _sending(first, handled, second))
    loser = who_lost("2", sender, Party("y@b/c", []), [_connection(_bodies("1 3"), b"")])
    assert loser is (Loser.PROXY if by_proxy else Loser.SENDER)


def test_a_library_that_has_read_it_has_lost_it() -> None:
    leg = _connection(_bodies("2"), _ENABLED + _bodies("2"))
    receiver = Party(_JID, [_connection(b"", _bodies("2"))])
    assert who_lost("2", Party("x@b/c", []), receiver, [leg]) is Loser.RECEIVER


# -- skipping --------------------------------------------------------------------------------------------------------


def test_what_is_missing_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent(str):
        __slots__ = ()
        value = "no-such-program"

    monkeypatch.delenv("CXFR_REQUIRE_REAL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program"):
        require(Absent())  # type: ignore[arg-type]
    monkeypatch.setenv("CXFR_REQUIRE_REAL", "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-program"):
        require(Absent())  # type: ignore[arg-type]


# -- Prosody ---------------------------------------------------------------------------------------------------------


async def _chat(fleet: Fleet, users: list[str], tag: str, count: int) -> None:
    """Each sends ``count`` messages to the next; returns when all have arrived."""
    plan = {user: [fleet.jids[users[(i + 1) % len(users)]]] for i, user in enumerate(users)}
    await fleet.send(plan, tag=tag, rate=100, count=count)
    with trio.fail_after(300):
        while len([e for e in fleet.of("message") if e["body"].startswith(tag)]) < count * len(users):
            await fleet.wait_event("message", since=len(fleet.events))


async def _assert_tap_agrees(fleet: Fleet, tap: Tap) -> None:
    """The clients handed to the wire and read from it what passed the tap, stanza for stanza."""
    wire = await fleet.wire()
    legs = {leg.read_down().bound_jid: leg for leg in tap.connections}
    for user, connections in wire.items():
        (client,) = connections
        leg = legs[fleet.jids[user]]
        for mine, taps in ((client.read_up(), leg.read_up()), (client.read_down(), leg.read_down())):
            assert [e.xml for e in mine.stanzas] == [e.xml for e in taps.stanzas]
            assert mine.stream_ids == taps.stream_ids
        sent = [e["id"] for e in fleet.of("sent") if e["user"] == user]
        assert leg.read_up().message_ids == sent
        received = [e["id"] for e in fleet.of("message") if e["user"] == user]
        assert leg.read_down().message_ids == received


@pytest.mark.parametrize("library", Library)
async def test_prosody_clients_and_tap_agree_and_sigterm_says_system_shutdown(
    library: Library, tmp_path: Path, logs: Path
) -> None:
    require(Need.PROSODY, _NEEDS[library])
    with trio.fail_after(300):
        async with (
            ProsodyNode(tmp_path / "node", users=_USERS) as node,
            open_tap(node.port) as tap,
            open_fleet(library, logs / "fleet.log") as fleet,
        ):
            await fleet.connect(_USERS, port=tap.port, tls=Tls.NONE)
            assert fleet.jids == {user: f"{user}@{DOMAIN}/r" for user in _USERS}
            await _chat(fleet, _USERS, "hello", 10)
            await _assert_tap_agrees(fleet, tap)

            legs = list(tap.connections)
            await node.stop()
            for leg in legs:
                down = leg.read_down()
                assert down.stream_error is not None
                assert down.stream_error.condition == "system-shutdown"
                assert down.ended_at == down.stream_error.at, "not in one segment"


@pytest.mark.parametrize("library", Library)
async def test_prosody_clients_reconnect_over_tls_after_a_restart(
    library: Library, tmp_path: Path, logs: Path, authority: Authority
) -> None:
    require(Need.PROSODY, _NEEDS[library])
    certificate = authority.issue(DOMAIN)
    with trio.fail_after(300):
        async with (
            ProsodyNode(tmp_path / "node", users=_USERS, certificate=certificate) as node,
            open_fleet(library, logs / "fleet.log") as fleet,
        ):
            assert node.direct_tls_port is not None
            await fleet.connect(["u1"], port=node.port, tls=Tls.STARTTLS, ca=authority.file)
            await fleet.connect(["u2"], port=node.direct_tls_port, tls=Tls.DIRECT, ca=authority.file)
            seen = len(fleet.events)
            await node.kill()
            await node.start()
            await fleet.wait_reconnected(["u1", "u2"], since=seen)
            assert all(e["seconds"] > 0 for e in fleet.of("connected", since=seen))
            await _chat(fleet, ["u1", "u2"], "again", 5)


@pytest.mark.parametrize("library", Library)
async def test_prosody_sigterm_with_stream_management_is_a_bare_fin(
    library: Library, tmp_path: Path, logs: Path
) -> None:
    require(Need.PROSODY, _NEEDS[library])
    with trio.fail_after(300):
        async with (
            ProsodyNode(tmp_path / "node", users=_USERS, stream_management=True) as node,
            open_tap(node.port) as tap,
            open_fleet(library, logs / "fleet.log") as fleet,
        ):
            await fleet.connect(["u1"], port=tap.port, tls=Tls.NONE, stream_management=True)
            (leg,) = tap.connections
            await until(lambda: b"<enabled" in leg.down, "stream management")
            await node.stop()
            down = leg.read_down()
            assert any(element.kind == "enabled" for element in down.elements)
            assert down.stream_error is None
            assert down.ended_at is None


async def test_prosody_killed_refuses_through_the_tap_until_it_is_back(tmp_path: Path) -> None:
    require(Need.PROSODY)
    with trio.fail_after(300):
        async with ProsodyNode(tmp_path / "node", users=_USERS) as node, open_tap(node.port) as tap:
            async with await trio.open_tcp_stream(tap.host, tap.port) as stream:
                await until(lambda: len(tap.open_connections) == 1, "a connection")
                await node.kill()
                assert await stream.receive_some() == b""
            async with await trio.open_tcp_stream(tap.host, tap.port) as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream(tap.host, tap.port)
            await node.start()
            assert node.process is not None
            await wait_accepting(tap.host, tap.port, node.process, seconds=5)


@pytest.mark.parametrize("starttls", [False, True], ids=["direct", "starttls"])
async def test_raw_client_logs_in_and_its_recording_balances(
    starttls: bool, tmp_path: Path, authority: Authority
) -> None:
    require(Need.PROSODY)
    with trio.fail_after(300):
        async with ProsodyNode(tmp_path / "node", users=["u1"], certificate=authority.issue(DOMAIN)) as node:
            port = node.port if starttls else node.direct_tls_port
            assert port is not None
            async with open_raw(port, starttls=starttls) as client:
                jid = await client.login("u1")
                assert jid == f"u1@{DOMAIN}/r"
                await client.send(f"<message id='m1' to='{jid}'><body>to myself</body></message>")
                await client.read_until(rb"<body>to myself</body></message>$")
                await client.send("</stream:stream>")
                await client.read_to_end()
                assert client.recording.read_down().ended_at is not None
                account = balance(jid, [client.recording], [client.recording])
                assert not account.faults
                assert client.recording.read_up().message_ids == client.recording.read_down().message_ids == ["m1"]


# -- ejabberd --------------------------------------------------------------------------------------------------------


async def test_ejabberd_cluster_chats_across_nodes_and_stop_says_reset(tmp_path: Path, logs: Path) -> None:
    require(Need.EJABBERD, Need.SLIXMPP)
    with trio.fail_after(300):
        async with EjabberdCluster(tmp_path / "cluster", users=_USERS) as cluster:
            first, second = cluster.nodes
            async with (
                open_tap(first.port) as tap,
                open_tap(second.port) as other_tap,
                open_fleet(Library.SLIXMPP, logs / "fleet.log") as fleet,
            ):
                await fleet.connect(["u1"], port=tap.port, tls=Tls.NONE)
                await fleet.connect(["u2"], port=other_tap.port, tls=Tls.NONE)
                await _chat(fleet, ["u1", "u2"], "across", 5)
                (leg,), (other_leg,) = tap.connections, other_tap.connections
                assert leg.read_up().bodies == other_leg.read_down().bodies
                assert other_leg.read_up().bodies == leg.read_down().bodies

                await first.stop()
                down = leg.read_down()
                assert down.stream_error is not None
                assert down.stream_error.condition == "reset"
                assert down.ended_at is not None
                assert 0.05 < down.ended_at - down.stream_error.at < 0.5, "ejabberd closes 100 ms later"
                assert other_leg.is_open

                await first.start()
                await fleet.wait_connected(["u1"])
                await _chat(fleet, ["u1", "u2"], "back", 5)


async def test_no_process_outlives_a_failing_test(tmp_path: Path) -> None:
    require(Need.PROSODY)
    pids: list[int] = []

    async def failing_test() -> None:
        async with ProsodyNode(tmp_path / "node", users=_USERS) as node:
            assert node.process is not None
            pids.append(node.process.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing_test()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
