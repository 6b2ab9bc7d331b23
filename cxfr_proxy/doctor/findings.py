"""A finding, and the rule that it comes from: one row for each fault that is known by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cxfr_proxy.doctor.facts import ClusterFacts
from cxfr_proxy.doctor.software import ServerSoftware

PROXY: Final = "cxfr-proxy"
"""Stands among the programs of a remedy for the proxy's own settings, nodes.txt included."""


class Severity(IntEnum):
    """How much clients suffer, the worst first."""

    ERROR = 1
    """Some clients, or all, cannot log in, lose messages, or are not safe."""
    WARNING = 2
    """Clients get less than they could, or will be in trouble soon."""
    NOTE = 3
    """Worth knowing; there may be nothing to mend."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """A sight that a rule was looking for. ``node`` ``None``: it is about the proxy, or about all.
    ``expected``: in this case, where it is not what the rule says."""

    seen: str
    node: str | None = None
    domain: str | None = None
    expected: str | None = None


Look = Callable[[ClusterFacts], Iterator[Symptom]]


@dataclass(frozen=True, slots=True)
class DoctorRule:
    """A fault that has a name. ``title`` says it in a line, ``expected`` what a sound cluster has instead, ``effect``
    what the fault does to clients; ``remedies`` has the settings by the program that they are of."""

    name: str
    severity: Severity
    title: str
    expected: str
    effect: str
    remedies: Mapping[str, str]
    look: Look


@dataclass(frozen=True, slots=True)
class ClusterFinding:
    """A symptom with its rule, and all domains for which it was seen. ``address`` and ``software`` are the node's;
    ``None``: not known, or it is about no node."""

    rule: DoctorRule
    symptom: Symptom
    domains: tuple[str, ...] = ()
    address: str | None = None
    software: ServerSoftware | None = None

    @property
    def expected(self) -> str:
        return self.symptom.expected or self.rule.expected

    @property
    def remedies(self) -> Mapping[str, str]:
        """The settings that mend it: the proxy's, and those of the node's program, or of all if that is not known."""
        known = self.software
        return {
            program: text
            for program, text in self.rule.remedies.items()
            if known is None or program in (PROXY, known.value)
        }
