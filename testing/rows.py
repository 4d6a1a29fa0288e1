"""Hypothesis strategies for rows of experience: masks, ends, nested labels, log ratios, rates."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Experience:
    """What an estimator is given, every field `[B, T]`; packed, masked, ended in all ways.

    Positions outside `action_mask` hold garbage of the field's type. `bootstrap_value` is read
    where an episode stops without having terminated.
    """

    rewards: Tensor
    values: Tensor
    bootstrap_value: Tensor
    terminated: Tensor
    truncated: Tensor
    action_mask: Tensor
    episode_id: Tensor
    step_id: Tensor
    call_id: Tensor
    turn_id: Tensor
    plan_id: Tensor

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Experience":
        """Apply one change to every field."""
        return Experience(*(change(getattr(self, field.name)) for field in fields(self)))

    def replaced(self, **new: Tensor) -> "Experience":
        """Return the same experience with some fields exchanged."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return Experience(**(held | new))


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array)  # pyright: ignore[reportUnknownMemberType]


def plain(tensor: Tensor) -> list[Any]:
    """A tensor as plain Python numbers, in nested lists."""
    return cast(list[Any], tensor.tolist())


class Ids(NamedTuple):
    """Labels of the levels, `[B, T]`, each nested in the next."""

    step: Tensor
    call: Tensor
    turn: Tensor
    plan: Tensor


def shapes(max_rows: int = 4, max_time: int = 12) -> st.SearchStrategy[Shape]:
    """Draw (B, T), each at least 1."""
    return st.tuples(st.integers(1, max_rows), st.integers(1, max_time))


def rows(shape: Shape, low: float = -5.0, high: float = 5.0) -> st.SearchStrategy[Tensor]:
    """Draw a float64 row of numbers in [low, high], none of them subnormal."""
    numbers = st.floats(low, high, allow_subnormal=False)
    return arrays.arrays(np.float64, shape, elements=numbers).map(_tensor)


def action_masks(shape: Shape) -> st.SearchStrategy[Tensor]:
    """Draw a mask; rows without any action occur."""
    return arrays.arrays(np.bool_, shape).map(_tensor)


def episode_ids(shape: Shape) -> st.SearchStrategy[Tensor]:
    """Draw labels of the episodes that lie end to end in each row."""
    cuts = arrays.arrays(np.bool_, shape, fill=st.just(False)).map(_tensor)
    return cuts.map(lambda cut: cut.long().cumsum(-1))


def nested_ids(shape: Shape) -> st.SearchStrategy[Ids]:
    """Draw labels in which the end of a plan ends its turn, call and step, and so down."""

    def number(height: Tensor) -> Ids:
        step, call, turn, plan = ((height >= level).long().cumsum(-1) for level in range(1, 5))
        return Ids(step, call, turn, plan)

    heights = arrays.arrays(np.int64, shape, elements=st.integers(0, 4))
    return heights.map(_tensor).map(number)


def log_ratios(shape: Shape) -> st.SearchStrategy[Tensor]:
    """Draw log ratios in [-3, 3], with some of ±20 and ±60."""
    numbers = st.floats(-3, 3, allow_subnormal=False) | st.sampled_from([-60.0, -20.0, 20.0, 60.0])
    return arrays.arrays(np.float64, shape, elements=numbers).map(_tensor)


def rates() -> st.SearchStrategy[float]:
    """Draw gamma or lam: 0, 0.5, 0.97, 1 or anything between."""
    between = st.floats(0, 1, allow_subnormal=False)
    return st.sampled_from([0.0, 0.5, 0.97, 1.0]) | between


def last_actions(action_mask: Tensor, episode_id: Tensor) -> Tensor:
    """Mark the last action of each episode in each row, by a plain loop."""
    last = torch.zeros_like(action_mask)
    for row in range(action_mask.shape[0]):
        seen: int | None = None
        for time in reversed(range(action_mask.shape[1])):
            if bool(action_mask[row, time]):
                label = int(episode_id[row, time])
                last[row, time] = label != seen
                seen = label
    return last


@st.composite
def episode_flags(
    draw: st.DrawFn, action_mask: Tensor, episode_id: Tensor, *, cuts: bool = True
) -> tuple[Tensor, Tensor]:
    """Draw (terminated, truncated), never both, on last actions; with `cuts` perhaps neither."""
    shape = (action_mask.shape[0], action_mask.shape[1])
    ways = arrays.arrays(np.int64, shape, elements=st.integers(0, 2 if cuts else 1))
    way = draw(ways.map(_tensor))
    last = last_actions(action_mask, episode_id)
    return last & (way == 0), last & (way == 1)


@st.composite
def experiences(
    draw: st.DrawFn, *, max_rows: int = 4, max_time: int = 12, cuts: bool = True
) -> Experience:
    """Draw an `Experience` of up to `max_rows` rows and `max_time` positions."""
    shape = draw(shapes(max_rows, max_time))
    mask, episode = draw(action_masks(shape)), draw(episode_ids(shape))
    terminated, truncated = draw(episode_flags(mask, episode, cuts=cuts))
    ids = draw(nested_ids(shape))
    rewards, values, bootstrap = (draw(rows(shape)) for _ in range(3))
    return Experience(rewards, values, bootstrap, terminated, truncated, mask, episode, *ids)


def blinded(experience: Experience) -> Experience:
    """Put garbage wherever there is no action: NaN, True flags, strange labels."""
    mask = experience.action_mask

    def spoil(field: Tensor) -> Tensor:
        if field is mask:
            return field
        if field.is_floating_point():
            return torch.where(mask, field, torch.nan)
        return torch.where(mask, field, True if field.dtype == torch.bool else -7)

    return experience.mapped(spoil)


def gapped(experience: Experience, at: int, length: int) -> Experience:
    """Insert positions that are no actions at column `at`: tool output, or padding."""

    def insert(field: Tensor) -> Tensor:
        gap = torch.zeros(field.shape[0], length, dtype=field.dtype)
        return torch.cat([field[:, :at], gap, field[:, at:]], dim=1)

    return experience.mapped(insert)


def permuted(experience: Experience, order: Tensor) -> Experience:
    """Put the rows in another order."""
    return experience.mapped(lambda field: field[order])


def packed(experience: Experience) -> Experience:
    """Lay all rows end to end in one, their episodes labelled apart."""
    count = experience.episode_id.max() - experience.episode_id.min() + 1
    offset = torch.arange(experience.episode_id.shape[0])[:, None] * count
    apart = experience.replaced(episode_id=experience.episode_id + offset)
    return apart.mapped(lambda field: field.reshape(1, -1))
