"""The report: text for people, JSON for programs. All that a node has said is cleaned here."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from cxfr_proxy.admin.text import clean, cut
from cxfr_proxy.doctor.facts import ClusterFacts
from cxfr_proxy.doctor.findings import ClusterFinding, Severity
from cxfr_proxy.doctor.judgement import judge
from cxfr_proxy.doctor.questions import OpenQuestion, open_questions
from cxfr_proxy.units import counted

_SHOWN: Final = 10
"""Names of nodes or domains in a line."""
_LONGEST_TEXT: Final = 500
_FIELD: Final = 13
"""Columns before the words of a finding's line."""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """All that was found out, but for findings by rules that the operator has chosen to ignore: of these only the
    ``ignored`` names are told."""

    facts: ClusterFacts
    findings: tuple[ClusterFinding, ...]
    questions: tuple[OpenQuestion, ...] = ()
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, facts: ClusterFacts, ignoring: Collection[str] = ()) -> Self:
        """Judge the facts, by all rules but those of these names."""
        found = judge(facts)
        return cls(
            facts,
            tuple(each for each in found if each.rule.name not in ignoring),
            tuple(open_questions(facts)),
            tuple(dict.fromkeys(each.rule.name for each in found if each.rule.name in ignoring)),
        )

    @property
    def needs_mending(self) -> bool:
        """Whether there is more than notes."""
        return any(each.rule.severity < Severity.NOTE for each in self.findings)

    def lines(self, room: int | None = None) -> Iterator[str]:
        """Yield the lines of the report: findings in order of severity, what was not seen, and a summary. ``room``: in
        so many columns, as far as words can be kept whole; ``None``: in as many as it takes."""
        for line in self._lines():
            yield from _folded(line, room) if room is not None else (line,)

    def _lines(self) -> Iterator[str]:
        for finding in self.findings:
            yield from _finding(finding)
            yield ""
        for question in self.questions:
            of = f" of {_several(question.nodes)}" if question.nodes else ""
            yield clean(f"not known{of}: {question.question}: {question.reason}")
        if self.questions:
            yield ""
        yield self._summary()

    def _summary(self) -> str:
        counts = [
            f"{counted(count, severity.name.lower())}"
            for severity in Severity
            if (count := sum(each.rule.severity is severity for each in self.findings))
        ]
        nodes = len({each.spec.name for each in self.facts.nodes})
        ignored = f"; ignored: {', '.join(self.ignored)}" if self.ignored else ""
        return f"{counted(nodes, 'node')} examined: {', '.join(counts) or 'no findings'}{ignored}"

    def as_json(self) -> str:
        """Return the report in JSON."""
        return json.dumps(
            {
                "nodes": [
                    {"node": name, "software": self.facts.software_of(name)}
                    for name in dict.fromkeys(each.spec.name for each in self.facts.nodes)
                ],
                "findings": list(map(_json, self.findings)),
                "ignored": list(self.ignored),
                "not_known": [
                    {"question": each.question, "reason": each.reason, "nodes": list(each.nodes)}
                    for each in self.questions
                ],
            },
            indent=2,
        )


def _folded(line: str, room: int) -> list[str]:
    """Return a line as several, of which all but the first stand where the words of the first began."""
    start = len(line) - len(line[_FIELD:].lstrip()) if line.startswith(" ") else 2
    return textwrap.wrap(
        line, max(room, 2 * _FIELD), subsequent_indent=" " * start, break_long_words=False, break_on_hyphens=False
    ) or [""]


def _json(finding: ClusterFinding) -> dict[str, object]:
    return {
        "severity": finding.rule.severity.name.lower(),
        "rule": finding.rule.name,
        "title": finding.rule.title,
        "node": finding.symptom.node,
        "address": finding.address,
        "domains": list(finding.domains),
        "seen": _short(finding.symptom.seen),
        "expected": finding.expected,
        "effect": finding.rule.effect,
        "remedies": dict(finding.remedies),
    }


def _finding(finding: ClusterFinding) -> Iterator[str]:
    symptom, rule = finding.symptom, finding.rule
    who = f"{symptom.node} ({finding.address})" if symptom.node is not None else "the proxy"
    where = f" for {_several(finding.domains)}" if finding.domains else ""
    yield clean(f"{rule.severity.name.lower()}: {who}{where}: {rule.name}: {rule.title}")
    yield f"  seen:      {_short(symptom.seen)}"
    yield clean(f"  expected:  {finding.expected}")
    yield clean(f"  clients:   {rule.effect}")
    for number, (program, setting) in enumerate(finding.remedies.items()):
        yield clean(f"  {'to mend:' if number == 0 else '':<9}  {program}: {setting}")


def _several(words: Sequence[str]) -> str:
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _short(text: str) -> str:
    """Return a text that may have a node's words in it, which may be long, and may move a cursor."""
    return cut(clean(text), _LONGEST_TEXT)
