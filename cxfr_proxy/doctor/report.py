"""The report: text for people, JSON for programs. All that a node has said is cleaned here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from cxfr_proxy.admin.text import clean, cut
from cxfr_proxy.doctor.facts import ClusterFacts
from cxfr_proxy.doctor.findings import ClusterFinding, Severity
from cxfr_proxy.doctor.questions import OpenQuestion

_SHOWN: Final = 10
"""Names of nodes or domains in a line."""
_LONGEST_TEXT: Final = 500


def lines(facts: ClusterFacts, findings: Sequence[ClusterFinding], questions: Sequence[OpenQuestion]) -> Iterator[str]:
    """Yield the lines of the report: findings in order of severity, what was not seen, and a summary."""
    for finding in findings:
        yield from _finding(finding)
        yield ""
    for question in questions:
        of = f" of {_several(question.nodes)}" if question.nodes else ""
        yield clean(f"not known{of}: {question.question}: {question.reason}")
    if questions:
        yield ""
    yield _summary(facts, findings)


def _finding(finding: ClusterFinding) -> Iterator[str]:
    symptom, rule = finding.symptom, finding.rule
    who = symptom.node or "the proxy"
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


def _summary(facts: ClusterFacts, findings: Sequence[ClusterFinding]) -> str:
    counts = [
        f"{count} {severity.name.lower()}{'s' * (count != 1)}"
        for severity in Severity
        if (count := sum(each.rule.severity is severity for each in findings))
    ]
    nodes = len({each.spec.name for each in facts.nodes})
    return f"{nodes} node{'s' * (nodes != 1)} examined: {', '.join(counts) or 'no findings'}"


def as_json(facts: ClusterFacts, findings: Sequence[ClusterFinding], questions: Sequence[OpenQuestion]) -> str:
    """Return the report in JSON."""
    return json.dumps(
        {
            "nodes": [
                {"node": name, "software": facts.software_of(name)}
                for name in dict.fromkeys(each.spec.name for each in facts.nodes)
            ],
            "findings": [
                {
                    "severity": each.rule.severity.name.lower(),
                    "rule": each.rule.name,
                    "title": each.rule.title,
                    "node": each.symptom.node,
                    "domains": list(each.domains),
                    "seen": _short(each.symptom.seen),
                    "expected": each.expected,
                    "effect": each.rule.effect,
                    "remedies": dict(each.remedies),
                }
                for each in findings
            ],
            "not_known": [
                {"question": each.question, "reason": each.reason, "nodes": list(each.nodes)} for each in questions
            ],
        },
        indent=2,
    )


def needs_mending(findings: Sequence[ClusterFinding]) -> bool:
    """Return whether there is more than notes."""
    return any(each.rule.severity < Severity.NOTE for each in findings)
