"""The credit grid and the packed rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from palaestra.agents.rows import Want
from palaestra.agents.solo import Solo
from palaestra.envs.small import KeyDoor
from palaestra.rollout.batch import Batch
from palaestra.rollout.engine import Engine, Start
from palaestra.rollout.trajectory import Trajectory


def test_the_grid_holds_the_drawn_tokens_in_the_order_of_time(played: list[Trajectory]) -> None:
    batch = Batch.of(played, dtype=torch.float64)
    for row, one in enumerate(played):
        count = len(one.actions)
        assert batch.action_mask[row].sum() == count
        assert batch.action_mask[row, :count].all()
        logprobs = torch.from_numpy(one.logprobs[one.actions]).double()
        assert torch.equal(batch.logprobs[row, :count], logprobs)
        assert float(batch.rewards[row].sum()) == pytest.approx(one.outcome.total)
    assert (batch.terminated | batch.truncated).sum() == len(played)


def test_the_policy_gives_its_samples_the_log_probs_they_were_drawn_with(
    make_solo: Callable[..., Solo],
) -> None:
    solo = make_solo()
    engine = Engine(solo, KeyDoor)
    batch = Batch.of(engine.gather([Start(seed) for seed in range(5)]))
    engine.close()
    rows, where = batch.pack([3, 0, 2])
    scores = solo.policy.score(rows, Want(entropy=True, heads=True))
    picked = torch.tensor([3, 0, 2])
    for column, found in (
        (batch.logprobs, scores.logprobs),
        (batch.values["value"], scores.values["value"]),
    ):
        wanted = column[picked].flatten()[where]
        assert (found - wanted).abs().max() < 1e-4
    assert scores.entropy is not None
    assert (scores.entropy - batch.entropy[picked].flatten()[where]).abs().max() < 1e-4


def test_no_trajectory_makes_no_batch() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Batch.of([])
