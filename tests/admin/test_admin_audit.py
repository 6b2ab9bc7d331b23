"""Each order has one line in the log, whatever becomes of it; what only shows something has none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
from fake_console import OPERATOR, FakeConsole, proxy_in_thread
from trio.testing import MockClock

from cxfr_proxy.admin.commands.arguments import BadArguments
from cxfr_proxy.admin.commands.audit import AuditedOrder, OrderOutcome
from cxfr_proxy.admin.commands.callers import Caller, Role, Way
from cxfr_proxy.admin.commands.table import COMMANDS, execute
from cxfr_proxy.admin.rows.answers import Note
from cxfr_proxy.admin.rows.order_rows import Progress
from cxfr_proxy.errors import ConfigError

Fields = dict[str, object]


async def _ignore(row: Progress | Note) -> None:
    pass


@pytest.fixture
def orders(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def lines(orders: pytest.LogCaptureFixture) -> list[Fields]:
    """The fields of each line that have a value."""
    found = [getattr(each, "cxfr_proxy_fields") for each in orders.records if each.message == "order"]  # noqa: B009
    return [{name: value for name, value in fields.items() if value is not None} for fields in found]


async def test_an_order_that_is_done(orders: pytest.LogCaptureFixture) -> None:
    caller = Caller("alice", Role.OPERATE, Way.HTTP, address="192.0.2.1")
    given: Fields = {"node": "node1", "force": True, "plan": False, "rate": 5, "grace": None}
    await execute(FakeConsole().console, caller, "drain", given, _ignore)
    assert lines(orders) == [
        {
            "command": "drain",
            "arguments": "node=node1 force=true rate=5",
            "by": "alice",
            "role": "operate",
            "way": "http",
            "address": "192.0.2.1",
            "outcome": "done",
        }
    ]


async def test_zero_is_an_argument(orders: pytest.LogCaptureFixture) -> None:
    with AuditedOrder(OPERATOR, "drain", {"node": "node1", "grace": 0, "deadline": 0.0, "plan": False}):
        pass
    assert [line["arguments"] for line in lines(orders)] == ["node=node1 grace=0 deadline=0.0"]


async def test_looking_is_no_order(orders: pytest.LogCaptureFixture) -> None:
    await execute(FakeConsole().console, OPERATOR, "show", {"what": "nodes"}, _ignore)
    await execute(FakeConsole().console, OPERATOR, "drain", {"node": "node1", "plan": True}, _ignore)
    assert lines(orders) == []


async def test_one_that_goes_on_is_written_when_it_begins(
    orders: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    outcomes: list[object] = []

    async def report(row: Progress | Note) -> None:
        outcomes.append([line["outcome"] for line in lines(orders)])

    fake = FakeConsole()
    await execute(fake.console, OPERATOR, "drain", {"node": "node1", "wait": True}, report)
    assert outcomes == [["begun"]] * len(fake.script)
    assert [line["outcome"] for line in lines(orders)] == ["begun"]


@pytest.mark.parametrize(
    ("command", "given", "reason"),
    [
        ("drain", {"node": "node9"}, "unknown node 'node9'; known are node1, node2"),
        ("drain", {"node": "node1", "grace": "soon"}, "drain: grace: expected a time"),
        ("reload", {}, "nodes.txt:3:7: expected a host"),
    ],
)
async def test_one_that_is_refused(command: str, given: Fields, reason: str, orders: pytest.LogCaptureFixture) -> None:
    try:
        await execute(FakeConsole().console, OPERATOR, command, given, _ignore)
    except ConfigError:
        assert command != "reload", "its faults are its answer"
    (line,) = lines(orders)
    assert (line["outcome"], orders.records[-1].levelname) == ("refused", "WARNING")
    assert str(line["reason"]).startswith(reason)


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (ZeroDivisionError("secret"), "failed"),
        (trio.BrokenResourceError("the caller has gone"), "unknown"),
        (trio.TooSlowError("the caller takes nothing"), "unknown"),
        (KeyboardInterrupt(), "unknown"),
    ],
)
async def test_one_without_an_answer(raised: BaseException, outcome: str, orders: pytest.LogCaptureFixture) -> None:
    with pytest.raises(type(raised)), AuditedOrder(OPERATOR, "reload", {}):
        raise raised
    (line,) = lines(orders)
    assert line["outcome"] == outcome
    assert "reason" not in line


async def test_one_that_is_cancelled(orders: pytest.LogCaptureFixture) -> None:
    with trio.CancelScope() as scope, AuditedOrder(OPERATOR, "reload", {}):
        scope.cancel()
        await trio.lowlevel.checkpoint()
    assert [line["outcome"] for line in lines(orders)] == ["unknown"]


async def test_nothing_that_is_given_ends_the_line(orders: pytest.LogCaptureFixture) -> None:
    given: Fields = {"node": "a\nb c", "va lue": ["x y", "z"], "deep": {"a": ["\x1b"]}}
    with AuditedOrder(OPERATOR, "set", given) as order:
        order.ended(OrderOutcome.DENIED)
    (line,) = lines(orders)
    assert line["arguments"] == r'''node="a\nb c" "va lue"="x y",z deep="{\"a\": [\"\\u001b\"]}"'''
    assert line["outcome"] == "denied"


def test_the_kernel_says_who_it_was(tmp_path: Path, orders: pytest.LogCaptureFixture) -> None:
    """By the control socket."""
    import os

    from cxfr_proxy.cli.program import main

    path = tmp_path / "control.sock"
    with proxy_in_thread(path, FakeConsole()):
        assert main(["undrain", "node1", "--control", str(path)]) == 0
    (line,) = lines(orders)
    assert (line["by"], line["pid"], line["way"]) == (f"uid {os.getuid()}", os.getpid(), "control")
    assert "address" not in line


def test_the_roles_of_commands() -> None:
    roles = {command.name.partition(" ")[0]: command.role for command in COMMANDS}
    assert roles.pop("show") is Role.VIEW
    assert all(command.role in Role for command in COMMANDS)
    assert all(role is not Role.VIEW for role in roles.values()), "what changes something takes more"
    assert {name for name, role in roles.items() if role is Role.ADMIN} == {
        "reload",
        "restart-workers",
        "set",
        "unset",
        "upgrade",
    }
    assert [needed for needed in Role if Role.OPERATE.may(needed)] == [Role.VIEW, Role.OPERATE]


async def test_a_program_can_be_named_on_this_machine_only() -> None:
    """Whoever has a token of the API starts nothing by it."""
    fake, given = FakeConsole(), {"with": "/opt/new/bin/cxfr-proxy"}
    with pytest.raises(BadArguments, match="upgrade: with can be given on this machine only"):
        await execute(fake.console, Caller("alice", Role.ADMIN, Way.HTTP), "upgrade", given, _ignore)
    assert fake.calls == []
    await execute(fake.console, Caller("uid 0", Role.ADMIN, Way.CONTROL), "upgrade", given, _ignore)
    await execute(fake.console, Caller("alice", Role.ADMIN, Way.HTTP), "upgrade", {}, _ignore)
    assert fake.calls == [("upgrade", Path("/opt/new/bin/cxfr-proxy")), ("upgrade", None)]
