"""Evaluations in lines for a person and in plain values for a script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast


class Measure(Protocol):
    """A number with its interval: ``train.evaluate.Measure``."""

    @property
    def value(self) -> float:
        """The number."""
        ...

    @property
    def low(self) -> float:
        """Lower end of its 95 % interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of its 95 % interval."""
        ...


class Measured(Protocol):
    """Numbers by name: ``train.evaluate.Evaluation``."""

    @property
    def measures(self) -> Mapping[str, Measure]:
        """Name -> number with interval."""
        ...


def facts(evaluations: Mapping[str, Measured]) -> dict[str, Any]:
    """The figures of a greedy and a sampled evaluation (one or both) as plain values.

    ``success_greedy`` and ``success_sampled`` come first; what else was measured is that of the
    sampled one where there is one. ``intervals`` holds [low, high] under the same names.
    """
    found: dict[str, Measure] = {}
    for name, evaluation in evaluations.items():
        found[f"success_{name}"] = evaluation.measures["success"]
    rest = evaluations.get("sampled") or next(iter(evaluations.values()))
    found |= {name: one for name, one in rest.measures.items() if name != "success"}
    values: dict[str, Any] = {name: one.value for name, one in found.items()}
    return values | {"intervals": {name: [one.low, one.high] for name, one in found.items()}}


def lines(figures: Mapping[str, Any]) -> list[str]:
    """One line a measure, with its interval where it has one.

    >>> lines({"success_greedy": 0.98, "intervals": {"success_greedy": [0.945, 0.993]}})
    ['  success, greedy    0.980  [0.945, 0.993]']
    """
    intervals = cast(Mapping[str, tuple[float, float]], figures.get("intervals", {}))
    shown: list[str] = []
    for name, (low, high) in intervals.items():
        title = name.replace("success_", "success, ").replace("_", " ")
        shown.append(f"  {title:<17}  {figures[name]:.3f}  [{low:.3f}, {high:.3f}]")
    return shown
