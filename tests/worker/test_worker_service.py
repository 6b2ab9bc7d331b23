"""What a worker does upon each thing that a session reports: its lines in the log, its words to the supervisor, and the
order that the session gets.

All parts of a worker are real. The sessions are scripts, and the channel keeps what is posted.
"""

from __future__ import annotations

from typing import Final, cast

import pytest
import trio
from relay_tools import write_pem
from session_fakes import FakeRelayed
from session_script import ELSEWHERE, JID, Script
from test_worker_settings import config_with, parts_of
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.config.table import Config
from cxfr_proxy.ipc.channel import Receive
from cxfr_proxy.ipc.messages import (
    Message,
    NodeFailsLogins,
    NodeGoing,
    Nodes,
    NodeServes,
    NodeState,
    TransferEnded,
    Want,
)
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.session.commands import (
    Awakened,
    BoundTo,
    Ended,
    Event,
    Forged,
    LoginFailed,
    MigrationFailed,
    NodeLost,
    NodeRegained,
    Outcome,
    Reason,
    Transferred,
    Warned,
)
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.tasks import Task, start
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.xmpp.opening.attempt import FailedLogin

SPECS: Final = {spec.name: spec for spec in parse_nodes("node1 10.0.0.1\nnode2 10.0.0.2", "nodes.txt")}
AWAY: Final = Ended(Reason.CLIENT_CLOSED, None, late=2, undelivered=0)
STAYED: Final = Transferred(ELSEWHERE, ((Rung.MIGRATE, Outcome.SILENT), (Rung.CXFR, Outcome.STAYED)), 2.0, "node1")
WARNS_OF_MOVE: Final = "a session can't be moved under its client's stream: "


class Posted:
    """A channel that keeps what is posted."""

    broken = False

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def post(self, message: Message) -> None:
        self.messages.append(message)

    async def flush(self) -> None:
        pass

    async def run(self, receive: Receive) -> None:
        raise AssertionError("nobody writes to it")


class Desk:
    """The service of a worker with two nodes, and a session on the first one."""

    def __init__(self, config: Config, development: str, caplog: pytest.LogCaptureFixture) -> None:
        self.channel = Posted()
        self.parts = parts_of(config, development, self.channel)
        self._caplog = caplog
        self.list_nodes()
        self.session = FakeRelayed(self.parts.registry.new_id(), "node1", obeys=False)
        self.parts.registry.add(self.session)
        self.reports(*self.session.script.events)
        self.forget()

    def list_nodes(self, **admin_states: AdminState) -> None:
        states = (
            NodeState(spec, admin_states.get(name, AdminState.READY), Health.UP, removed=False, stage=Stage.ALL)
            for name, spec in SPECS.items()
        )
        self.parts.apply_nodes(Nodes(states=tuple(states), names=tuple(SPECS)))

    def forget(self) -> None:
        """Let what there was so far count no more."""
        self._caplog.clear()
        self.channel.messages.clear()

    def reports(self, *events: Event) -> None:
        """Have the session report these."""
        for event in events:
            self.parts.service.session_event(cast("LiveSession", self.session), event)

    @property
    def lines(self) -> list[tuple[str, dict[str, object]]]:
        """Events in the log, and those of their fields that have a value."""
        return [
            (record.getMessage(), {name: value for name, value in fields.items() if value is not None})
            for record in self._caplog.records
            if (fields := getattr(record, "cxfr_proxy_fields", None)) is not None
        ]

    def line(self, event: str) -> dict[str, object]:
        """The fields of the only line, which is that event's."""
        ((name, fields),) = self.lines
        assert name == event
        return fields

    def posted(self, *kinds: type[Message]) -> list[Message]:
        return [message for message in self.channel.messages if isinstance(message, kinds)]

    async def wants(self) -> Want:
        """Return for how many sessions the mover wants tokens."""
        await wait_all_tasks_blocked()  # it says so once for many
        wants = [message for message in self.channel.messages if isinstance(message, Want)]
        return wants[-1] if wants else Want(0, 0, 0)

    async def triggers(self) -> list[Trigger]:
        """Have the mover do what it has to, and return the triggers of the orders that the session got."""
        async with trio.open_nursery() as nursery:
            self.parts.pace.grant(10)
            start(nursery, Task.MOVER, self.parts.mover.run)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return [order.trigger for order in self.session.orders]


@pytest.fixture
async def desk(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> Desk:
    caplog.set_level("INFO", "cxfr_proxy")
    development = write_pem(tmp_path_factory.mktemp("pem"), "localhost").read_text()
    return Desk(config_with(None, {}), development, caplog)


async def test_a_login(desk: Desk) -> None:
    desk.reports(BoundTo(JID, resumed=False))
    fields = desk.line("bound")
    assert (fields["jid"], fields["node"], fields["client"], fields["tls"]) == (JID, "node1", "192.0.2.1", "TLSv1.3")
    assert await desk.triggers() == []


async def test_a_login_for_which_the_supervisor_s_checks_wait(desk: Desk) -> None:
    """It is told again at once after one that has failed by the node's fault."""
    desk.reports(LoginFailed("internal-server-error"), BoundTo(JID, resumed=False))
    assert desk.posted(NodeFailsLogins, NodeServes) == [
        NodeFailsLogins("node1", "internal-server-error"),
        NodeServes("node1", "example.org"),
    ]


@pytest.mark.parametrize(
    "event",
    [BoundTo(JID, resumed=False), BoundTo(JID, resumed=True), NodeRegained(0.5), STAYED, Awakened()],
    ids=["bound", "resumed", "regained", "stayed", "awakened"],
)
async def test_a_session_that_is_on_a_node_that_is_emptied_has_to_leave(desk: Desk, event: Event) -> None:
    """Orders that came meanwhile were ignored, or it was asleep when the others were queued."""
    desk.reports(event)
    assert (await desk.wants()).leaving == 0, "nothing to leave for"
    desk.parts.cluster.get("node1").set_admin_state(AdminState.DRAIN)
    desk.reports(event)
    assert (await desk.wants()).leaving == 1
    desk.parts.mover.follow("node1", Stage.ALL)
    assert await desk.triggers() == [Trigger.DRAIN]


@pytest.mark.parametrize(
    ("login", "sent"), [(BoundTo(JID, resumed=False), 1), (BoundTo(JID, resumed=True), 0)], ids=["chosen", "resumed"]
)
async def test_a_client_that_was_not_led_to_its_node_is_sent_home(desk: Desk, login: BoundTo, sent: int) -> None:
    desk.parts.assigned.pins.set(JID.partition("/")[0], "node2")
    desk.reports(login)
    assert (await desk.wants()).misplaced == sent


async def test_while_the_proxy_stops_nobody_stays(desk: Desk) -> None:
    desk.parts.service.stop()
    desk.reports(BoundTo(JID, resumed=False))
    assert [order.trigger for order in desk.session.orders] == [Trigger.PROXY_STOP]


@pytest.mark.parametrize(
    ("reason", "trigger"),
    [
        (Reason.NODE_SHUTDOWN, Trigger.NODE_SHUTDOWN),
        (Reason.NODE_REDIRECTED, Trigger.NODE_REDIRECTED),
        (Reason.NODE_CLOSED, Trigger.NODE_LOST),
        (Reason.NODE_FAULT, Trigger.NODE_LOST),
    ],
)
async def test_a_session_without_its_node_is_moved(desk: Desk, reason: Reason, trigger: Trigger) -> None:
    desk.reports(NodeLost(reason))
    assert desk.posted(NodeGoing) == ([NodeGoing("node1")] if reason is Reason.NODE_SHUTDOWN else [])
    assert await desk.triggers() == [trigger]


# --- moves that fail


@pytest.mark.parametrize(
    ("failed", "warnings"),
    [
        (MigrationFailed("node2", "it can't be reached"), [("node2", WARNS_OF_MOVE + "it can't be reached")]),
        (MigrationFailed("node1", "it says nothing"), [("node1", WARNS_OF_MOVE + "it says nothing")]),
        (MigrationFailed(None, "the client does not say what it has got"), []),
    ],
    ids=["target", "source", "client"],
)
async def test_only_a_node_that_has_not_done_its_part_is_warned_of(
    desk: Desk, failed: MigrationFailed, warnings: list[tuple[str, str]]
) -> None:
    desk.reports(failed, failed)
    assert [(name, fields["node"], fields["reason"]) for name, fields in desk.lines] == [
        ("node-warning", *each) for each in warnings
    ]


async def test_a_client_that_never_acknowledges_is_named_and_no_node(desk: Desk) -> None:
    script = Script().bind(stream_management=True).migrate().dialled()
    before = len(script.events)
    script.tick()
    desk.reports(*script.events[before:])
    fields = desk.line("transfer")
    assert fields["tried"] == "migrate:silent,cut:moved"
    assert (fields["jid"], fields["source"], fields["target"]) == (JID, "node1", "node2")
    assert fields["reason"] == "the client does not say what it has got"


async def test_a_transfer_is_told_to_the_supervisor_too(desk: Desk) -> None:
    desk.reports(STAYED)
    fields = desk.line("transfer")
    assert (fields["rung"], fields["outcome"]) == ("cxfr", "stayed")
    assert "reason" not in fields
    ((ended,),) = [desk.posted(TransferEnded)]
    assert isinstance(ended, TransferEnded)
    assert (ended.session, ended.full_jid) == (desk.session.id, JID)


# --- the rest of the log


@pytest.mark.parametrize(
    ("event", "name", "fields"),
    [
        (NodeRegained(0.12345), "node-regained", {"jid": JID, "node": "node1", "seconds": 0.123}),
        (AWAY, "session-end", {"reason": "client-closed", "node": "node1", "late": 2}),
        (Forged(), "forged-transfer", {"node": "node1"}),
        (Warned("it does not greet"), "node-warning", {"node": "node1", "reason": "it does not greet"}),
        (FailedLogin("romeo", "PLAIN", "not-authorized"), "login-failed", {"mechanism": "PLAIN", "user": "romeo"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_it_has_a_line(desk: Desk, event: Event, name: str, fields: dict[str, object]) -> None:
    desk.reports(event)
    found = desk.line(name)
    assert found | fields == found
    assert name == "node-warning" or found["session"] == desk.session.id
