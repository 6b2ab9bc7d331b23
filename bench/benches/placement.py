"""How evenly users are spread over 3, 10 and 100 nodes, how many move when one joins or leaves, and what a rank costs.

Nothing runs but the functions themselves, in this process. A deviation is that of a node's users from its share, in
percent of the share. With ``n`` users drawn for a share ``p``, chance alone makes one of ``sqrt((1 - p) / (n p))``: the
column `by chance`, one standard deviation.
"""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from bench.options import Options, new_report, tell
from bench.report import Goal, Report, Table, columns
from bench.spread import Spread
from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.members import Node
from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.cluster.placement import rank
from cxfr_proxy.cluster.user_map import UserMap, parse_user_map
from cxfr_proxy.spellings import user_key

_USERS: Final = 100_000
_CLUSTERS: Final = {
    "3": (1, 1, 1),
    "10": (1,) * 10,
    "10, weights 1 to 4": (1, 2, 3, 4, 1, 2, 3, 4, 1, 2),
    "100": (1,) * 100,
}
_RANKED: Final = 2000
"""Ranks in a round of timing."""
_CALLS: Final = 20_000
"""Calls in a round of timing something smaller."""
_LISTED: Final = 1_000_000


def run(options: Options) -> Report:
    users = [f"user{number}@example.org" for number in range(options.sessions or (5000 if options.quick else _USERS))]
    rounds = options.rounds_or(7, 2)
    report = new_report("placement", options)
    report.tables += [_spread(report, users, rounds), _costs(report, rounds, options)]
    return report


def _spread(report: Report, users: Sequence[str], rounds: int) -> Table:
    table = Table(
        f"Placement of {len(users):,} users",
        columns(
            "nodes | max deviation | mean | by chance | moved as one leaves | its share | moved as one joins "
            "| its share | moved between others | µs a rank: median (min-max)"
        ),
    )
    for name, weights in _CLUSTERS.items():
        tell(f"placement: {name} nodes")
        nodes = [_node(number, weight) for number, weight in enumerate(weights)]
        homes = _homes(users, nodes)
        deviations = _deviations(homes, nodes)
        left = _homes(users, nodes[1:])
        joined = _homes(users, [*nodes, _node(len(nodes), 1)])
        strays = sum(was != is_ and was != nodes[0].name for was, is_ in zip(homes, left, strict=True))
        strays += sum(was != is_ and is_ != f"node{len(nodes)}" for was, is_ in zip(homes, joined, strict=True))
        cost = Spread.of(_time(partial(_homes, users[:_RANKED], nodes)) / _RANKED for _ in range(rounds))
        total = sum(weights)
        chance = math.sqrt((1 - min(weights) / total) / (len(users) * min(weights) / total))
        table.add(
            name,
            *(f"{value:.2%}" for value in (max(deviations), sum(deviations) / len(deviations), chance)),
            *(f"{value:.2%}" for value in (_moved(homes, left), weights[0] / total)),
            *(f"{value:.2%}" for value in (_moved(homes, joined), 1 / (total + 1))),
            strays,
            cost.show(1e6),
        )
        report.data.append(
            {"nodes": name, "users": len(users), "deviations": deviations, "seconds_a_rank": cost.values}
            | {"moved_leaving": _moved(homes, left), "moved_joining": _moved(homes, joined), "strays": strays}
        )
        report.goals += [
            Goal(f"{name} nodes: moved between others", 0, Spread.of([strays])),
            Goal(f"{name} nodes: max deviation, in standard deviations", 4, Spread.of([max(deviations) / chance])),
        ]
    table.notes.append("the node that leaves is the first, of weight 1; the one that joins has weight 1")
    return table


def _node(number: int, weight: int) -> Node:
    return Node(NodeSpec(f"node{number}", Address("127.0.0.1", 5222), weight=weight))


def _homes(users: Sequence[str], nodes: Sequence[Node]) -> list[str]:
    return [rank(user, nodes, {})[0].name for user in users]


def _deviations(homes: Sequence[str], nodes: Sequence[Node]) -> list[float]:
    """Of each node, from its share, in parts of the share."""
    counts, total = Counter(homes), sum(node.weight for node in nodes)
    return [abs(counts[node.name] / (len(homes) * node.weight / total) - 1) for node in nodes]


def _moved(before: Sequence[str], after: Sequence[str]) -> float:
    return sum(was != is_ for was, is_ in zip(before, after, strict=True)) / len(before)


def _time(action: Callable[[], object]) -> float:
    """CPU seconds."""
    start = time.process_time()
    action()
    return time.process_time() - start


# --- what looking a user up costs


def _costs(report: Report, rounds: int, options: Options) -> Table:
    listed = _LISTED // 50 if options.quick else _LISTED
    tell(f"placement: a user map of {listed:,}")
    maps: list[UserMap] = []
    lines = [f"user{number}@example.org node{number % 20}\n".encode() for number in range(listed)]
    seconds = _time(lambda: maps.append(parse_user_map(lines, "users.txt")))
    users = maps[0]
    ascii_names = [f"User{number}.name@example.org" for number in range(_CALLS)]
    keys = [f"user{number * 49 % (2 * listed)}@example.org" for number in range(_CALLS)]
    few = [f"jos\u00e9{number % 100}@example.org" for number in range(_CALLS)]
    times: dict[str, list[float]] = {}
    for turn in range(rounds):
        new = [f"jos\u00e9{turn}.{number}@example.org" for number in range(_CALLS)]
        for what, function, names in (
            ("key of an ASCII name", user_key, ascii_names),
            ("key of another name, again", user_key, few),
            ("key of another name, for the first time", user_key, new),
            (f"node by a user map of {listed:,}", users.node_of, keys),
        ):
            times.setdefault(what, []).append(_time(partial(_call, function, names)) / _CALLS)
    table = Table("What it costs to look a user up", columns("what | ns: median (min-max)"))
    for what, values in times.items():
        table.add(what, Spread.of(values).show(1e9, 0))
    size = _bytes(users.digests) + _bytes(users.places)
    table.notes.append(
        f"reading the map takes {seconds:.1f} s of CPU, and it keeps {size / len(users):.1f} bytes a user"
    )
    report.data.append({"ns": times, "map_users": listed, "map_seconds": seconds, "map_bytes": size})
    return table


def _call(function: Callable[[str], object], names: Sequence[str]) -> None:
    for name in names:
        function(name)


def _bytes(numbers: array[int]) -> int:
    return len(numbers) * numbers.itemsize
