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
    spare_a, spare_x = torch.empty_like(a), torch.empty_like(x)  # written in turn with a and x
    finite = bool(torch.isfinite(b).all())
    reach, longest = 1, _longest_stretch(a)
    while reach < longest:
        head, later = a[..., :-reach], x[..., reach:]
        carried = torch.mul(head, later, out=spare_x[..., :-reach])
        if not finite:  # 0 * inf is NaN, and must stay out
            carried[head == 0] = 0.0
        carried += x[..., :-reach]
        spare_x[..., -reach:] = x[..., -reach:]
        torch.mul(head, a[..., reach:], out=spare_a[..., :-reach])
        spare_a[..., -reach:] = 0.0
        a, spare_a, x, spare_x = spare_a, a, spare_x, x
        reach *= 2
    return x


def _longest_stretch(a: Tensor) -> int:
    """Positions of the longest run up to and with a zero; of the row where there are several."""
    length = a.shape[-1]
    if a.dim() > 1:
        return length
    zeros = (a == 0).nonzero()[:, 0]
    before, end = zeros.new_full((1,), -1), zeros.new_full((1,), length - 1)
    return int(torch.cat([before, zeros, end]).diff().max())
