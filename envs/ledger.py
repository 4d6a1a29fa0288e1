"""The account of one episode's reward: signals in, weighted credits out."""

from collections.abc import Mapping
from math import fsum, inf
from typing import Any, cast

from .exchange import NOTHING, RewardError
from .messages import Credit
from .rewards import Rewards

__all__ = ["Ledger"]

new = cast(Any, tuple.__new__)  # half the price of calling the class: these are the hot values
UNDECIDED = 0.5  # a SelfEvaluation's Φ before its judge is asked


class Ledger:
    """Weighs the signals of an environment's terms, and keeps what an episode has been paid.

    Every payment passes through `pay` or `move`, so bounds and caps hold whoever pays.
    """

    __slots__ = ("_costs", "_credits", "_plan", "_sums", "phi", "rewards", "signals", "totals")

    def __init__(self, rewards: Rewards) -> None:
        self.rewards = rewards
        self._plan = rewards.plan
        self._credits: list[Credit] = []  # of the step that is open
        self._costs: dict[str, float] = {}  # of the step that is open
        self._sums: dict[str, float] = {}  # of events, for their caps
        self.phi: dict[str, float] = {}  # Φ of Progress, Potential, SelfEvaluation
        self.totals: dict[str, float] = {}  # reward by term, whole episode
        self.signals: dict[str, float] = {}  # raw sums of terms with weight 0, this step

    def begin(self, potentials: Mapping[str, float]) -> None:
        """Opens the account of an episode whose first state has these potentials."""
        self._credits, self._costs, self.signals = [], {}, {}
        self._sums, self.totals = {}, {}
        self.phi = {name: inside(name, potentials) for name, _ in self._plan.tracked}
        for name in self._plan.beliefs:
            self.phi[name] = UNDECIDED

    def pay(
        self,
        term: str,
        value: float,
        call_id: str | None = None,
        span: tuple[int, int] | None = None,
    ) -> None:
        """Books a raw signal of a term.

        Raises:
            RewardError: an unknown term, or a signal that is no finite number inside its bounds.
        """
        plan = self._plan
        if term not in plan.weights:
            known = ", ".join(plan.weights)
            raise RewardError(f"a credit names the term {term!r}; declared are: {known}")
        if type(value) is not float or value != value:
            value = number(f"reward term {term!r}", value)
        low, high = plan.bounds.get(term, (-inf, inf))
        if not low <= value <= high or value in (inf, -inf):
            raise RewardError(f"reward term {term!r} got {value!r}; it must lie in [{low}, {high}]")
        if term in plan.silent:
            self.signals[term] = self.signals.get(term, 0.0) + value
            return
        amount = value * plan.weights[term]
        if term in plan.caps:
            amount = self._capped(term, amount)
        if amount:
            self._credits.append(new(Credit, (term, amount, call_id, span)))

    def _capped(self, term: str, amount: float) -> float:
        cap, before = self._plan.caps[term], self._sums.get(term, 0.0)
        after = min(cap, max(-cap, before + amount))
        self._sums[term] = after
        return after - before

    def move(self, potentials: Mapping[str, float], call_id: str | None = None) -> None:
        """Books the change of every tracked potential, to a call or to the whole message."""
        phi = self.phi
        for name, weight in self._plan.tracked:
            value = potentials.get(name)
            before = phi[name]
            if value == before:
                continue
            phi[name] = value = inside(name, potentials)
            if weight:
                credit = (name, weight * (value - before), call_id, None)
                self._credits.append(new(Credit, credit))
            else:
                self.signals[name] = self.signals.get(name, 0.0) + value - before

    def believe(self, name: str, value: float) -> None:
        """Books what the judge of a SelfEvaluation, or the fn of a potential, says."""
        value = inside(name, {name: value})
        before = self.phi.get(name)
        self.phi[name] = value
        weight = self._plan.weights[name]
        if before is None or value == before:
            return
        if weight:
            self._credits.append(Credit(name, weight * (value - before)))
        else:
            self.signals[name] = self.signals.get(name, 0.0) + value - before

    def charge(self, name: str, value: float) -> None:
        """Books a cost.

        Raises:
            RewardError: an unknown cost, or a value that is negative or out of bounds.
        """
        cost = self.rewards.costs.get(name)
        if cost is None:
            known = ", ".join(self.rewards.costs) or "none"
            raise RewardError(f"a reply names the cost {name!r}; declared are: {known}")
        total = self._costs.get(name, 0.0) + number(f"cost {name!r}", value)
        if not (cost.bounds[0] <= total <= cost.bounds[1] and value >= 0):
            raise RewardError(f"cost {name!r} is {total!r} in a step; bounds are {cost.bounds}")
        self._costs[name] = total

    def close(
        self, terminated: bool
    ) -> tuple[float, dict[str, float], tuple[Credit, ...], dict[str, float]]:
        """Closes the step.

        Returns:
            Reward (the exact sum of the terms), terms, credits and costs of the step.
        """
        if self._plan.shaped or self._plan.beliefs:
            self._shape(terminated)
        costs, self._costs = (self._costs, {}) if self._costs else (NOTHING, self._costs)
        credits = self._credits
        if not credits:
            return 0.0, NOTHING, (), costs
        self._credits = []
        if len(credits) == 1:
            term, reward = credits[0][0], credits[0][1]
            terms = {term: reward}
        else:
            terms = summed(credits)
            reward = fsum(terms.values())
        totals = self.totals
        for term, value in terms.items():
            totals[term] = totals.get(term, 0.0) + value
        return reward, terms, tuple(credits), costs

    def _shape(self, terminated: bool) -> None:
        # the moves of the step have paid w (Φ' - Φ); here comes the rest of w (γ Φ'·[on] - Φ)
        beliefs = [(name, self._plan.weights[name], 1.0) for name in self._plan.beliefs]
        for name, weight, gamma in [*self._plan.shaped, *beliefs]:
            phi = self.phi.get(name, 0.0)
            rest = -phi if terminated else (gamma - 1.0) * phi
            if rest and weight:
                self._credits.append(Credit(name, weight * rest))
            elif rest:
                self.signals[name] = self.signals.get(name, 0.0) + rest

    def void(self) -> None:
        """Forgets the open step: its transition is excluded."""
        self._credits, self._costs, self.signals = [], {}, {}

    def copy(self) -> "Ledger":
        """Returns an account of its own that stands where this one does."""
        other = Ledger(self.rewards)
        other.load(self.state())
        return other

    def state(self) -> dict[str, Any]:
        """Returns the account between two steps as plain data."""
        return {"phi": dict(self.phi), "sums": dict(self._sums), "totals": dict(self.totals)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Puts the account where `state` found it."""
        self.void()
        self.phi, self._sums = dict(state["phi"]), dict(state["sums"])
        self.totals = dict(state["totals"])


def summed(credits: list[Credit]) -> dict[str, float]:
    """Returns the exact sum of the credits of each term, in order of appearance."""
    parts: dict[str, list[float]] = {}
    for credit in credits:
        parts.setdefault(credit[0], []).append(credit[1])
    return {name: fsum(values) for name, values in parts.items()}


def number(what: str, value: Any) -> float:
    """Returns a finite Python float.

    Raises:
        RewardError: the value is no number, or none that counts.
    """
    try:
        result = value if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        result = value
    if not isinstance(result, float):
        raise RewardError(f"{what} is {value!r} ({type(value).__name__}); return a float")
    if result != result or result in (inf, -inf):
        raise RewardError(f"{what} is {value!r}; return a finite number")
    return result


def inside(name: str, potentials: Mapping[str, float]) -> float:
    """Returns Φ of a term.

    Raises:
        RewardError: it is missing, or no number in [0, 1].
    """
    if name not in potentials:
        known = ", ".join(potentials) or "nothing"
        raise RewardError(f"reward term {name!r} reads potentials()[{name!r}]; it has {known}")
    value = number(f"potential {name!r}", potentials[name])
    if not 0.0 <= value <= 1.0:
        raise RewardError(f"potential {name!r} is {value!r}; it must lie in [0, 1]")
    return value
