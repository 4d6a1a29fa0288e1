"""Trajectories as tensors: a grid of drawn tokens for credit, packed rows for the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..agents.rows import Rows, Transform
from .trajectory import Column, Trajectory


@dataclass(frozen=True, slots=True)
class Batch:
    """The drawn tokens of B episodes in the order of time, padded on the right: the credit grid.

    Text that the agent did not draw is not in the grid, so credit cannot depend on how long a
    tool's answer was. Reward streams that no episode has are absent.

    Attributes:
        trajectories: the episodes, one a row.
        action_mask: True where the grid holds a drawn token.
        loss_mask: ``action_mask`` less what is not trained.
        forced: one legal token there: left out of every mean.
        group: which episodes share a task, for group baselines.
        bootstrap: head -> value after the last token of each episode.
        transform: how every drawn token was drawn, row after row.
    """

    trajectories: tuple[Trajectory, ...]
    action_mask: Bool[Tensor, "B T"]
    loss_mask: Bool[Tensor, "B T"]
    forced: Bool[Tensor, "B T"]
    logprobs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
    rewards: Float[Tensor, "B T"]
    values: Mapping[str, Float[Tensor, "B T"]]
    costs: Mapping[str, Float[Tensor, "B T"]]
    turn_id: Int[Tensor, "B T"]
    call_id: Int[Tensor, "B T"]
    step_id: Int[Tensor, "B T"]
    plan_id: Int[Tensor, "B T"]
    terminated: Bool[Tensor, "B T"]
    truncated: Bool[Tensor, "B T"]
    bootstrap: Mapping[str, Float[Tensor, " B"]]
    group: Int[Tensor, " B"]
    transform: Transform

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory], *, dtype: torch.dtype | None = None) -> Batch:
        """Lay episodes on the grid.

        Args:
            trajectories: the episodes.
            dtype: of the real columns; None: float64 where log-probs were drawn so, else float32.

        Raises:
            ValueError: no episode was given, or an episode has no drawn token.
        """
        if not trajectories:
            raise ValueError("got no trajectories; a batch wants at least one")
        if dtype is None:
            kinds = {one.logprobs.dtype for one in trajectories}
            dtype = torch.float64 if np.dtype(np.float64) in kinds else torch.float32
        grid = _Grid(trajectories, dtype)
        heads = sorted({name for one in trajectories for name in one.values})
        costs = sorted({name for one in trajectories for name in one.costs})
        terminated = torch.tensor([one.outcome.terminated for one in trajectories])[:, None]
        return cls(
            trajectories=tuple(trajectories),
            action_mask=torch.from_numpy(grid.mask),
            loss_mask=grid.lay(lambda one: one.loss_mask, 0, torch.bool),
            forced=grid.lay(lambda one: one.forced, 0, torch.bool),
            logprobs=grid.real(lambda one: one.logprobs),
            entropy=grid.real(lambda one: one.entropy),
            rewards=grid.real(lambda one: sum(one.rewards.values(), _zero(one))),
            values={name: grid.real(lambda one, name=name: one.values[name]) for name in heads},
            costs={
                name: grid.real(lambda one, name=name: one.costs.get(name, _zero(one)))
                for name in costs
            },
            turn_id=grid.ids(lambda one: one.turn_id),
            call_id=grid.ids(lambda one: one.call_id),
            step_id=grid.ids(lambda one: one.step_id),
            plan_id=grid.ids(lambda one: one.plan_id),
            terminated=grid.ends & terminated,
            truncated=grid.ends & ~terminated,
            bootstrap={
                name: torch.tensor(
                    [one.bootstrap.get(name, 0.0) for one in trajectories], dtype=dtype
                )
                for name in heads
            },
            group=torch.tensor([one.identity.group for one in trajectories]),
            transform=Transform.of([part for one in trajectories for part in one.parts]),
        )

    def __len__(self) -> int:
        return len(self.trajectories)

    @property
    def counted(self) -> Bool[Tensor, "B T"]:
        """Where losses, entropy and KL are averaged: trained and not forced."""
        return self.loss_mask & ~self.forced

    def pack(self, rows: Sequence[int]) -> tuple[Rows, Int[Tensor, " P"]]:
        """Lay the contexts of some episodes end to end for one forward pass.

        Returns:
            The rows, and for each action position its flat index into a [len(rows), T] grid.
        """
        chosen = [self.trajectories[row] for row in rows]
        width = self.action_mask.shape[1]
        starts = np.cumsum([0, *(len(one.tokens) for one in chosen)])
        offsets = [one.context_offsets[1:] + at for one, at in zip(chosen, starts, strict=False)]
        drawn = [one.actions for one in chosen]
        where = [np.arange(len(at)) + row * width for row, at in enumerate(drawn)]
        firsts = np.concatenate([[0], np.cumsum(self.action_mask.sum(1).numpy())])
        own: list[Column] = [np.arange(firsts[row], firsts[row + 1]) for row in rows]
        return Rows(
            tokens=np.concatenate([one.tokens for one in chosen]).astype(np.int32),
            offsets=np.concatenate([[0], *offsets]).astype(np.int32),
            action=np.concatenate([at + base for at, base in zip(drawn, starts, strict=False)]),
            transform=self.transform.take(np.concatenate(own)),
        ), torch.from_numpy(np.concatenate(where))


class _Grid:
    """Lays columns of episodes on [B, T], the drawn tokens of each in the order of time."""

    def __init__(self, trajectories: Sequence[Trajectory], dtype: torch.dtype) -> None:
        self.trajectories, self.dtype = trajectories, dtype
        self.actions = [one.actions for one in trajectories]
        for one, drawn in zip(trajectories, self.actions, strict=True):
            if not len(drawn):
                raise ValueError(f"episode {one.identity} has no drawn token; leave it out")
        lengths = np.array([len(drawn) for drawn in self.actions])
        places = np.arange(int(lengths.max()))
        self.mask = places < lengths[:, None]
        self.ends = torch.from_numpy(places == lengths[:, None] - 1)

    def lay(self, read: Callable[[Trajectory], Column], fill: float, kind: torch.dtype) -> Tensor:
        """One column as a tensor of a kind, ``fill`` where nothing was drawn."""
        rows = zip(self.trajectories, self.actions, strict=True)
        values = np.concatenate([read(one)[drawn] for one, drawn in rows])
        out = np.full(self.mask.shape, fill, dtype=values.dtype)
        out[self.mask] = values
        return torch.from_numpy(out).to(kind)

    def real(self, read: Callable[[Trajectory], Column]) -> Tensor:
        """A column of real numbers."""
        return self.lay(read, 0.0, self.dtype)

    def ids(self, read: Callable[[Trajectory], Column]) -> Tensor:
        """A column of labels."""
        return self.lay(read, -1, torch.int64)


def _zero(one: Trajectory) -> Column:
    return np.zeros(len(one.tokens), np.float64)
