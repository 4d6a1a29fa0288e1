"""The one primitive under all returns: x_t = b_t + a_t x_{t+1} in reverse time."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .rows import at_least_float32

SHORT = 64  # below this the loop's few operations cost no more than the scan's passes


@torch.no_grad()
def linear_scan(
    a: Float[Tensor, "*batch time"],
    b: Float[Tensor, "*batch time"],
    *,
    method: Literal["auto", "loop", "doubling"] = "auto",
) -> Float[Tensor, "*batch time"]:
    """Solve the linear recurrence x_t = b_t + a_t x_{t+1} backwards in time, x_T = 0.

    Where a_t = 0 the recurrence starts afresh, exactly: not even a NaN later in the row
    reaches back over it. So many episodes may lie end to end in one row.

    Args:
        a: Coefficients `[..., T]`.
        b: Inputs `[..., T]`.
        method: "loop" is readable, "doubling" takes log2 of the longest stretch without a
            zero passes over the row, "auto" loops over rows of at most 64 positions.

    Returns:
        x `[..., T]`, in float32 or, where an input is float64, in float64.

    >>> a, b = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 2.0, 4.0])
    >>> linear_scan(a, b)
    tensor([3., 4., 4.])
    """
    if a.shape != b.shape:
        raise ValueError(f"a is {list(a.shape)} and b {list(b.shape)}; give equal shapes [..., T]")
    a, b = at_least_float32(a, b)
    if method == "auto":
        method = "loop" if a.shape[-1] <= SHORT else "doubling"
    return _loop(a, b) if method == "loop" else _doubling(a, b)


def _loop(a: Tensor, b: Tensor) -> Tensor:
    x = b.clone()
    for t in range(b.shape[-1] - 2, -1, -1):
        x[..., t] += torch.where(a[..., t] == 0, 0.0, a[..., t] * x[..., t + 1])
    return x


def _doubling(a: Tensor, b: Tensor) -> Tensor:
    """Compose the maps x -> b + a x of 1, 2, 4, ... neighbours (Hillis and Steele 1986).

    The value at t depends on what follows t up to the next zero, in an order that depends on
    nothing else: packing, padding and neighbours leave it bit-identical.
    """
    a, x = a.clone(), b.clone()
    guard = not bool(torch.isfinite(b).all())  # 0 * inf is NaN, and must stay out
    reach, length = 1, b.shape[-1]
    while reach < length and bool(a.any()):  # all products 0: every stretch is done
        head = a[..., :-reach]
        carried = head * x[..., reach:]
        x[..., :-reach] += torch.where(head == 0, 0.0, carried) if guard else carried
        product = head * a[..., reach:]
        a[..., :-reach] = product
        a[..., -reach:] = 0.0
        reach *= 2
    return x
