"""What changes with progress: stages of the environment, and the rule that ends a run early."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .fields import ConfigError
from .settings import Config, Stage

_RULE = re.compile(
    r"(?P<tag>[\w/]+)\s*(?P<sign>>=|<=|>|<)\s*(?P<bound>[-+.\deE]+)"
    r"(\s+(?P<times>once|twice|\d+ times))?"
)


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Arguments of the environment by iteration.

    >>> path = Curriculum((Stage(60, {"tries": 1}), Stage(170, {"tries": 2})))
    >>> path.at(60), path.at(61), path.at(999)
    ({'tries': 1}, {'tries': 2}, {'tries': 2})
    """

    stages: tuple[Stage, ...] = ()

    @classmethod
    def of(cls, config: Config) -> Curriculum:
        """The stages of a config."""
        return cls(config.curriculum.stage)

    def at(self, iteration: int) -> Mapping[str, Any]:
        """Arguments for ``iteration``, counted from 1; after the last stage it stays."""
        for stage in self.stages:
            if iteration <= stage.until_iteration:
                return stage.options
        return self.last

    @property
    def every(self) -> tuple[Mapping[str, Any], ...]:
        """Arguments of all stages."""
        return tuple(stage.options for stage in self.stages)

    @property
    def last(self) -> Mapping[str, Any]:
        """Arguments of the last stage: evaluation runs there."""
        return self.stages[-1].options if self.stages else {}


@dataclass(frozen=True, slots=True)
class StopRule:
    """Ends a run when a figure holds some times in a row.

    Attributes:
        tag: the figure, as it stands in ``metrics.jsonl``.
        sign: how it is compared with ``bound``.
        bound: the number it is compared with.
        times: how many evaluations in a row must hold.
    """

    tag: str
    sign: str
    bound: float
    times: int

    @classmethod
    def parse(cls, text: str) -> StopRule | None:
        """The rule of ``train.stop_when``; None for the empty text.

        >>> StopRule.parse("eval/success_greedy >= 0.98 twice")
        StopRule(tag='eval/success_greedy', sign='>=', bound=0.98, times=2)

        Raises:
            ConfigError: the text is no rule.
        """
        if not text.strip():
            return None
        match = _RULE.fullmatch(text.strip())
        try:
            if match is None:
                raise ValueError
            word = match["times"] or "once"
            times = {"once": 1, "twice": 2}.get(word) or int(word.split()[0])
            if times < 1:
                raise ValueError
            return cls(match["tag"], match["sign"], float(match["bound"]), times)
        except ValueError:
            raise ConfigError(
                f'train.stop_when is "{text}"; give TAG SIGN NUMBER [once | twice | N times], '
                'as "eval/success_greedy >= 0.98 twice", or nothing for never.'
            ) from None

    def holds(self, figures: Mapping[str, float]) -> bool | None:
        """Whether the figure holds now; None where it was not measured."""
        value = figures.get(self.tag)
        if value is None:
            return None
        return {
            ">=": value >= self.bound,
            "<=": value <= self.bound,
            ">": value > self.bound,
            "<": value < self.bound,
        }[self.sign]

    def count(self, held: int, figures: Mapping[str, float]) -> int:
        """How often in a row it holds after ``figures``; ``held`` is the count before.

        The count is the caller's to keep and to save: the run ends when it reaches ``times``.
        """
        now = self.holds(figures)
        return held if now is None else held + 1 if now else 0
