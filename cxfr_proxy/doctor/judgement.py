"""From facts to findings, by the rules; and from facts to the questions that nobody could answer."""

from __future__ import annotations

from cxfr_proxy.doctor.facts import ClusterFacts
from cxfr_proxy.doctor.findings import ClusterFinding
from cxfr_proxy.doctor.rules import RULES


def judge(facts: ClusterFacts) -> tuple[ClusterFinding, ...]:
    """Return the findings, the most severe first; those of one severity in the order of the rules."""
    found = [
        ClusterFinding(rule, symptom, facts.software_of(symptom.node) if symptom.node is not None else None)
        for rule in RULES
        for symptom in rule.look(facts)
    ]
    return tuple(sorted(found, key=lambda each: each.rule.severity))
