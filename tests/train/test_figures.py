"""The figures of one iteration, from hand-made episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from palaestra.agents.core import Policy, Seat, Turn
from palaestra.envs import Message
from palaestra.envs.messages import Credit
from palaestra.envs.small import KeyDoor
from palaestra.rollout.engine import Engine, Start
from palaestra.rollout.trajectory import Placed, Trajectory
from palaestra.train import figures
from palaestra.train.config import load


class Speaker:
    """Says nothing of use."""

    name = "speaker"
    policies: Mapping[str, Policy] = {}

    def start(self, seat: Seat) -> None:
        return None

    def turn(self, memory: None, news: Sequence[Message]) -> Turn:
        yield from ()
        return Message("assistant", "1")


def played(env: Any) -> Trajectory:
    engine = Engine(Speaker(), env)
    found = engine.gather([Start(1)])[0]
    engine.close()
    return found


@pytest.fixture(scope="module")
def one() -> Trajectory:
    return played(KeyDoor)


def test_means_are_over_episodes_that_count(one: Trajectory) -> None:
    won = replace(one, outcome=replace(one.outcome, success=True, total=2.0, truncated=False))
    lost = replace(one, outcome=replace(one.outcome, success=False, total=0.0, truncated=True))
    ours = replace(one, outcome=replace(one.outcome, total=99.0, excluded=True))
    row = figures.of_episodes([won, lost, ours])
    assert row["train/success"] == 0.5
    assert row["rollout/return"] == 1.0
    assert row["rollout/truncated"] == 0.5
    assert row["episode/turns"] == 20.0
    assert row["batch/distinct_tasks"] == 1.0


def test_terms_and_costs_are_totals_an_episode(one: Trajectory) -> None:

    credits = (
        Placed(0, Credit("a", 1.0)),
        Placed(1, Credit("a", 0.5)),
        Placed(1, Credit("b", 2.0)),
    )
    spent = {"leak": np.array([0.0, 3.0])}
    row = figures.of_episodes(
        [replace(one, credits=credits, costs=spent), replace(one, credits=())]
    )
    assert row["reward/a"] == 0.75
    assert row["reward/b"] == 1.0
    assert row["cost/leak"] == 1.5


def test_frac_is_there_only_where_the_environment_has_potentials(one: Trajectory) -> None:
    assert "train/frac" in figures.of_episodes([one])
    without = replace(one, outcome=replace(one.outcome, potentials={}))
    assert "train/frac" not in figures.of_episodes([one, without])


def test_an_iteration_without_a_countable_episode_still_has_a_row(one: Trajectory) -> None:
    ours = replace(one, outcome=replace(one.outcome, excluded=True))
    assert figures.of_episodes([ours]) == {"rollout/tokens": 0.0, "batch/distinct_tasks": 0.0}


def test_parameters_of_the_domain_are_averaged(one: Trajectory) -> None:
    def with_rooms(rooms: int) -> Trajectory:
        return replace(one, identity=replace(one.identity, params={"rooms": rooms, "name": "x"}))

    row = figures.of_episodes([with_rooms(2), with_rooms(5)])
    assert row["domain/rooms"] == 3.5
    assert "domain/name" not in row


def test_settings_are_flat_dotted_keys() -> None:
    flat = figures.of_settings(load(None, {"env.level": "1"}))
    assert flat["optim.lr"] == 3e-3
    assert flat["env.options.level"] == 1
    assert "given" not in flat


def test_the_telling_transcript_is_the_longest_success(one: Trajectory) -> None:
    assert figures.telling_transcript([one]) == ""
    won = replace(one, outcome=replace(one.outcome, success=True))
    short = replace(won, messages=won.messages[:2])
    assert figures.telling_transcript([short, won]) == figures.telling_transcript([won])


def test_speed_is_tokens_over_the_time_of_gathering() -> None:
    row = figures.of_time(100.0, 2.0, 1.0)
    assert row["rollout/tokens_per_second"] == 50.0
