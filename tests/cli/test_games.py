"""Being the agent at a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import pytest
from palaestra.cli import games
from palaestra.envs.small import Compare

ASK = '<tool_call>{"name": "compare", "arguments": {"n": 50}}</tool_call>'


def played(lines: Sequence[str], seed: int = 3) -> tuple[games.Game, str]:
    """A game and what was shown in it."""
    shown: list[str] = []
    game = games.play(Compare(), iter(lines), seed=seed, write=shown.append)
    return game, "\n".join(shown)


def test_the_environment_speaks_first_and_answers_each_line() -> None:
    _, shown = played([ASK])
    assert "env: I think of a number from 1 to 100." in shown
    assert "tool: higher" in shown or "tool: not higher" in shown
    assert "[reward +0.15, +0.15 in all]" in shown


def test_what_was_earned_is_told_when_asked() -> None:
    assert "nothing was said yet" in played([":why"])[1]
    assert "narrowing +0.15  c0" in played([ASK, ":why"])[1]
    assert "it earned nothing" in played(["seven", ":why"])[1]


def test_a_message_taken_back_was_never_said() -> None:
    game, shown = played([ASK, ASK, "7", ":undo", ":undo", ":undo", ":undo"])
    assert "nothing to take back" in shown
    assert game.total == 0.0
    assert game.env.messages == Compare_start()
    assert not game.over


def Compare_start() -> tuple[object, ...]:  # noqa: N802 - reads as the value it gives
    """The messages an untouched episode begins with."""
    return Compare().start(3)


def test_a_copy_leaves_the_original_as_it_was() -> None:
    game, shown = played([ASK, ":fork", "7", ":back", ":back"])
    assert "[answered: no success" in shown
    assert "this is no copy" in shown
    assert not game.over
    assert len(game.before) == 1


def test_after_the_end_only_commands_are_heard() -> None:
    game, shown = played(["7", "8"])
    assert game.over
    assert "the episode has ended: :undo goes back" in shown


def test_several_lines_are_one_message() -> None:
    game, _ = played(['"""', "one", "two", '"""', "never"])
    assert game.env.messages[1].content == "one\ntwo"


def test_the_tools_and_the_commands_are_listed() -> None:
    shown = played([":tools", ":help", ":fly", ":quit", "7"])[1]
    assert "compare(n)  Is the hidden number higher than n?" in shown
    assert shown.count(":undo  take the last message back") == 2
    assert "no command :fly" in shown
    assert "reward" not in shown


def test_lines_are_read_until_the_input_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo"))
    assert list(games.typed()) == ["one", "two"]
