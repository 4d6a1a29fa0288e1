"""Bonuses that keep a policy exploring: entropy."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .rows import at_least_float32, need_bool, need_shape, spread


def entropy(
    logits: Float[Tensor, "*batch time vocabulary"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Measure the entropy of each position's distribution, H = -Σ_a π(a) log π(a), in nats.

    Differentiable through the logits, unlike -log π of the sampled token, whose gradient has
    expectation 0. Illegal tokens at -inf (or -1e9) count nothing.

    Args:
        logits: `[..., T, V]`.
        action_mask: Which positions count, `[..., T]`; logits elsewhere are never read.

    Returns:
        H `[..., T]`, between 0 and log V; 0 where the mask is False.

    >>> entropy(torch.tensor([[0.0, 0.0], [0.0, float("-inf")]]))
    tensor([0.6931, 0.0000])
    """
    (logits,) = at_least_float32(logits)
    rows = logits.shape[:-1]
    if action_mask is None:
        action_mask = torch.ones(rows, dtype=torch.bool, device=logits.device)
    need_bool("action_mask", action_mask)
    need_shape("action_mask", action_mask, rows)
    logp = logits[action_mask].log_softmax(-1)
    present = torch.isfinite(logp)
    logp = torch.where(present, logp, 0.0)  # 0 log 0 = 0, in the gradient too
    p = torch.where(present, logp.exp(), 0.0)
    return spread((p * -logp).sum(-1), action_mask)
