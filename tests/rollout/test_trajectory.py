"""Columns of an episode: what they promise, and files of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from palaestra.rollout.trajectory import (
    Trajectory,
    dumps,
    loads,
    read_jsonl,
    read_parquet,
    write_jsonl,
    write_parquet,
)


def test_every_action_token_has_one_place_in_time(played: list[Trajectory]) -> None:
    for one in played:  # AG-CORE2
        drawn = one.time[one.time >= 0]
        assert sorted(drawn) == list(range(len(drawn)))
        assert (one.loss_mask == (one.time >= 0)).all()


def test_units_are_nested_and_grow_with_time(played: list[Trajectory]) -> None:
    for one in played:
        at = one.actions
        for column in (one.turn_id, one.call_id, one.step_id):
            assert (np.diff(column[at]) >= 0).all()
        for inner, outer in ((one.step_id, one.call_id), (one.call_id, one.turn_id)):
            for unit in np.unique(inner[at]):
                assert len(np.unique(outer[at][inner[at] == unit])) == 1


def test_rewards_sum_to_the_return_and_stand_on_drawn_tokens(played: list[Trajectory]) -> None:
    for one in played:
        total = sum(float(column.sum()) for column in one.rewards.values())
        assert total == pytest.approx(one.outcome.total, abs=1e-12)
        for column in one.rewards.values():
            assert (one.time[np.flatnonzero(column)] >= 0).all()


def test_nothing_but_zero_stands_at_tokens_that_were_read(played: list[Trajectory]) -> None:
    for one in played:
        read = one.time < 0
        assert not one.logprobs[read].any()
        assert (one.turn_id[read] == -1).all()


def equal(one: Trajectory, other: Trajectory) -> None:
    for name in ("tokens", "context_offsets", "logprobs", "time", "call_id", "loss_mask", "kind"):
        left, right = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype
    np.testing.assert_array_equal(one.values["value"], other.values["value"])
    assert one.messages == other.messages
    assert one.credits == other.credits
    assert one.outcome == other.outcome
    assert one.identity == other.identity


def test_a_line_of_json_brings_back_every_column(played: list[Trajectory]) -> None:
    for one in played:
        equal(one, loads(dumps(one)))


@pytest.mark.parametrize("name", ["episodes.jsonl", "episodes.jsonl.gz"])
def test_a_jsonl_file_holds_the_episodes_in_order(
    played: list[Trajectory], tmp_path: Path, name: str
) -> None:
    write_jsonl(tmp_path / name, played[:3])
    write_jsonl(tmp_path / name, played[3:])
    for one, other in zip(played, read_jsonl(tmp_path / name), strict=True):
        equal(one, other)


def test_a_broken_row_is_named_by_file_and_line(played: list[Trajectory], tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(dumps(played[0]) + '\n{"tokens": []}\n')
    with pytest.raises(ValueError, match=r"episodes\.jsonl:2: .*'identity' is missing"):
        list(read_jsonl(path))


def test_parquet_brings_back_the_episodes(played: list[Trajectory], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "episodes.parquet", played)
    for one, other in zip(played, read_parquet(tmp_path / "episodes.parquet"), strict=True):
        equal(one, other)
