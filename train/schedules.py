"""Numbers that change with progress: constants, ramps, warm-up.

None depends on the length of the run, so that a run resumed with more iterations goes on as if
it had been asked for them at the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value always."""

    value: float

    def __call__(self, step: int) -> float:
        """The value."""
        return self.value


@dataclass(frozen=True, slots=True)
class Linear:
    """A straight line from ``start`` at step 0 to ``end`` at step ``steps``, then ``end``.

    >>> ramp = Linear(0.08, 0.02, 80)
    >>> ramp(0), round(ramp(40), 6), ramp(80), ramp(500)
    (0.08, 0.05, 0.02, 0.02)
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        """The value at ``step``, counted from 0."""
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * max(0, step) / self.steps


@dataclass(frozen=True, slots=True)
class Warmup:
    """A value that rises linearly over its first ``steps`` updates: (k + 1) / steps of it.

    >>> rate = Warmup(0.003, 20)
    >>> round(rate(0), 6), rate(19), rate(1000)
    (0.00015, 0.003, 0.003)
    """

    value: float
    steps: int

    def __call__(self, step: int) -> float:
        """The value at update ``step``, counted from 0."""
        return self.value if step + 1 >= self.steps else self.value * (step + 1) / self.steps
