"""How far two policies are apart: sampled and exact KL, and a controller of its price."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .rows import at_least_float32, mask_of, need_bool, need_shape, spread

LIMIT = 20.0
"""Log ratios are held within ±20 before they are exponentiated."""


def log_ratio(logprobs: Tensor, other: Tensor, mask: Tensor, name: str) -> Float[Tensor, "..."]:
    """Difference of log-probabilities within ±20, 0 where the mask is False; `other` detached.

    Raises:
        TypeError: Half precision, in which a ratio is noise.
        ValueError: Unequal shapes.
    """
    for tensor in (logprobs, other):
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"log-probabilities are {tensor.dtype}; compute them in float32 from the logits "
                "(a ratio of rounded log-probabilities is noise)"
            )
    need_shape(name, other, logprobs.shape)
    mine, other = at_least_float32(logprobs, other.detach())
    # masked before the difference: a NaN there would pass through the gradient of `where`
    difference = torch.where(mask, mine, 0.0) - torch.where(mask, other, 0.0)
    return difference.clamp(-LIMIT, LIMIT)


def kl_k1(
    logprobs: Float[Tensor, "*batch time"],
    reference_logprobs: Float[Tensor, "*batch time"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Estimate KL(π‖ref) by l = log π - log ref, over tokens sampled from π: unbiased, signed.

    For rewards (`credit.kl_reward`) and monitors. As a loss it does nothing: its gradient has
    expectation 0.

    >>> kl_k1(torch.tensor([-1.0]), torch.tensor([-1.5]))
    tensor([0.5000])
    """
    mask = mask_of(logprobs, action_mask)
    return log_ratio(logprobs, reference_logprobs, mask, "reference_logprobs")


def kl_k2(
    logprobs: Float[Tensor, "*batch time"],
    reference_logprobs: Float[Tensor, "*batch time"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Estimate KL(π‖ref) by l²/2: biased in value, exact in gradient (reverse KL) as a loss.

    >>> kl_k2(torch.tensor([-1.0]), torch.tensor([-2.0]))
    tensor([0.5000])
    """
    return kl_k1(logprobs, reference_logprobs, action_mask=action_mask).square() / 2


def kl_k3(
    logprobs: Float[Tensor, "*batch time"],
    reference_logprobs: Float[Tensor, "*batch time"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Estimate KL(π‖ref) by exp(-l) - 1 + l: unbiased, never negative, low variance.

    As a loss (GRPO's form) its gradient is that of the forward KL(ref‖π).

    >>> kl_k3(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -2.0]))
    tensor([0.0000, 0.3679])
    """
    ratio = kl_k1(logprobs, reference_logprobs, action_mask=action_mask)
    return (torch.expm1(-ratio) + ratio).clamp(min=0.0)  # rounding alone can go below


def kl_k3plus(
    logprobs: Float[Tensor, "*batch time"],
    reference_logprobs: Float[Tensor, "*batch time"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Estimate KL(π‖ref) with the value of k3 and the gradient of k2: the one for a loss.

    >>> kl_k3plus(torch.tensor([-1.0]), torch.tensor([-2.0]))
    tensor([0.3679])
    """
    k2 = kl_k2(logprobs, reference_logprobs, action_mask=action_mask)
    k3 = kl_k3(logprobs, reference_logprobs, action_mask=action_mask)
    return torch.where(torch.isfinite(k3), k3.detach() + (k2 - k2.detach()), k2)


def kl_full(
    logits: Float[Tensor, "*batch time vocabulary"],
    reference_logits: Float[Tensor, "*batch time vocabulary"],
    *,
    action_mask: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Compute KL(π‖ref) = Σ_a π(a) [log π(a) - log ref(a)] exactly, from the logits.

    Args:
        logits: `[..., T, V]`; the gradient flows through them.
        reference_logits: `[..., T, V]`, taken as constant.
        action_mask: Which positions count, `[..., T]`; logits elsewhere are never read.

    Returns:
        Row `[..., T]` in nats, 0 where the mask is False; infinite where π allows a token
        that the reference forbids.

    >>> kl_full(torch.zeros(1, 2), torch.tensor([[0.0, float("-inf")]]) + 0.0)
    tensor([inf])
    """
    need_shape("reference_logits", reference_logits, logits.shape)
    mine, reference = at_least_float32(logits, reference_logits.detach())
    rows = mine.shape[:-1]
    if action_mask is None:
        action_mask = torch.ones(rows, dtype=torch.bool, device=mine.device)
    need_bool("action_mask", action_mask)
    need_shape("action_mask", action_mask, rows)
    logp, logq = mine[action_mask].log_softmax(-1), reference[action_mask].log_softmax(-1)
    present = torch.isfinite(logp)  # 0 log 0 = 0, in the gradient too
    logp = torch.where(present, logp, 0.0)
    gap = logp - torch.where(present, logq, 0.0)
    return spread((torch.where(present, logp.exp(), 0.0) * gap).sum(-1), action_mask)


class AdaptiveKL:
    """A price of KL that keeps the KL of a whole sequence near a target (1909.08593).

    "proportional": β <- β (1 + clip(KL / target - 1, ±0.2) n / horizon), n episodes an update.
    "doubling" (PPO's penalty form): β doubles above 1.5 target and halves below target / 1.5.

    Attributes:
        beta: The price now, in reward per nat.

    >>> price = AdaptiveKL(0.2, target=6.0, horizon=1000)
    >>> price.update(12.0, 100)
    0.20400000000000001
    """

    def __init__(
        self,
        beta: float = 0.2,
        *,
        target: float = 6.0,
        horizon: int = 10_000,
        beta_min: float = 1e-8,
        beta_max: float = 1e4,
        rule: Literal["proportional", "doubling"] = "proportional",
    ) -> None:
        """Start at `beta`; `target` in nats per sequence, `horizon` in episodes.

        Raises:
            ValueError: A target or horizon that is not positive; beta outside its bounds.
        """
        if not (target > 0 and horizon > 0):
            raise ValueError(f"target is {target}, horizon {horizon}; give positive numbers")
        if not 0 < beta_min <= beta <= beta_max:
            raise ValueError(f"beta is {beta}; give a number from {beta_min} to {beta_max}")
        self.beta, self.target, self.horizon = beta, target, horizon
        self.beta_min, self.beta_max, self.rule = beta_min, beta_max, rule

    def update(self, kl_seq: float, n: int) -> float:
        """Move the price after an update.

        Args:
            kl_seq: Mean over episodes of the KL summed over their actions, in nats. Not the
                mean per token, which is smaller by the length.
            n: Episodes in the update.

        Returns:
            The new price.

        Raises:
            ValueError: `kl_seq` is not a number; `n` so large that one step could halt beta.
        """
        if math.isnan(kl_seq):
            raise ValueError("kl_seq is NaN; look for a NaN in the log-probabilities")
        if self.rule == "doubling":
            factor = 2.0 if kl_seq > 1.5 * self.target else 1.0
            factor = 0.5 if kl_seq < self.target / 1.5 else factor
        else:
            if not 0.2 * n < self.horizon:
                raise ValueError(f"n is {n}; give fewer than 5 x horizon = {5 * self.horizon}")
            error = min(max(kl_seq / self.target - 1, -0.2), 0.2)
            factor = 1 + error * n / self.horizon
        self.beta = min(max(self.beta * factor, self.beta_min), self.beta_max)
        return self.beta

    def state_dict(self) -> dict[str, float]:
        """Return what a checkpoint must hold."""
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a checkpoint."""
        self.beta = state["beta"]
