from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from palaestra.algos import credit, returns
from palaestra.testing import oracles
from palaestra.testing.rows import Experience, experiences, plain, rates
from torch import Tensor

R, V = [1.0, 0.0, -0.5, 2.0], [0.5, 0.4, -0.1, 1.0]


def real(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def ends(length: int) -> tuple[Tensor, Tensor]:
    """(a flag on the last position, no flag)."""
    end = torch.zeros(length, dtype=torch.bool)
    end[-1] = True
    return end, torch.zeros_like(end)


def known(e: Experience) -> dict[str, Any]:
    return {"action_mask": e.action_mask, "episode_id": e.episode_id}


def successors(e: Experience) -> Tensor:
    return returns.next_values(
        e.values, e.terminated, e.truncated, bootstrap_value=e.bootstrap_value, **known(e)
    )


def advantages(e: Experience, gamma: Any, lam: Any) -> Tensor:
    row = e.rewards, e.values, successors(e), e.terminated, e.truncated
    return returns.gae(*row, gamma=gamma, lam=lam, **known(e)).advantages


def targets(e: Experience) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return e.rewards, e.terminated, e.truncated, successors(e)


def close(got: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def by_rows(e: Experience, oracle: Any, *fields: Any, tail: tuple[Any, ...] = ()) -> Tensor:
    """Run an oracle on each row; a field that is a number stands for a constant row."""
    out: list[list[float]] = []
    for row in range(e.rewards.shape[0]):
        length = e.rewards.shape[1]
        parts = [plain(f[row]) if isinstance(f, Tensor) else [f] * length for f in fields]
        mask, episode = plain(e.action_mask[row]), plain(e.episode_id[row])
        out.append(oracle(*parts, *tail, mask, episode))
    return torch.tensor(out, dtype=torch.float64)


def test_golden_g1_truncated_and_terminated() -> None:
    end, off = ends(4)
    after = returns.next_values(real(V), off, end, bootstrap_value=real([0.3])[0])
    got = returns.gae(real(R), real(V), after, off, end, gamma=0.9, lam=0.8)
    close(got.advantages, real([1.24042496, 0.528368, 1.4144, 1.27]), 1e-12)
    close(got.value_targets, got.advantages + real(V), 0.0)
    after = returns.next_values(real(V), end, off)
    got = returns.gae(real(R), real(V), after, end, off, gamma=0.9, lam=0.8)
    close(got.advantages, real([1.139648, 0.3884, 1.22, 1.0]), 1e-12)


@given(e=experiences())
def test_successor_values_equal_the_loop(e: Experience) -> None:
    wanted = by_rows(e, oracles.next_values, e.values, e.terminated, e.truncated, e.bootstrap_value)
    close(successors(e), wanted, 0.0)


@given(e=experiences(), gamma=rates(), lam=rates())
def test_gae_equals_the_explicit_double_sum(e: Experience, gamma: float, lam: float) -> None:
    row = e.rewards, e.values, successors(e), e.terminated, e.truncated
    close(advantages(e, gamma, lam), by_rows(e, oracles.gae, *row, gamma, lam))


@given(e=experiences(), seed=st.integers(0, 99))
def test_gae_takes_a_gamma_and_lam_for_each_action(e: Experience, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    gamma = torch.rand(e.rewards.shape, generator=source, dtype=torch.float64)
    lam = torch.rand(e.rewards.shape, generator=source, dtype=torch.float64)
    row = e.rewards, e.values, successors(e), e.terminated, e.truncated
    close(advantages(e, gamma, lam), by_rows(e, oracles.gae, *row, gamma, lam))


@given(e=experiences(), gamma=rates(), n=st.integers(1, 14))
def test_n_step_equals_the_explicit_sum(e: Experience, gamma: float, n: int) -> None:
    wanted = by_rows(e, oracles.n_step, *targets(e), gamma, tail=(n,))
    close(returns.n_step(*targets(e), gamma=gamma, n=n, **known(e)), wanted)


@given(e=experiences(max_time=8), gamma=rates(), lam=rates())
def test_lambda_return_is_the_mixture_of_n_step_returns(
    e: Experience, gamma: float, lam: float
) -> None:
    """INV-N3."""
    wanted = by_rows(e, oracles.lambda_return, *targets(e), gamma, tail=(lam,))
    close(returns.lambda_return(*targets(e), gamma=gamma, lam=lam, **known(e)), wanted)


@given(e=experiences(), gamma=rates(), lam=rates())
def test_lambda_return_is_the_value_target_of_gae(e: Experience, gamma: float, lam: float) -> None:
    row = e.rewards, e.values, successors(e), e.terminated, e.truncated
    wanted = returns.gae(*row, gamma=gamma, lam=lam, **known(e)).value_targets
    close(returns.lambda_return(*targets(e), gamma=gamma, lam=lam, **known(e)), wanted)


@given(e=experiences(), gamma=rates())
def test_the_ends_of_lambda_are_td_and_the_full_return(e: Experience, gamma: float) -> None:
    """INV-G1, INV-G2, INV-L1, INV-N1, INV-N2, INV-RTG4: one kernel from end to end."""
    whole = returns.discounted_return(*targets(e), gamma=gamma, **known(e))
    one = returns.n_step(*targets(e), gamma=gamma, n=1, **known(e))
    held = torch.where(e.action_mask, e.values, 0.0)
    close(advantages(e, gamma, 1.0), whole - held)
    assert torch.equal(advantages(e, gamma, 0.0), torch.where(e.action_mask, one - held, 0.0))
    close(returns.lambda_return(*targets(e), gamma=gamma, lam=1.0, **known(e)), whole)
    assert torch.equal(returns.lambda_return(*targets(e), gamma=gamma, lam=0.0, **known(e)), one)
    assert torch.equal(returns.n_step(*targets(e), gamma=gamma, n=99, **known(e)), whole)


@given(e=experiences(cuts=False))
def test_return_to_go_without_discount_sums_rewards(e: Experience) -> None:
    """INV-RTG1 and INV-RTG2."""
    ended = e.replaced(terminated=e.terminated | e.truncated, truncated=e.truncated & False)
    row = ended.rewards, ended.terminated, ended.truncated
    bare = returns.discounted_return(*row, gamma=0.0, **known(e))
    assert torch.equal(bare, torch.where(e.action_mask, e.rewards, 0.0))
    full = returns.discounted_return(*row, gamma=1.0, **known(e))
    for b in range(e.rewards.shape[0]):
        for label in set(plain(e.episode_id[b])):
            here = (e.action_mask[b] & (e.episode_id[b] == label)).nonzero()[:, 0]
            if here.numel():
                close(full[b, here[0]], e.rewards[b, here].sum())


@given(e=experiences(), gamma=rates())
def test_lambda_returns_lie_between_the_n_step_returns(e: Experience, gamma: float) -> None:
    """INV-L2."""
    steps = range(1, e.rewards.shape[1] + 1)
    all_n = torch.stack([returns.n_step(*targets(e), gamma=gamma, n=n, **known(e)) for n in steps])
    mixed = returns.lambda_return(*targets(e), gamma=gamma, lam=0.6, **known(e))
    assert bool((mixed >= all_n.min(0).values - 1e-9).all())
    assert bool((mixed <= all_n.max(0).values + 1e-9).all())


@given(e=experiences(), gamma=rates(), lam=rates())
def test_an_exact_critic_of_a_deterministic_chain_leaves_no_advantage(
    e: Experience, gamma: float, lam: float
) -> None:
    """INV-ALIGN, INV-G3 and INV-L3."""
    zero = e.replaced(values=e.values * 0)
    row = zero.rewards, zero.terminated, zero.truncated, successors(zero)
    exact = returns.discounted_return(*row, gamma=gamma, **known(e))
    known_chain = e.replaced(values=exact)
    close(advantages(known_chain, gamma, lam), torch.zeros_like(exact), 1e-8)
    got = returns.lambda_return(*targets(known_chain), gamma=gamma, lam=lam, **known(e))
    close(got, exact, 1e-8)


@given(e=experiences(), lam=rates(), shift=st.floats(-3, 3))
def test_a_constant_added_to_all_values_cancels_unless_the_task_ends(
    e: Experience, lam: float, shift: float
) -> None:
    """INV-G4."""
    open_ended = e.replaced(terminated=e.terminated & False, truncated=e.terminated | e.truncated)
    moved = open_ended.replaced(values=e.values + shift, bootstrap_value=e.bootstrap_value + shift)
    close(advantages(moved, 1.0, lam), advantages(open_ended, 1.0, lam))


@given(e=experiences(), gamma=rates(), lam=rates())
def test_advantages_scale_with_rewards_and_values(e: Experience, gamma: float, lam: float) -> None:
    """INV-G5 and INV-RTG3."""
    doubled = e.replaced(
        rewards=e.rewards * 2, values=e.values * 2, bootstrap_value=e.bootstrap_value * 2
    )
    assert torch.equal(advantages(doubled, gamma, lam), advantages(e, gamma, lam) * 2)


@given(e=experiences(), gamma=rates(), lam=rates())
def test_bootstrapping_equals_adding_the_value_to_the_reward_and_ending(
    e: Experience, gamma: float, lam: float
) -> None:
    """INV-TR1, Stable-Baselines3's form."""
    stop = torch.zeros_like(e.terminated)
    for b in range(stop.shape[0]):
        seen: dict[int, int] = {}
        for t in plain(e.action_mask[b].nonzero()[:, 0]):
            seen[int(e.episode_id[b, t])] = t
        for t in seen.values():
            stop[b, t] = not bool(e.terminated[b, t])
    paid = torch.where(stop, e.rewards + gamma * e.bootstrap_value, e.rewards)
    ended = e.replaced(rewards=paid, terminated=e.terminated | stop, truncated=e.truncated & False)
    close(advantages(ended, gamma, lam), advantages(e, gamma, lam))


def test_truncating_with_the_exact_value_changes_nothing_before() -> None:
    """INV-TR2 on a deterministic chain; P5."""
    rewards, end = real([1.0, 2.0, 3.0, 4.0]), ends(4)
    exact = returns.discounted_return(rewards, *end, gamma=0.9)
    values = exact + real([0.3, -0.2, 0.1, 0.0])
    whole = returns.gae(
        rewards, values, returns.next_values(values, *end), *end, gamma=0.9, lam=1.0
    )
    off, cut = ends(2)[1], ends(2)[0]
    after = returns.next_values(values[:2], off, cut, bootstrap_value=exact[2])
    part = returns.gae(rewards[:2], values[:2], after, off, cut, gamma=0.9, lam=1.0)
    close(part.advantages, whole.advantages[:2])


@given(e=experiences(), gamma=rates(), lam=rates())
def test_potential_shaping_leaves_gae_as_it_was(e: Experience, gamma: float, lam: float) -> None:
    """INV-G8 and INV-PS4: GAE on (r + F, v - potential) equals GAE on (r, v)."""
    phi, after_end = e.rewards.flip(-1), e.bootstrap_value / 3
    flags = e.terminated, e.truncated
    later = returns.next_values(phi, *flags, bootstrap_value=after_end, **known(e))
    extra = credit.potential_shaping(phi, later, *flags, gamma=gamma, action_mask=e.action_mask)
    shaped = e.replaced(
        rewards=e.rewards + extra,
        values=e.values - phi,
        bootstrap_value=e.bootstrap_value - after_end,
    )
    close(advantages(shaped, gamma, lam), advantages(e, gamma, lam))


def test_a_flag_inside_a_row_ends_an_episode_without_labels() -> None:
    rewards, values = real([1.0, 1.0, 1.0, 1.0]), real([0.0, 0.0, 0.0, 0.0])
    ended = torch.tensor([False, True, False, True])
    total = returns.discounted_return(rewards, ended, ended & False)
    assert total.tolist() == [2, 1, 2, 1]
    after = returns.next_values(values + 7, ended, ended & False)
    assert after.tolist() == [7, 0, 7, 0]


def test_one_bootstrap_value_a_row_goes_to_its_open_episode() -> None:
    values = real([1.0, 2.0, 3.0, 4.0]).expand(2, 4)
    episode = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
    end = torch.tensor([[False, False, False, True], [False] * 4])
    after = returns.next_values(
        values, end, end & False, bootstrap_value=real([50.0, 60.0]), episode_id=episode
    )
    assert after.tolist() == [[2, 50, 4, 0], [2, 3, 4, 60]]


def test_several_open_episodes_in_a_row_need_a_value_each() -> None:
    values, off = real([1.0, 2.0]), torch.zeros(2, dtype=torch.bool)
    episode = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"give it as \[\.\.\., T\]"):
        returns.next_values(values, off, off, bootstrap_value=real([5.0])[0], episode_id=episode)
    each = real([5.0, 6.0])
    after = returns.next_values(values, off, off, bootstrap_value=each, episode_id=episode)
    assert after.tolist() == [5, 6]


def test_a_cut_row_without_bootstrap_value_is_refused_by_its_index() -> None:
    off = torch.zeros(2, 3, dtype=torch.bool)
    end = off.clone()
    end[0, 2] = True
    with pytest.raises(ValueError, match=r"stops at \(1, 2\).*has no bootstrap_value"):
        returns.next_values(torch.zeros(2, 3), end, off)


def test_a_flag_on_a_tool_result_ends_nothing() -> None:
    end = torch.tensor([False, False, True])
    mask = torch.tensor([True, True, False])
    with pytest.raises(ValueError, match=r"stops at \(1,\)"):
        returns.next_values(torch.zeros(3), end, end & False, action_mask=mask)


def test_both_flags_on_one_action_are_refused_by_their_index() -> None:
    end = torch.tensor([[False, True]])
    with pytest.raises(ValueError, match=r"both True at \(0, 1\)"):
        returns.next_values(torch.zeros(1, 2), end, end)


def test_monte_carlo_without_values_refuses_truncation_unless_told() -> None:
    end, off = ends(2)
    rewards = real([1.0, 2.0])
    with pytest.raises(ValueError, match=r"stops at \(1,\).*allow_truncated_mc"):
        returns.discounted_return(rewards, off, end)
    assert returns.discounted_return(rewards, off, end, allow_truncated_mc=True).tolist() == [3, 2]


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan")])
def test_rates_outside_zero_to_one_are_refused(bad: float) -> None:
    end, off = ends(2)
    row = torch.zeros(2), torch.zeros(2), torch.zeros(2), end, off
    with pytest.raises(ValueError, match=r"lam is .*give 0 to 1"):
        returns.gae(*row, lam=bad)
    with pytest.raises(ValueError, match=r"gamma is .*give 0 to 1"):
        returns.gae(*row, gamma=torch.tensor([1.0, bad]))
    with pytest.raises(ValueError, match=r"lam is .*give 0 to 1"):
        returns.lambda_return(torch.zeros(2), end, off, torch.zeros(2), lam=bad)


def test_wrong_inputs_are_named() -> None:
    end, off = ends(2)
    zeros = torch.zeros(2)
    with pytest.raises(ValueError, match="n is 0; give a window of at least 1"):
        returns.n_step(zeros, end, off, zeros, n=0)
    with pytest.raises(TypeError, match=r"terminated is torch\.int64; give torch\.bool"):
        returns.gae(zeros, zeros, zeros, end.long(), off)
    with pytest.raises(ValueError, match=r"values is \[3\]; give \[2\]"):
        returns.gae(zeros, torch.zeros(3), zeros, end, off)
    with pytest.raises(TypeError, match="action_mask is"):
        returns.gae(zeros, zeros, zeros, end, off, action_mask=torch.ones(2))


def test_python_rates_are_not_rounded_to_float32() -> None:
    """P15."""
    end, off = ends(3)
    got = returns.discounted_return(real([0.0, 0.0, 1.0]), end, off, gamma=0.99)
    assert float(got[0]) == 0.99 * 0.99


def test_lambda_by_length_has_a_floor_and_never_falls() -> None:
    """INV-LA1, INV-LA2 and no jump where 1 - 1 / (alpha L) crosses 0."""
    lam = returns.length_adaptive_lambda(torch.arange(0, 3000))
    assert lam.shape == (3000, 1)
    assert bool((lam[1:] >= lam[:-1]).all())
    assert float(lam.min()) == pytest.approx(0.95)
    length = 1000
    mass = 1 / (1 - float(lam[length, 0].double()))
    assert mass == pytest.approx(0.05 * length, rel=1e-3)
    assert returns.length_adaptive_lambda(torch.tensor(2000)).shape == (1,)


@pytest.mark.parametrize(
    ("known", "word"), [({"alpha": 0.0}, "alpha"), ({"lam_min": 2.0}, "lam_min")]
)
def test_lambda_by_length_refuses_nonsense(known: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        returns.length_adaptive_lambda(torch.tensor([5]), **known)


@pytest.mark.parametrize("length", [1, 32, 256, 4096])
def test_tool_output_of_any_length_changes_no_advantage(length: int) -> None:
    """Gap invariance (P1), NaN in the gap."""
    source = torch.Generator().manual_seed(1)
    r, v = (torch.randn(16, generator=source, dtype=torch.float64) for _ in range(2))
    end, off = ends(16)
    base = returns.gae(r, v, returns.next_values(v, end, off), end, off, gamma=0.99, lam=0.95)
    nan = torch.full((length,), torch.nan, dtype=torch.float64)
    wide_r, wide_v = torch.cat([r[:8], nan, r[8:]]), torch.cat([v[:8], nan, v[8:]])
    mask = ~torch.isnan(wide_r)
    wide = ends(16 + length)
    after = returns.next_values(wide_v, *wide, action_mask=mask)
    got = returns.gae(wide_r, wide_v, after, *wide, gamma=0.99, lam=0.95, action_mask=mask)
    assert torch.equal(got.advantages[mask], base.advantages)
    assert bool((got.advantages[~mask] == 0).all())
