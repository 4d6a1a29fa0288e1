"""One update: a batch, its targets, packed forwards, one optimiser step a minibatch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from ..agents.core import Policy
from ..agents.rows import Want
from ..rollout.batch import Batch
from ..rollout.trajectory import Trajectory
from .recipe import Recipe, Targets
from .schedules import Warmup
from .settings import Config

# Figures of which the largest is kept; all others are averaged.
LARGEST = frozenset(("check/logprob_mismatch", "policy/ratio_max"))


class Learner:
    """Turns trajectories into better weights.

    Args:
        policy: what learns; its parameters are moved in place.
        recipe: the algorithm.
        config: ``optim``, ``algo``, ``seed`` and ``train.null`` are read.
        reference: the policy KL is measured to, where the config asks for one.
    """

    def __init__(
        self, policy: Policy, recipe: Recipe, config: Config, *, reference: Policy | None = None
    ) -> None:
        self.policy = policy
        self.recipe = recipe
        self.config = config
        self.reference = reference
        self.parameters: list[Parameter] = list(policy.parameters())
        self.updates = 0
        self.rate = Warmup(
            0.0 if config.train.null == "lr0" else config.optim.lr, config.optim.warmup_updates
        )
        self.optimizer = _optimizer(self.parameters, config)

    def update(self, trajectories: Sequence[Trajectory], iteration: int) -> dict[str, float]:
        """Learn from the episodes of one iteration (counted from 1).

        Episodes excluded by a failure of ours, and those without a drawn token, teach nothing.

        Returns:
            TensorBoard tag -> number, averaged over the updates (``LARGEST``: the largest).
        """
        usable = [one for one in trajectories if not one.outcome.excluded and len(one.actions)]
        if self.config.algo.on_truncation == "mask":
            usable = [one for one in usable if not one.outcome.truncated]
        row = {"batch/excluded": float(len(trajectories) - len(usable))}
        if not usable:
            return row
        usable = self._with_bootstrap(usable)
        batch = Batch.of(usable)
        targets = self.recipe.targets(batch, self._reference(batch))
        sums: dict[str, float] = {}
        count = 0
        for rows in self._minibatches(len(batch), iteration):
            figures = self._step(batch, targets, rows, iteration, first=count == 0)
            for tag, value in figures.items():
                _add(sums, tag, value)
            count += 1
        largest = {tag: value for tag, value in sums.items() if tag in LARGEST}
        row |= {tag: value / count for tag, value in sums.items()} | largest
        row |= {"optim/updates": float(self.updates)} | dict(targets.metrics)
        return row | self.recipe.after(row, len(batch))

    def _minibatches(self, size: int, iteration: int) -> Iterator[list[int]]:
        """Rows of each minibatch; the order depends on seed, iteration and epoch only."""
        many = self.config.algo.minibatch
        for epoch in range(self.config.algo.epochs):
            draw = np.random.Generator(np.random.PCG64([self.config.seed, iteration, epoch, 1]))
            order = [int(row) for row in draw.permutation(size)]
            yield from (order[at : at + many] for at in range(0, size, many))

    def _step(
        self, batch: Batch, targets: Targets, rows: list[int], iteration: int, *, first: bool
    ) -> dict[str, float]:
        weights = self.recipe.weights(batch, targets, torch.tensor(rows))
        self.optimizer.zero_grad(set_to_none=True)
        figures: dict[str, float] = {}
        for part in self._microbatches(batch, rows):
            packed, where = batch.pack(rows[part])
            inside = torch.tensor(rows[part])
            scores = self.policy.score(packed, Want(entropy=True, heads=True))
            own = replace(weights, policy=weights.policy[part], value=weights.value[part])
            loss = self.recipe.loss(batch, targets, inside, where, scores, own, iteration)
            loss.total.backward()
            for tag, value in loss.metrics.items():
                _add(figures, tag, float(value))
            if first:
                behaviour = batch.logprobs[inside].flatten()[where]
                apart = (scores.logprobs.detach() - behaviour).abs().max()
                _add(figures, "check/logprob_mismatch", float(apart))
        return figures | self._descend()

    def _descend(self) -> dict[str, float]:
        limit = self.config.optim.grad_clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient's norm is {norm} at update {self.updates + 1}; lower optim.lr, or "
                "look for a reward that is not finite."
            )
        rate = self.rate(self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.updates += 1
        return {"optim/lr": rate, "optim/grad_norm": norm}

    def _microbatches(self, batch: Batch, rows: Sequence[int]) -> Iterator[slice]:
        """Slices of ``rows`` whose contexts fit the token budget, at least one row each."""
        budget = self.config.optim.microbatch_tokens
        start = held = 0
        for at, row in enumerate(rows):
            size = len(batch.trajectories[row].tokens)
            if at > start and held + size > budget:
                yield slice(start, at)
                start, held = at, 0
            held += size
        yield slice(start, len(rows))

    @torch.no_grad()
    def _with_bootstrap(self, trajectories: list[Trajectory]) -> list[Trajectory]:
        """Value after the last token, for episodes that were cut by us."""
        cut = [at for at, one in enumerate(trajectories) if not one.outcome.terminated]
        if not cut or not self.policy.heads or self.config.algo.on_truncation != "bootstrap":
            return trajectories
        out = list(trajectories)
        batch = Batch.of([trajectories[at] for at in cut])
        for part in self._microbatches(batch, range(len(cut))):
            packed, _ = batch.pack(list(range(len(cut)))[part])
            ends = self.policy.score(packed, Want(entropy=False, heads=True, ends=True)).ends
            contexts = [len(one.context_offsets) - 1 for one in batch.trajectories[part]]
            for at, last in zip(cut[part], np.cumsum(contexts) - 1, strict=True):
                boot = {name: float(value[last]) for name, value in ends.items()}
                out[at] = replace(trajectories[at], bootstrap=boot)
        return out

    @torch.no_grad()
    def _reference(self, batch: Batch) -> Tensor | None:
        if self.reference is None:
            return None
        out = torch.zeros_like(batch.logprobs)
        every = range(len(batch))
        for part in self._microbatches(batch, every):
            rows = list(every[part])
            packed, where = batch.pack(rows)
            scores = self.reference.score(packed, Want(entropy=False, heads=False))
            flat = torch.zeros(len(rows) * batch.action_mask.shape[1], dtype=out.dtype)
            flat[where] = scores.logprobs.to(out.dtype)
            out[rows] = flat.view(len(rows), -1)
        return out

    def state_dict(self) -> dict[str, Any]:
        """Optimiser, controllers and counters, for exact resume."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "recipe": self.recipe.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.recipe.load_state_dict(state["recipe"])
        self.updates = int(state["updates"])


def _add(sums: dict[str, float], tag: str, value: float) -> None:
    """Add up a figure over parts of a batch, or keep its largest."""
    before = sums.get(tag, 0.0)
    sums[tag] = max(before, value) if tag in LARGEST else before + value


def _optimizer(parameters: list[Parameter], config: Config) -> torch.optim.Optimizer:
    optim = config.optim
    if optim.name == "sgd":
        return torch.optim.SGD(parameters, lr=optim.lr, weight_decay=optim.weight_decay)
    # fused: one kernel for all tensors; a small policy has many small ones
    return torch.optim.AdamW(
        parameters, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
    )
