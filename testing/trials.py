"""An environment on trial: fresh copies of it, recorded episodes, counterexamples made short."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ..envs.core import Env, Step
from ..envs.messages import Message
from . import strategies

LONGEST = 6  # messages of a drawn episode
SHRINKS = 150  # episodes tried to make a counterexample shorter
# an environment may be slow, and its own test may draw examples too
CALM = (
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.large_base_example,
    HealthCheck.nested_given,
)
Make = Callable[[], Env]


class ViolationError(AssertionError):
    """An invariant does not hold.

    Attributes:
        detail: what was seen, and what should have been.
        seed: of the episode that shows it, where one does.
        actions: the shortest list of actions found that shows it.
    """

    def __init__(
        self, detail: str, seed: int | None = None, actions: Sequence[Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail, self.seed, self.actions = detail, seed, actions


class InapplicableError(Exception):
    """An invariant that has nothing to say about this environment."""


class Trace(NamedTuple):
    """One episode as plain values, wall time left out: equal traces are equal episodes."""

    first: tuple[Message, ...]
    steps: tuple[Step, ...]
    state: str
    anchor: bytes

    @property
    def digest(self) -> str:
        """A hash that is equal in other processes."""
        return blake2b(repr(self).encode("utf-8", "replace"), digest_size=16).hexdigest()

    @property
    def total(self) -> float:
        """The sum of the rewards."""
        return sum(step.reward for step in self.steps)


def play(
    env: Env, actions: Sequence[str], seed: int | None, options: Mapping[str, Any] | None = None
) -> Trace:
    """Plays one episode of `env` from its start, as far as the actions go."""
    return go_on(env, actions, env.start(seed, options))


def go_on(env: Env, actions: Sequence[str], first: tuple[Message, ...] = ()) -> Trace:
    """Plays on from where `env` stands."""
    steps: list[Step] = []
    for action in actions:
        if env.episode.over:
            break
        steps.append(env.advance(action))
    trace = Trace(first, tuple(steps), repr(env.state), env.anchor())
    env.close_session()
    return trace


def difference(one: Trace, other: Trace) -> str:
    """Says where two traces part; empty where they are equal."""
    if repr(one.first) != repr(other.first):
        return f"the first messages differ: {_short(one.first)} against {_short(other.first)}"
    for number, (mine, theirs) in enumerate(zip(one.steps, other.steps, strict=False)):
        for name, a, b in zip(Step._fields, mine, theirs, strict=True):
            if repr(a) != repr(b):
                return f"step {number} differs in {name}: {_short(a)} against {_short(b)}"
    if len(one.steps) != len(other.steps):
        return f"one ends after {len(one.steps)} steps, the other after {len(other.steps)}"
    return "" if one.state == other.state else f"states differ: {one.state} against {other.state}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:150]}... ({len(text)} characters)"


@contextmanager
def global_luck(seed: int) -> Generator[None]:
    """Sets the global generators of `random` and numpy, and puts them back after."""
    plain, numpy = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(numpy)


class Trial:
    """What the invariants are given: the environment, and how hard to look.

    Attributes:
        make: makes a fresh environment.
        views: the views to check.
        examples: drawn episodes of an invariant.
        quick: leave out what needs other processes or many episodes.
        env: an environment to ask about its declarations; never played.
    """

    def __init__(self, make: Make, views: Sequence[str], examples: int, quick: bool) -> None:
        self.make = make
        self.views = tuple(views)
        self.quick = quick
        self.env = make()
        # an episode that leaves the process costs a hundred times one that does not
        self.outside = any(tool.resource != "inline" for tool in self.env.tools.values())
        self.examples = max(3, examples // (8 if self.outside else 1) // (4 if quick else 1))

    @cached_property
    def messages(self) -> SearchStrategy[str]:
        """Messages an agent may send."""
        return strategies.actions(self.env)

    @cached_property
    def solvable(self) -> bool:
        """Whether there is a reference solution."""
        return type(self.env).solution is not Env.solution

    def over(
        self,
        check: Callable[[int, list[Any]], None],
        actions: SearchStrategy[Any] | None = None,
        *,
        longest: int = LONGEST,
        examples: int | None = None,
    ) -> None:
        """Checks a property of (seed, actions) on drawn episodes.

        Raises:
            ViolationError: with the shortest episode found that breaks it.
        """
        drawn = self.messages if actions is None else actions
        shown: list[tuple[int, list[Any], Exception]] = []
        patience = SHRINKS

        @settings(
            max_examples=examples or self.examples,
            derandomize=True,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=CALM,
        )
        @given(st.integers(0, 2**20), st.lists(drawn, max_size=longest))
        def body(seed: int, several: list[Any]) -> None:
            nonlocal patience
            if shown:
                patience -= 1
                if patience < 0:  # what fails by chance would be shrunk for minutes
                    return
            try:
                check(seed, several)
            except InapplicableError:
                raise
            except Exception as error:
                shown.append((seed, several, error))
                raise

        try:
            body()
        except InapplicableError:
            raise
        except Exception as error:
            if not shown:
                raise
            seed, several, cause = min(shown, key=lambda case: (len(case[1]), len(repr(case[:2]))))
            raise ViolationError(described(cause), seed, several) from error

    def each_seed(self, count: int) -> range:
        """Seeds of episodes to look at: fewer where an episode is dear."""
        return range(max(2, count // (8 if self.outside else 1) // (4 if self.quick else 1)))

    def pickled(self) -> bytes | None:
        """Returns `make` for another process; None where it cannot travel."""
        try:
            data = pickle.dumps(self.make)
            pickle.loads(data)
        except Exception:
            return None
        return data


def described(error: Exception) -> str:
    """Says what a fault or any other exception of an environment is, in one line."""
    if isinstance(error, ViolationError):
        return error.detail
    cause = error.__cause__ or error
    return f"raised {type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"
