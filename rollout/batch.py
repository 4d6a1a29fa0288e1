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
        actions = [one.actions for one in trajectories]
        for one, drawn in zip(trajectories, actions, strict=True):
            if not len(drawn):
                raise ValueError(f"episode {one.identity} has no drawn token; leave it out")
        if dtype is None:
            kinds = {one.logprobs.dtype for one in trajectories}
            dtype = torch.float64 if np.dtype(np.float64) in kinds else torch.float32
        shape = (len(trajectories), max(len(drawn) for drawn in actions))
        mask = np.zeros(shape, bool)
        for row, drawn in enumerate(actions):
            mask[row, : len(drawn)] = True

        def grid(columns: Sequence[Column], fill: float, kind: torch.dtype) -> Tensor:
            values = np.concatenate(
                [column[drawn] for column, drawn in zip(columns, actions, strict=True)]
            )
            out = np.full(shape, fill, dtype=values.dtype)
            out[mask] = values
            return torch.from_numpy(out).to(kind)

        def real(columns: Sequence[Column]) -> Tensor:
            return grid(columns, 0.0, dtype)

        def ids(columns: Sequence[Column]) -> Tensor:
            return grid(columns, -1, torch.int64)

        def total(of: Callable[[Trajectory], Mapping[str, Column]]) -> Tensor:
            empty = [np.zeros(len(one.tokens), np.float64) for one in trajectories]
            summed = [
                sum(of(one).values(), zero) for one, zero in zip(trajectories, empty, strict=True)
            ]
            return real(summed)

        heads = sorted({name for one in trajectories for name in one.values})
        costs = sorted({name for one in trajectories for name in one.costs})
        pairs = [(one, np.zeros(len(one.tokens))) for one in trajectories]
        last = torch.tensor([len(drawn) - 1 for drawn in actions])
        ends = torch.zeros(shape, dtype=torch.bool)
        ends[torch.arange(shape[0]), last] = True
        terminated = torch.tensor([one.outcome.terminated for one in trajectories])
        action_mask = torch.from_numpy(mask)
        return cls(
            trajectories=tuple(trajectories),
            action_mask=action_mask,
            loss_mask=grid([one.loss_mask for one in trajectories], 0, torch.bool),
            forced=grid([one.forced for one in trajectories], 0, torch.bool),
            logprobs=real([one.logprobs for one in trajectories]),
            entropy=real([one.entropy for one in trajectories]),
            rewards=total(lambda one: one.rewards),
            values={name: real([one.values[name] for one in trajectories]) for name in heads},
            costs={
                name: real([one.costs.get(name, zero) for one, zero in pairs]) for name in costs
            },
            turn_id=ids([one.turn_id for one in trajectories]),
            call_id=ids([one.call_id for one in trajectories]),
            step_id=ids([one.step_id for one in trajectories]),
            plan_id=ids([one.plan_id for one in trajectories]),
            terminated=ends & terminated[:, None],
            truncated=ends & ~terminated[:, None],
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
