"""What may be randomised in an environment, and how its values are drawn."""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from .messages import JSON

__all__ = [
    "Bernoulli",
    "Choice",
    "Distribution",
    "Domain",
    "Fixed",
    "IntUniform",
    "Mode",
    "Randomizer",
    "Uniform",
]

Mode = Literal["off", "uniform", "held_out"]
Origin = Literal["nominal", "sampled", "forced"]
MODES = ("off", "uniform", "held_out")


class Distribution(Protocol):
    """Where a parameter's values come from.

    `contains` knows training values and held-out ones.
    """

    @property
    def nominal(self) -> JSON:
        """The value without randomisation."""
        ...

    def sample(self, stream: np.random.Generator) -> JSON:
        """Draws a training value."""
        ...

    def sample_held_out(self, stream: np.random.Generator) -> JSON:
        """Draws a value that training never shows; a training value where none is held out."""
        ...

    def contains(self, x: JSON) -> bool:
        """Whether the parameter may have this value at all, held-out ones included."""
        ...

    def log_prob(self, x: JSON) -> float:
        """Log density (or log probability) of a training value; -inf elsewhere."""
        ...

    def at(self, u: float) -> JSON:
        """The training value at quantile u in [0, 1]."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """One value."""

    nominal: JSON

    def sample(self, stream: np.random.Generator) -> JSON:
        """Returns the value; draws nothing."""
        return self.nominal

    def sample_held_out(self, stream: np.random.Generator) -> JSON:
        """Returns the value; draws nothing."""
        return self.nominal

    def contains(self, x: JSON) -> bool:
        """Whether x is the value."""
        return x == self.nominal

    def log_prob(self, x: JSON) -> float:
        """Zero at the value."""
        return 0.0 if x == self.nominal else -math.inf

    def at(self, u: float) -> JSON:
        """The value."""
        return self.nominal


@dataclass(frozen=True, slots=True)
class Uniform:
    """A real number between two bounds.

    Attributes:
        low: smallest training value.
        high: largest training value.
        nominal: the value without randomisation; inside the bounds of training or held out.
        held_out: an interval beyond the training range, for evaluation.
    """

    low: float
    high: float
    nominal: float
    held_out: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"Uniform({self.low}, {self.high}): low must not pass high")
        if self.held_out and not (self.held_out[0] >= self.high or self.held_out[1] <= self.low):
            raise ValueError(f"held_out {self.held_out} overlaps [{self.low}, {self.high}]")
        if not self.contains(self.nominal):
            raise ValueError(f"nominal {self.nominal} is outside [{self.low}, {self.high}]")

    def sample(self, stream: np.random.Generator) -> float:
        """Draws from [low, high)."""
        return self.at(float(stream.random()))

    def sample_held_out(self, stream: np.random.Generator) -> float:
        """Draws from the held-out interval, its end that touches training left out."""
        if self.held_out is None:
            return self.sample(stream)
        low, high = self.held_out
        u = float(stream.random())
        return high - (high - low) * u if low >= self.high else low + (high - low) * u

    def contains(self, x: JSON) -> bool:
        """Whether x is a number of the training range or of the held-out one."""
        if isinstance(x, bool) or not isinstance(x, int | float):
            return False
        low, high = self.held_out or (self.low, self.high)
        return self.low <= x <= self.high or low <= x <= high

    def log_prob(self, x: JSON) -> float:
        """Log density; 0 where the range is a point."""
        if not self.low <= x <= self.high:
            return -math.inf
        return -math.log(self.high - self.low) if self.high > self.low else 0.0

    def at(self, u: float) -> float:
        """Low + u times the width."""
        return self.low + (self.high - self.low) * u


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a list of values.

    Attributes:
        values: all values.
        nominal: the value without randomisation; the first by default.
        weights: one a value; equal by default.
        held_out: values that training never shows.
    """

    values: Sequence[JSON]
    nominal: JSON = None
    weights: Sequence[float] | None = None
    held_out: Sequence[JSON] = ()

    def __post_init__(self) -> None:
        if len(self.values) == 0:
            raise ValueError("Choice() has no values; give at least one")
        if self.nominal is None:
            object.__setattr__(self, "nominal", self.values[0])
        if self.nominal not in self.values:
            raise ValueError(f"nominal {self.nominal!r} is none of {list(self.values)!r}")
        if self.weights is not None and len(self.weights) != len(self.values):
            raise ValueError(f"{len(self.weights)} weights for {len(self.values)} values")
        if not self._training():
            raise ValueError("every value of Choice is held out; leave one for training")

    def _training(self) -> list[tuple[JSON, float]]:
        weights = self.weights or [1.0] * len(self.values)
        pairs = zip(self.values, weights, strict=True)
        return [(v, float(w)) for v, w in pairs if w > 0 and v not in self.held_out]

    def sample(self, stream: np.random.Generator) -> JSON:
        """Draws by weight among the values that are not held out."""
        return self.at(float(stream.random()))

    def sample_held_out(self, stream: np.random.Generator) -> JSON:
        """Draws evenly among the held-out values."""
        if not self.held_out:
            return self.sample(stream)
        return self.held_out[int(stream.integers(len(self.held_out)))]

    def contains(self, x: JSON) -> bool:
        """Whether x is one of the values."""
        return x in self.values

    def log_prob(self, x: JSON) -> float:
        """Log probability among the training values."""
        pairs = self._training()
        share = sum(w for v, w in pairs if v == x) / sum(w for _, w in pairs)
        return math.log(share) if share else -math.inf

    def at(self, u: float) -> JSON:
        """The first training value whose cumulative weight passes u."""
        pairs = self._training()
        left = u * sum(weight for _, weight in pairs)
        for value, weight in pairs:
            left -= weight
            if left < 0:
                return value
        return pairs[-1][0]


@dataclass(frozen=True, slots=True)
class Bernoulli:
    """A coin: True with probability p."""

    p: float
    nominal: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"Bernoulli({self.p}): give a probability in [0, 1]")

    def sample(self, stream: np.random.Generator) -> bool:
        """Throws the coin."""
        return self.at(float(stream.random()))

    def sample_held_out(self, stream: np.random.Generator) -> bool:
        """Throws the coin: nothing is held out."""
        return self.sample(stream)

    def contains(self, x: JSON) -> bool:
        """Whether x is a truth value."""
        return isinstance(x, bool)

    def log_prob(self, x: JSON) -> float:
        """Log p of True, log (1 - p) of False."""
        share = self.p if x else 1 - self.p
        return math.log(share) if share > 0 else -math.inf

    def at(self, u: float) -> bool:
        """True below p."""
        return u < self.p


@dataclass(frozen=True, slots=True)
class IntUniform:
    """A whole number between two bounds, both included.

    Attributes:
        low: smallest training value.
        high: largest training value.
        nominal: the value without randomisation.
        held_out: an interval (both ends included) beyond the training range.
    """

    low: int
    high: int
    nominal: int
    held_out: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"IntUniform({self.low}, {self.high}): low must not pass high")
        if self.held_out and not (self.held_out[0] > self.high or self.held_out[1] < self.low):
            raise ValueError(f"held_out {self.held_out} overlaps [{self.low}, {self.high}]")
        if not self.contains(self.nominal):
            raise ValueError(f"nominal {self.nominal} is outside [{self.low}, {self.high}]")

    def sample(self, stream: np.random.Generator) -> int:
        """Draws a training value."""
        return self.at(float(stream.random()))

    def sample_held_out(self, stream: np.random.Generator) -> int:
        """Draws a held-out value; a training value where none is held out."""
        low, high = self.held_out or (self.low, self.high)
        return int(stream.integers(low, high + 1))

    def contains(self, x: JSON) -> bool:
        """Whether x is a whole number of the training range or of the held-out one."""
        if isinstance(x, bool) or not isinstance(x, int):
            return False
        low, high = self.held_out or (self.low, self.high)
        return self.low <= x <= self.high or low <= x <= high

    def log_prob(self, x: JSON) -> float:
        """Minus the log of how many there are."""
        return -math.log(self.high - self.low + 1) if self.low <= x <= self.high else -math.inf

    def at(self, u: float) -> int:
        """The value at quantile u."""
        return min(self.high, self.low + int(u * (self.high - self.low + 1)))


class Domain(Mapping[str, Distribution]):
    """The parameters of an environment by name, each with its distribution.

    Example:
        >>> domain = Domain(high=Choice([50, 100], nominal=100), lie=Uniform(0.0, 0.1, nominal=0.0))
        >>> domain.nominal()
        {'high': 100, 'lie': 0.0}
    """

    __slots__ = ("_parameters",)

    def __init__(self, **parameters: Distribution) -> None:
        self._parameters = parameters

    def __getitem__(self, name: str) -> Distribution:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={how!r}" for name, how in self._parameters.items())
        return f"Domain({inside})"

    def nominal(self) -> dict[str, JSON]:
        """Returns every parameter's value without randomisation."""
        return {name: how.nominal for name, how in self._parameters.items()}

    def check(self, values: Mapping[str, JSON]) -> None:
        """Refuses unknown names and values outside the bounds.

        Raises:
            ValueError: with the nearest name, or the parameter's bounds.
        """
        for name, value in values.items():
            if name not in self._parameters:
                near = difflib.get_close_matches(name, self._parameters, 1)
                known = ", ".join(self._parameters) or "none"
                hint = f"did you mean {near[0]!r}?" if near else f"parameters: {known}"
                raise ValueError(f"there is no domain parameter {name!r}; {hint}")
            how = self._parameters[name]
            if not how.contains(value):
                raise ValueError(f"domain parameter {name} is {value!r}; it comes from {how!r}")


@dataclass(frozen=True, slots=True)
class Randomizer:
    """How an environment's parameters are chosen for an episode.

    Attributes:
        domain: what there is to choose.
        mode: off (all nominal), uniform (drawn in training bounds), held_out (drawn beyond them).
        fixed: values of parameters that are not drawn.
    """

    domain: Domain
    mode: Mode = "off"
    fixed: Mapping[str, JSON] | None = None

    @classmethod
    def of(cls, domain: Domain, choice: str | Mapping[str, JSON] | None) -> "Randomizer":
        """Reads what a user gave as `domain=`: a mode, fixed values, or both (key "mode").

        Raises:
            ValueError: an unknown mode or parameter, or a value outside its bounds.
        """
        given: Mapping[str, JSON] = {"mode": choice} if isinstance(choice, str) else choice or {}
        mode = given.get("mode", "off") if "mode" not in domain else "off"
        fixed = {name: v for name, v in given.items() if name != "mode" or "mode" in domain}
        if mode not in MODES:
            raise ValueError(f"domain mode is {mode!r}; give one of {', '.join(MODES)}, or values")
        domain.check(fixed)
        return cls(domain, mode, fixed)

    def draw(
        self, stream: Callable[[str], np.random.Generator], forced: Mapping[str, JSON]
    ) -> tuple[dict[str, JSON], Origin]:
        """Chooses the parameters of one episode.

        Args:
            stream: gives the episode's streams; "params" is used, if anything is drawn.
            forced: values for this episode only.

        Returns:
            The values, and where they came from.

        Raises:
            ValueError: an unknown parameter, or a value outside its bounds.
        """
        values = self.domain.nominal()
        origin: Origin = "nominal"
        if self.mode != "off":
            generator, origin = stream("params"), "sampled"
            held_out = self.mode == "held_out"
            for name in sorted(values):  # an order that no declaration changes
                how = self.domain[name]
                values[name] = how.sample_held_out(generator) if held_out else how.sample(generator)
        if self.fixed:
            values.update(self.fixed)
        if forced:
            self.domain.check(forced)
            values.update(forced)
            origin = "forced"
        return values, origin
