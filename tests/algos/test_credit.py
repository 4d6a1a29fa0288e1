from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from palaestra.algos import credit, returns, segments
from palaestra.testing import laws, oracles
from palaestra.testing.rows import Experience, experiences, plain, rates, rows
from torch import Tensor


def real(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def known(e: Experience) -> dict[str, Any]:
    return {"action_mask": e.action_mask, "episode_id": e.episode_id}


def close(got: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def test_a_tool_result_pays_the_call_before_it() -> None:
    """P4: not the last attention token, which is a tool token."""
    mask = torch.tensor(
        [[True, True, False, False, True, False], [True, False, False] + [False] * 3]
    )
    rewards = real([0.1, 0.0, 0.5, 0.25, 0.0, 1.0, 0, 0, 2, 0, 0, 0]).view(2, 6)
    folded = credit.fold_rewards(rewards, action_mask=mask)
    assert folded.tolist() == [[0.1, 0.75, 0, 0, 1.0, 0], [2.0, 0, 0, 0, 0, 0]]


@given(e=experiences())
def test_folding_keeps_the_sum_of_each_row(e: Experience) -> None:
    """INV-FOLD, against the loop; rewards before the first action are 0 here."""
    mask = e.action_mask
    rewards = torch.where(mask.cumsum(-1) > 0, e.rewards, 0.0)
    folded = credit.fold_rewards(rewards, action_mask=mask)
    close(folded.sum(-1), rewards.sum(-1))
    for b in range(mask.shape[0]):
        wanted = oracles.fold_rewards(plain(rewards[b]), plain(mask[b]))
        close(folded[b], torch.tensor(wanted, dtype=torch.float64))


def test_a_reward_before_the_first_action_is_refused_by_its_index() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    rewards = real([0, 0, 1, 0]).view(2, 2)
    with pytest.raises(ValueError, match=r"reward at \(1, 0\) has no action before it"):
        credit.fold_rewards(rewards, action_mask=mask)


def test_a_reward_never_moves_into_the_episode_before() -> None:
    mask = torch.tensor([True, False, False, True])
    episode = torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"reward at \(2,\)"):
        credit.fold_rewards(real([0, 0, 1, 0]), action_mask=mask, episode_id=episode)
    folded = credit.fold_rewards(real([0, 3, 0, 1]), action_mask=mask, episode_id=episode)
    assert folded.tolist() == [3, 0, 0, 1]


def test_scores_are_paid_on_the_last_action_of_their_segment() -> None:
    mask = torch.tensor([[True, True, False, True, False], [True, False, False, False, False]])
    turn = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]])
    by_turn = credit.place(real([1, 2, 3, 0]).view(2, 2), mask, turn)
    assert by_turn.tolist() == [[0, 1, 0, 2, 0], [3, 0, 0, 0, 0]]
    by_row = credit.place(real([5, 6]), mask)
    assert by_row.tolist() == [[0, 0, 0, 5, 0], [6, 0, 0, 0, 0]]
    by_episode = credit.place(
        real([7, 8]), torch.tensor([True, False, True]), episode_id=torch.tensor([0, 0, 1])
    )
    assert by_episode.tolist() == [7, 0, 8]


@given(e=experiences())
def test_placing_and_pooling_are_inverse(e: Experience) -> None:
    pooled = segments.segment_reduce(e.rewards, e.values, e.call_id, **known(e))
    paid = credit.place(pooled.rewards, e.action_mask, e.call_id, episode_id=e.episode_id)
    again = segments.segment_reduce(paid, e.values, e.call_id, **known(e))
    assert torch.equal(again.rewards, pooled.rewards)


def test_a_reward_for_nobody_is_refused() -> None:
    mask = torch.tensor([[True], [False]])
    with pytest.raises(ValueError, match=r"reward at \(1, 0\) belongs to no action"):
        credit.place(real([1, 1]), mask)
    with pytest.raises(ValueError, match="belongs to no action"):
        credit.redistribute(real([1, 1]), real([1, 1]).view(2, 1), action_mask=mask)
    assert credit.place(real([1, 0]), mask).tolist() == [[1], [0]]
    wide = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"rewards is \[2, 1\]; give \[2, 2\]"):
        credit.place(real([1, 1]), wide, torch.tensor([[0, 1], [0, 1]]))


def test_redistribution_keeps_every_law() -> None:
    """INV-RD1, RD2, RD3, RD4 and RD5 through the properties that users are given."""
    laws.check_redistribution(lambda r, w, m: credit.redistribute(r, w, action_mask=m))


@given(data=st.data(), length=st.integers(1, 30), size=st.sampled_from([1e-300, 1e-6, 1.0, 1e9]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shares_add_up_exactly_in_any_order(
    dtype: torch.dtype, data: st.DataObject, length: int, size: float
) -> None:
    reward = data.draw(st.floats(-10, 10, allow_subnormal=False)) * size
    weights = data.draw(rows((1, length), 0.0))[0].to(dtype)
    total = torch.tensor(reward, dtype=dtype)
    shares = credit.redistribute(total, weights)
    order = torch.randperm(length, generator=torch.Generator().manual_seed(length))
    assert shares.dtype == dtype
    assert torch.equal(shares.sum(), total)
    assert torch.equal(shares[order].sum(), total)
    assert sum(plain(shares)) == float(total)
    assert not bool((shares * total.sign() < 0).any())


@given(e=experiences())
def test_shares_equal_the_loop(e: Experience) -> None:
    weights = e.values.abs()
    reward = torch.where(e.action_mask.any(-1), e.rewards[:, 0], 0.0)
    got = credit.redistribute(reward, weights, action_mask=e.action_mask)
    for b in range(reward.shape[0]):
        wanted = oracles.redistribute(float(reward[b]), plain(weights[b]), plain(e.action_mask[b]))
        close(got[b], torch.tensor(wanted, dtype=torch.float64), 1e-11)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_say_nothing_count_as_equal(bad: float) -> None:
    for weights in ([0.0, 0.0, 0.0, 0.0], [1.0, bad, 1.0, 1.0]):
        got = credit.redistribute(real([2.0])[0], real(weights))
        assert got.tolist() == [0.5] * 4


def test_enormous_and_tiny_weights_neither_overflow_nor_vanish() -> None:
    for size in (1e308, 1e-300):
        got = credit.redistribute(real([4.0])[0], real([1.0, 3.0]) * (size / 3))
        close(got, real([1.0, 3.0]))


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="a weight is -1; give weights of 0 or more"):
        credit.redistribute(real([1.0])[0], real([1.0, -1.0]))


@given(e=experiences(), gamma=st.sampled_from([0.5, 0.97, 1.0]))
def test_the_discounted_form_keeps_the_discounted_sum(e: Experience, gamma: float) -> None:
    mask = torch.ones_like(e.action_mask)
    got = credit.redistribute(
        e.rewards[:, 0], e.values.abs(), preserve="discounted", gamma=gamma, action_mask=mask
    )
    discount = gamma ** torch.arange(mask.shape[1], dtype=torch.float64)
    close((got * discount).sum(-1), e.rewards[:, 0] * discount[-1])


@given(e=experiences())
def test_redistribution_keeps_the_return_from_the_start(e: Experience) -> None:
    """INV-RD6 for whole rows."""
    mask = e.action_mask
    reward = torch.where(mask.any(-1), e.rewards[:, 0], 0.0)
    end = torch.zeros_like(mask)
    for b in range(mask.shape[0]):
        places = mask[b].nonzero()[:, 0]
        end[b, places[-1:]] = True
    shares = credit.redistribute(reward, e.values.abs(), action_mask=mask)
    total = returns.discounted_return(shares, end, end & False, action_mask=mask)
    for b in range(mask.shape[0]):
        places = mask[b].nonzero()[:, 0]
        if places.numel():
            close(total[b, places[0]], reward[b], 1e-12)


def shaping(e: Experience, gamma: float) -> Tensor:
    after = returns.next_values(
        e.values, e.terminated, e.truncated, bootstrap_value=e.bootstrap_value, **known(e)
    )
    return credit.potential_shaping(
        e.values, after, e.terminated, e.truncated, gamma=gamma, action_mask=e.action_mask
    )


def test_potential_shaping_telescopes() -> None:
    """INV-PS1."""
    laws.check_shaping(shaping)


def test_a_constant_potential_pays_only_at_the_end() -> None:
    """INV-PS5."""
    end, off = torch.tensor([False, False, True]), torch.zeros(3, dtype=torch.bool)
    flat = real([0.5, 0.5, 0.5])
    after = returns.next_values(flat, end, off)
    assert credit.potential_shaping(flat, after, end, off).tolist() == [0, 0, -0.5]


def chain_values(rewards: Tensor, bonus: Tensor, gamma: float) -> Tensor:
    """Q of a random deterministic process: 3 states, 2 actions, by value iteration."""
    moves = torch.tensor([[1, 2], [2, 0], [0, 1]])
    q = torch.zeros(3, 2, dtype=torch.float64)
    for _ in range(2000):
        q = rewards + bonus + gamma * q.max(-1).values[moves]
    return q


@given(seed=st.integers(0, 1000), gamma=st.sampled_from([0.5, 0.9]))
def test_potentials_leave_the_best_actions_as_they_were(seed: int, gamma: float) -> None:
    """INV-PS2: Q of the shaped process is Q - potential."""
    source = torch.Generator().manual_seed(seed)
    rewards = torch.randn(3, 2, generator=source, dtype=torch.float64)
    phi = torch.randn(3, generator=source, dtype=torch.float64)
    moves = torch.tensor([[1, 2], [2, 0], [0, 1]])
    bonus = gamma * phi[moves] - phi[:, None]
    plain = chain_values(rewards, torch.zeros(3, 2, dtype=torch.float64), gamma)
    close(chain_values(rewards, bonus, gamma), plain - phi[:, None], 1e-8)


def test_a_bonus_that_is_no_potential_changes_the_best_action() -> None:
    """INV-PS3, the negative control; P20."""
    rewards = real([1.0, 0.9, 1.0, 0.9, 1.0, 0.9]).view(3, 2)
    bonus = real([0.0, 0.5, 0.0, 0.5, 0.0, 0.5]).view(3, 2)
    plain = chain_values(rewards, bonus * 0, 0.9)
    farmed = chain_values(rewards, bonus, 0.9)
    assert plain.argmax(-1).tolist() == [0, 0, 0]
    assert farmed.argmax(-1).tolist() == [1, 1, 1]


def test_the_price_of_kl_comes_off_each_action_and_is_reported() -> None:
    got = credit.kl_reward(
        real([1.0, 0.0, 9.0]),
        real([-1.0, -2.0, float("nan")]),
        real([-2.0, -1.5, -1.0]),
        beta=0.1,
        action_mask=torch.tensor([True, True, False]),
    )
    close(got.rewards, real([0.9, 0.05, 0.0]))
    close(got.kl, real([1.0, -0.5, 0.0]))
    far = credit.kl_reward(real([0.0]), real([0.0]), real([-500.0]), beta=1.0)
    assert far.rewards.tolist() == [-20.0]


@given(e=experiences(), gamma=rates())
def test_shaping_reads_nothing_after_the_end_of_a_task(e: Experience, gamma: float) -> None:
    after = torch.where(e.terminated, torch.nan, e.rewards)
    got = credit.potential_shaping(
        e.values, after, e.terminated, e.truncated, gamma=gamma, action_mask=e.action_mask
    )
    assert bool(torch.isfinite(got).all())
