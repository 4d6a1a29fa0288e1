"""Credit above the token: gamma and lam by level, and GAE over steps, calls, turns and plans."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .rows import (
    Actions,
    Advantages,
    Rate,
    Transitions,
    at_least_float32,
    changes,
    following,
    need_shape,
)
from .scan import linear_scan
from .segments import Runs, runs

GAMMA: Mapping[str, float] = {"token": 1.0, "tool": 1.0, "turn": 1.0, "plan": 1.0}
LAM: Mapping[str, float] = {"token": 1.0, "tool": 1.0, "turn": 0.95, "plan": 0.95}


class Schedule(NamedTuple):
    """Discount and trace parameter of every action; 0 where there is no action."""

    gamma: Float[Tensor, "*batch time"]
    lam: Float[Tensor, "*batch time"]


class SegmentAdvantages(NamedTuple):
    """Segment-level advantages, broadcast, and the few positions at which a value is learned."""

    advantages: Float[Tensor, "*batch time"]
    value_targets: Float[Tensor, "*batch time"]
    """Target at each segment's first action; 0 elsewhere."""
    value_mask: Bool[Tensor, "*batch time"]
    """Where the value loss is taken: the first action of each segment."""


@torch.no_grad()
def level_schedule(
    turn_id: Int[Tensor, "*batch time"],
    call_id: Int[Tensor, "*batch time"],
    plan_id: Int[Tensor, "*batch time"],
    step_id: Int[Tensor, "*batch time"] | None = None,
    *,
    gamma: Mapping[str, float] = GAMMA,
    lam: Mapping[str, float] = LAM,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Schedule:
    """Give each action the gamma and lam of the highest level that it closes.

    An action closes a level if it is the last one of its segment there. With (1, 1) on the
    inner levels, `gae` then equals the segment-level GAE at each segment's first action, and
    a discount stands at the ends of turns instead of being spread over their tokens, which
    would punish long turns.

    Args:
        turn_id: Label of each action's turn, `[..., T]`.
        call_id: Label of its tool call (with the reasoning before it), `[..., T]`.
        plan_id: Label of its sub-goal, `[..., T]`.
        step_id: Label of its sentence or reasoning step, `[..., T]`.
        gamma: Discounts by level: token, tool, turn, plan, and perhaps step (as token else).
        lam: Trace parameters, likewise.
        action_mask: Which positions are actions, `[..., T]`.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Returns:
        `Schedule(gamma, lam)`, float64 `[..., T]`, for the keywords of `gae`.

    Raises:
        ValueError: A call that runs over the end of its turn, and the like; a level without
            a number, an unknown level, a number outside [0, 1].

    >>> turn, plan = torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0])
    >>> level_schedule(turn, turn, plan).lam.tolist()
    [1.0, 0.95, 0.95]
    """
    actions = Actions.of(turn_id, action_mask, episode_id)
    named = {"step": step_id, "tool": call_id, "turn": turn_id, "plan": plan_id}
    closes = {name: _closes(actions, name, ids) for name, ids in named.items() if ids is not None}
    _check_nested(closes)
    return Schedule(
        actions.put(_by_level("gamma", gamma, closes, actions)),
        actions.put(_by_level("lam", lam, closes, actions)),
    )


def _closes(actions: Actions, name: str, ids: Tensor) -> Bool[Tensor, " actions"]:
    need_shape(f"{name} ids", ids, actions.mask.shape)
    return actions.last | changes(actions.take(ids))


def _check_nested(closes: Mapping[str, Tensor]) -> None:
    names = list(closes)  # from the innermost level to the outermost
    for inner, outer in pairwise(names):
        open_inside = closes[outer] & ~closes[inner]
        if bool(open_inside.any()):
            number = int(open_inside.nonzero()[0, 0])
            raise ValueError(
                f"a {outer} ends at action {number} inside a {inner}; give ids that are nested "
                f"(a new {outer} is a new {inner}, counted on through the row)"
            )


def _by_level(
    name: str, given: Mapping[str, float], closes: Mapping[str, Tensor], actions: Actions
) -> Float[Tensor, " actions"]:
    levels = ("token", "step", "tool", "turn", "plan")
    unknown = sorted(set(given) - set(levels))
    missing = [level for level in levels if level not in given and level != "step"]
    if unknown or missing:
        raise ValueError(
            f"{name} has the levels {sorted(given)}; give token, tool, turn and plan, perhaps step"
        )
    for level, number in given.items():
        if not 0 <= number <= 1:
            raise ValueError(f"{name}[{level!r}] is {number}; give 0 to 1")
    line = torch.full(actions.last.shape, given["token"], dtype=torch.float64)
    line = line.to(actions.last.device)
    for level, closing in closes.items():
        if level in given:
            line = torch.where(closing, given[level], line)
    return line


@torch.no_grad()
def segment_gae(
    rewards: Float[Tensor, "*batch time"],
    values: Float[Tensor, "*batch time"],
    next_values: Float[Tensor, "*batch time"],
    terminated: Bool[Tensor, "*batch time"],
    truncated: Bool[Tensor, "*batch time"],
    segment_id: Int[Tensor, "*batch time"],
    *,
    gamma: Rate = 1.0,
    lam: Rate = 0.95,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> SegmentAdvantages:
    """Estimate one advantage a segment and give it to all of its actions (2512.17008).

    A segment (a call, a turn, an episode) is one decision: R_k is the sum of its rewards, V_k
    the value at its first action, and gamma and lam stand at its end. One segment an episode
    is the bandit, A = R - V; one segment an action is `gae`.

    Args:
        rewards: Reward caused by each action, `[..., T]`.
        values: V before each action, `[..., T]`; read at the first action of a segment.
        next_values: V at the next decision, `[..., T]`; read at the last action of a segment.
        terminated: The task ended with this action, `[..., T]`.
        truncated: The episode was cut off after this action, `[..., T]`.
        segment_id: Label of each action's segment, `[..., T]`.
        gamma: Discount between segments; a number, or `[..., T]` read at their last actions.
        lam: Trace parameter between segments, likewise.
        action_mask: Which positions are actions, `[..., T]`.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Returns:
        `SegmentAdvantages`, each field `[..., T]`. The advantage is not divided by the
        length of the segment: length is the business of `losses.aggregate`.

    Raises:
        ValueError: gamma or lam outside [0, 1]; both flags on one action; unequal shapes.

    >>> off, end = torch.zeros(3, dtype=torch.bool), torch.tensor([False, False, True])
    >>> r, v, nv = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 9.0, 2.0]), torch.zeros(3)
    >>> nv[1] = 2.0
    >>> segment_gae(r, v, nv, end, off, torch.tensor([0, 0, 1])).advantages
    tensor([2., 2., 0.])
    """
    rewards, values, next_values = at_least_float32(rewards, values, next_values)
    need_shape("values", values, rewards.shape)
    line = Transitions.of(
        rewards, next_values, terminated, truncated, gamma, action_mask, episode_id
    )
    parts = runs(line.actions, segment_id, line.ends)
    value = line.actions.take(values)[parts.first]
    trace = line.actions.rate("lam", lam, line.reward)[parts.last]
    advantage = _pooled(line, parts, parts.total(line.reward), value, trace)
    return SegmentAdvantages(
        line.actions.put(advantage[parts.index]),
        line.actions.put(torch.where(parts.first, (advantage + value)[parts.index], 0.0)),
        line.actions.put(parts.first),
    )


def _pooled(
    line: Transitions, parts: Runs, reward: Tensor, value: Tensor, trace: Tensor
) -> Float[Tensor, " segments"]:
    """GAE over segments; `value` may be read elsewhere than at their first actions."""
    later = (line.one_step - line.reward)[parts.last]  # γ v' at the last action of each
    carry = line.carry[parts.last]
    later = torch.where(line.ends[parts.last], later, carry * following(value))
    return linear_scan(carry * trace, reward + later - value, method="doubling")


@torch.no_grad()
def two_pass_gae(
    rewards: Float[Tensor, "*batch time"],
    values: Float[Tensor, "*batch time"],
    next_values: Float[Tensor, "*batch time"],
    terminated: Bool[Tensor, "*batch time"],
    truncated: Bool[Tensor, "*batch time"],
    segment_id: Int[Tensor, "*batch time"],
    *,
    gammas: Mapping[str, Rate],
    lams: Mapping[str, Rate],
    anchor: Literal["start", "end"] = "start",
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Advantages:
    """Run GAE over segments, then inside each of them towards its result (VAGEN's bi-level).

        pass 1  A_k as `segment_gae`, with γ_segment and λ_segment
        pass 2  inside segment k as `gae`, with γ_token and λ_token; its last action has
                A = r + γ_segment [V_{k+1} + λ_segment A_{k+1}] - v

    With (1, 1) for tokens it equals `gae` under a `level_schedule`.

    Args:
        rewards: Reward caused by each action, `[..., T]`.
        values: V before each action, `[..., T]`.
        next_values: V at the next decision, `[..., T]`.
        terminated: The task ended with this action, `[..., T]`.
        truncated: The episode was cut off after this action, `[..., T]`.
        segment_id: Label of each action's segment, `[..., T]`.
        gammas: Discounts `{"token": ..., "segment": ...}`, numbers or `[..., T]`.
        lams: Trace parameters, likewise.
        anchor: Where V_k stands. "end" is VAGEN's own form, for comparison only: V at the
            segment's last action, and pass 1 sees no other reward than that action's.
        action_mask: Which positions are actions, `[..., T]`.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Returns:
        `advantages` and `value_targets` = A + v, `[..., T]`, 0 where there is no action.

    Raises:
        ValueError: A rate that is missing or outside [0, 1]; both flags on one action.

    >>> off, end = torch.zeros(2, dtype=torch.bool), torch.tensor([False, True])
    >>> r, v, nv = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.0])
    >>> rates = {"token": 1.0, "segment": 1.0}
    >>> two_pass_gae(r, v, nv, end, off, torch.tensor([0, 1]), gammas=rates, lams=rates)[0]
    tensor([0.5000, 0.5000])
    """
    _check_two(gammas, lams)
    rewards, values, next_values = at_least_float32(rewards, values, next_values)
    need_shape("values", values, rewards.shape)
    row = rewards, next_values, terminated, truncated
    tokens = Transitions.of(*row, gammas["token"], action_mask, episode_id)
    outer = Transitions.of(*row, gammas["segment"], action_mask, episode_id)
    parts = runs(tokens.actions, segment_id, tokens.ends)
    value = tokens.actions.take(values)
    if anchor == "start":
        reward, stand = parts.total(tokens.reward), value[parts.first]
    else:
        reward, stand = tokens.reward[parts.last], value[parts.last]
    trace = tokens.actions.rate("lam", lams["segment"], value)[parts.last]
    advantage = _pooled(outer, parts, reward, stand, trace)
    result = (following(stand) + trace * following(advantage))[parts.index]
    closing = torch.where(outer.ends, outer.one_step, outer.reward + outer.carry * result)
    target = torch.where(parts.last, closing, tokens.one_step)
    inner = tokens.carry * tokens.actions.rate("lam", lams["token"], value)
    line = linear_scan(torch.where(parts.last, 0.0, inner), target - value, method="doubling")
    return Advantages(tokens.actions.put(line), tokens.actions.put(line + value))


def _check_two(gammas: Mapping[str, Rate], lams: Mapping[str, Rate]) -> None:
    for name, given in (("gammas", gammas), ("lams", lams)):
        if set(given) != {"token", "segment"}:
            raise ValueError(f"{name} has {sorted(given)}; give the keys token and segment")
