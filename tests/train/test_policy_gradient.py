"""The recipe: neutral stages change nothing, micro-batches sum exactly, credit is the sheet's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from palaestra.agents.rows import Want
from palaestra.algos import returns
from palaestra.envs.small import KeyDoor
from palaestra.rollout.batch import Batch
from palaestra.rollout.engine import Engine, Start
from palaestra.train import build
from palaestra.train.config import Config
from palaestra.train.recipes.policy_gradient import PolicyGradient

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def played(small_config: MakeConfig) -> tuple[Any, Batch]:
    torch.set_num_threads(1)
    config = small_config(policy__context=900, rollout__shield="grammar")
    env = KeyDoor()
    policy = build.policy(config, env)
    engine = Engine(build.agent(config, policy, env), KeyDoor)
    batch = Batch.of(engine.gather([Start(seed, group=seed // 2) for seed in range(8)]))
    engine.close()
    return policy, batch


def update(
    policy: Any, batch: Batch, config: Config, parts: list[list[int]]
) -> tuple[list[torch.Tensor], dict[str, float]]:
    """Gradients and log of one minibatch of all rows, forwarded in ``parts``."""
    recipe = PolicyGradient(config)
    targets = recipe.targets(batch)
    rows = [row for part in parts for row in part]
    weights = recipe.weights(batch, targets, torch.tensor(rows))
    parameters = list(policy.parameters())
    for parameter in parameters:
        parameter.grad = None
    seen: dict[str, float] = {}
    at = 0
    for part in parts:
        packed, where = batch.pack(part)
        scores = policy.score(packed, Want())
        own = type(weights)(
            weights.policy[at : at + len(part)],
            weights.value[at : at + len(part)],
            weights.counted,
        )
        at += len(part)
        loss = recipe.loss(batch, targets, torch.tensor(part), where, scores, own, 1)
        loss.total.backward()
        for tag, value in loss.metrics.items():
            seen[tag] = seen.get(tag, 0.0) + float(value)
    return [p.grad.clone() for p in parameters if p.grad is not None], seen


@pytest.mark.parametrize("mode", ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"])
def test_any_split_into_micro_batches_gives_the_same_gradient(
    played: tuple[Any, Batch], small_config: MakeConfig, mode: str
) -> None:
    policy, batch = played  # INV-AG2
    config = small_config(algo__aggregate=mode)
    whole, seen = update(policy, batch, config, [list(range(8))])
    for parts in ([[0], [1, 2, 3], [4, 5, 6, 7]], [[row] for row in range(8)]):
        split, also = update(policy, batch, config, parts)
        for one, other in zip(whole, split, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        for tag in ("policy/loss", "policy/entropy_nonforced", "value/loss"):
            assert also[tag] == pytest.approx(seen[tag], rel=1e-4, abs=1e-6)


def test_before_the_first_update_the_ratio_is_one(
    played: tuple[Any, Batch], small_config: MakeConfig
) -> None:
    policy, batch = played
    _, seen = update(policy, batch, small_config(), [list(range(8))])
    assert seen["policy/clip_fraction"] == 0.0
    assert abs(seen["policy/kl_update"]) < 1e-6


def test_every_loss_starts_as_reinforce(
    played: tuple[Any, Batch], small_config: MakeConfig
) -> None:
    policy, batch = played  # INV-PL0
    plain, _ = update(policy, batch, small_config(algo__name="reinforce"), [list(range(8))])
    clipped, _ = update(policy, batch, small_config(algo__epochs=1), [list(range(8))])
    for one, other in zip(plain, clipped, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


NEUTRAL = (
    {"kl__mode": "loss", "kl__coef": 0.0},
    {"algo__dual_clip": 1e9},
    {"algo__clip_high": 0.2},
)


@pytest.mark.parametrize("neutral", NEUTRAL)
def test_a_neutral_stage_leaves_the_update_as_it_was(
    played: tuple[Any, Batch], small_config: MakeConfig, neutral: dict[str, Any]
) -> None:
    policy, batch = played  # INV-OO1
    plain, _ = update(policy, batch, small_config(), [list(range(8))])
    staged, _ = update(policy, batch, small_config(**neutral), [list(range(8))])
    for one, other in zip(plain, staged, strict=True):
        assert torch.equal(one, other)


def test_a_segment_shares_its_advantage_and_fits_the_critic_at_its_start(
    played: tuple[Any, Batch], small_config: MakeConfig
) -> None:
    _, batch = played
    recipe = PolicyGradient(small_config(algo__whiten="false", algo__unit="call"))
    targets = recipe.targets(batch)
    for row in range(len(batch)):
        mask = batch.action_mask[row]
        calls = batch.call_id[row][mask]
        advantages = targets.advantages[row][mask]
        starts = targets.value_mask[row][mask]
        assert starts.sum() == calls.unique().numel()
        for call in range(int(calls.max()) + 1):
            assert advantages[calls == call].unique().numel() == 1


def test_boundary_credit_equals_segment_credit_at_the_starts(
    played: tuple[Any, Batch], small_config: MakeConfig
) -> None:
    _, batch = played  # INV-GR4
    common = {"algo__whiten": "false", "algo__unit": "turn", "algo__gamma": 0.9}
    segment = PolicyGradient(small_config(algo__estimator="segment", **common)).targets(batch)
    boundary = PolicyGradient(small_config(algo__estimator="boundary", **common)).targets(batch)
    at = segment.value_mask
    torch.testing.assert_close(segment.advantages[at], boundary.advantages[at])


def test_an_episode_as_one_unit_is_return_less_value(
    played: tuple[Any, Batch], small_config: MakeConfig
) -> None:
    _, batch = played  # INV-GR2
    config = small_config(algo__whiten="false", algo__unit="episode")
    targets = PolicyGradient(config).targets(batch)
    total = batch.rewards.sum(-1) + torch.where(
        batch.truncated.any(-1), batch.bootstrap["value"], 0.0
    )
    torch.testing.assert_close(targets.advantages[:, 0], total - batch.values["value"][:, 0])


def test_a_group_baseline_is_zero_in_sum(
    played: tuple[Any, Batch], small_config: MakeConfig
) -> None:
    _, batch = played  # INV-GB1
    config = small_config(
        algo__name="rloo", algo__estimator="group", rollout__group_size=2, algo__whiten="false"
    )
    advantages = PolicyGradient(config).targets(batch).advantages[:, 0]
    sums = torch.zeros(4).index_add(0, batch.group, advantages)
    torch.testing.assert_close(sums, torch.zeros(4))


def test_the_shuffled_null_keeps_the_advantages_and_moves_them(
    played: tuple[Any, Batch], small_config: MakeConfig
) -> None:
    _, batch = played
    right = PolicyGradient(small_config()).targets(batch).advantages[batch.action_mask]
    wrong = PolicyGradient(small_config(train__null="shuffle")).targets(batch)
    moved = wrong.advantages[batch.action_mask]
    torch.testing.assert_close(moved.sort().values, right.sort().values)
    assert not torch.equal(moved, right)


def test_the_random_reward_null_keeps_the_mean(
    played: tuple[Any, Batch], small_config: MakeConfig
) -> None:
    _, batch = played
    config = small_config(train__null="random_reward", algo__estimator="monte_carlo")
    targets = PolicyGradient(config).targets(batch)
    episodes = targets.value_targets[:, 0]
    assert float(episodes.sum()) == pytest.approx(float(batch.rewards.sum()), abs=1e-4)


@pytest.mark.parametrize("estimator", ["token", "n_step", "monte_carlo", "two_pass"])
def test_each_estimator_gives_finite_advantages(
    played: tuple[Any, Batch], small_config: MakeConfig, estimator: str
) -> None:
    _, batch = played
    targets = PolicyGradient(small_config(algo__estimator=estimator)).targets(batch)
    assert torch.isfinite(targets.advantages).all()
    assert not targets.advantages[~batch.action_mask].any()


def test_token_credit_is_gae(played: tuple[Any, Batch], small_config: MakeConfig) -> None:
    _, batch = played
    config = small_config(algo__estimator="token", algo__whiten="false", algo__gamma=0.9)
    targets = PolicyGradient(config).targets(batch)
    ahead = returns.next_values(
        batch.values["value"],
        batch.terminated,
        batch.truncated,
        bootstrap_value=batch.bootstrap["value"],
        action_mask=batch.action_mask,
    )
    wanted = returns.gae(
        batch.rewards,
        batch.values["value"],
        ahead,
        batch.terminated,
        batch.truncated,
        gamma=0.9,
        lam=0.95,
        action_mask=batch.action_mask,
    )
    torch.testing.assert_close(targets.advantages, wanted.advantages)
