"""Rows of positions seen through their actions: where each one is, and where an episode ends."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Rate = float | Float[Tensor, "..."]
"""A discount or trace parameter: one number, or one number a position."""


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring floating tensors to their common dtype, and half precision up to float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def need_bool(name: str, tensor: Tensor) -> None:
    """Refuse a mask or flag that is not of dtype bool."""
    if tensor.dtype != torch.bool:
        raise TypeError(f"{name} is {tensor.dtype}; give torch.bool, as `{name}.bool()`")


def mask_of(row: Tensor, action_mask: Tensor | None) -> Bool[Tensor, "..."]:
    """Return the action mask of a row, all True where none is given; refuse a wrong one."""
    if action_mask is None:
        return torch.ones(row.shape, dtype=torch.bool, device=row.device)
    need_bool("action_mask", action_mask)
    need_shape("action_mask", action_mask, row.shape)
    return action_mask


def need_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    """Refuse a tensor whose shape is not that of its row."""
    if tensor.shape != shape:
        raise ValueError(f"{name} is {list(tensor.shape)}; give {list(shape)}, as the row")


class Advantages(NamedTuple):
    """What an estimator hands to the losses."""

    advantages: Float[Tensor, "*batch time"]
    value_targets: Float[Tensor, "*batch time"]


@dataclass(frozen=True, slots=True)
class Actions:
    """The actions of all rows, end to end in one flat line.

    Credit runs over this line, on which positions that are not actions do not exist: that
    makes it blind to them, whatever they hold and however many they are.

    Attributes:
        mask: Which positions are actions, `[..., T]`.
        index: Where they stand in the rows end to end, `[N]`; None where all positions are.
        last: Which actions are the last of their row or episode, `[N]`.
    """

    mask: Bool[Tensor, "*batch time"]
    index: Int[Tensor, " actions"] | None
    last: Bool[Tensor, " actions"]

    @classmethod
    def of(cls, row: Tensor, action_mask: Tensor | None, episode_id: Tensor | None) -> "Actions":
        """Find the actions of rows that look like `row`.

        Raises:
            ValueError: A shape differs from the row's.
            TypeError: The mask is not of dtype bool.
        """
        mask = mask_of(row, action_mask)
        if action_mask is None:
            ends = torch.zeros_like(mask)
            ends[..., -1:] = True
            actions = cls(mask, None, ends.flatten())
        else:
            count = mask.cumsum(-1)
            index = mask.flatten().nonzero()[:, 0]
            actions = cls(mask, index, (count == count[..., -1:]).flatten()[index])
        if episode_id is None:
            return actions
        need_shape("episode_id", episode_id, row.shape)
        return cls(mask, actions.index, actions.last | changes(actions.take(episode_id)))

    def take(self, row: Shaped[Tensor, "..."]) -> Shaped[Tensor, " actions"]:
        """Read a row, or what broadcasts to one, at the actions."""
        line = row.expand(self.mask.shape).flatten()
        return line if self.index is None else line[self.index]

    def put(self, line: Shaped[Tensor, " actions"]) -> Shaped[Tensor, "*batch time"]:
        """Write one value an action back into rows; 0 elsewhere."""
        if self.index is None:
            return line.view(self.mask.shape)
        rows = torch.zeros(self.mask.numel(), dtype=line.dtype, device=line.device)
        return rows.index_copy(0, self.index, line).view(self.mask.shape)

    def rate(self, name: str, rate: Rate, like: Tensor) -> Float[Tensor, " actions"]:
        """Read gamma or lam at the actions, in the dtype of `like`.

        Raises:
            ValueError: A value outside [0, 1].
        """
        # not through a default float32, which would cost a float64 line eight digits
        given = torch.as_tensor(rate, dtype=like.dtype, device=like.device)
        line = given[None] if given.dim() == 0 else self.take(given)
        wrong = ~((line >= 0) & (line <= 1))
        if bool(wrong.any()):
            raise ValueError(f"{name} is {float(line[wrong][0]):g}; give 0 to 1")
        return line.expand(self.last.shape)

    def flags(
        self, terminated: Tensor, truncated: Tensor
    ) -> tuple[Bool[Tensor, " actions"], Bool[Tensor, " actions"]]:
        """Read the two flags at the actions: (terminated, the episode or row ends here).

        Raises:
            ValueError: Both flags on one action.
            TypeError: A flag is not of dtype bool.
        """
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            need_bool(name, flag)
            need_shape(name, flag, self.mask.shape)
        both = terminated & truncated & self.mask
        if bool(both.any()):
            where = first_index(both)
            raise ValueError(
                f"terminated and truncated are both True at {where}; set one of the two"
            )
        ended = self.take(terminated)
        return ended, self.last | ended | self.take(truncated)


def spread(line: Shaped[Tensor, " n"], mask: Bool[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Write a flat line into the True positions of a mask, in order; 0 elsewhere."""
    rows = torch.zeros(mask.shape, dtype=line.dtype, device=line.device)
    return rows.masked_scatter(mask, line)


def changes(labels: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Mark the positions of a line after which the label is another; the last one too."""
    ends = torch.ones(labels.shape, dtype=torch.bool, device=labels.device)
    ends[:-1] = labels[1:] != labels[:-1]
    return ends


def first_of(last: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Mark the first position of each stretch, given the last ones."""
    first = torch.ones_like(last)
    first[1:] = last[:-1]
    return first


def following(line: Shaped[Tensor, " n"]) -> Shaped[Tensor, " n"]:
    """Shift a line by one, so that position t holds what stands at t + 1; 0 at the end."""
    return torch.cat([line[1:], line.new_zeros(min(1, line.shape[0]))])


def first_index(mask: Bool[Tensor, "..."]) -> tuple[int, ...]:
    """Return the index of the first True, as plain numbers for a message."""
    return tuple(int(i) for i in mask.nonzero()[0])


@dataclass(frozen=True, slots=True)
class Transitions:
    """One line of decisions with what follows each: the parts every return is made of."""

    actions: Actions
    reward: Float[Tensor, " actions"]
    """Reward caused by the action."""
    ended: Bool[Tensor, " actions"]
    """The task ended with it."""
    ends: Bool[Tensor, " actions"]
    """Its episode, or the row, stops after it."""
    one_step: Float[Tensor, " actions"]
    """r + γ (1 - d) v', the target that looks one decision ahead."""
    carry: Float[Tensor, " actions"]
    """γ where the episode goes on, 0 where it stops."""

    @classmethod
    def of(
        cls,
        rewards: Tensor,
        next_values: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        gamma: Rate,
        action_mask: Tensor | None,
        episode_id: Tensor | None,
    ) -> "Transitions":
        """Read rows, all of one shape and dtype, at their actions.

        Raises:
            ValueError: gamma outside [0, 1]; both flags on one action; unequal shapes.
        """
        need_shape("next_values", next_values, rewards.shape)
        actions = Actions.of(rewards, action_mask, episode_id)
        ended, ends = actions.flags(terminated, truncated)
        reward = actions.take(rewards)
        discount = actions.rate("gamma", gamma, reward)
        later = torch.where(ended, 0.0, discount * actions.take(next_values))
        carry = torch.where(ends, 0.0, discount)
        return cls(actions, reward, ended, ends, reward + later, carry)
