"""From facts to findings, by the rules."""

from __future__ import annotations

from dataclasses import replace

from cxfr_proxy.doctor.facts import ClusterFacts
from cxfr_proxy.doctor.findings import ClusterFinding, DoctorRule, Symptom
from cxfr_proxy.doctor.rules import RULES


def judge(facts: ClusterFacts) -> tuple[ClusterFinding, ...]:
    """Return the findings, the most severe first; those of one severity in the order of the rules. One that is seen for
    several domains is one finding."""
    domains: dict[tuple[int, Symptom], list[str]] = {}
    for number, rule in enumerate(RULES):
        for symptom in rule.look(facts):
            seen_for = domains.setdefault((number, replace(symptom, domain=None)), [])
            if symptom.domain is not None:
                seen_for.append(symptom.domain)
    found = [
        _finding(facts, RULES[number], symptom, tuple(dict.fromkeys(seen_for)))
        for (number, symptom), seen_for in domains.items()
    ]
    return tuple(sorted(found, key=lambda each: each.rule.severity))


def _finding(facts: ClusterFacts, rule: DoctorRule, symptom: Symptom, domains: tuple[str, ...]) -> ClusterFinding:
    node = symptom.node
    if node is None:
        return ClusterFinding(rule, symptom, domains)
    return ClusterFinding(rule, symptom, domains, facts.address_of(node), facts.software_of(node))
