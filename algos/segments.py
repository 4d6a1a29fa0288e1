"""Tokens and the turns or tool calls they form: pool over a segment, spread back to its tokens."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .rows import Actions, at_least_float32, changes, first_of, need_shape, spread
from .scan import linear_scan


class Segments(NamedTuple):
    """Rows pooled over their segments; column k is the k-th segment of its row."""

    rewards: Float[Tensor, "*batch segments"]
    """Sum of the rewards inside the segment."""
    values: Float[Tensor, "*batch segments"]
    """Value at the segment's first action."""
    first: Int[Tensor, "*batch segments"]
    """Position of the segment's first action in its row; 0 where there is no segment."""
    last: Int[Tensor, "*batch segments"]
    """Position of the segment's last action in its row; 0 where there is no segment."""
    mask: Bool[Tensor, "*batch segments"]
    """Which columns hold a segment."""


@dataclass(frozen=True, slots=True)
class Runs:
    """The segments of one flat line of actions."""

    first: Bool[Tensor, " actions"]
    last: Bool[Tensor, " actions"]
    index: Int[Tensor, " actions"]
    """Number of each action's segment, counted through all rows."""

    @classmethod
    def of(cls, last: Bool[Tensor, " actions"]) -> "Runs":
        """Number the stretches of a line, given the last position of each."""
        first = first_of(last)
        return cls(first, last, first.cumsum(0) - 1)

    def total(self, line: Float[Tensor, " actions"]) -> Float[Tensor, " segments"]:
        """Sum a line inside each segment, in a fixed order."""
        inside = torch.where(self.last, 0.0, torch.ones_like(line))
        return linear_scan(inside, line, method="doubling")[self.first]


def runs(
    actions: Actions, segment_id: Shaped[Tensor, "*batch time"], ends: Bool[Tensor, " actions"]
) -> Runs:
    """Cut a line of actions wherever the label changes or an episode ends.

    Raises:
        ValueError: `segment_id` has not the shape of the row.
    """
    need_shape("segment_id", segment_id, actions.mask.shape)
    return Runs.of(changes(actions.take(segment_id)) | ends)


def columns(actions: Actions, first: Bool[Tensor, " actions"]) -> Bool[Tensor, "*batch segments"]:
    """Mark, in rows of segments, which columns hold one."""
    count = actions.put(first).sum(-1)
    most = int(count.max()) if count.numel() else 0
    return torch.arange(most, device=count.device) < count[..., None]


@torch.no_grad()
def segment_reduce(
    rewards: Float[Tensor, "*batch time"],
    values: Float[Tensor, "*batch time"],
    segment_id: Int[Tensor, "*batch time"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Segments:
    """Pool rows over their segments: rewards summed, values read at the first action.

    A segment is a run of actions with one label inside one episode; positions that are not
    actions interrupt nothing. So no segment is empty, and labels need not be consecutive.

    Args:
        rewards: `[..., T]`.
        values: `[..., T]`.
        segment_id: Label of each action's segment (`turn_id`, `call_id`, `plan_id`), `[..., T]`.
        action_mask: Which positions are actions, `[..., T]`.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Returns:
        `Segments`, each field `[..., K]` for rows of at most K segments.

    >>> r, v = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([5.0, 6.0, 7.0])
    >>> pooled = segment_reduce(r, v, torch.tensor([0, 0, 1]))
    >>> pooled.rewards, pooled.values
    (tensor([1., 2.]), tensor([5., 7.]))
    """
    rewards, values = at_least_float32(rewards, values)
    actions = Actions.of(rewards, action_mask, episode_id)
    parts = runs(actions, segment_id, actions.last)
    mask = columns(actions, parts.first)
    position = actions.take(torch.arange(rewards.shape[-1], device=rewards.device))
    return Segments(
        spread(parts.total(actions.take(rewards)), mask),
        spread(actions.take(values)[parts.first], mask),
        spread(position[parts.first], mask),
        spread(position[parts.last], mask),
        mask,
    )


@torch.no_grad()
def segment_broadcast(
    advantages: Float[Tensor, "*batch segments"],
    segment_id: Int[Tensor, "*batch time"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    episode_id: Int[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Give every action the value of its segment, undivided; 0 where there is no action.

    Args:
        advantages: One value a segment, `[..., K]`; column k is the row's k-th segment.
        segment_id: As in `segment_reduce`, `[..., T]`.
        action_mask: Which positions are actions, `[..., T]`.
        episode_id: Label of each position's episode in packed rows, `[..., T]`.

    Raises:
        ValueError: A row has more than K segments.

    >>> segment_broadcast(torch.tensor([7.0, 9.0]), torch.tensor([0, 0, 1]))
    tensor([7., 7., 9.])
    """
    (advantages,) = at_least_float32(advantages)
    actions = Actions.of(segment_id, action_mask, episode_id)
    parts = runs(actions, segment_id, actions.last)
    line = columns_to_line(advantages, actions, parts, "advantages")
    return actions.put(line[parts.index])


def columns_to_line(
    per_segment: Float[Tensor, "*batch columns"], actions: Actions, parts: Runs, name: str
) -> Float[Tensor, " segments"]:
    """Read one value a segment out of rows of segments.

    Raises:
        ValueError: The leading shape differs, or a row has more segments than columns.
    """
    mask = columns(actions, parts.first)
    given = per_segment.shape
    if given[:-1] != mask.shape[:-1] or given[-1] < mask.shape[-1]:
        wanted = [*mask.shape[:-1], mask.shape[-1]]
        raise ValueError(f"{name} is {list(given)}; give {wanted}, one value a segment")
    return per_segment[..., : mask.shape[-1]][mask]
