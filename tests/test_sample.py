"""The sample of a settings file is the table's, and what it shows as defaults are the defaults."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from cxfr_proxy.cli import main
from cxfr_proxy.config.sample import SAMPLE_NODES, render_sample
from cxfr_proxy.config.settings import parse_settings
from cxfr_proxy.config.table import SETTINGS, Config

SAMPLE: Final = Path(__file__).parents[1] / "packaging" / "settings.toml"
TEXT: Final = SAMPLE.read_text("utf-8")


def test_the_sample_is_drawn_from_the_table() -> None:
    assert render_sample(SETTINGS) == TEXT, "make docs draws it"


def test_every_setting_is_there_once_and_nothing_else() -> None:
    keys = re.findall(r"^#?([a-z-]+) = ", TEXT, re.MULTILINE)
    assert sorted(keys) == sorted(each.name for each in SETTINGS)


def test_a_line_that_is_taken_in_changes_nothing_yet() -> None:
    """Those whose default can't be written show what a value looks like instead, and are valid TOML too."""
    taken_in = re.sub(r"^#([a-z-]+ = )", r"\1", TEXT, flags=re.MULTILINE)
    examples = {each.name for each in SETTINGS if each.row.default is not None}
    written = tomllib.loads(taken_in)
    kept = "\n".join(line for line in taken_in.splitlines() if line.partition(" = ")[0] not in examples)
    config = Config.from_sources({}, parse_settings(kept, "settings.toml", SETTINGS))
    assert config.differences(Config()) == []
    assert set(written) == {each.name for each in SETTINGS}


def test_check_has_nothing_to_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("node1 10.0.0.11\n")
    settings = tmp_path / "settings.toml"
    settings.write_text(TEXT.replace(SAMPLE_NODES, str(nodes)))
    code = main(["check", "--config", str(settings)])
    said = capsys.readouterr()
    assert (code, said.err) == (0, ""), said.out
