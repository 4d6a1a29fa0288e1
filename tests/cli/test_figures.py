"""Evaluations as lines and as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from palaestra.cli import figures


@dataclass(frozen=True)
class Measure:
    """A number with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """Numbers by name."""

    measures: dict[str, Measure]


GREEDY = Evaluation({"success": Measure(0.9, 0.8, 1.0), "return": Measure(0.5, 0.4, 0.6)})
SAMPLED = Evaluation({"success": Measure(0.7, 0.6, 0.8), "return": Measure(0.3, 0.2, 0.4)})


def test_both_ways_are_told_apart_and_the_rest_is_the_sampled_one() -> None:
    facts = figures.facts({"greedy": GREEDY, "sampled": SAMPLED})
    assert facts == {
        "success_greedy": 0.9,
        "success_sampled": 0.7,
        "return": 0.3,
        "intervals": {
            "success_greedy": [0.8, 1.0],
            "success_sampled": [0.6, 0.8],
            "return": [0.2, 0.4],
        },
    }


def test_one_way_alone_is_itself() -> None:
    facts = figures.facts({"greedy": GREEDY})
    assert (facts["success_greedy"], facts["return"]) == (0.9, 0.5)
    assert "success_sampled" not in facts


def test_every_measure_is_a_line_with_its_interval() -> None:
    assert figures.lines(figures.facts({"sampled": SAMPLED})) == [
        "  success, sampled   0.700  [0.600, 0.800]",
        "  return             0.300  [0.200, 0.400]",
    ]
