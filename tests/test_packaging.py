"""The package's metadata: each dependency has a floor, and a leg of CI runs with the oldest versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

TOP: Final = Path(__file__).parents[1]
PROJECT: Final = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: Final[dict[str, list[str]]] = PROJECT["optional-dependencies"]
DEPENDENCIES: Final = [Requirement(each) for each in PROJECT["dependencies"]]
PINS: Final = [
    Requirement(line.partition("#")[0])
    for line in (TOP / "tests" / "lowest.txt").read_text("utf-8").splitlines()
    if line.partition("#")[0].strip()
]


def versions(requirement: Requirement, operator: str) -> list[Version]:
    return [Version(each.version) for each in requirement.specifier if each.operator == operator]


@pytest.mark.parametrize("dependency", DEPENDENCIES, ids=str)
def test_the_oldest_version_allowed_is_one_that_is_tested(dependency: Requirement) -> None:
    (floor,) = versions(dependency, ">=")
    pinned = [version for pin in PINS if pin.name == dependency.name for version in versions(pin, "==")]
    assert floor == min(pinned, default=None), f"tests/lowest.txt pins {dependency.name} to something else"


def test_nothing_else_is_pinned() -> None:
    assert {pin.name for pin in PINS} == {dependency.name for dependency in DEPENDENCIES}


LOCK: Final = (TOP / "packaging" / "requirements.txt").read_text("utf-8")
LOCKED: Final = {
    requirement.name: requirement
    for requirement in (Requirement(line.rstrip(" \\")) for line in LOCK.splitlines() if re.match(r"[a-z]", line))
}


@pytest.mark.parametrize("dependency", [*DEPENDENCIES, *map(Requirement, EXTRAS["titles"])], ids=str)
def test_the_lock_has_a_version_that_is_allowed(dependency: Requirement) -> None:
    (version,) = versions(LOCKED[dependency.name.replace("_", "-")], "==")
    assert dependency.specifier.contains(version), "make lock chooses anew"


def test_the_lock_knows_each_file_by_its_hash_and_no_index() -> None:
    entries = re.split(r"^(?=[a-z])", re.sub(r"^ *#.*\n", "", LOCK, flags=re.MULTILINE), flags=re.MULTILINE)
    assert [entry for entry in entries if entry and "--hash=sha256:" not in entry] == []
    assert "://" not in LOCK


def test_python_versions() -> None:
    """Each Python that the classifiers name is one that is allowed."""
    allowed = Requirement(f"python{PROJECT['requires-python']}").specifier
    named = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if "Python :: 3." in each]
    assert named
    assert all(allowed.contains(each) for each in named)
