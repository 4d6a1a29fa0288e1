import doctest
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from palaestra.algos import credit, masking, returns
from palaestra.testing import laws
from palaestra.testing.rows import Experience
from torch import Tensor

NOT_LOCAL = [name for name in laws.ADVANTAGE if "local" not in name and "worse" not in name]


@pytest.fixture
def unshrunk() -> Iterator[None]:
    """Stop at the first example that is found: shrinking takes most of the time."""
    before = settings.get_current_profile_name()
    settings.register_profile("unshrunk", phases=[Phase.generate])
    settings.load_profile("unshrunk")
    yield
    settings.load_profile(before)


def known(e: Experience) -> dict[str, Any]:
    return {"action_mask": e.action_mask, "episode_id": e.episode_id}


def sound(e: Experience) -> Tensor:
    after = returns.next_values(
        e.values, e.terminated, e.truncated, bootstrap_value=e.bootstrap_value, **known(e)
    )
    row = e.rewards, e.values, after, e.terminated, e.truncated
    return returns.gae(*row, gamma=0.9, lam=0.8, **known(e)).advantages


def token_gae(e: Experience, *, ends: bool = True, mask: bool = True) -> Tensor:
    """The loop of many trainers, with two of its faults to choose from."""
    out = torch.zeros_like(e.rewards)
    for b in range(e.rewards.shape[0]):
        carry, label = torch.zeros((), dtype=torch.float64), -1
        for t in reversed(range(e.rewards.shape[1])):
            if mask and not bool(e.action_mask[b, t]):
                continue
            if ends and int(e.episode_id[b, t]) != label:
                carry, label = torch.zeros((), dtype=torch.float64), int(e.episode_id[b, t])
            carry = e.rewards[b, t] + 0.9 * carry
            out[b, t] = carry
    return out


def test_our_own_estimators_keep_the_laws() -> None:
    laws.check_advantage(sound, examples=15)

    def white(e: Experience) -> Tensor:
        return masking.whiten(sound(e), action_mask=e.action_mask)

    laws.check_advantage(white, laws=NOT_LOCAL, examples=15)


WRONG_ADVANTAGES: list[tuple[laws.Advantage, str]] = [
    (lambda e: sound(e) + 1, "zero_without_action"),
    (lambda e: sound(e) * 0 + e.values * e.action_mask, "blind_to_the_rest"),
    (lambda e: token_gae(e, mask=False), "gaps_are_crossed"),
    (lambda e: sound(e) * torch.arange(e.rewards.shape[0])[:, None], "rows_are_independent"),
    (lambda e: token_gae(e, ends=False), "packing_is_ignored"),
    (lambda e: sound(e) + e.rewards.sum() * e.action_mask, "credit_stays_local"),
    (lambda e: -sound(e), "more_reward_is_not_worse"),
    (lambda e: sound(e) + torch.where(e.action_mask, e.values, 0.0), "credit_is_constant"),
    (lambda e: sound(e) + e.rewards.mul_(2).sum() * 0, "inputs_are_kept"),
]


@pytest.mark.usefixtures("unshrunk")
@pytest.mark.parametrize(("wrong", "law"), WRONG_ADVANTAGES)
def test_each_law_finds_the_estimator_that_breaks_it(wrong: laws.Advantage, law: str) -> None:
    with pytest.raises(AssertionError):
        laws.check_advantage(wrong, laws=[law])


def shares(reward: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    return credit.redistribute(reward, weights, action_mask=mask)


WRONG_SHARES: list[tuple[laws.Redistribution, str]] = [
    (lambda r, w, m: shares(r, w, m).clamp(max=1.0), "sum_is_preserved"),
    (lambda r, w, m: (r / m.shape[1])[:, None].expand(m.shape), "shares_lie_on_actions"),
    (lambda r, w, m: shares(r, w, m) + 1 * m, "shares_keep_the_sign"),
    (lambda r, w, m: r[:, None] * w * m, "weights_are_relative"),
    (lambda r, w, m: shares(r, w + 1, m), "one_weight_takes_all"),
]


@pytest.mark.usefixtures("unshrunk")
@pytest.mark.parametrize(("wrong", "law"), WRONG_SHARES)
def test_each_law_finds_the_redistribution_that_breaks_it(
    wrong: laws.Redistribution, law: str
) -> None:
    with pytest.raises(AssertionError):
        laws.check_redistribution(wrong, laws=[law])


@pytest.mark.usefixtures("unshrunk")
def test_a_bonus_that_can_be_farmed_is_found() -> None:
    with pytest.raises(AssertionError, match="does not telescope"):
        laws.check_shaping(lambda e, gamma: e.values.clamp(min=0))


def test_the_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(laws).failed == 0
