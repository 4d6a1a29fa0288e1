"""Which action is paid: folding, placement, redistribution, potential shaping, KL in the reward."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .divergence import log_ratio
from .rows import (
    Actions,
    Rate,
    at_least_float32,
    first_index,
    first_of,
    mask_of,
    need_bool,
    need_shape,
)
from .scan import linear_scan
from .segments import Runs, columns, columns_to_line, runs


class KLReward(NamedTuple):
    """Rewards with the price of KL taken off, and the KL that was paid for."""

    rewards: Float[Tensor, "*batch time"]
    kl: Float[Tensor, "*batch time"]


@torch.no_grad()
def fold_rewards(
    rewards: Float[Tensor, "*batch time"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Move rewards that lie on tool results or user turns to the action before them.

    Every estimator reads rewards at actions only; this brings them there. The sum of each row
    is kept.

    Args:
        rewards: `[..., T]`, on any position.
        action_mask: Which positions are actions, `[..., T]`.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Returns:
        `[..., T]`, 0 where there is no action.

    Raises:
        ValueError: A reward before the first action of its episode.

    >>> mask = torch.tensor([True, False, False, True])
    >>> fold_rewards(torch.tensor([0.0, 0.5, 0.25, 1.0]), action_mask=mask)
    tensor([0.7500, 0.0000, 0.0000, 1.0000])
    """
    (rewards,) = at_least_float32(rewards)
    mask = mask_of(rewards, action_mask)
    everywhere = Actions.of(rewards, None, episode_id)
    line, acts = rewards.flatten(), mask.flatten()
    opens = acts | first_of(everywhere.last)
    parts = Runs.of(opens.roll(-1))  # what follows an action, or a beginning, is one stretch
    orphan = ~acts[parts.first][parts.index] & (line != 0)
    if bool(orphan.any()):
        where = first_index(orphan.view(rewards.shape))
        raise ValueError(
            f"the reward at {where} has no action before it in its episode; place it on an action"
        )
    folded = parts.total(line)[parts.index]
    return torch.where(mask, folded.view(rewards.shape), 0.0)


@torch.no_grad()
def place(
    rewards: Float[Tensor, "..."],
    action_mask: Bool[Tensor, "*batch time"],
    segment_id: Int[Tensor, "*batch time"] | None = None,
    *,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Pay each segment on its last action: a call's outcome, a turn's or an episode's score.

    Args:
        rewards: One a segment, `[..., K]`, column k for the row's k-th segment; or one a row,
            `[...]`, paid on the row's last action.
        action_mask: Which positions are actions, `[..., T]`.
        segment_id: Label of each action's segment, `[..., T]`; by default the episode.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Returns:
        `[..., T]`, 0 elsewhere.

    Raises:
        ValueError: A reward that is not 0 for a segment or row without actions.

    >>> place(torch.tensor(2.0), torch.tensor([True, True, False]))
    tensor([0., 2., 0.])
    """
    (rewards,) = at_least_float32(rewards)
    actions, parts, line = _segments(rewards, action_mask, segment_id, episode_id)
    return actions.put(torch.where(parts.last, line[parts.index], 0.0))


def _segments(
    rewards: Tensor, mask: Tensor, segment_id: Tensor | None, episode_id: Tensor | None
) -> tuple[Actions, Runs, Float[Tensor, " segments"]]:
    """Cut rows into segments and read the reward of each; refuse rewards nobody earned."""
    need_bool("action_mask", mask)
    actions = Actions.of(mask, mask, episode_id)
    if segment_id is None:
        segment_id = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
    parts = runs(actions, segment_id, actions.last)
    if rewards.dim() < mask.dim():
        rewards = rewards[..., None]
    held = columns(actions, parts.first)
    extra = rewards.shape[-1] - held.shape[-1]
    if extra > 0 and rewards.shape[:-1] == held.shape[:-1]:
        held = torch.nn.functional.pad(held, (0, extra))
    if rewards.shape == held.shape and bool((~held & (rewards != 0)).any()):
        where = first_index(~held & (rewards != 0))
        raise ValueError(f"the reward at {where} belongs to no action; give 0, or a row with one")
    return actions, parts, columns_to_line(rewards, actions, parts, "rewards")


@torch.no_grad()
def redistribute(
    rewards: Float[Tensor, "..."],
    weights: Float[Tensor, "*batch time"],
    segment_id: Int[Tensor, "*batch time"] | None = None,
    *,
    preserve: Literal["sum", "discounted"] = "sum",
    gamma: Rate = 1.0,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Spread each segment's reward over its actions: r_t = R w_t / Σ w.

    The rewards of a segment add up to R exactly, in every order of summation: shares are cut
    to the grid of R's last bit and the last action that has a weight takes the rest. No share
    has another sign than R. Where the weights are all 0, or one is not finite, they count as
    equal. "discounted" keeps Σ γ^t r_t instead: r_t = R γ^(end - t) w_t / Σ w.

    Args:
        rewards: R, one a segment, `[..., K]`, or one a row, `[...]`.
        weights: w, 0 or more, `[..., T]`: attention of a reward model, relevance, shares.
        segment_id: Label of each action's segment, `[..., T]`; by default the episode.
        preserve: What stays the same, "sum" or "discounted".
        gamma: Discount of "discounted", a number or `[..., T]`.
        action_mask: Which positions are actions, `[..., T]`.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Returns:
        `[..., T]`, 0 where there is no action.

    Raises:
        ValueError: A negative weight; a reward that is not 0 for a segment without actions.

    >>> redistribute(torch.tensor(6.0), torch.tensor([1.0, 0.0, 2.0]))
    tensor([2., 0., 4.])
    """
    rewards, weights = at_least_float32(rewards, weights)
    mask = mask_of(weights, action_mask)
    actions, parts, reward = _segments(rewards, mask, segment_id, episode_id)
    weight = actions.take(weights)
    if bool((weight < 0).any()):
        raise ValueError(f"a weight is {float(weight.min()):g}; give weights of 0 or more")
    share = _shares(weight.double(), parts)
    total = reward[parts.index].double()
    if preserve == "discounted":
        rate = actions.rate("gamma", gamma, share)
        left = linear_scan(
            torch.where(parts.last, 0.0, rate), parts.last.to(share), method="doubling"
        )
        return actions.put((total * left * share).to(weights.dtype))
    return actions.put(_exact(total * share, share, parts, reward).to(weights.dtype))


def _shares(weight: Tensor, parts: Runs) -> Float[Tensor, " actions"]:
    """W / Σ w inside each segment, equal where that says nothing."""
    usable = parts.total((~torch.isfinite(weight)).to(weight)) == 0
    weight = torch.where(usable[parts.index], weight, 1.0)
    # by the largest weight first: a sum of huge or tiny weights neither overflows nor vanishes
    top = torch.zeros(usable.shape, dtype=weight.dtype, device=weight.device)
    top = top.scatter_reduce(0, parts.index, weight, "amax")[parts.index]
    weight = torch.where(top == 0, 1.0, weight / torch.where(top == 0, 1.0, top))
    return weight / parts.total(weight)[parts.index]


def _exact(ideal: Tensor, share: Tensor, parts: Runs, reward: Tensor) -> Float[Tensor, " actions"]:
    """Cut shares to multiples of two last bits of R, and let one action take the remainder.

    Multiples of a common bit, none beyond R, add up without rounding.
    """
    bits, least = (24, -124) if reward.dtype == torch.float32 else (53, -960)
    exponent = torch.frexp(reward.double()).exponent.clamp(min=least)  # no bit below the format's
    bit = torch.pow(2.0, (exponent - bits + 1).double())[parts.index]
    weighted = (share > 0).to(share)
    onwards = torch.where(parts.last, 0.0, torch.ones_like(share))
    taker = (weighted > 0) & (linear_scan(onwards, weighted, method="doubling") == 1)

    def remainder(cut: Tensor) -> Tensor:
        return (reward.double() - parts.total(torch.where(taker, 0.0, cut)))[parts.index]

    cut = torch.trunc(ideal / bit) * bit
    # shares rounded up by chance may together exceed R, and leave a rest of the wrong sign
    over = remainder(cut) * ideal < 0
    cut = torch.where(over, torch.trunc(ideal * (1 - 2.0**-46) / bit) * bit, cut)
    return torch.where(taker, remainder(cut), cut)


@torch.no_grad()
def potential_shaping(
    potentials: Float[Tensor, "*batch time"],
    next_potentials: Float[Tensor, "*batch time"],
    terminated: Bool[Tensor, "*batch time"],
    truncated: Bool[Tensor, "*batch time"],
    *,
    gamma: Rate = 1.0,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Turn progress into reward that cannot be farmed: F_t = γ_t Φ(s') (1 - d_t) - Φ(s).

    The sum over an episode is -Φ(s_0), whatever is done in between, plus γ^T Φ(s_T) where it
    was truncated: best actions stay best (Ng, Harada, Russell 1999).

    Args:
        potentials: Φ before each action, `[..., T]`: share of tests passed, fields filled.
        next_potentials: Φ at the next decision, `[..., T]`; `returns.next_values` finds it.
        terminated: The task ended with this action, `[..., T]`; Φ after it counts 0.
        truncated: The episode was cut off after this action, `[..., T]`; Φ after it stays.
        gamma: The gamma of the estimator, level schedule and all, a number or `[..., T]`.
        action_mask: Which positions are actions, `[..., T]`.

    Returns:
        F `[..., T]`, to be added to the rewards; 0 where there is no action.

    Raises:
        ValueError: gamma outside [0, 1]; both flags on one action.

    >>> off, end = torch.zeros(2, dtype=torch.bool), torch.tensor([False, True])
    >>> phi, after = torch.tensor([0.25, 0.75]), torch.tensor([0.75, 1.0])
    >>> potential_shaping(phi, after, end, off)
    tensor([ 0.5000, -0.7500])
    """
    potentials, after = at_least_float32(potentials, next_potentials)
    need_shape("next_potentials", after, potentials.shape)
    actions = Actions.of(potentials, action_mask, None)
    ended, _ = actions.flags(terminated, truncated)
    before = actions.take(potentials)
    discount = actions.rate("gamma", gamma, before)
    later = torch.where(ended, 0.0, discount * actions.take(after))
    return actions.put(later - before)


@torch.no_grad()
def kl_reward(
    rewards: Float[Tensor, "*batch time"],
    old_logprobs: Float[Tensor, "*batch time"],
    reference_logprobs: Float[Tensor, "*batch time"],
    *,
    beta: float = 0.05,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> KLReward:
    """Take the price of leaving the reference off each action: r_t - β (log π_old - log ref).

    This is k1, summed over an episode an unbiased estimate of its KL. Use it or a KL loss,
    not both.

    Args:
        rewards: `[..., T]`.
        old_logprobs: log π of the sampled tokens at sampling time, `[..., T]`.
        reference_logprobs: The same under the reference policy, `[..., T]`.
        beta: Price of a nat, in reward.
        action_mask: Which positions are actions, `[..., T]`.

    Returns:
        `rewards` and `kl`, `[..., T]`, 0 where there is no action.

    >>> kl_reward(torch.tensor([1.0]), torch.tensor([-1.0]), torch.tensor([-3.0])).rewards
    tensor([0.9000])
    """
    mask = mask_of(rewards, action_mask)
    need_shape("old_logprobs", old_logprobs, rewards.shape)
    kl = log_ratio(old_logprobs, reference_logprobs, mask, "reference_logprobs")
    rewards, kl = at_least_float32(rewards, kl)
    return KLReward(torch.where(mask, rewards - beta * kl, 0.0), kl)
