"""Terms, costs, and the account of an episode."""

import doctest
import math
import pickle
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.envs import rewards as module
from palaestra.envs.exchange import RewardError
from palaestra.envs.ledger import Ledger
from palaestra.envs.rewards import (
    Cost,
    Event,
    Judge,
    Outcome,
    Penalty,
    Potential,
    Progress,
    Rewards,
    SelfEvaluation,
)


def misspelt(taks: Any) -> float:
    return 1.0


def pleased(messages: Any) -> float:
    return 1.0


PHIS = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8)


def paid(rewards: Rewards, phis: list[float], *, terminated: bool, name: str) -> float:
    """The sum of an episode whose potential takes these values, the first before it begins."""
    ledger = Ledger(rewards)
    ledger.begin({name: phis[0]})
    total: list[float] = []
    for number, phi in enumerate(phis[1:], 2):
        ledger.move({name: phi}, "c0")
        total.append(ledger.close(terminated and number == len(phis))[0])
    return math.fsum(total)


@given(PHIS, st.booleans())
def test_progress_telescopes_and_is_kept_env_rew3(phis: list[float], terminated: bool) -> None:
    rewards = Rewards(success=Outcome(), phi=Progress(0.3))
    total = paid(rewards, phis, terminated=terminated, name="phi")
    assert total == pytest.approx(0.3 * (phis[-1] - phis[0]) if len(phis) > 1 else 0.0)


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=8))
def test_a_potential_pays_back_on_termination_env_rew3(phis: list[float]) -> None:
    rewards = Rewards(success=Outcome(), phi=Potential(0.5))
    assert paid(rewards, phis, terminated=True, name="phi") == pytest.approx(-0.5 * phis[0])
    total = paid(rewards, phis, terminated=False, name="phi")
    assert total == pytest.approx(0.5 * (phis[-1] - phis[0]))


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6), st.floats(0.5, 1.0))
def test_a_discounted_potential_pays_its_definition(phis: list[float], gamma: float) -> None:
    ledger = Ledger(Rewards(success=Outcome(), phi=Potential(2.0, gamma=gamma)))
    ledger.begin({"phi": phis[0]})
    for before, after in pairwise(phis):
        ledger.move({"phi": after})
        assert ledger.close(False)[0] == pytest.approx(2.0 * (gamma * after - before))


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(-3, 3)), max_size=12))
def test_the_reward_is_the_exact_sum_of_its_terms_env_rew1(pays: list[tuple[str, float]]) -> None:
    terms = {name: Event(0.1, cap=0.7) for name in "abc"}
    ledger = Ledger(Rewards(success=Outcome(), **terms))
    ledger.begin({})
    for name, value in pays:
        ledger.pay(name, value, "c0")
    reward, found, credits, _ = ledger.close(False)
    assert reward == math.fsum(found.values())
    for name in found:
        assert found[name] == math.fsum(c.value for c in credits if c.term == name)


@given(st.lists(st.floats(-5, 5), max_size=20))
def test_events_stay_within_their_cap_env_rew2(values: list[float]) -> None:
    ledger = Ledger(Rewards(success=Outcome(), clap=Event(0.3, cap=0.5)))
    ledger.begin({})
    total = 0.0
    for value in values:
        ledger.pay("clap", value)
        total += ledger.close(False)[0]
        assert abs(total) <= 0.5 + 1e-12


def test_costs_change_no_reward_env_rew7() -> None:
    ledger = Ledger(Rewards(success=Outcome(), harm=Cost((0.0, 2.0), budget=3.0)))
    ledger.begin({})
    ledger.charge("harm", 1.5)
    assert ledger.close(False) == (0.0, {}, (), {"harm": 1.5})
    assert ledger.close(False)[3] == {}


@pytest.mark.parametrize("value", [-1.0, 9.0, float("nan"), "x"])
def test_costs_are_bounded_and_never_negative(value: Any) -> None:
    ledger = Ledger(Rewards(success=Outcome(), harm=Cost((0.0, 2.0))))
    ledger.begin({})
    with pytest.raises(RewardError, match="harm"):
        ledger.charge("harm", value)
    with pytest.raises(RewardError, match="declared are: harm"):
        ledger.charge("hram", 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, 1.5, -0.5])
def test_an_outcome_outside_its_bounds_names_its_term(value: Any) -> None:
    ledger = Ledger(Rewards(success=Outcome()))
    ledger.begin({})
    with pytest.raises(RewardError, match="'success'"):
        ledger.pay("success", value)


def test_an_unknown_term_is_named() -> None:
    ledger = Ledger(Rewards(success=Outcome()))
    with pytest.raises(RewardError, match="'sucess'; declared are: success"):
        ledger.pay("sucess", 1.0)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "x", None])
def test_a_potential_outside_its_range_is_named(value: Any) -> None:
    ledger = Ledger(Rewards(success=Outcome(), phi=Progress(1.0)))
    with pytest.raises(RewardError, match="'phi'"):
        ledger.begin({"phi": value})


def test_weight_zero_keeps_the_signal() -> None:
    ledger = Ledger(Rewards(success=Outcome(), phi=Progress(0.0), clap=Event(0.0, cap=1.0)))
    ledger.begin({"phi": 0.25})
    ledger.move({"phi": 0.75})
    ledger.pay("clap", 2.0)
    assert ledger.signals == {"phi": 0.5, "clap": 2.0}
    assert ledger.close(True)[0] == 0.0


def test_a_void_step_pays_nothing() -> None:
    ledger = Ledger(Rewards(success=Outcome()))
    ledger.begin({})
    ledger.pay("success", 1.0)
    ledger.void()
    assert ledger.close(True) == (0.0, {}, (), {})


def test_an_account_continues_from_its_state() -> None:
    ledger = Ledger(Rewards(success=Outcome(), clap=Event(0.3, cap=0.5), phi=Progress(1.0)))
    ledger.begin({"phi": 0.0})
    ledger.pay("clap", 1.0)
    ledger.move({"phi": 0.5})
    ledger.close(False)
    other = ledger.copy()
    for each in (ledger, other):
        each.pay("clap", 1.0)
        each.move({"phi": 0.6})
    assert ledger.close(False) == other.close(False)
    assert ledger.totals == other.totals == {"clap": 0.5, "phi": pytest.approx(0.6)}


def test_weights_are_overridden_by_name() -> None:
    rewards = Rewards(success=Outcome(1.0), format=Penalty(-0.05, cap=0.2))
    changed = rewards.weighted({"format": -0.1, "success": 2})
    assert changed["format"] == Penalty(-0.1, cap=0.2)
    assert changed["success"].weight == 2.0
    with pytest.raises(ValueError, match="did you mean 'format'"):
        rewards.weighted({"fromat": 1})
    with pytest.raises(ValueError, match="give a number"):
        rewards.weighted({"format": float("nan")})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rewards(phi=Progress(1.0)), "no Outcome"),
        (lambda: Penalty(0.5, cap=1.0), "<= 0"),
        (lambda: Event(0.5, cap=-1.0), "cap is -1.0"),
        (lambda: Cost((-1.0, 1.0)), "0 <= low <= high"),
        (lambda: Rewards(s=Outcome(fn=misspelt)), "parameter 'taks'; it may name task"),
    ],
)
def test_impossible_terms_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_range_of_an_episode_holds_every_kind() -> None:
    rewards = Rewards(
        success=Outcome(2.0, (-1.0, 1.0)),
        gain=Outcome(1.0, per_step=True),
        phi=Progress(0.5),
        clap=Event(0.1, cap=0.3),
        format=Penalty(-0.1, cap=0.2),
        taste=Judge(0.5, pleased),
        belief=SelfEvaluation(0.1),
        harm=Cost(),
    )
    assert rewards.range(10) == (pytest.approx(-2.8), pytest.approx(13.4))


def test_rewards_are_a_mapping_and_pickle() -> None:
    rewards = Rewards(success=Outcome(1.0), harm=Cost())
    assert dict(rewards) == {"success": Outcome(1.0)}
    assert pickle.loads(pickle.dumps(rewards)) == rewards
    assert pickle.loads(pickle.dumps(rewards)).costs == {"harm": Cost()}


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(module).failed == 0
