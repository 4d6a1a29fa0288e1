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
from palaestra.tool_sandbox import Stats
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


def weeks(bad: Sequence[float], returns: Sequence[float]) -> list[dict[str, float]]:
    """Rows of iterations; `bad` answers are lost and malformed in turn."""
    return [
        {
            "sandbox/lost": lost if k % 2 else 0.0,
            "sandbox/malformed": 0.0 if k % 2 else lost,
            "rollout/return": value,
        }
        for k, (lost, value) in enumerate(zip(bad, returns, strict=True))
    ]


RISING, LEVEL = [0.1] * 10 + [0.9] * 10, [0.5] * 20
ATTACKED, QUIET = [0.0] * 10 + [1.0] * 10, [0.0] * 20


def alarmed(bad: Sequence[float], returns: Sequence[float]) -> tuple[list[float], list[str]]:
    said: list[str] = []
    alarm = figures.Alarm()
    flags = [alarm.watch(row, said.append)["sandbox/alarm"] for row in weeks(bad, returns)]
    return flags, said


def test_lost_and_malformed_answers_that_rise_with_the_reward_are_an_alarm() -> None:
    flags, said = alarmed(ATTACKED, RISING)
    assert flags[-1] == 1.0
    assert flags[:10] == [0.0] * 10
    assert len(said) == 1
    assert "read transcripts" in said[0]


@pytest.mark.parametrize(
    ("bad", "returns"),
    [
        (ATTACKED, LEVEL),
        (ATTACKED, RISING[::-1]),
        (QUIET, RISING),
        ([0.0] * 19 + [1.0], RISING),
        ([3.0] * 20, RISING),
    ],
    ids=["reward level", "reward falls", "nothing lost", "one accident", "as many as before"],
)
def test_one_of_the_two_alone_is_none(bad: list[float], returns: list[float]) -> None:
    flags, said = alarmed(bad, returns)
    assert set(flags) == {0.0}
    assert said == []


def test_a_resumed_run_has_the_alarm_it_had() -> None:
    rows = weeks(ATTACKED, RISING)
    whole, resumed = figures.Alarm(), figures.Alarm(rows[:15])
    flags = [whole.watch(row) for row in rows]
    assert [resumed.watch(row) for row in rows[15:]] == flags[15:]


def test_without_a_sandbox_there_is_no_alarm() -> None:
    assert figures.Alarm().watch({"rollout/return": 1.0}) == {}


def test_what_depends_on_the_clock_says_so_in_its_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = iter(
        [
            Stats(),
            Stats(4, {**Stats().reasons, "timeout": 1}, graded=2, graded_passed=1, queue_wait=0.5),
        ]
    )
    monkeypatch.setattr(figures.outside, "sandbox_stats", lambda: next(stats))
    row = figures.SandboxMeter().since()
    clocked = {
        name for name in row if any(w in name for w in ("second", "time", "latency", "memory"))
    }
    assert set(row) - clocked == {
        *("sandbox/executions", "sandbox/lost", "sandbox/malformed", "sandbox/graded_pass")
    }
    assert clocked == {
        *("sandbox/executions_per_second", "sandbox/latency_p50", "sandbox/latency_p99"),
        *("sandbox/timeouts", "sandbox/memory_kills", "sandbox/queue_wait_seconds"),
        "sandbox/busy_time",
    }
    assert (row["sandbox/timeouts"], row["sandbox/graded_pass"]) == (1.0, 0.5)
