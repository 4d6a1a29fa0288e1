"""Stages by iteration, and the rule that ends a run early."""

from __future__ import annotations

import pytest
from palaestra.train import config
from palaestra.train.config import ConfigError
from palaestra.train.curriculum import Curriculum, StopRule


def test_the_default_run_learns_the_first_try_before_the_second() -> None:
    stages = Curriculum.of(config.load())
    assert [stages.at(iteration) for iteration in (1, 60, 61, 170, 400)] == [
        {"tries": 1},
        {"tries": 1},
        {"tries": 2},
        {"tries": 2},
        {"tries": 2},
    ]
    assert stages.last == {"tries": 2}


def test_without_stages_nothing_changes() -> None:
    assert Curriculum().at(1) == Curriculum().last == {}


def test_the_rule_of_the_default_run_wants_two_evaluations_in_a_row() -> None:
    rule = StopRule.parse(config.load().train.stop_when)
    assert rule is not None
    held = 0
    seen: list[int] = []
    for value in (0.98, 0.97, 0.99, None, 1.0):
        held = rule.count(held, {} if value is None else {"eval/success_greedy": value})
        seen.append(held)
    assert seen == [1, 0, 1, 1, 2]
    assert held == rule.times


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("a/b >= 0.5", 0.5, True),
        ("a/b > 0.5 once", 0.5, False),
        ("a/b<1e-3 3 times", 0.0, True),
        ("a/b <= -1", 0.0, False),
    ],
)
def test_a_rule_compares_as_it_is_written(text: str, value: float, holds: bool) -> None:
    rule = StopRule.parse(text)
    assert rule is not None
    assert rule.holds({"a/b": value}) is holds
    assert rule.holds({}) is None


@pytest.mark.parametrize("text", ["a/b", "a/b >= x", "a/b >= 1 thrice", "a/b >= 1 0 times", "> 1"])
def test_a_text_that_is_no_rule_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r'as "eval/success_greedy >= 0\.98 twice"'):
        StopRule.parse(text)


def test_no_rule_is_never() -> None:
    assert StopRule.parse("  ") is None
