"""docs/doctor.md's list of findings, drawn from the rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cxfr_proxy.doctor.findings import DoctorRule, Severity
from cxfr_proxy.doctor.rules import RULES

BEGIN: Final = "<!-- drawn from cxfr_proxy/doctor/rules; a test fails when the two differ -->"


def put_into(page: str) -> str:
    """Return the page with the rules behind what is written there by hand."""
    by_hand, begin, _ = page.partition(BEGIN)
    return f"{by_hand}{begin}\n\n{render_markdown()}"


def render_markdown() -> str:
    """Return all rules, the most severe first, as sections of a page."""
    return "\n".join(
        line for severity in Severity for rule in RULES if rule.severity is severity for line in _rule(rule)
    )


def _rule(rule: DoctorRule) -> Iterator[str]:
    yield f"### {rule.name}\n"
    yield f"*{rule.severity.name.capitalize()}.* {rule.title}.\n"
    yield f"* Expected: {rule.expected}."
    yield f"* Clients: {rule.effect}.\n"
    yield "| of | setting |"
    yield "|---|---|"
    yield from (f"| {program} | {setting.replace('|', chr(92) + '|')} |" for program, setting in rule.remedies.items())
    yield ""
