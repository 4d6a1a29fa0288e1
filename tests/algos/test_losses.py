import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from palaestra.algos import losses
from palaestra.algos.losses import Aggregation, Baseline, RunningBaseline
from palaestra.testing import oracles
from palaestra.testing.rows import Experience, experiences, log_ratios, plain, rows
from torch import Tensor

MODES: list[Aggregation] = ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "const_norm"]
KINDS: list[Baseline] = ["rloo", "mean", "grpo", "dr_grpo", "batch_std"]
every_mode = pytest.mark.parametrize("mode", MODES)
every_kind = pytest.mark.parametrize("kind", KINDS)


def real(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def close(got: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


@every_mode
@given(e=experiences())
def test_aggregation_equals_the_loop(mode: Aggregation, e: Experience) -> None:
    spoiled = torch.where(e.action_mask, e.values, torch.nan)
    got = losses.aggregate(spoiled, mode=mode, action_mask=e.action_mask, max_length=20)
    wanted = oracles.aggregate(plain(e.values), plain(e.action_mask), mode, 20)
    assert float(got) == pytest.approx(wanted, abs=1e-12)


@every_mode
@given(e=experiences(), data=st.data())
def test_micro_batches_with_a_global_divisor_add_up_to_the_batch(
    mode: Aggregation, e: Experience, data: st.DataObject
) -> None:
    """INV-AG2 and P10, in value and gradient, for any partition."""
    count = e.rewards.shape[0]
    side = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    parts = [side, ~side]
    known: dict[str, Any] = {"mode": mode, "max_length": 20}
    divisor = sum(
        losses.normaliser(e.action_mask[part], **known)
        for part in parts  # pyright: ignore[reportArgumentType]
    )
    leaf = e.values.clone().requires_grad_()
    whole = losses.aggregate(leaf, action_mask=e.action_mask, **known)  # pyright: ignore[reportArgumentType]
    pieces = sum(
        losses.aggregate(leaf[p], action_mask=e.action_mask[p], divisor=divisor, **known)  # pyright: ignore[reportArgumentType]
        for p in parts
    )
    assert isinstance(pieces, Tensor)
    close(pieces, whole, 1e-12)
    close(torch.autograd.grad(pieces, leaf)[0], torch.autograd.grad(whole, leaf)[0], 1e-12)


@every_mode
@given(e=experiences())
def test_episodes_of_a_packed_row_are_sequences(mode: Aggregation, e: Experience) -> None:
    known: dict[str, Any] = {"mode": mode, "max_length": 20}
    mask = e.action_mask.clone()
    mask[:, 0] = True  # no empty row, which const_norm alone would count
    wanted = losses.aggregate(e.values, action_mask=mask, **known)  # pyright: ignore[reportArgumentType]
    episode = torch.arange(mask.shape[0])[:, None].expand(mask.shape)
    got = losses.aggregate(
        e.values.reshape(1, -1),
        action_mask=mask.reshape(1, -1),
        episode_id=episode.reshape(1, -1),
        **known,  # pyright: ignore[reportArgumentType]
    )
    close(got, wanted, 1e-12)


def test_rows_of_equal_length_tie_three_of_the_means() -> None:
    """INV-AG1."""
    row = torch.arange(12.0).view(3, 4)
    by_token, by_mean, by_sum = (losses.aggregate(row, mode=mode) for mode in MODES[:3])
    assert float(by_token) == float(by_mean) == float(by_sum) / 4


@every_mode
def test_empty_rows_change_nothing_but_the_constant_norm(mode: Aggregation) -> None:
    """INV-AG3."""
    row, mask = real([1, 2, 3, 0, 0, 0]).view(2, 3), torch.tensor([[True] * 3, [False] * 3])
    with_empty = losses.aggregate(row, mode=mode, action_mask=mask, max_length=3)
    alone = losses.aggregate(row[:1], mode=mode, max_length=3)
    assert float(with_empty) == float(alone) / (2 if mode == "const_norm" else 1)


@every_mode
def test_nothing_that_counts_is_zero_with_gradient_zero(mode: Aggregation) -> None:
    leaf = torch.full((2, 3), torch.nan, requires_grad=True)
    off = torch.zeros(2, 3, dtype=torch.bool)
    total = losses.aggregate(leaf, mode=mode, action_mask=off, max_length=5)
    (slope,) = torch.autograd.grad(total, leaf)
    assert float(total.detach()) == 0.0
    assert not bool(slope.any())


def test_the_constant_norm_needs_its_constant() -> None:
    with pytest.raises(ValueError, match="max_length is None"):
        losses.aggregate(torch.zeros(2, 3), mode="const_norm")


@given(advantage=rows((2, 5)))
def test_every_loss_is_reinforce_at_the_sampling_policy(advantage: Tensor) -> None:
    """INV-PL0 and INV-PL3."""
    start = torch.full((2, 5), -1.0, dtype=torch.float64)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda lp: losses.reinforce(lp, advantage),
        lambda lp: losses.ppo(lp, start, advantage).row,
        lambda lp: losses.ppo(lp, start, advantage, dual_clip=3.0).row,
    ]
    for function in functions:
        leaf = start.clone().requires_grad_()
        (slope,) = torch.autograd.grad(losses.aggregate(function(leaf)), leaf)
        close(slope, -advantage / 10, 1e-12)


@pytest.mark.parametrize("dual", [None, 3.0])
@given(
    change=log_ratios((2, 6)),
    advantage=rows((2, 6)),
    low=st.sampled_from([0.0, 0.2, 1.0]),
    high=st.sampled_from([None, 0.28, 2.0]),
)
def test_ppo_equals_the_case_by_case_loss(
    dual: float | None, change: Tensor, advantage: Tensor, low: float, high: float | None
) -> None:
    """INV-PL2 as well: finite at log ratios of ±60."""
    got = losses.ppo(
        change, torch.zeros_like(change), advantage, clip=low, clip_high=high, dual_clip=dual
    )
    top = low if high is None else high
    for l, a, x in zip(change.flatten(), advantage.flatten(), got.row.flatten(), strict=True):  # noqa: E741
        ratio = math.exp(min(max(float(l), -20), 20))
        wanted = oracles.ppo(ratio, float(a), low, top, dual)
        assert float(x) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "moves"),
    [
        (1.5, 1.0, None, False),
        (1.1, 1.0, None, True),
        (0.5, 1.0, None, True),
        (0.5, -1.0, None, False),
        (0.9, -1.0, None, True),
        (1.5, -1.0, None, True),
        (4.0, -1.0, None, True),
        (4.0, -1.0, 3.0, False),
        (2.0, -1.0, 3.0, True),
    ],
)
def test_the_gradient_is_that_of_the_surrogate_or_exactly_zero(
    ratio: float, advantage: float, dual: float | None, moves: bool
) -> None:
    """INV-PPO2, by the closed form."""
    leaf = real([math.log(ratio)]).requires_grad_()
    found = losses.ppo(leaf, real([0.0]), real([advantage]), dual_clip=dual)
    (slope,) = torch.autograd.grad(found.row.sum(), leaf)
    if moves:
        close(slope, real([-advantage * ratio]), 1e-12)
    else:
        assert float(slope) == 0.0


@given(change=log_ratios((1, 8)), advantage=rows((1, 8)))
def test_the_clipped_objective_is_pessimistic(change: Tensor, advantage: Tensor) -> None:
    """INV-PPO1 and INV-PPO3."""
    free = change.clamp(-20, 20).exp() * advantage
    zero = torch.zeros_like(change)
    assert bool((-losses.ppo(change, zero, advantage).row <= free).all())
    wide = losses.ppo(change, zero, advantage, clip=1.0, clip_high=1e30)
    close(-wide.row, free)


@given(advantage=rows((1, 4)))
def test_a_descent_step_raises_what_was_better(advantage: Tensor) -> None:
    """INV-PL1, on a tabular policy of one token a position."""
    logits = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    taken = torch.tensor([0, 1, 2, 0])
    old = logits.log_softmax(-1).detach()[torch.arange(4), taken]
    now = logits.log_softmax(-1)[torch.arange(4), taken]
    loss = losses.aggregate(losses.ppo(now, old, advantage[0]).row)
    (slope,) = torch.autograd.grad(loss, logits)
    moved = (logits.detach() - 1e-3 * slope).log_softmax(-1)[torch.arange(4), taken]
    assert bool((((moved - old) * advantage[0]) >= 0).all())


def test_metrics_say_what_the_clip_did() -> None:
    change = real([math.log(1.5), math.log(0.5), math.log(4.0), 0.0, 9.0])
    advantage = real([1.0, -1.0, -1.0, 1.0, 1.0])
    mask = torch.tensor([True, True, True, True, False])
    found = losses.ppo(change, real([0.0] * 5), advantage, dual_clip=3.0, action_mask=mask)
    assert float(found.metrics["clip_fraction"]) == 0.5
    assert float(found.metrics["dual_clip_fraction"]) == 0.25
    assert float(found.metrics["ratio"]) == pytest.approx((1.5 + 0.5 + 4 + 1) / 4)
    assert float(found.metrics["ratio_max"]) == pytest.approx(4.0)
    k3 = sum(r - 1 - math.log(r) for r in (1.5, 0.5, 4.0, 1.0)) / 4
    assert float(found.metrics["kl"]) == pytest.approx(k3)


@pytest.mark.parametrize(
    ("known", "word"),
    [
        ({"clip": -0.1}, r"clip is -0\.1"),
        ({"clip": 1.5}, r"clip is 1\.5"),
        ({"clip_high": -1.0}, "clip_high -1"),
        ({"dual_clip": 1.0}, r"dual_clip is 1\.0"),
    ],
)
def test_impossible_clips_are_refused(known: dict[str, Any], word: str) -> None:
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match=word):
        losses.ppo(zero, zero, zero, **known)


def test_half_precision_log_probabilities_are_refused() -> None:
    """P17."""
    row = torch.zeros(1, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="float32"):
        losses.ppo(row, row, row)


GROUPS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        rows((1, n)).map(lambda r: r[0]),
        st.lists(st.integers(0, 3), min_size=n, max_size=n).map(torch.tensor),
    )
)


@every_kind
@given(case=GROUPS)
def test_group_baselines_equal_the_loop(kind: Baseline, case: tuple[Tensor, Tensor]) -> None:
    reward, group = case
    reward = (reward * 4).round() / 4  # ties and flat groups occur
    got = losses.group_advantage(reward, group, kind=kind, eps=1e-4)
    wanted = oracles.group_advantage(plain(reward), plain(group), kind, 1e-4)
    close(got, real(wanted))


@every_kind
@given(case=GROUPS, data=st.data())
def test_group_advantages_follow_their_rows(
    kind: Baseline, case: tuple[Tensor, Tensor], data: st.DataObject
) -> None:
    """INV-GB4 and P8, bit for bit: grouped by label, never by position."""
    reward, group = case
    order = torch.tensor(data.draw(st.permutations(range(len(group)))))
    got = losses.group_advantage(reward[order], group[order] + 5, kind=kind)
    assert torch.equal(got, losses.group_advantage(reward, group, kind=kind)[order])


@every_kind
@given(case=GROUPS)
def test_group_advantages_sum_to_zero_shift_and_keep_order(
    kind: Baseline, case: tuple[Tensor, Tensor]
) -> None:
    """INV-GB1, INV-GB2, INV-GB5."""
    reward, group = case
    reward = (reward * 64).round() / 64
    got = losses.group_advantage(reward, group, kind=kind)
    close(losses.group_advantage(reward + 2, group, kind=kind), got)
    for label in set(plain(group)):
        mine = group == label
        assert float(got[mine].sum()) == pytest.approx(0.0, abs=1e-9)
        order = reward[mine].argsort()
        assert bool((got[mine][order].diff() >= -1e-12).all())


@given(case=GROUPS, scale=st.sampled_from([0.5, 2.0, 1024.0]))
def test_grpo_without_eps_does_not_see_the_scale(case: tuple[Tensor, Tensor], scale: float) -> None:
    """INV-GB3."""
    reward, group = case
    wanted = losses.group_advantage(reward, group, kind="grpo", eps=0.0)
    got = losses.group_advantage(reward * scale, group, kind="grpo", eps=0.0)
    assert torch.equal(got, wanted)


def test_a_group_of_two_is_the_difference() -> None:
    """INV-GB6."""
    got = losses.group_advantage(real([3.0, 1.0]), torch.tensor([0, 0]))
    assert got.tolist() == [2.0, -2.0]


@every_kind
def test_single_flat_and_missing_rewards_teach_nothing(kind: Baseline) -> None:
    """P7: a lone attempt keeps no raw score, equal rewards no amplified rounding."""
    reward = real([5.0, 0.1, 0.1, 0.1, 1.0, float("nan"), 0.0])
    group = torch.tensor([0, 1, 1, 1, 2, 2, 2])
    got = losses.group_advantage(reward, group, kind=kind)
    assert got[[0, 1, 2, 3, 5]].tolist() == [0, 0, 0, 0, 0]
    assert float(got[4]) > 0 > float(got[6])
    found = losses.group_statistics(reward, group)
    assert found.size.tolist() == [1, 3, 3, 3, 2, 0, 2]
    assert found.flat.tolist() == [True, True, True, True, False, False, False]
    assert found.valid.tolist() == [True] * 5 + [False, True]


def test_attempts_outside_the_mask_count_in_no_group() -> None:
    reward, group = real([1.0, 0.0, 100.0]), torch.tensor([0, 0, 0])
    mask = torch.tensor([True, True, False])
    got = losses.group_advantage(reward, group, action_mask=mask)
    assert got.tolist() == [1.0, -1.0, 0.0]


def test_an_unknown_baseline_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="kind is 'gspo'; give one of rloo, mean"):
        losses.group_advantage(torch.zeros(2), torch.zeros(2).long(), kind="gspo")  # pyright: ignore[reportArgumentType]


def test_leave_one_out_is_unbiased_and_the_mean_shrinks_the_gradient() -> None:
    """Exact, by enumeration of all batches of three draws from a bandit of three arms."""
    logits = real([0.3, -0.2, 0.1]).requires_grad_()
    arms, n = real([1.0, 0.2, -0.5]), 3
    logp = logits.log_softmax(-1)
    truth = torch.autograd.grad((logp.exp() * arms).sum(), logits)[0]
    for kind, factor in (("rloo", 1.0), ("mean", (n - 1) / n)):
        total = torch.zeros_like(logits)
        for batch in itertools.product(range(3), repeat=n):
            now = logits.log_softmax(-1)[list(batch)]
            chance = float(now.detach().sum().exp())
            advantage = losses.group_advantage(
                arms[list(batch)],
                torch.zeros(n).long(),
                kind=kind,  # pyright: ignore[reportArgumentType]
            )
            (slope,) = torch.autograd.grad(-losses.reinforce(now, advantage).mean(), logits)
            total += chance * slope
        close(total, truth * factor, 1e-12)


def test_the_running_baseline_is_the_mean_before_the_reward() -> None:
    """INV-RB1, with keys of any kind, in order, NaN passed over."""
    baseline = RunningBaseline()
    first = baseline.update(real([1.0, 3.0, float("nan"), 5.0]), ["a", "a", "a", ("b", 1)])
    assert first.tolist() == [0.0, 1.0, 2.0, 0.0]
    again = RunningBaseline()
    again.load_state_dict(baseline.state_dict())
    assert again.update(real([8.0, 0.0]), ["a", "a"]).tolist() == [2.0, 4.0]


@given(seen=st.lists(st.floats(-10, 10), max_size=20))
def test_the_running_baseline_is_an_arithmetic_mean(seen: list[float]) -> None:
    baseline = RunningBaseline()
    baseline.update(real(seen), [0] * len(seen))
    last = baseline.update(real([0.0]), [0])
    assert float(last) == pytest.approx(sum(seen) / len(seen) if seen else 0.0, abs=1e-9)


def test_the_running_baseline_wants_a_key_for_each_reward() -> None:
    with pytest.raises(ValueError, match="1 keys for 2 rewards"):
        RunningBaseline().update(torch.zeros(2), ["a"])
