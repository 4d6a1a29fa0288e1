"""Named parts of a reward, and costs apart from it."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

__all__ = [
    "Cost",
    "Event",
    "Judge",
    "Outcome",
    "Penalty",
    "Potential",
    "Progress",
    "Rewards",
    "SelfEvaluation",
    "Term",
]

Rubric: TypeAlias = Callable[..., float]
MAY_READ = ("task", "answer", "messages", "calls", "results", "state", "params", "step")
QUESTION = "Is this on the way to a right answer? yes or no"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the episode is for; paid at its end, or at every step when it is a sum of gains.

    Attributes:
        weight: factor of the signal.
        bounds: smallest and largest signal of one payment.
        per_step: the task itself is a sum of gains.
        fn: computes the signal when the task ends; it is given what its parameters name.
    """

    weight: float = 1.0
    bounds: tuple[float, float] = (0.0, 1.0)
    per_step: bool = False
    fn: Rubric | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Partial credit: w * (Φ(s') - Φ(s)), kept at the end.

    It telescopes, so it cannot be farmed. Φ is `env.potentials()[name]`, or what `fn` returns.

    Attributes:
        weight: factor of the difference.
        fn: computes Φ in [0, 1].
    """

    weight: float
    fn: Rubric | None = None


@dataclass(frozen=True, slots=True)
class Potential:
    """Shaping that changes no optimal policy: w * (γ Φ(s')·[not terminated] - Φ(s)).

    Ng, Harada and Russell, "Policy invariance under reward transformations", 1999, theorem 1.

    Attributes:
        weight: factor of the shaping.
        gamma: the trainer's discount; a run whose discount differs is refused.
        fn: computes Φ in [0, 1]; by default `env.potentials()[name]` is read.
    """

    weight: float
    gamma: float = 1.0
    fn: Rubric | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Paid per occurrence; the episode's sum stays within the cap.

    Attributes:
        weight: reward of one occurrence.
        cap: largest |sum| over an episode.
        fn: counts the occurrences of a step.
    """

    weight: float
    cap: float
    fn: Rubric | None = None

    def __post_init__(self) -> None:
        if not self.cap >= 0:
            raise ValueError(f"{type(self).__name__}.cap is {self.cap}; give a number >= 0")


@dataclass(frozen=True, slots=True)
class Penalty(Event):
    """An event that is paid for by the agent.

    Attributes:
        weight: reward of one occurrence, at most 0.
        cap: largest |sum| over an episode.
        fn: counts the occurrences of a step.
    """

    def __post_init__(self) -> None:
        Event.__post_init__(self)
        if not self.weight <= 0:
            raise ValueError(f"Penalty.weight is {self.weight}; give a number <= 0, or use Event")


@dataclass(frozen=True, slots=True)
class Judge:
    """A callable's verdict at the end of the task.

    Attributes:
        weight: factor of the verdict.
        fn: given what its parameters name, returns the verdict.
        bounds: smallest and largest verdict.
        version: `name@version`, reported with the episode.
    """

    weight: float
    fn: Rubric
    bounds: tuple[float, float] = (0.0, 1.0)
    version: str = ""


@dataclass(frozen=True, slots=True)
class SelfEvaluation:
    """A potential whose Φ is a frozen model's belief in success, asked after each message.

    Kadavath et al., "Language Models (Mostly) Know What They Know", 2022. Φ(s_0) = 0.5 unasked, 0
    after termination, and a missing answer keeps the last Φ: the sum on termination is -w/2
    whatever the judge says.

    Attributes:
        weight: factor of the shaping.
        question: what the judge is asked after the transcript.
    """

    weight: float = 0.1
    question: str = QUESTION


@dataclass(frozen=True, slots=True)
class Cost:
    """A signal that safety bounds; never part of the reward.

    Attributes:
        bounds: smallest (>= 0) and largest value of one step.
        budget: what an episode may cost; reported, for the trainer to hold.
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    budget: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.bounds[0] <= self.bounds[1]:
            raise ValueError(f"Cost.bounds are {self.bounds}; give 0 <= low <= high")


Term: TypeAlias = Outcome | Progress | Potential | Event | Judge | SelfEvaluation


@dataclass(frozen=True, slots=True)
class Plan:
    """The terms of one environment, sorted by how they are paid; made once."""

    weights: Mapping[str, float]
    bounds: Mapping[str, tuple[float, float]]  # of the raw signal, where it has bounds
    caps: Mapping[str, float]
    tracked: tuple[tuple[str, float], ...]  # (name, weight) read from potentials()
    shaped: tuple[tuple[str, float, float], ...]  # (name, weight, gamma) of Potentials
    graded: tuple[tuple[str, Rubric, tuple[str, ...], str], ...]  # (name, fn, reads, when)
    beliefs: tuple[str, ...]  # SelfEvaluations
    silent: tuple[str, ...]  # weight 0: kept as signals
    outcomes: tuple[str, ...]


@dataclass(frozen=True, slots=True, init=False)
class Rewards(Mapping[str, Term]):
    """The terms and costs of an environment, by name.

    Attributes:
        terms: parts of the reward.
        costs: signals apart from it.
        plan: the same, sorted by how they are paid.

    Example:
        >>> rewards = Rewards(success=Outcome(1.0), format=Penalty(-0.05, cap=0.2), leak=Cost())
        >>> rewards.weighted({"format": -0.1})["format"].weight
        -0.1
    """

    terms: Mapping[str, Term]
    costs: Mapping[str, Cost]
    plan: Plan = field(repr=False, compare=False)

    def __init__(self, **terms: Term | Cost) -> None:
        costs = {name: term for name, term in terms.items() if isinstance(term, Cost)}
        paid = {name: term for name, term in terms.items() if not isinstance(term, Cost)}
        if not any(isinstance(term, Outcome | Judge) for term in paid.values()):
            have = ", ".join(paid) or "no term"
            raise ValueError(f"Rewards has {have}, but no Outcome; say what the task is for")
        object.__setattr__(self, "terms", paid)
        object.__setattr__(self, "costs", costs)
        object.__setattr__(self, "plan", plan_of(paid))

    def __getitem__(self, name: str) -> Term:
        return self.terms[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (dict(self.terms), dict(self.costs))

    def weighted(self, weights: Mapping[str, float]) -> "Rewards":
        """Returns the same terms with other weights; weight 0 keeps the signal in `info`.

        Raises:
            ValueError: an unknown term (with the nearest name), or a weight that is no number.
        """
        terms: dict[str, Term | Cost] = {**self.terms, **self.costs}
        for name, weight in weights.items():
            if name not in self.terms:
                near = difflib.get_close_matches(name, self.terms, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"terms: {', '.join(self.terms)}"
                raise ValueError(f"there is no reward term {name!r}; {hint}")
            if isinstance(weight, bool) or not math.isfinite(weight):
                raise ValueError(f"weight of reward term {name!r} is {weight!r}; give a number")
            terms[name] = replace(self.terms[name], weight=float(weight))
        return Rewards(**terms)

    def range(self, turns: int) -> tuple[float, float]:
        """Bounds of the reward's sum over any part of an episode of at most `turns` steps."""
        pairs = [term_range(term, turns) for term in self.terms.values()]
        return math.fsum(low for low, _ in pairs), math.fsum(high for _, high in pairs)


def rebuild(terms: Mapping[str, Term], costs: Mapping[str, Cost]) -> Rewards:
    """Makes Rewards again from their pickled parts."""
    return Rewards(**terms, **costs)


def plan_of(terms: Mapping[str, Term]) -> Plan:
    """Sorts terms by how they are paid."""
    moved = {n: t for n, t in terms.items() if isinstance(t, Progress | Potential)}
    graded = [
        (name, term.fn, reads(name, term.fn), when(term))
        for name, term in terms.items()
        if not isinstance(term, SelfEvaluation) and term.fn is not None
    ]
    return Plan(
        weights={name: term.weight for name, term in terms.items()},
        bounds={n: t.bounds for n, t in terms.items() if isinstance(t, Outcome | Judge)},
        caps={n: t.cap for n, t in terms.items() if isinstance(t, Event)},
        tracked=tuple((n, t.weight) for n, t in moved.items() if t.fn is None),
        shaped=tuple((n, t.weight, t.gamma) for n, t in moved.items() if isinstance(t, Potential)),
        graded=tuple(graded),
        beliefs=tuple(n for n, t in terms.items() if isinstance(t, SelfEvaluation)),
        silent=tuple(n for n, t in terms.items() if t.weight == 0),
        outcomes=tuple(n for n, t in terms.items() if isinstance(t, Outcome)),
    )


def when(term: Outcome | Progress | Potential | Event | Judge) -> str:
    """Says how a term with a function is paid: as Φ, at each step, or at the end."""
    if isinstance(term, Progress | Potential):
        return "phi"
    return "step" if isinstance(term, Event) or getattr(term, "per_step", False) else "end"


def reads(name: str, fn: Rubric) -> tuple[str, ...]:
    """Returns what a rubric's parameters ask for.

    Raises:
        ValueError: it asks for something that rules do not have.
    """
    wanted = tuple(inspect.signature(fn).parameters)
    for parameter in wanted:
        if parameter not in MAY_READ:
            raise ValueError(
                f"fn of term {name!r} has a parameter {parameter!r}; "
                f"it may name {', '.join(MAY_READ)}"
            )
    return wanted


def term_range(term: Term, turns: int) -> tuple[float, float]:
    """Bounds of what one term can pay in an episode."""
    if isinstance(term, Event):
        return (0.0, term.cap) if term.weight > 0 else (-term.cap, 0.0)
    if isinstance(term, Outcome | Judge):
        times = turns if getattr(term, "per_step", False) else 1
        ends = [term.weight * bound * times for bound in term.bounds]
        return min(0.0, *ends), max(0.0, *ends)
    size = abs(term.weight)
    return -size, size
