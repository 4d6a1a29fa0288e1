"""Policy losses, their baselines, and how rows become one number."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .divergence import log_ratio
from .masking import masked_mean, moments
from .rows import Actions, at_least_float32, changes, mask_of, need_shape
from .segments import Runs, runs

Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "const_norm"]
Baseline = Literal["rloo", "mean", "grpo", "dr_grpo", "batch_std"]


class PolicyLoss(NamedTuple):
    """A loss to minimise, one number an action, and what to log about it."""

    row: Float[Tensor, "*batch time"]
    metrics: dict[str, Float[Tensor, ""]]


def normaliser(
    action_mask: Bool[Tensor, "*batch time"],
    *,
    mode: Aggregation = "token_mean",
    max_length: int | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, ""]:
    """Count what `aggregate` divides by, so that parts of a batch can share one divisor.

    Counts of parts add up: give each micro-batch (and rank) the sum over all of them.

    Args:
        action_mask: Which positions count, `[..., T]`.
        mode: As in `aggregate`.
        max_length: L of "const_norm", in actions.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Raises:
        ValueError: "const_norm" without `max_length`.

    >>> normaliser(torch.tensor([[True, True], [True, False]]))
    tensor(3., dtype=torch.float64)
    """
    if mode == "token_mean":
        return action_mask.sum().to(torch.float64)
    actions = Actions.of(action_mask, action_mask, episode_id)
    if mode != "const_norm":
        return actions.last.sum().to(torch.float64)
    if max_length is None or max_length < 1:
        raise ValueError(f"max_length is {max_length}; give the longest answer for const_norm")
    # empty rows count here, and here only: the divisor is to be constant
    empty = (~action_mask.any(-1)).sum()
    return (actions.last.sum() + empty).to(torch.float64) * max_length


def aggregate(
    row: Float[Tensor, "*batch time"],
    *,
    mode: Aggregation = "token_mean",
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
    max_length: int | None = None,
    divisor: float | Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Make one number of a row of losses.

    token_mean (DAPO)             Σ mL / Σ m
    seq_mean_token_mean (GRPO)    mean over sequences of (Σ mL / n)
    seq_mean_token_sum            mean over sequences of Σ mL
    const_norm (Dr. GRPO)         Σ mL / (sequences x max_length)

    A sequence is a row, or an episode of a packed row. Sequences without actions count in
    const_norm only.

    Args:
        row: Loss at each action, `[..., T]`.
        mode: One of the four above.
        action_mask: Which positions count, `[..., T]`.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.
        max_length: L of "const_norm", in actions.
        divisor: The divisor of the global batch, the sum of `normaliser` over its parts:
            with it the losses of micro-batches add up to the loss of the whole.

    Returns:
        A scalar; 0 with gradient 0 where nothing counts.

    >>> aggregate(torch.tensor([[1.0, 3.0], [5.0, 9.0]]),
    ...           action_mask=torch.tensor([[True, True], [True, False]]))
    tensor(3.)
    """
    (row,) = at_least_float32(row)
    mask = mask_of(row, action_mask)
    if divisor is None:
        divisor = normaliser(mask, mode=mode, max_length=max_length, episode_id=episode_id)
    kept = torch.where(mask, row, 0.0)
    if mode == "seq_mean_token_mean":
        kept = kept / _length(mask, episode_id).clamp(min=1)
    below = torch.as_tensor(divisor, dtype=row.dtype, device=row.device)
    return kept.sum() / torch.where(below == 0, 1.0, below)


def _length(mask: Tensor, episode_id: Tensor | None) -> Tensor:
    """Actions of each position's sequence, `[..., T]` or `[..., 1]`."""
    if episode_id is None:
        return mask.sum(-1, keepdim=True)
    actions = Actions.of(mask, mask, episode_id)
    parts = runs(actions, episode_id, actions.last)
    return actions.put(torch.bincount(parts.index)[parts.index])


def reinforce(
    logprobs: Float[Tensor, "*batch time"],
    advantages: Float[Tensor, "*batch time"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Weigh log-probabilities by advantages: L = -A log π (Williams 1992).

    The advantage decides what it is: return minus running mean, `group_advantage` (RLOO,
    GRPO), a critic's GAE, or the return minus that of the greedy answer (ReMax).

    Args:
        logprobs: log π of the sampled tokens, `[..., T]`; the gradient flows through it.
        advantages: `[..., T]`, taken as constant.
        action_mask: Which positions count, `[..., T]`.

    Returns:
        Row `[..., T]`, 0 where the mask is False.

    >>> reinforce(torch.tensor([-1.0, -2.0]), torch.tensor([2.0, -1.0]))
    tensor([ 2., -2.])
    """
    mask = mask_of(logprobs, action_mask)
    need_shape("advantages", advantages, logprobs.shape)
    logprobs, weight = at_least_float32(logprobs, advantages.detach())
    return -torch.where(mask, weight, 0.0) * torch.where(mask, logprobs, 0.0)


def ppo(
    logprobs: Float[Tensor, "*batch time"],
    old_logprobs: Float[Tensor, "*batch time"],
    advantages: Float[Tensor, "*batch time"],
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> PolicyLoss:
    """Clip the surrogate: L = -min(ρ A, clip(ρ, 1 - ε, 1 + ε_high) A) (1707.06347, eq. 7).

    ρ = exp(log π - log π_old). The gradient is that of ρ A where A > 0 and ρ <= 1 + ε_high,
    or A < 0 and ρ >= 1 - ε, and 0 elsewhere. Dual clip (1912.09729) also drops A < 0 with
    ρ > c, where one unlikely token could outweigh the batch.

    Args:
        logprobs: log π of the sampled tokens, `[..., T]`, float32 or float64.
        old_logprobs: The same under the policy at the start of the update, taken as constant.
        advantages: `[..., T]`, taken as constant.
        clip: ε, how far the ratio may fall, and rise where `clip_high` is not given.
        clip_high: ε_high; 0.28 in DAPO.
        dual_clip: c, above 1 (3 is usual); None leaves it off.
        action_mask: Which positions count, `[..., T]`.

    Returns:
        `row` `[..., T]` and `metrics`, means over the actions: `clip_fraction`,
        `dual_clip_fraction`, `kl` (k3, old against new), `ratio`, `ratio_max`.

    Raises:
        ValueError: clip outside [0, 1], clip_high negative, dual_clip not above 1.
        TypeError: Log-probabilities in half precision.

    >>> old, new = torch.zeros(2), torch.tensor([1.5, 0.5]).log()
    >>> ppo(new, old, torch.tensor([1.0, 1.0])).row
    tensor([-1.2000, -0.5000])
    """
    high = clip if clip_high is None else clip_high
    if not (0 <= clip <= 1 and high >= 0):
        raise ValueError(f"clip is {clip}, clip_high {high}; give 0 to 1, and 0 or more")
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}; give a number above 1, as 3, or None")
    mask = mask_of(logprobs, action_mask)
    need_shape("advantages", advantages, logprobs.shape)
    change = log_ratio(logprobs, old_logprobs, mask, "old_logprobs")
    ratio = change.exp()
    weight = torch.where(mask, advantages.detach().to(ratio), 0.0)
    free, held = ratio * weight, ratio.clamp(1 - clip, 1 + high) * weight
    objective = torch.minimum(free, held)
    dual = torch.zeros_like(mask)
    if dual_clip is not None:
        floor = dual_clip * weight
        dual = (weight < 0) & (objective < floor)
        objective = torch.where(dual, floor, objective)
    row = torch.where(mask, -objective, 0.0)
    return PolicyLoss(row, _ratio_metrics(change, held < free, dual, mask))


@torch.no_grad()
def _ratio_metrics(
    change: Tensor, clipped: Tensor, dual: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """What the clip did; the KL is that of old against new, over tokens that old sampled."""
    ratio = change.exp()
    return {
        "clip_fraction": masked_mean(clipped.to(ratio), mask),
        "dual_clip_fraction": masked_mean(dual.to(ratio), mask),
        "kl": masked_mean((torch.expm1(change) - change).clamp(min=0.0), mask),
        "ratio": masked_mean(ratio, mask),
        "ratio_max": torch.cat([torch.where(mask, ratio, 0.0).flatten(), ratio.new_zeros(1)]).max(),
    }


class GroupStatistics(NamedTuple):
    """What each attempt's group looks like; 0 for an attempt that does not count."""

    size: Float[Tensor, "*batch"]
    mean: Float[Tensor, "*batch"]
    std: Float[Tensor, "*batch"]
    """Unbiased; 0 for a group of one."""
    flat: Bool[Tensor, "*batch"]
    """All rewards of the group are equal, or it has only one: nothing to learn from."""
    valid: Bool[Tensor, "*batch"]
    """The reward is a number and counts."""


@torch.no_grad()
def group_statistics(
    rewards: Float[Tensor, "*batch"],
    group: Int[Tensor, "*batch"],
    *,
    action_mask: Bool[Tensor, "*batch"] | None = None,
) -> GroupStatistics:
    """Measure each group by its label; groups may differ in size and lie in any order.

    Rewards that are NaN, and attempts outside the mask, count in no group.

    >>> group_statistics(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([7, 7, 2])).mean
    tensor([2., 2., 5.])
    """
    (rewards,) = at_least_float32(rewards)
    need_shape("group", group, rewards.shape)
    valid = mask_of(rewards, action_mask) & ~torch.isnan(rewards)
    place = valid.flatten().nonzero()[:, 0]
    r, labels = rewards.flatten()[place], group.flatten()[place]
    # in order of group, then reward: sums that no order of the batch can change
    order = r.argsort()
    order = order[labels[order].argsort(stable=True)]
    r, place = r[order], place[order]
    parts = Runs.of(changes(labels[order]))
    size = parts.total(torch.ones_like(r))
    mean = parts.total(r) / size
    away = (r - mean[parts.index]).square()
    low, high = r[parts.first], r[parts.last]
    flat = high - low <= 4 * torch.finfo(r.dtype).eps * torch.maximum(low.abs(), high.abs())
    std = torch.where(flat, 0.0, (parts.total(away) / (size - 1).clamp(min=1)).sqrt())

    def back(of_group: Tensor) -> Tensor:
        line = torch.zeros(rewards.numel(), dtype=of_group.dtype, device=r.device)
        line[place] = of_group[parts.index]
        return line.view(rewards.shape)

    return GroupStatistics(back(size), back(mean), back(std), back(flat), valid)


@torch.no_grad()
def group_advantage(
    rewards: Float[Tensor, "*batch"],
    group: Int[Tensor, "*batch"],
    *,
    kind: Baseline = "rloo",
    eps: float = 1e-4,
    action_mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Compare each attempt with the other attempts at its task.

    rloo (2402.14740)             R - mean of the others; unbiased
    mean                          R - mean; (n - 1) / n of it
    grpo (2402.03300)             (R - mean) / (std + eps)
    dr_grpo (2503.20783)          R - mean; for `aggregate` with const_norm
    batch_std                     (R - mean) / (std of the batch + eps)

    Args:
        rewards: One a row, `[...]`.
        group: Label of the task, `[...]`.
        kind: One of the five above.
        eps: Added to the standard deviation.
        action_mask: Which rows count, `[...]`.

    Returns:
        `[...]`. Exactly 0 for a group of one or without spread, and for a reward that is NaN
        (see `group_statistics` for which those are).

    Raises:
        ValueError: An unknown kind.

    >>> group_advantage(torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0, 0, 1]))
    tensor([ 1., -1.,  0.])
    """
    (rewards,) = at_least_float32(rewards)
    found = group_statistics(rewards, group, action_mask=action_mask)
    centred = rewards - found.mean
    if kind == "rloo":
        centred = centred * found.size / (found.size - 1).clamp(min=1)
    elif kind == "grpo":
        centred = centred / (found.std + eps)
    elif kind == "batch_std":
        counted = rewards[found.valid].sort().values
        centred = centred / (moments(counted).std + eps)
    elif kind not in ("mean", "dr_grpo"):
        known = "rloo, mean, grpo, dr_grpo, batch_std"
        raise ValueError(f"kind is {kind!r}; give one of {known}")
    return torch.where(found.valid & ~found.flat, centred, 0.0)


class RunningBaseline:
    """The mean of the rewards seen so far, kept by key (a family of prompts, a task).

    Each reward is compared with the mean *before* it: with its own share in the baseline the
    gradient would shrink by (n - 1) / n.

    >>> baseline = RunningBaseline()
    >>> baseline.update(torch.tensor([1.0, 3.0]), ["a", "a"])
    tensor([0., 1.])
    """

    def __init__(self) -> None:
        self.count: dict[Hashable, int] = {}
        self.mean: dict[Hashable, float] = {}

    def update(
        self, rewards: Float[Tensor, " batch"], keys: Sequence[Hashable]
    ) -> Float[Tensor, " batch"]:
        """Take rewards in, in their order.

        Args:
            rewards: `[B]`; NaN is passed over.
            keys: One a reward.

        Returns:
            The baseline of each reward before it was seen, `[B]`; 0 for a new key.

        Raises:
            ValueError: Not one key a reward.
        """
        if len(keys) != rewards.shape[0]:
            raise ValueError(f"{len(keys)} keys for {rewards.shape[0]} rewards; give one each")
        before: list[float] = []
        for reward, key in zip(cast(list[float], rewards.tolist()), keys, strict=True):
            mean = self.mean.get(key, 0.0)
            before.append(mean)
            if reward == reward:
                self.count[key] = count = self.count.get(key, 0) + 1
                self.mean[key] = mean + (reward - mean) / count
        return torch.tensor(before, dtype=rewards.dtype, device=rewards.device)

    def state_dict(self) -> dict[str, dict[Hashable, int | float]]:
        """Return what a checkpoint must hold."""
        return {"count": dict(self.count), "mean": dict(self.mean)}

    def load_state_dict(self, state: Mapping[str, Mapping[Hashable, int | float]]) -> None:
        """Continue from a checkpoint."""
        self.count = {key: int(count) for key, count in state["count"].items()}
        self.mean = dict(state["mean"])
