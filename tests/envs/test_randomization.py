"""What may be randomised."""

import doctest
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.envs import randomization
from palaestra.envs.core import Env
from palaestra.envs.randomization import (
    Bernoulli,
    Choice,
    Domain,
    Fixed,
    IntUniform,
    Randomizer,
    Uniform,
)

ALL = {
    "fixed": Fixed(3),
    "uniform": Uniform(0.0, 0.4, nominal=0.0, held_out=(0.4, 0.7)),
    "below": Uniform(0.5, 1.0, nominal=0.5, held_out=(0.1, 0.5)),
    "choice": Choice(["a", "b", "c", "d"], nominal="a", held_out=("c", "d")),
    "weighted": Choice([1, 2], weights=[1.0, 3.0]),
    "coin": Bernoulli(0.25),
    "count": IntUniform(2, 5, nominal=4, held_out=(6, 9)),
}
DOMAIN = Domain(**ALL)


def stream(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@given(st.sampled_from(list(ALL)), st.integers(0, 1000))
def test_samples_are_inside_and_never_held_out_env_dr1(name: str, seed: int) -> None:
    how: Any = ALL[name]
    value = how.sample(stream(seed))
    assert how.contains(value)
    assert how.log_prob(value) > -math.inf
    held = how.sample_held_out(stream(seed))
    assert how.contains(held)
    if getattr(how, "held_out", None):
        assert how.log_prob(held) == -math.inf


@pytest.mark.parametrize("name", list(ALL))
def test_nominal_values_are_inside(name: str) -> None:
    assert ALL[name].contains(ALL[name].nominal)


def test_quantiles_run_from_the_lowest_to_the_highest() -> None:
    assert [ALL["uniform"].at(u) for u in (0.0, 0.5, 1.0)] == [0.0, 0.2, 0.4]
    assert [ALL["count"].at(u) for u in (0.0, 0.25, 0.999, 1.0)] == [2, 3, 5, 5]
    assert [ALL["choice"].at(u) for u in (0.0, 0.5, 1.0)] == ["a", "b", "b"]
    assert [ALL["weighted"].at(u) for u in (0.0, 0.24, 0.26)] == [1, 1, 2]
    assert [ALL["coin"].at(u) for u in (0.0, 0.25)] == [True, False]


def test_densities_sum_to_one() -> None:
    assert ALL["uniform"].log_prob(0.1) == pytest.approx(math.log(2.5))
    assert sum(math.exp(ALL["count"].log_prob(n)) for n in range(10)) == pytest.approx(1)
    assert math.exp(ALL["weighted"].log_prob(2)) == pytest.approx(0.75)
    assert math.exp(ALL["coin"].log_prob(True)) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(1.0, 0.0, nominal=0.5), "low must not pass high"),
        (lambda: Uniform(0.0, 1.0, nominal=2.0), "nominal 2.0 is outside"),
        (lambda: Uniform(0.0, 1.0, nominal=0.0, held_out=(0.5, 2.0)), "overlaps"),
        (lambda: IntUniform(0, 4, nominal=9), "nominal 9 is outside"),
        (lambda: IntUniform(0, 4, nominal=0, held_out=(4, 5)), "overlaps"),
        (lambda: Choice([]), "no values"),
        (lambda: Choice([1, 2], nominal=3), "nominal 3 is none of"),
        (lambda: Choice([1, 2], weights=[1.0]), "1 weights for 2 values"),
        (lambda: Choice([1, 2], held_out=(1, 2)), "every value of Choice is held out"),
        (lambda: Bernoulli(1.5), "probability"),
    ],
)
def test_impossible_distributions_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_domain_refuses_unknown_names_and_values() -> None:
    with pytest.raises(ValueError, match="did you mean 'choice'"):
        DOMAIN.check({"chioce": "a"})
    with pytest.raises(ValueError, match="domain parameter coin is 3"):
        DOMAIN.check({"coin": 3})


def test_modes_choose_and_forced_values_win() -> None:
    def draws(choice: Any, forced: Any = None) -> tuple[dict[str, Any], str]:
        return Randomizer.of(DOMAIN, choice).draw(lambda name: stream(3), forced or {})

    assert draws(None) == (DOMAIN.nominal(), "nominal")
    assert draws("off") == draws(None)
    sampled, origin = draws("uniform")
    assert origin == "sampled"
    assert sampled != DOMAIN.nominal()
    assert draws("held_out")[0]["choice"] in ("c", "d")
    assert draws({"coin": True})[0]["coin"] is True
    fixed = draws({"mode": "uniform", "coin": True})[0]
    assert fixed["coin"] is True
    assert fixed["uniform"] == sampled["uniform"]
    assert draws("uniform", {"count": 5}) == ({**sampled, "count": 5}, "forced")


def test_params_depend_on_seed_and_episode_only_env_dr3() -> None:
    class Noisy(Env):
        domain = DOMAIN

        def begin(self, task: Any) -> str:
            self.state = {}
            return "?"

    found: list[Any] = []
    for attempt in (0, 3):
        env = Noisy(domain="uniform")
        env.stream("other").random()
        env.start(seed=5, options={"episode": 2, "attempt": attempt})
        found.append(env.params)
    assert found[0] == found[1]
    env = Noisy()
    env.start(seed=5)
    assert env.params == DOMAIN.nominal()
    env.start(seed=5, options={"params": {"count": 3}})
    assert (env.params["count"], env.params_origin) == (3, "forced")


def test_a_domain_reads_as_it_is_written() -> None:
    assert repr(Domain(lie=Fixed(1))) == "Domain(lie=Fixed(nominal=1))"


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(randomization).failed == 0
