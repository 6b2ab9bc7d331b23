"""The session's tables as a page for people: docs/session-states.md, written by ``make docs``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final, TypeVar

from cxfr_proxy.session.tables import (
    ASKING,
    EXCHANGING,
    FEATURES,
    INCOMING,
    NODE_REACTIONS,
    OUTGOING,
    QUESTION,
    STANDING_IN,
    TRANSITIONS,
    NodeDid,
    State,
    Transition,
    Where,
)

S = TypeVar("S", bound=Enum)

_HEAD: Final = """# The states of a session

Written by `make docs` from the tables in `cxfr_proxy/session/tables.py`, which the code goes by; a test walks every
row. A step that no table has is a defect, and ends that one session.
"""
_SESSION: Final = """
## The session

"""
_NODE: Final = """
## Acts of the node

The reactions, by where the session is then. *Ending the node's stream*: its end is waited for, and the client's
farewell comes next. A dash: it can't happen there.

"""
_PARTS: Final = """
## One direction of one leg

Bytes that come in from a side:

{incoming}
Bytes that are written to it:

{outgoing}
## Parts that exist only for a while

The features that a client sees while it logs in:

{features}
The progress of one rung of a transfer:

{asking}
The last question, before the node's stream is ended:

{question}
The exchange of the node's leg for another one:

{exchanging}
XEP-0198 that the proxy speaks with the node in the place of the client:

{standing_in}"""


def render_markdown() -> str:
    """Return the page."""
    parts = _PARTS.format(
        incoming=_table_chart(INCOMING),
        outgoing=_table_chart(OUTGOING),
        features=_table_chart(FEATURES),
        asking=_table_chart(ASKING),
        question=_table_chart(QUESTION),
        exchanging=_table_chart(EXCHANGING),
        standing_in=_table_chart(STANDING_IN),
    )
    return _HEAD + _SESSION + _chart(_session_arrows()) + _NODE + _matrix() + parts


def _session_arrows() -> Iterator[str]:
    yield f"[*] --> {State.NEGOTIATING.value}"
    ways: dict[tuple[State, State], list[Transition]] = {}
    for (before, transition), after in TRANSITIONS.items():
        if after is not before:
            ways.setdefault((before, after), []).append(transition)
    for (before, after), transitions in ways.items():
        yield f"{before.value} --> {after.value}: {', '.join(each.value for each in transitions)}"
    yield f"{State.CLOSED.value} --> [*]"


def _table_chart(table: Mapping[S, frozenset[S]]) -> str:
    return _chart(
        f"{before.name.lower()} --> {after.name.lower()}"
        for before, afters in table.items()
        for after in sorted(afters, key=list(table).index)
    )


def _chart(arrows: Iterator[str]) -> str:
    return "\n".join(["```mermaid", "stateDiagram-v2", *(f"    {arrow}" for arrow in arrows), "```"]) + "\n"


def _matrix() -> str:
    rows = [["the node did", *(where.value for where in Where)], ["---"] * (len(Where) + 1)]
    for did in NodeDid:
        found = (NODE_REACTIONS.get((did, where)) for where in Where)
        rows.append([did.value, *(each.value if each is not None else "-" for each in found)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
