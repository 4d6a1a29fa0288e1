"""Returns and advantages: discounted, n-step, TD(lambda), GAE, at any granularity."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .levels import level_schedule as level_schedule
from .levels import segment_gae as segment_gae
from .levels import two_pass_gae as two_pass_gae
from .rows import (
    Actions,
    Advantages,
    Rate,
    Transitions,
    at_least_float32,
    first_index,
    following,
    need_shape,
)
from .scan import linear_scan


@torch.no_grad()
def next_values(
    values: Float[Tensor, "*batch time"],
    terminated: Bool[Tensor, "*batch time"],
    truncated: Bool[Tensor, "*batch time"],
    *,
    bootstrap_value: Float[Tensor, "..."] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Find v'_t, the value at the next decision of the same episode.

    At an episode's last action it is 0 after `terminated` and the bootstrap value otherwise:
    after `truncated`, and at a cut, where the row or the episode ends without a flag.

    Args:
        values: V before each action, `[..., T]`.
        terminated: The task ended with this action, `[..., T]`.
        truncated: The episode was cut off after this action, `[..., T]`.
        bootstrap_value: V after the last action of the row's one open episode, `[...]`; or
            `[..., T]`, read where an open episode ends, for rows with several of them.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.
        action_mask: Which positions are actions, `[..., T]`.

    Returns:
        `[..., T]`, 0 where there is no action.

    Raises:
        ValueError: An episode without end and no bootstrap value; both flags on one action.

    >>> off, end = torch.zeros(2, dtype=torch.bool), torch.tensor([False, True])
    >>> next_values(torch.tensor([1.0, 2.0]), off, end, bootstrap_value=torch.tensor(3.0))
    tensor([2., 3.])
    """
    (values,) = at_least_float32(values)
    actions = Actions.of(values, action_mask, episode_id)
    ended, ends = actions.flags(terminated, truncated)
    line = torch.where(ends, 0.0, following(actions.take(values)))
    if bool((ends & ~ended).any()):
        after = _bootstrap(actions, ends & ~ended, bootstrap_value).to(line)
        line = torch.where(ends & ~ended, after, line)
    return actions.put(line)


def _bootstrap(actions: Actions, open_ends: Tensor, given: Tensor | None) -> Tensor:
    where = actions.put(open_ends)
    if given is None:
        raise ValueError(
            f"the episode that stops at {first_index(where)} is not terminated and has no "
            "bootstrap_value; give the value of the state after it, or set `terminated` there"
        )
    if given.dim() == where.dim():
        need_shape("bootstrap_value", given, where.shape)
        return actions.take(given)
    need_shape("bootstrap_value", given, where.shape[:-1])
    if bool((where.sum(-1) > 1).any()):
        raise ValueError(
            "bootstrap_value has one value a row, and a row holds several open episodes; "
            "give it as [..., T], read at the action where each of them stops"
        )
    return actions.take(given[..., None])


@torch.no_grad()
def gae(
    rewards: Float[Tensor, "*batch time"],
    values: Float[Tensor, "*batch time"],
    next_values: Float[Tensor, "*batch time"],
    terminated: Bool[Tensor, "*batch time"],
    truncated: Bool[Tensor, "*batch time"],
    *,
    gamma: Rate = 1.0,
    lam: Rate = 1.0,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Advantages:
    """Estimate advantages by generalised advantage estimation (1506.02438, eq. 16).

        δ_t = r_t + γ_t (1 - d_t) v'_t - v_t
        A_t = δ_t + γ_t λ_t (1 - d_t)(1 - u_t) A_next(t)

    lam=0 is the TD error, lam=1 the return minus the value, both with gamma 1 and one reward
    at the end the outcome minus the value. With gamma and lam of `level_schedule` the same
    line gives credit to tokens, steps, tool calls, turns and plans.

    Args:
        rewards: Reward caused by each action, `[..., T]`; after `credit.fold_rewards`.
        values: V before each action, `[..., T]`.
        next_values: V at the next decision, `[..., T]`, from `next_values`.
        terminated: The task ended with this action, `[..., T]`.
        truncated: The episode was cut off after this action, `[..., T]`.
        gamma: Discount, a number or `[..., T]`, attached to the action.
        lam: Trace parameter, likewise.
        action_mask: Which positions are actions, `[..., T]`; others are crossed undecayed.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Returns:
        `advantages` and `value_targets` = A + v, `[..., T]`, 0 where there is no action.

    Raises:
        ValueError: gamma or lam outside [0, 1]; both flags on one action; unequal shapes.

    >>> r, v, nv = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.0])
    >>> end, off = torch.tensor([False, True]), torch.zeros(2, dtype=torch.bool)
    >>> gae(r, v, nv, end, off).advantages
    tensor([0.5000, 0.5000])
    """
    rewards, values, next_values = at_least_float32(rewards, values, next_values)
    need_shape("values", values, rewards.shape)
    line = Transitions.of(
        rewards, next_values, terminated, truncated, gamma, action_mask, episode_id
    )
    value = line.actions.take(values)
    trace = line.carry * line.actions.rate("lam", lam, value)
    advantage = linear_scan(trace, line.one_step - value, method="doubling")
    return Advantages(line.actions.put(advantage), line.actions.put(advantage + value))


@torch.no_grad()
def discounted_return(
    rewards: Float[Tensor, "*batch time"],
    terminated: Bool[Tensor, "*batch time"],
    truncated: Bool[Tensor, "*batch time"],
    next_values: Float[Tensor, "*batch time"] | None = None,
    *,
    gamma: Rate = 1.0,
    allow_truncated_mc: bool = False,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Sum the discounted rewards to come: G_t = r_t + γ_t (1 - d_t)(stops ? v'_t : G_next).

    Args:
        rewards: Reward caused by each action, `[..., T]`.
        terminated: The task ended with this action, `[..., T]`.
        truncated: The episode was cut off after this action, `[..., T]`.
        next_values: V at the next decision, `[..., T]`, read where an episode stops without
            having ended; may be left out where every episode terminates.
        gamma: Discount, a number or `[..., T]`.
        allow_truncated_mc: Without `next_values`, count 0 after a truncated or cut episode.
            The return is then too low (too high for penalties) by what was cut away.
        action_mask: Which positions are actions, `[..., T]`.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Returns:
        G `[..., T]`, 0 where there is no action.

    Raises:
        ValueError: An episode that did not terminate, without `next_values`.

    >>> off, end = torch.zeros(3, dtype=torch.bool), torch.tensor([False, False, True])
    >>> discounted_return(torch.tensor([1.0, 0.0, 4.0]), end, off, gamma=0.5)
    tensor([2., 2., 4.])
    """
    after = torch.zeros_like(rewards) if next_values is None else next_values
    rewards, after = at_least_float32(rewards, after)
    line = Transitions.of(rewards, after, terminated, truncated, gamma, action_mask, episode_id)
    unknown = line.ends & ~line.ended
    if next_values is None and not allow_truncated_mc and bool(unknown.any()):
        raise ValueError(
            f"the episode that stops at {first_index(line.actions.put(unknown))} is not "
            "terminated; give next_values, or accept the bias with allow_truncated_mc=True"
        )
    last = torch.where(line.ends, line.one_step, line.reward)
    return line.actions.put(linear_scan(line.carry, last, method="doubling"))


@torch.no_grad()
def n_step(
    rewards: Float[Tensor, "*batch time"],
    terminated: Bool[Tensor, "*batch time"],
    truncated: Bool[Tensor, "*batch time"],
    next_values: Float[Tensor, "*batch time"],
    *,
    gamma: Rate = 1.0,
    n: int = 5,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Sum n discounted rewards, then bootstrap: G(n)_t = r_t + γ_t G(n-1)_next, G(1) = r + γ v'.

    The window closes early where the episode stops; nothing is bootstrapped after its end.
    n=1 is the TD(0) target, n of the row's length or more the discounted return.

    Args:
        rewards: Reward caused by each action, `[..., T]`.
        terminated: The task ended with this action, `[..., T]`.
        truncated: The episode was cut off after this action, `[..., T]`.
        next_values: V at the next decision, `[..., T]`.
        gamma: Discount, a number or `[..., T]`.
        n: Length of the window in actions, at least 1.
        action_mask: Which positions are actions, `[..., T]`.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Returns:
        G(n) `[..., T]`, 0 where there is no action.

    Raises:
        ValueError: n below 1.

    >>> off, end = torch.zeros(3, dtype=torch.bool), torch.tensor([False, False, True])
    >>> r, nv = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([10.0, 20.0, 0.0])
    >>> n_step(r, end, off, nv, n=2)
    tensor([22.,  2.,  1.])
    """
    if n < 1:
        raise ValueError(f"n is {n}; give a window of at least 1 action")
    rewards, after = at_least_float32(rewards, next_values)
    line = Transitions.of(rewards, after, terminated, truncated, gamma, action_mask, episode_id)
    stops = line.ends.nonzero().flatten()
    lengths = stops.diff(prepend=stops.new_tensor([-1]))
    # decided by the longest episode, not by the row, so that packing changes no bit
    if not lengths.numel() or n >= int(lengths.max()):
        last = torch.where(line.ends, line.one_step, line.reward)
        return line.actions.put(linear_scan(line.carry, last, method="doubling"))
    target = line.one_step
    for _ in range(n - 1):
        longer = line.reward + line.carry * following(target)
        target = torch.where(line.ends, line.one_step, longer)
    return line.actions.put(target)


@torch.no_grad()
def lambda_return(
    rewards: Float[Tensor, "*batch time"],
    terminated: Bool[Tensor, "*batch time"],
    truncated: Bool[Tensor, "*batch time"],
    next_values: Float[Tensor, "*batch time"],
    *,
    gamma: Rate = 1.0,
    lam: Rate = 0.95,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Mix the n-step returns: G_t = r_t + γ_t [(1 - λ_t) v'_t + λ_t G_next] (TD(λ)).

    lam=0 is the TD(0) target, lam=1 the discounted return. Equal to the `value_targets` of
    `gae` where v'_t is the value at the next action.

    Args:
        rewards: Reward caused by each action, `[..., T]`.
        terminated: The task ended with this action, `[..., T]`.
        truncated: The episode was cut off after this action, `[..., T]`.
        next_values: V at the next decision, `[..., T]`.
        gamma: Discount, a number or `[..., T]`.
        lam: Trace parameter, likewise.
        action_mask: Which positions are actions, `[..., T]`.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Returns:
        G `[..., T]`, 0 where there is no action.

    Raises:
        ValueError: gamma or lam outside [0, 1].

    >>> off, end = torch.zeros(2, dtype=torch.bool), torch.tensor([False, True])
    >>> lambda_return(torch.tensor([0.0, 4.0]), end, off, torch.tensor([2.0, 0.0]), lam=0.5)
    tensor([3., 4.])
    """
    rewards, after = at_least_float32(rewards, next_values)
    line = Transitions.of(rewards, after, terminated, truncated, gamma, action_mask, episode_id)
    trace = line.carry * line.actions.rate("lam", lam, line.reward)
    inside = line.reward + (line.carry - trace) * line.actions.take(after)
    base = torch.where(line.ends, line.one_step, inside)
    return line.actions.put(linear_scan(trace, base, method="doubling"))


@torch.no_grad()
def length_adaptive_lambda(
    n_actions: Int[Tensor, "*batch"], *, alpha: float = 0.05, lam_min: float = 0.95
) -> Float[Tensor, "*batch 1"]:
    """Choose lam by length: 1 - 1 / (α L), no less than `lam_min` (VAPO, 2504.05118).

    Above the floor (L of 400 or more by default) the trace mass Σ λ^k is about α L, so that a
    reward at the end reaches the beginning of a long answer.

    Args:
        n_actions: L, actions of each episode, `[...]`.
        alpha: Share of the length that the trace covers, above 0.
        lam_min: Floor, 0 to 1.

    Returns:
        lam `[..., 1]`, which broadcasts over rows.

    Raises:
        ValueError: alpha or lam_min out of range.

    >>> length_adaptive_lambda(torch.tensor([100, 2000]))
    tensor([[0.9500],
            [0.9900]])
    """
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; give a positive share, as 0.05")
    if not 0 <= lam_min <= 1:
        raise ValueError(f"lam_min is {lam_min}; give 0 to 1")
    length = n_actions.to(torch.float32)[..., None]
    return (1 - 1 / (alpha * length)).clamp(lam_min, 1.0)
