"""THE table of what an operator can say to a running proxy.

A command is a row: its name, its arguments, whether it changes anything, and how it is carried out. The command line's
parser, its help and the control socket's checks are drawn from :data:`COMMANDS`, so a new command is one row and one
function in :mod:`.actions`. A row says which parts of the :class:`~cxfr_proxy.admin.console.console.Console` its
function takes, and what those who give the command may at least do.

Each of the :data:`~.views.VIEWS` is a command as well: ``show nodes``. On the control socket its second word is the
argument ``what`` of the command ``show``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from cxfr_proxy.admin.commands import actions
from cxfr_proxy.admin.commands.actions import ReportProgress
from cxfr_proxy.admin.commands.arguments import Argument, Arguments, BadArguments, read_arguments
from cxfr_proxy.admin.commands.audit import AuditedOrder, OrderOutcome
from cxfr_proxy.admin.commands.callers import Caller, Role, Way
from cxfr_proxy.admin.commands.views import VIEWS, View
from cxfr_proxy.admin.rows.answers import CommandAnswer, Note, ReloadFaults
from cxfr_proxy.admin.rows.order_rows import Progress
from cxfr_proxy.config import values
from cxfr_proxy.errors import ConfigError

if TYPE_CHECKING:
    from cxfr_proxy.admin.console.console import Console
    from cxfr_proxy.admin.console.parts import Keeping

Run = Callable[["Console", Arguments, ReportProgress], Awaitable[CommandAnswer]]


class Topic(StrEnum):
    """A heading under which commands are listed."""

    SEE = "See what there is"
    MOVE = "Move clients"
    RUN = "Keep it running"


@dataclass(frozen=True, slots=True)
class Continuation:
    """The command has begun something that goes on behind its answer, unless its end is waited for.

    ``text`` is for somebody who stops waiting; arguments stand in it as ``{node}``. ``unless``: the end is waited for
    if none of these arguments is given; ``None``: if ``wait`` is.
    """

    text: str
    unless: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to say. ``name`` is one word, or two for what is shown. ``role``: what whoever says it may at least do;
    it changes something, unless to view is enough."""

    name: str
    help: str
    arguments: tuple[Argument, ...]
    topic: Topic
    role: Role
    run: Run
    goes_on: Continuation | None = None
    """``None``: with its answer it is over."""
    view: View | None = None
    """The view of the rows that it answers with; ``None``: its answer is shown in words."""

    @property
    def mutates(self) -> bool:
        """Whether it changes something."""
        return self.role is not Role.VIEW

    def is_waited_for(self, given: Mapping[str, object]) -> bool:
        """Return whether its answer is one that comes at the end of what it has begun."""
        if self.goes_on is None:
            return False
        if self.goes_on.unless is None:
            return bool(given.get("wait"))
        return not any(given.get(name) for name in self.goes_on.unless)

    def changes_something(self, given: Mapping[str, object]) -> bool:
        """Return whether it does, with these arguments: a plan changes nothing."""
        return self.mutates and given.get("plan") is not True

    def read_arguments(self, given: Mapping[str, object]) -> Arguments:
        """Return all arguments by keyword, checked.

        Raises :class:`BadArguments` for one that is wrong, missing or unknown.
        """
        try:
            return read_arguments(self.arguments, given)
        except ConfigError as exc:
            raise BadArguments(f"{self.name}: {exc.message}") from exc
        except RecursionError as exc:  # a value that can't even be shown
            raise BadArguments(f"{self.name}: expected plain values, found one that is nested too deeply") from exc

    def check_from_afar(self, given: Mapping[str, object]) -> None:
        """Raise :class:`BadArguments` for an argument that only counts on the control socket."""
        for argument in self.arguments:
            if argument.local and given.get(argument.name) is not None:
                raise BadArguments(f"{self.name}: {argument.name} can be given on this machine only")

    def request(self, given: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
        """Return the command and the arguments as :func:`execute` takes them.

        Raises :class:`BadArguments` for one that would have another command carried out.
        """
        command, _, what = self.name.partition(" ")
        if not what:
            return command, given
        if "what" in given:
            raise BadArguments(f"{self.name}: unknown argument 'what'")
        return command, {"what": what, **given}


def _show(name: str, view: View) -> Command:
    return Command(
        f"{SHOW} {name}",
        view.help,
        view.arguments,
        Topic.SEE,
        role=Role.VIEW,
        run=lambda on, given, report: view.answer(on, given, report),
        view=view,
    )


SHOW: Final = "show"
UPGRADE: Final = "upgrade"
_NODE: Final = Argument("node", "the node's name", values.NODE_NAME, positional=True)
_JID: Final = Argument("jid", "the user's bare JID", values.BARE_JID, positional=True)
_SETTING: Final = Argument("setting", "the setting's name", values.SETTING_NAME, positional=True)

COMMANDS: Final = (
    *(_show(name, view) for name, view in VIEWS.items()),
    Command(
        "drain",
        "move all clients off a node, and place no new ones there",
        (
            _NODE,
            Argument(
                "plan", "change nothing; show how many clients there are, where they would go, and how long it takes"
            ),
            Argument("wait", "show progress until the node is empty and can be stopped, or the deadline has passed"),
            Argument(
                "grace",
                "place nobody there from now on, but move nobody before this time: for a load balancer to notice",
                values.seconds(zero=True),
            ),
            Argument(
                "deadline",
                "after this time, close the remaining clients without asking them; inactive clients (XEP-0352) are "
                "not asked in the first half of it",
                values.seconds(zero=False),
            ),
            Argument("rate", "clients to move per second, instead of transfer-rate", values.RATE),
            Argument("force", "drain even if no other node is ready and up, so that logins are refused"),
        ),
        Topic.MOVE,
        role=Role.OPERATE,
        run=lambda on, given, report: actions.drain(on.drains, on.peers, report, **given),
        goes_on=Continuation("the drain of {node} goes on (show nodes tells its stage, abort {node} stops it)"),
    ),
    Command(
        "abort",
        "stop a drain where it is: no further client is asked, and nobody new is placed there; drain again to continue",
        (_NODE,),
        Topic.MOVE,
        role=Role.OPERATE,
        run=lambda on, given, report: actions.abort(on.drains, on.peers, **given),
    ),
    Command(
        "undrain",
        "make a node ready again, after a drain or during one; users who belong there are moved there soon",
        (_NODE, Argument("no-rebalance", "leave users where they are until the next rebalance")),
        Topic.MOVE,
        role=Role.OPERATE,
        run=lambda on, given, report: actions.undrain(on.drains, on.rebalances, on.peers, **given),
    ),
    Command(
        "roll",
        "restart nodes one after the other: each is drained, restarted by a command or by you, found up by checks, and "
        "made ready again. Exit code 0: all are done; 1: it has stopped on its way",
        (
            Argument("nodes", "the nodes' names, in order", _NODE.value_type, many=True, optional=True),
            Argument("plan", "change nothing; show how many clients would be moved, and how long it takes"),
            Argument(
                "run",
                "the command that restarts a node, which this program runs when the node can be stopped; {node} in it "
                "becomes the node's name. Without it the roll waits until you have restarted the node",
                values.NODE_COMMAND,
                stays=True,
            ),
            Argument("rate", "clients to move per second, instead of transfer-rate", values.RATE),
            Argument(
                "deadline",
                "the deadline of each drain: clients that are left are closed without asking",
                values.seconds(zero=False),
            ),
            Argument("continue", "go on with the roll that has stopped, or watch the one that goes on"),
            Argument("restarted", "say that this node was restarted, if checks could not see it go", _NODE.value_type),
            Argument(
                "failed",
                "say why the node could not be restarted: the roll stops there",
                values.REASON,
            ),
            Argument("abort", "give the roll up; the node whose turn it is stays as it is"),
        ),
        Topic.MOVE,
        role=Role.OPERATE,
        run=lambda on, given, report: actions.roll(on.rolls, report, **given),
        goes_on=Continuation(
            "the roll goes on until a node is to be restarted, and stops there if its command was to be run here "
            "(show roll tells where it is; roll --continue goes on with it, roll --abort gives it up)",
            unless=("plan", "restarted", "failed", "abort"),
        ),
    ),
    Command(
        "rebalance",
        "move users who are elsewhere than they belong: users with a home node to it, and of the others as few as "
        "even the load",
        (
            Argument(
                "plan", "change nothing; show how many clients would go from where to where, and how long it takes"
            ),
            Argument("wait", "show progress until all were asked"),
            Argument("rate", "clients to move per second, instead of transfer-rate", values.RATE),
            Argument(
                "max-share", "move at most this share of each node's clients: for a change in portions", values.SHARE
            ),
            Argument("stop", "stop the rebalance that is running: no further client is asked"),
        ),
        Topic.MOVE,
        role=Role.OPERATE,
        run=lambda on, given, report: actions.rebalance(on.rebalances, report, **given),
        goes_on=Continuation("the rebalance goes on (show transfers tells what it does, rebalance --stop ends it)"),
    ),
    Command(
        "move",
        "send one user's clients to a node, at once; the user's home does not change, so a rebalance may send them "
        "back",
        (Argument("jid", "the user's address; with a resource, that client's", values.JID, positional=True), _NODE),
        Topic.MOVE,
        role=Role.OPERATE,
        run=lambda on, given, report: actions.move(on.nodes, **given),
    ),
    Command(
        "kick",
        "end a user's sessions, or one client's, at once; nobody is kept from logging in again",
        (Argument("jid", "the user's address; with a resource, that client's", values.JID, positional=True),),
        Topic.MOVE,
        role=Role.OPERATE,
        run=lambda on, given, report: actions.kick(on.clients, **given),
    ),
    Command(
        "pin",
        "place a user's clients on that node from now on, until unpin",
        (_JID, _NODE),
        Topic.MOVE,
        role=Role.OPERATE,
        run=lambda on, given, report: actions.pin(on.pins, on.peers, **given),
    ),
    Command(
        "unpin",
        "place a user by the user map, the lookup or the policy again",
        (_JID,),
        Topic.MOVE,
        role=Role.OPERATE,
        run=lambda on, given, report: actions.unpin(on.pins, on.peers, **given),
    ),
    Command(
        "reload",
        "read the settings, the nodes, the user map, certificates and the file of tokens again, and take all of it, or "
        "nothing if anything is wrong",
        (),
        Topic.RUN,
        role=Role.ADMIN,
        run=lambda on, given, report: actions.reload(on.files),
    ),
    Command(
        "set",
        "give a setting another value until the proxy is restarted, or until unset (show config tells which can be)",
        (_SETTING, Argument("value", "the value; several for a setting that is a list", values.TEXT, many=True)),
        Topic.RUN,
        role=Role.ADMIN,
        run=lambda on, given, report: actions.set_value(on.settings, **given),
    ),
    Command(
        "unset",
        "take back what was set, for the value that flags and the settings file give",
        (_SETTING,),
        Topic.RUN,
        role=Role.ADMIN,
        run=lambda on, given, report: actions.unset_value(on.settings, **given),
    ),
    Command(
        "restart-workers",
        "replace all workers, one by one: the new one serves before the old one moves its clients away and ends",
        (Argument("wait", "show progress until all are replaced, or one could not be"),),
        Topic.RUN,
        role=Role.ADMIN,
        run=lambda on, given, report: actions.restart_workers(on.workers, report, **given),
        goes_on=Continuation("the workers go on being replaced (show workers tells how far it is)"),
    ),
    Command(
        UPGRADE,
        "replace the proxy by a new process, with the same flags: it takes over once it serves, and the old one moves "
        "its clients and ends. Exit code 1: the new one has failed, and the old one goes on",
        (
            Argument(
                "with",
                "the program to start, such as one in another virtual environment; without it, the one that runs, as "
                "it is on disk now",
                values.PATH,
                local=True,
            ),
        ),
        Topic.RUN,
        role=Role.ADMIN,
        run=lambda on, given, report: actions.upgrade(on.upgrades, report, **given),
        goes_on=Continuation("the upgrade goes on (the log tells what becomes of it)", unless=()),
    ),
)


def command_named(name: str, given: Mapping[str, object]) -> tuple[Command, Mapping[str, object]]:
    """Return the command of that name and its arguments, of which the first may be a part of its name.

    Raises :class:`ConfigError` for one that isn't in the table.
    """
    if name == SHOW:
        given = dict(given)
        what = given.pop("what", None)
        if not isinstance(what, str) or what not in VIEWS:
            found = f"{what!r:.80}" if what is not None else "nothing"
            raise ConfigError(f"{SHOW}: what: expected {' or '.join(VIEWS)}, found {found}")
        name = f"{SHOW} {what}"
    for command in COMMANDS:
        if command.name == name:
            return command, given
    known = ", ".join(dict.fromkeys(command.name.partition(" ")[0] for command in COMMANDS))
    raise ConfigError(f"unknown command {name!r:.80}; known are {known}")


async def execute(
    console: Console, caller: Caller, name: str, given: Mapping[str, object], report: ReportProgress
) -> CommandAnswer:
    """Carry out one command with arguments as they came, and return its answer; an order has its line in the log.

    An order is on disk before anything is answered, or a note says that it is not.

    Raises :class:`ConfigError` for the operator's mistakes. On cancel what was started goes on, only the waiting ends.
    The caller's role is not looked at here: see :meth:`Role.may`.
    """
    command, given = command_named(name, given)
    if caller.way is not Way.CONTROL:
        command.check_from_afar(given)
    if not command.changes_something(given):
        return await _carry_out(console, command, given, report)

    async def noted(row: Progress | Note) -> None:
        if not isinstance(row, Note):
            order.begun()
        await report(row)

    await console.upgrades.until_decided()
    with AuditedOrder(caller, command.name, given) as order:
        answer = await _carry_out(console, command, given, noted)
        if isinstance(answer, ReloadFaults):
            order.ended(OrderOutcome.REFUSED, answer.faults[0])
        return answer


async def _carry_out(
    console: Console, command: Command, given: Mapping[str, object], report: ReportProgress
) -> CommandAnswer:
    arguments = command.read_arguments(given)
    kept = _KeptFirst(console.state, report)
    try:
        answer = await command.run(console, arguments, kept.report if command.mutates else report)
        if command.mutates:
            await kept.settle()
    except ConfigError:
        await _report_omissions(console, report)  # a client that is not found may be with a worker that hangs
        raise
    await _report_omissions(console, report)
    return answer


class _KeptFirst:
    """Reports once what was ordered is kept, or could not be."""

    def __init__(self, state: Keeping, report: ReportProgress) -> None:
        self._state = state
        self._report = report
        self._settled = False

    async def report(self, row: Progress | Note) -> None:
        await self.settle()
        await self._report(row)

    async def settle(self) -> None:
        if not self._settled:
            self._settled = True
            problem = await self._state.settle()
            if problem is not None:
                await self._report(Note(problem))


async def _report_omissions(console: Console, report: ReportProgress) -> None:
    for omission in console.sessions.omissions():
        await report(Note(omission))
