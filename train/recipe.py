"""What an algorithm is to the trainer: targets from a batch, a loss from scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..agents.rows import Scores
from ..rollout.batch import Batch


@dataclass(frozen=True, slots=True)
class Targets:
    """What an update aims at; computed once a batch, without gradient, on the credit grid.

    Attributes:
        advantages: [B, T], final: whitened, combined, weighted.
        value_targets: [B, T], what the critic is fitted to.
        value_mask: [B, T], where it is fitted.
        old_logprobs: [B, T], the anchor of ratios.
        reference_logprobs: [B, T] where KL is in the loss.
        metrics: TensorBoard tag -> number.
    """

    advantages: Float[Tensor, "B T"]
    value_targets: Float[Tensor, "B T"]
    value_mask: Bool[Tensor, "B T"]
    old_logprobs: Float[Tensor, "B T"]
    reference_logprobs: Float[Tensor, "B T"] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Weights:
    """Per-token weights that make sums over micro-batches equal one mean over the minibatch.

    Attributes:
        policy: [b, T]; the aggregated loss is ``sum(policy * row)``.
        value: [b, T]; the same for the value loss.
        counted: tokens of the minibatch that count in means.
    """

    policy: Float[Tensor, "b T"]
    value: Float[Tensor, "b T"]
    counted: Int[Tensor, ""]


@dataclass(frozen=True, slots=True)
class Loss:
    """The scalar to descend, and sums for the log (each already weighted)."""

    total: Float[Tensor, ""]
    metrics: Mapping[str, Tensor]


class Recipe(Protocol):
    """One algorithm: the order of operations is that of algorithms.md 0.8."""

    name: str

    def targets(
        self, batch: Batch, reference_logprobs: Float[Tensor, "B T"] | None = None
    ) -> Targets:
        """Stages 2 to 7: rewards, values, credit, whitening, row weights."""
        ...

    def weights(self, batch: Batch, targets: Targets, rows: Int[Tensor, " b"]) -> Weights:
        """Normalisers of a whole minibatch."""
        ...

    def loss(
        self,
        batch: Batch,
        targets: Targets,
        rows: Int[Tensor, " b"],
        where: Int[Tensor, " P"],
        scores: Scores,
        weights: Weights,
        iteration: int,
    ) -> Loss:
        """Stage 8 on some rows of the batch; summed over micro-batches it is the minibatch's."""
        ...

    def after(self, metrics: Mapping[str, float], episodes: int) -> dict[str, float]:
        """Stage 9: move the controllers; returns what they log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Controllers' state, for exact resume."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        ...
