"""A rolling restart: what comes next, whatever happens to its nodes; and what one would come to."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from cxfr_proxy.cluster.members import CheckResult, Cluster
from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.roll import RETURN_SECONDS, NodeView, Roll, RollAction, RollRecord, RollStep, foretell

RISE = 2
SETTLE = 3.0
UP = NodeView(up=True, rise=RISE, settle_seconds=SETTLE)
DOWN = NodeView(up=False, rise=RISE, settle_seconds=SETTLE)


def seen(view: NodeView = UP, **changes: object) -> NodeView:
    """Return a view that differs in these fields."""
    fields = {name: getattr(view, name) for name in NodeView.__dataclass_fields__}
    return NodeView(**{**fields, **changes})


def checked(at: float, text: str = "ok", *, up: bool = True) -> NodeView:
    return seen(up=up, drained=True, check=CheckResult(text, at, 0.01))


class Told:
    """A roll of a and b whose clock goes on by a second with each look."""

    def __init__(self, *, by_command: bool = True) -> None:
        self.now = 100.0
        self.roll = Roll(RollRecord(("a", "b"), by_command=by_command), self.now)

    def look(self, view: NodeView | None = UP, *, down: tuple[str, ...] = (), runs: bool = True) -> RollAction | None:
        self.now += 1.0
        return self.roll.look(view, self.now, down=down, runs=runs)

    @property
    def place(self) -> tuple[str | None, str]:
        return self.roll.node, str(self.roll.record.step)

    def to_restart(self) -> None:
        assert self.look() is RollAction.DRAIN
        assert self.look(seen(drained=True)) is None
        assert self.roll.awaits_restart

    def to_return(self) -> None:
        self.to_restart()
        self.roll.restarted(self.now)

    def to_settle(self) -> None:
        self.to_return()
        for _ in range(RISE):
            self.look(checked(self.now + 0.5))

    def to_next(self) -> None:
        self.to_settle()
        while self.look(seen(drained=True)) is None:
            assert self.now < 200.0
        self.roll.is_ready(self.now)


def test_one_node_after_the_other() -> None:
    it = Told()
    assert it.place == ("a", "drain")
    assert it.look() is RollAction.DRAIN
    assert [it.look(seen(drained=False)) for _ in range(50)] == [None] * 50
    it.look(seen(drained=True))
    assert it.place == ("a", "restart")
    assert it.roll.awaits_restart
    assert [it.look(seen(view, drained=True)) for view in (UP, DOWN, UP)] == [None] * 3
    it.roll.restarted(it.now)
    assert it.place == ("a", "return")
    it.look(checked(it.now + 0.5))
    assert it.place == ("a", "return")
    it.look(checked(it.now + 0.5))
    assert it.place == ("a", "settle")
    up_at = it.now
    while (action := it.look()) is None:
        pass
    assert action is RollAction.READY
    assert it.now == up_at + SETTLE
    it.roll.is_ready(it.now)
    assert it.place == ("b", "drain")
    it.to_next()
    assert (it.roll.node, it.roll.stopped, it.roll.record.done) == (None, None, 2)
    assert it.look() is None


def test_checks_from_before_the_restart_say_nothing() -> None:
    """Nor does one that was under way, nor the same one looked at twice."""
    it = Told()
    it.to_return()
    old = checked(it.now + 0.005)
    fresh = checked(it.now + 0.5)
    for view in (old, old, fresh, fresh, fresh):
        it.look(view)
        assert it.place == ("a", "return")
    it.look(checked(it.now + 0.5))
    assert it.place == ("a", "settle")


def test_checks_have_to_be_good_in_a_row() -> None:
    it = Told()
    it.to_return()
    for text in ("ok", "refused", "ok"):
        it.look(checked(it.now + 0.5, text))
    assert it.place == ("a", "return")
    it.look(checked(it.now + 0.5))
    assert it.place == ("a", "settle")


def test_a_node_that_is_not_checked_is_up_when_it_does_not_count_as_down() -> None:
    it = Told()
    it.to_return()
    it.look(seen(DOWN, rise=0))
    assert it.place == ("a", "return")
    it.look(seen(rise=0))
    assert it.place == ("a", "settle")


def test_a_node_that_goes_again_has_to_return_again() -> None:
    it = Told()
    it.to_settle()
    it.look(DOWN)
    assert it.place == ("a", "return")
    assert it.look(seen(drained=True)) is None
    assert it.place == ("a", "return"), "the good checks from before are forgotten"


def test_an_operator_s_restart_is_seen() -> None:
    it = Told(by_command=False)
    it.to_restart()
    for _ in range(1000):
        assert it.look(seen(drained=True), runs=False) is None
    assert it.place == ("a", "restart")
    it.look(seen(DOWN, drained=True), runs=False)
    assert it.place == ("a", "restart")
    it.look(seen(drained=True), runs=False)
    assert it.place == ("a", "return")


def drain_fails(it: Told) -> None:
    it.look()
    it.look(seen(drain_failure="3 of 9 sessions are left at the deadline"))


def called_off(it: Told) -> None:
    it.to_restart()
    it.look(seen(drain_failure="its drain was called off"))


def nobody_runs(it: Told) -> None:
    it.to_restart()
    it.look(runs=False)


def not_up(it: Told) -> None:
    it.to_return()
    it.now += RETURN_SECONDS
    it.look(checked(it.now, "refused", up=False))


def removed(it: Told) -> None:
    it.look()
    it.look(None)


def former_is_down(it: Told) -> None:
    it.to_next()
    assert it.look(down=("a",)) is None
    assert it.roll.stopped is None, "for a moment it may be"
    it.now += RETURN_SECONDS
    it.look(down=("a",))


@pytest.mark.parametrize(
    ("fail", "place", "reason"),
    [
        (drain_fails, ("a", "drain"), "3 of 9 sessions are left at the deadline"),
        (called_off, ("a", "restart"), "its drain was called off"),
        (nobody_runs, ("a", "restart"), "the command line that restarts the nodes is gone"),
        (not_up, ("a", "return"), "it was restarted 300 s ago, and is not up: refused"),
        (removed, ("a", "drain"), "it is no longer in the list"),
        (former_is_down, ("b", "drain"), "a was restarted before, and is down"),
    ],
)
def test_it_stops_where_something_fails_and_goes_on_there(
    fail: Callable[[Told], None], place: tuple[str, str], reason: str
) -> None:
    it = Told()
    fail(it)
    assert (it.place, it.roll.stopped) == (place, reason)
    assert not it.roll.awaits_restart
    assert it.look(seen(drained=True)) is None
    assert it.place == place
    it.roll.proceed(it.now, by_command=True)
    assert (it.place, it.roll.stopped) == (place, None)
    if place[1] == "drain":
        assert it.look() is RollAction.DRAIN, "it is drained once more"


def test_a_node_whose_drain_is_gone_is_drained_once_more() -> None:
    """As after a restart of the proxy: clients may have come."""
    it = Told()
    it.to_restart()
    it.roll.stop("the proxy was restarted")
    it.roll.proceed(it.now, by_command=True, drained=False)
    assert it.place == ("a", "drain")
    it.to_return()
    it.roll.stop("the proxy was restarted")
    it.roll.proceed(it.now, by_command=True, drained=False)
    assert it.place == ("a", "return"), "it was restarted"


def test_a_restart_that_has_failed_can_be_made_up_for_by_hand() -> None:
    it = Told()
    it.to_restart()
    it.roll.stop("restarting it has failed: exit code 3")
    it.roll.restarted(it.now)
    assert (it.place, it.roll.stopped) == (("a", "return"), None)


def test_it_goes_on_from_what_was_kept_at_any_step() -> None:
    steps: list[Callable[[Told], None]] = [
        lambda it: None,
        Told.to_restart,
        Told.to_return,
        Told.to_settle,
        Told.to_next,
    ]
    for reach in steps:
        it = Told()
        reach(it)
        kept = msgspec.json.decode(msgspec.json.encode(it.roll.record), type=RollRecord)
        assert kept == it.roll.record
        it.roll = Roll(kept, it.now)
        for _ in range(100):
            match it.roll.record.step, it.look(checked(it.now + 0.5)):
                case _, RollAction.READY:
                    it.roll.is_ready(it.now)
                case RollStep.RESTART, _:
                    it.roll.restarted(it.now)
        assert it.roll.node is None


@pytest.mark.parametrize(
    "text", ["{}", '{"nodes": "a"}', '{"nodes": ["a"], "done": -1}', '{"nodes": ["a"], "step": "x"}']
)
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=RollRecord)


# --- the forecast

THREE = "a 10.0.0.1\nb 10.0.0.2\nc 10.0.0.3\n"


def foretold(lines: str, order: str, **sessions: int) -> list[int]:
    cluster = Cluster(parse_nodes(lines, "nodes.txt"))
    return [each.sessions for each in foretell(order.split(), cluster, sessions)]


def test_three_nodes_move_each_session_four_times_in_three() -> None:
    """The first one's clients are spread over nodes that have still to go, so they are moved twice."""
    assert foretold(THREE, "a b c", a=1000, b=1000, c=1000) == [1000, 1500, 1500]


@pytest.mark.parametrize(
    ("lines", "order", "drains"),
    [
        pytest.param(THREE + "d 10.0.0.4", "a b c", [1000, 1000, 1000], id="one that is not restarted takes all"),
        pytest.param(THREE + "d 10.0.0.4 priority=1", "a b c", [1000, 1500, 1500], id="but not one that stands by"),
        pytest.param(THREE.replace("2\n", "2 weight=3\n"), "a b c", [1000, 1750, 1250], id="by weight"),
        pytest.param(THREE.replace("2\n", "2 domain=x\n"), "a b c", [1000, 1500, 1500], id="domains that overlap"),
        pytest.param(
            "a 1.1.1.1 domain=x\nb 1.1.1.2 domain=y\nc 1.1.1.3 domain=x", "a b c", [1000, 1000, 2000], id="or not"
        ),
        pytest.param(THREE, "c", [1000], id="a single one"),
    ],
)
def test_a_forecast(lines: str, order: str, drains: list[int]) -> None:
    assert foretold(lines, order, a=1000, b=1000, c=1000) == drains


def test_a_node_that_takes_nobody_is_not_counted_on() -> None:
    cluster = Cluster(parse_nodes(THREE + "d 10.0.0.4\ne 10.0.0.5", "nodes.txt"))
    cluster.get("d").health = Health.DOWN
    cluster.get("e").set_admin_state(AdminState.MAINT)
    drains = foretell(("a", "b", "c"), cluster, {"a": 1000, "b": 1000, "c": 1000})
    assert [each.sessions for each in drains] == [1000, 1500, 1500]
