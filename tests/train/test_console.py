"""What a person sees while a run goes on."""

from __future__ import annotations

import io

import pytest
from palaestra.train.console import Console

FIGURES = {
    "train/success": 0.5,
    "train/frac": 0.75,
    "policy/entropy_nonforced": 1.2,
    "policy/kl_update": 0.0123,
    "rollout/tokens_per_second": 12_345.6,
}


def test_away_from_a_terminal_there_is_one_line_per_ten_iterations() -> None:
    screen = io.StringIO()
    console = Console(stream=screen)
    console.start(25)
    for iteration in range(1, 26):
        console.iteration(iteration, FIGURES)
    console.stop()
    lines = screen.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["10/25", "20/25", "25/25"]
    for word in ("success 0.500", "fraction 0.750", "entropy 1.200", "KL 0.0123", "12,346", "left"):
        assert word in lines[0]


def test_a_figure_the_run_does_not_have_is_left_out() -> None:
    screen = io.StringIO()
    console = Console(stream=screen)
    console.start(1)
    console.iteration(1, {"train/success": 0.0})
    assert "fraction" not in screen.getvalue()


def test_a_quiet_run_shows_nothing() -> None:
    screen = io.StringIO()
    console = Console(stream=screen, quiet=True)
    console.start(10)
    console.iteration(10, FIGURES)
    console.line("a choice")
    console.text("transcript", "words")
    console.stop()
    assert screen.getvalue() == ""


def test_a_terminal_gets_a_table_that_stays_in_place() -> None:
    screen = io.StringIO()
    console = Console(stream=screen, live=True)
    console.start(3)
    for iteration in (1, 2, 3):
        console.iteration(iteration, FIGURES)
    console.line("an evaluation")
    console.stop()
    console.stop()
    shown = screen.getvalue()
    for word in ("iteration", "success", "fraction", "entropy", "KL", "tokens/s", "time left"):
        assert word in shown
    assert "3/3" in shown


def test_without_colour_no_escape_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    screen = io.StringIO()
    console = Console(stream=screen)
    console.text("title", "[bold]words in brackets[/bold]")
    assert "\x1b" not in screen.getvalue()
    assert "[bold]words in brackets[/bold]" in screen.getvalue()


def test_the_time_left_follows_the_pace() -> None:
    console = Console(stream=io.StringIO(), quiet=True)
    assert console.time_left(0) is None
    console.start(10)
    console.iteration(10, FIGURES)
    assert console.time_left(10) == 0.0
    left = console.time_left(5)
    assert left is not None
    assert left >= 0.0
