"""Losses of the critic, and how much of its targets it explains."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .rows import at_least_float32, mask_of, need_shape


def huber(error: Float[Tensor, "..."], *, delta: float = 1.0) -> Float[Tensor, "..."]:
    """Square small errors, grow linearly beyond delta: e² within, 2 δ |e| - δ² outside.

    Twice the usual Huber loss, so that it equals the squared loss where the error is small.

    Raises:
        ValueError: A delta that is not positive.

    >>> huber(torch.tensor([0.5, 3.0]))
    tensor([0.2500, 5.0000])
    """
    if not delta > 0:
        raise ValueError(f"delta is {delta}; give a positive number, as 1.0")
    size = error.abs()
    return torch.where(size <= delta, error.square(), 2 * delta * size - delta**2)


def value_loss(
    values: Float[Tensor, "*batch time"],
    value_targets: Float[Tensor, "*batch time"],
    old_values: Float[Tensor, "*batch time"] | None = None,
    *,
    clip: float | None = None,
    kind: Literal["squared", "huber"] = "squared",
    delta: float = 1.0,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Measure the critic's error at each action: (v - y)², without a factor 1/2.

    With `clip` the larger one of the errors of v and of v held within old ± clip counts, as
    in PPO's code. That is off by default: its size is in the units of the return, and it can
    freeze the critic where targets are far away.

    Args:
        values: v, `[..., T]`; the gradient flows through it.
        value_targets: y, `[..., T]`, taken as a constant.
        old_values: Values at the start of the update, `[..., T]`, taken as constant.
        clip: Half-width of the allowed change, in units of the return.
        kind: "squared", or "huber" with its `delta`.
        delta: Where the Huber loss becomes linear.
        action_mask: Which positions count, `[..., T]`.

    Returns:
        Row `[..., T]`, 0 where the mask is False; `losses.aggregate` makes the scalar.

    Raises:
        ValueError: `clip` not positive, or given without `old_values`.

    >>> value_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.5]))
    tensor([1.0000, 0.2500])
    """
    mask = mask_of(values, action_mask)
    need_shape("value_targets", value_targets, values.shape)
    values, target = at_least_float32(values, value_targets.detach())
    values, target = torch.where(mask, values, 0.0), torch.where(mask, target, 0.0)
    error = values - target
    row = error.square() if kind == "squared" else huber(error, delta=delta)
    if clip is None:
        return row
    if not clip > 0 or old_values is None:
        raise ValueError(f"clip is {clip}; give a positive number, and old_values with it")
    need_shape("old_values", old_values, values.shape)
    old = torch.where(mask, old_values.detach().to(values), 0.0)
    held = old + (values - old).clamp(-clip, clip) - target
    return torch.maximum(row, held.square() if kind == "squared" else huber(held, delta=delta))


@torch.no_grad()
def explained_variance(
    values: Float[Tensor, "*batch time"],
    value_targets: Float[Tensor, "*batch time"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, ""]:
    """Measure the share of the targets' variance that the critic explains, 1 - Var(y - v) / Var(y).

    Returns:
        At most 1; 0 where the targets are constant or fewer than two.

    >>> y = torch.tensor([1.0, 2.0, 3.0])
    >>> explained_variance(y, y), explained_variance(torch.zeros(3), y)
    (tensor(1.), tensor(0.))
    """
    need_shape("value_targets", value_targets, values.shape)
    values, target = at_least_float32(values, value_targets)
    mask = mask_of(values, action_mask)
    y, rest = target[mask], (target - values)[mask]
    if y.numel() < 2:
        return values.new_zeros(())
    spread = y.var()
    constant = (y.max() - y.min()) <= 1e-7 * y.abs().max()
    share = 1 - rest.var() / torch.where(constant, 1.0, spread)
    return torch.where(constant, 0.0, share)
