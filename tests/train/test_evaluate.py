"""Measures of hand-made episodes, their intervals, and evaluations that are stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from palaestra.agents.core import Policy, Seat, Turn
from palaestra.envs import Message
from palaestra.envs.small import Compare
from palaestra.rollout.engine import Engine, Start
from palaestra.rollout.trajectory import Trajectory
from palaestra.train.evaluate import (
    EVALUATION_SEEDS,
    SELECTION_SEEDS,
    evaluate,
    measure,
    write,
)


class Speaker:
    """Always says the same."""

    name = "speaker"
    policies: Mapping[str, Policy] = {}

    def start(self, seat: Seat) -> None:
        return None

    def turn(self, memory: None, news: Sequence[Message]) -> Turn:
        yield from ()
        return Message("assistant", "1")


@pytest.fixture(scope="module")
def one() -> Trajectory:
    engine = Engine(Speaker(), Compare)
    found = engine.gather([Start(1)])[0]
    engine.close()
    return found


def episode(one: Trajectory, group: int, success: bool, **outcome: Any) -> Trajectory:
    return replace(
        one,
        identity=replace(one.identity, group=group),
        outcome=replace(one.outcome, success=success, total=float(success), **outcome),
    )


def test_success_is_the_mean_over_tasks_of_the_attempts_mean(one: Trajectory) -> None:
    rows = [episode(one, 0, True), episode(one, 0, False), episode(one, 1, True)]
    found = measure([*rows, episode(one, 1, True)])["success"]
    assert (found.value, found.tasks) == (0.75, 2)
    assert found.low <= 0.75 <= found.high


def test_one_attempt_a_task_gets_wilsons_interval(one: Trajectory) -> None:
    found = measure([episode(one, i, i < 8) for i in range(10)])["success"]
    assert found.value == pytest.approx(0.8)
    assert (round(found.low, 3), round(found.high, 3)) == (0.490, 0.943)


@pytest.mark.parametrize(("won", "low", "high"), [(False, 0.0, 0.278), (True, 0.722, 1.0)])
def test_agreement_is_no_certainty(one: Trajectory, won: bool, low: float, high: float) -> None:
    rows = [episode(one, i // 4, won) for i in range(40)]
    found = measure(rows)["success"]
    assert (round(found.low, 3), round(found.high, 3)) == (low, high)


def test_pass_at_k_and_pass_hat_k_by_hand(one: Trajectory) -> None:
    rows = [episode(one, 0, i == 0) for i in range(4)] + [episode(one, 1, True)] * 4
    found = measure(rows, k=(1, 2))
    assert found["pass@2"].value == pytest.approx((0.5 + 1) / 2)
    assert found["pass^2"].value == pytest.approx((0 + 1) / 2)


def test_what_failed_by_our_fault_is_listed_but_not_counted(one: Trajectory) -> None:
    rows = [episode(one, 0, True), episode(one, 0, False, excluded=True)]
    rows += [episode(one, 1, False), episode(one, 1, False)]
    found = measure(rows, k=(2,))
    assert found["success"].value == 0.5
    assert [row["excluded"] for row in found.episodes] == [False, True, False, False]
    assert found["pass@2"].tasks == 1  # task 0 has one attempt left, which says nothing of two
    nothing = measure([episode(one, 0, True, excluded=True)])["success"]
    assert math.isnan(nothing.value)
    assert nothing.tasks == 0


def test_more_k_than_attempts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"k=4 wants 4 attempts a task, got 2; raise attempts"):
        evaluate(Speaker(), Compare, n=1, attempts=2, k=(1, 4))


def test_seeds_are_as_promised_and_attempts_share_a_task() -> None:
    found = evaluate(Speaker(), Compare, n=3, attempts=2)
    assert [row["seed"] for row in found.episodes] == [
        10_000,
        10_000,
        10_001,
        10_001,
        10_002,
        10_002,
    ]
    assert [row["attempt"] for row in found.episodes] == [0, 1] * 3
    assert EVALUATION_SEEDS + 100_000 < SELECTION_SEEDS < 2**20


def test_an_evaluation_can_be_stopped_and_closes_what_it_opened() -> None:
    closed: list[int] = []

    class Counted(Compare):
        def close(self) -> None:
            closed.append(1)
            super().close()

    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 1

    with pytest.raises(InterruptedError):
        evaluate(Speaker(), Counted, n=3, slots=1, stop=stop)
    assert len(closed) == 1


def test_an_evaluation_is_written_as_numbers_and_as_lines(tmp_path: Path) -> None:
    found = evaluate(Speaker(), Compare, n=3)
    path = write(tmp_path / "eval", "greedy", found)
    assert json.loads(path.read_text())["success"]["tasks"] == 3
    lines = (tmp_path / "eval" / "greedy.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [10_000, 10_001, 10_002]
    assert str(found["success"]).startswith(f"{found['success'].value:.3f} [")
