"""The table of commands: arguments are checked once, for every way they come in."""

from __future__ import annotations

import pytest
from fake_console import OPERATOR, FakeConsole

from cxfr_proxy.admin.commands.table import COMMANDS, Command, command_named, execute
from cxfr_proxy.admin.rows.answers import MessageRow, Note
from cxfr_proxy.admin.rows.order_rows import Progress, RestartProgress
from cxfr_proxy.admin.rows.rows import NodeRow
from cxfr_proxy.errors import ConfigError


async def _ignore(row: Progress | Note) -> None:
    pass


async def test_drain_starts_and_returns() -> None:
    fake = FakeConsole()
    answer = await execute(fake.console, OPERATOR, "drain", {"node": "node1", "deadline": "2m", "rate": 5}, _ignore)
    assert answer == MessageRow("node1 is being drained")
    assert fake.calls == [("drain", "node1", None, 120.0, 5.0)]
    assert fake.waits_ended == []


async def test_drain_wait_reports_every_row_and_returns_the_last() -> None:
    fake = FakeConsole()
    seen: list[Progress | Note] = []

    async def report(row: Progress | Note) -> None:
        seen.append(row)

    answer = await execute(fake.console, OPERATOR, "drain", {"node": "node1", "wait": True}, report)
    assert tuple(seen) == fake.script
    assert answer == fake.script[-1]
    assert fake.calls == [("drain", "node1", None, None, None)]


async def test_a_wait_that_fails_is_closed_and_leaves_the_drain() -> None:
    fake = FakeConsole()

    async def report(row: Progress | Note) -> None:
        raise OSError("nobody there")

    with pytest.raises(OSError, match="nobody there"):
        await execute(fake.console, OPERATOR, "drain", {"node": "node1", "wait": True}, report)
    assert fake.waits_ended == ["node1"]
    assert fake.draining == {"node1"}


async def test_restart_workers() -> None:
    fake = FakeConsole()
    assert await execute(fake.console, OPERATOR, "restart-workers", {}, _ignore) == MessageRow(
        "the workers are being replaced"
    )
    seen: list[Progress | Note] = []

    async def report(row: Progress | Note) -> None:
        seen.append(row)

    answer = await execute(fake.console, OPERATOR, "restart-workers", {"wait": True}, report)
    assert isinstance(answer, RestartProgress)
    assert tuple(seen) == fake.restart
    assert answer == fake.restart[-1]
    assert fake.calls == [("restart-workers",)] * 2


async def test_a_roll_is_begun_gone_on_with_and_given_up() -> None:
    fake = FakeConsole()
    seen: list[Progress | Note] = []

    async def report(row: Progress | Note) -> None:
        seen.append(row)

    given: dict[str, object] = {"nodes": ["node2", "node1"], "rate": 5, "deadline": "1m"}
    assert await execute(fake.console, OPERATOR, "roll", given, report) == fake.roll_script[-1]
    assert tuple(seen) == fake.roll_script
    for more in ({"continue": True}, {"restarted": "node1"}, {"failed": "no disk"}, {"abort": True}):
        await execute(fake.console, OPERATOR, "roll", more, _ignore)
    assert fake.calls == [
        ("roll", "node2", "node1", 5.0, 60.0, False),
        ("roll-continue", False),
        ("roll-restarted", "node1"),
        ("roll-failed", "no disk"),
        ("roll-abort",),
    ]


async def test_pin_and_unpin() -> None:
    fake = FakeConsole()
    answer = await execute(fake.console, OPERATOR, "pin", {"jid": "Kim@example.org", "node": "node1"}, _ignore)
    assert "Kim@example.org is placed on node1" in str(answer)
    await execute(fake.console, OPERATOR, "unpin", {"jid": "kim@example.org"}, _ignore)
    assert fake.calls == [("pin", "Kim@example.org", "node1"), ("unpin", "kim@example.org")]


@pytest.mark.parametrize("who", ["kim", "kim@example.org/phone", "@example.org", "kim@", "a\nb@c"])
async def test_only_a_bare_jid_is_pinned(who: str) -> None:
    with pytest.raises(ConfigError, match=r"pin: jid: expected a bare JID like kim@example\.org"):
        await execute(FakeConsole().console, OPERATOR, "pin", {"jid": who, "node": "node1"}, _ignore)


async def test_undrain_and_show() -> None:
    fake = FakeConsole(draining={"node1"})
    await execute(fake.console, OPERATOR, "undrain", {"node": "node1"}, _ignore)
    assert fake.draining == set()
    rows = await execute(fake.console, OPERATOR, "show", {"what": "nodes"}, _ignore)
    assert isinstance(rows, list)
    assert isinstance(rows[0], NodeRow)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "dance",
            {},
            "unknown command 'dance'; known are show, drain, abort, undrain, roll, rebalance, move, kick, pin, unpin, "
            "reload, set, unset, restart-workers",
        ),
        ("drain", {}, "drain: node: expected a node's name, found nothing"),
        ("drain", {"node": ""}, "drain: node: expected a node's name, found ''"),
        ("drain", {"node": ["node1"]}, "drain: node: expected a node's name, found ['node1']"),
        ("drain", {"node": True}, "drain: node: expected a node's name, found True"),
        ("drain", {"node": "node9"}, "unknown node 'node9'; known are node1, node2"),
        ("drain", {"node": "node1", "wait": "yes"}, "drain: wait: expected true or false, found 'yes'"),
        ("drain", {"node": "node1", "rate": 0}, "drain: rate: expected a number per second above 0, found '0'"),
        ("drain", {"node": "node1", "rate": float("inf")}, "drain: rate: expected a number per second above 0"),
        ("drain", {"node": "node1", "plan": True, "wait": True}, "drain: with plan nothing begins"),
        ("show", {}, "show: what: expected nodes or sessions or "),
        ("show", {"what": ["nodes"]}, "show: what: expected nodes or sessions or "),
        ("show", {"what": "nodes", "limit": 1}, "show nodes: unknown argument 'limit'"),
        ("show", {"what": "sessions", "limit": "many"}, "show sessions: limit: expected a whole number"),
        ("show nodes", {"what": "nodes"}, "show nodes: unknown argument 'what'"),
        ("kick", {"jid": "@x"}, "kick: jid: expected a user's address"),
        ("abort", {"node": "node9"}, "unknown node 'node9'; known are node1, node2"),
        ("drain", {"node": "node1", "speed": 1}, "drain: unknown argument 'speed'"),
        (
            "show",
            {"what": "weather"},
            "show: what: expected nodes or sessions or session or transfers or pins or workers or roll or source or "
            "config or proxies or info or events or errors or software or history, found 'weather'",
        ),
        ("set", {"setting": "domain"}, "set: value: expected a word, found nothing"),
        ("set", {"setting": "domain", "value": []}, "set: value: expected a word, found nothing"),
        ("set", {"setting": "domain", "value": ["a", True]}, "set: value: expected a word, found True"),
        ("unset", {"setting": "domain"}, "domain is not set"),
        ("roll", {}, "roll: expected nodes, or one of continue, restarted, failed and abort"),
        ("roll", {"nodes": ["node1"], "abort": True}, "roll: expected nodes, or one of continue"),
        ("roll", {"continue": True, "plan": True}, "roll: expected the nodes to plan for"),
        ("roll", {"nodes": {"node1": 1}}, "roll: nodes: expected a node's name, found {'node1': 1}"),
        ("roll", {"nodes": ["node1", "node1"]}, "roll: expected each node once"),
        ("roll", {"nodes": ["node1", None]}, "roll: nodes: expected a node's name, found nothing"),
        ("roll", {"nodes": ["node9"]}, "unknown node 'node9'; known are node1, node2"),
        ("roll", {"nodes": ["node1"], "run": "rm -rf /"}, "roll: run: expected true or false, found 'rm -rf /'"),
        ("kick", {"jid": "\udcff@example.org"}, "kick: jid: expected a user's address"),
    ],
)
async def test_mistakes(name: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await execute(FakeConsole().console, OPERATOR, name, given, _ignore)
    assert str(caught.value).startswith(message)


def test_only_asking_changes_nothing() -> None:
    assert {command.name.split()[0] for command in COMMANDS if not command.mutates} == {"show"}
    assert command_named("drain", {})[0].mutates


async def test_what_is_missing_is_said_of_a_refusal_too() -> None:
    """A client that is not found may be with the worker that hangs."""
    fake = FakeConsole(missing=["worker 1 is silent"])
    seen: list[Progress | Note] = []

    async def report(row: Progress | Note) -> None:
        seen.append(row)

    with pytest.raises(ConfigError, match="there is no session 99"):
        await execute(fake.console, OPERATOR, "show", {"what": "session", "id": 99}, report)
    assert seen == [Note("worker 1 is silent")]


async def test_what_is_missing_from_an_answer_is_said_beside_it() -> None:
    fake = FakeConsole(missing=["worker 1 is silent", "worker 2 is silent"])
    seen: list[Progress | Note] = []

    async def report(row: Progress | Note) -> None:
        seen.append(row)

    rows = await execute(fake.console, OPERATOR, "show", {"what": "nodes"}, report)
    assert isinstance(rows, list)
    assert seen == [Note("worker 1 is silent"), Note("worker 2 is silent")]


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.name != "unset"], ids=lambda each: each.name)
async def test_every_row_fits_its_function(command: Command) -> None:
    """Each argument that a row lists is one that its function takes, and the other way round."""
    given: dict[str, object] = {}
    for argument in command.arguments:
        if argument.positional or argument.many:
            given[argument.name] = _SAMPLES[argument.name]
    await execute(FakeConsole().console, OPERATOR, *command.request(given), _ignore)


_SAMPLES = {
    "node": "node1",
    "nodes": ["node1", "node2"],
    "jid": "kim@example.org",
    "id": 1,
    "setting": "domain",
    "value": "example.org",
}
