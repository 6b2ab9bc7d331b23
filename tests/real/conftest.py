"""The parts that the tests against real programs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from real.certs import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority for the session."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A folder for what the programs of one test print."""
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder
