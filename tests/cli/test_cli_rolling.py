"""Watching a roll over a proxy's restart."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from waiting import until

from cxfr_proxy.admin.rows.codec import as_json, read_answer
from cxfr_proxy.admin.rows.order_rows import RollProgress
from cxfr_proxy.admin.sentences import in_words
from cxfr_proxy.cli.rolling import RollConversation
from cxfr_proxy.cli.screen import AnswerScreen
from cxfr_proxy.cli.speaking import Conversation
from cxfr_proxy.errors import ConfigError, NoProxy

ROW = RollProgress("node2", "restart", total=3, left=2, sessions=0, moved=7, finished=False, reason="its command runs")


async def test_a_proxy_that_has_lost_the_roll_leaves_it_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it was is told by the command that watched, since nobody else knows."""
    asked: list[Mapping[str, object]] = []

    async def hold(self: Conversation, path: Path, command: str, given: Mapping[str, object], _: object) -> object:
        asked.append(given)
        if len(asked) > 1:
            raise ConfigError("no roll goes on")
        self.on_progress(as_json(ROW))
        raise NoProxy("no proxy runs")

    monkeypatch.setattr(Conversation, "hold", hold)
    monkeypatch.setattr("cxfr_proxy.cli.rolling._RETRY_SECONDS", 0)
    screen = AnswerScreen(sys.stdout, False, None)
    row = read_answer(await RollConversation().hold(tmp_path, "roll", {"nodes": ["node2"]}, screen))
    assert asked == [{"nodes": ["node2"]}, {"continue": True, "run": False}]
    assert isinstance(row, RollProgress)
    assert (row.finished, row.given_up, row.left) == (True, True, 2)
    assert in_words(row) == "the roll is over at node2 (2 of 3), step restart: the proxy says: no roll goes on"
    assert "the roll goes on when it is there again" in capsys.readouterr().err


async def test_a_command_that_runs_is_not_killed_when_nobody_reads_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = tmp_path / "began", tmp_path / "ended"

    async def hold(self: Conversation, *_: object) -> object:
        self.on_progress(as_json(ROW))
        await until(began.exists)
        raise BrokenPipeError

    monkeypatch.setattr(Conversation, "hold", hold)
    screen = AnswerScreen(sys.stdout, False, None)
    with pytest.raises(BrokenPipeError):
        await RollConversation(f"sh -c 'touch {began}; sleep 1; touch {ended}'").hold(tmp_path, "roll", {}, screen)
    assert ended.exists()
