"""Means, variances and whitening over the actions of the global batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .rows import at_least_float32, mask_of


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations: what micro-batches and ranks exchange."""

    number: Float[Tensor, ""]
    mean: Float[Tensor, ""]
    squares: Float[Tensor, ""]

    @property
    def std(self) -> Float[Tensor, ""]:
        """Unbiased standard deviation (ddof 1); 0 for fewer than two entries."""
        variance = self.squares / (self.number - 1).clamp(min=1)
        return torch.where(self.number < 2, 0.0, variance).sqrt()


def masked_mean(
    row: Float[Tensor, "..."],
    action_mask: Bool[Tensor, "..."] | None = None,
    *,
    dim: int | None = None,
) -> Float[Tensor, "..."]:
    """Average the entries under the mask, of all rows or along one axis; 0 where there is none.

    >>> masked_mean(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([True, True, False]))
    tensor(2.)
    """
    (row,) = at_least_float32(row)
    mask = mask_of(row, action_mask)
    kept = torch.where(mask, row, 0.0)
    if dim is None:
        return kept.sum() / mask.sum().clamp(min=1)
    return kept.sum(dim) / mask.sum(dim).clamp(min=1)


def masked_var(
    row: Float[Tensor, "..."],
    action_mask: Bool[Tensor, "..."] | None = None,
    *,
    dim: int | None = None,
) -> Float[Tensor, "..."]:
    """Unbiased variance (ddof 1) of the entries under the mask; 0 for fewer than two.

    >>> masked_var(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]))
    tensor(2.)
    """
    (row,) = at_least_float32(row)
    mask = mask_of(row, action_mask)
    mean = masked_mean(row, mask, dim=dim)
    centre = mean if dim is None else mean.unsqueeze(dim)
    squares = torch.where(mask, row - centre, 0.0).square()
    if dim is None:
        return squares.sum() / (mask.sum() - 1).clamp(min=1)
    return squares.sum(dim) / (mask.sum(dim) - 1).clamp(min=1)


@torch.no_grad()
def moments(row: Float[Tensor, "..."], action_mask: Bool[Tensor, "..."] | None = None) -> Moments:
    """Measure the entries under the mask, so that `combine` can join several parts."""
    (row,) = at_least_float32(row)
    line = row[mask_of(row, action_mask)]
    count = torch.tensor(float(line.numel()), dtype=row.dtype, device=row.device)
    mean = line.sum() / count.clamp(min=1)
    return Moments(count, mean, (line - mean).square().sum())


@torch.no_grad()
def combine(parts: Sequence[Moments]) -> Moments:
    """Join the moments of disjoint parts into those of the whole (Chan et al. 1983).

    Raises:
        ValueError: No part is given.
    """
    if not parts:
        raise ValueError("combine got no moments; give those of at least one part")
    whole = parts[0]
    for part in parts[1:]:
        count = whole.number + part.number
        share = part.number / count.clamp(min=1)
        shift = part.mean - whole.mean
        squares = whole.squares + part.squares + shift.square() * whole.number * share
        whole = Moments(count, whole.mean + shift * share, squares)
    return whole


@torch.no_grad()
def whiten(
    advantages: Float[Tensor, "*batch time"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
    std_floor: float = 1e-8,
    shift_mean: bool = True,
    batch: Moments | None = None,
) -> Float[Tensor, "*batch time"]:
    """Bring advantages to mean 0 and spread 1: (A - mean) / max(std, std_floor).

    The statistics are those of the global batch. Where it is gathered in parts, whiten each
    part with `batch=combine([moments(part, mask), ...])`. With fewer than two entries, or a
    spread below 1e-8, the advantages are centred only.

    Args:
        advantages: `[..., T]`.
        action_mask: Which positions count, `[..., T]`.
        std_floor: Least divisor; 0.05 keeps noise small while nothing is rewarded yet.
        shift_mean: False divides only, as rewards need.
        batch: Moments of the global batch; those of `advantages` by default.

    Returns:
        `[..., T]`, 0 where the mask is False.

    Raises:
        ValueError: A `std_floor` that is not positive.

    >>> whiten(torch.tensor([1.0, 2.0, 3.0]))
    tensor([-1.,  0.,  1.])
    """
    if not std_floor > 0:
        raise ValueError(f"std_floor is {std_floor}; give a positive number, as 1e-8")
    (advantages,) = at_least_float32(advantages)
    mask = mask_of(advantages, action_mask)
    if batch is None:
        batch = moments(advantages, mask)
    std = batch.std.to(advantages)
    flat = (batch.number < 2) | (std < 1e-8)
    divisor = torch.where(flat, 1.0, std.clamp(min=std_floor))
    shifted = advantages - batch.mean.to(advantages) if shift_mean else advantages
    return torch.where(mask, shifted / divisor, 0.0)
