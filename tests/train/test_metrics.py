"""Figures for scripts, for TensorBoard, for eyes."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from palaestra.train import metrics
from palaestra.train.console import Console
from palaestra.train.metrics import Metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def accumulated(run: Path) -> Any:
    """The events of a run as TensorBoard reads them; it has no types."""
    events = EventAccumulator(str(run))
    events.Reload()
    return events


def scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    """Steps and values of a tag as TensorBoard reads them."""
    events = accumulated(run)
    return [(event.step, event.value) for event in events.Scalars(tag)]


def rows(run: Path) -> list[dict[str, float]]:
    """Rows of ``metrics.jsonl``."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_each_row_has_its_iteration_and_the_tags_as_keys(tmp_path: Path) -> None:
    written = Metrics(tmp_path, 3)
    for iteration in (1, 2, 3):
        written.write(iteration, {"train/success": iteration / 4, "rollout/return": 1.0})
        assert rows(tmp_path)[-1]["iteration"] == iteration  # there at once, not at the end
    written.close()
    assert rows(tmp_path)[1] == {"iteration": 2, "train/success": 0.5, "rollout/return": 1.0}
    assert scalars(tmp_path, "train/success") == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_a_figure_that_is_no_number_is_null_in_the_row(tmp_path: Path) -> None:
    written = Metrics(tmp_path, 1, tensorboard=False)
    written.write(1, {"value/explained_variance": math.nan, "policy/kl_update": math.inf})
    written.close()
    assert rows(tmp_path) == [
        {"iteration": 1, "value/explained_variance": None, "policy/kl_update": None}
    ]


def test_a_resumed_run_is_cut_back_to_its_checkpoint(tmp_path: Path) -> None:
    first = Metrics(tmp_path, 4)
    for iteration in (1, 2, 3):
        first.write(iteration, {"train/success": 0.1 * iteration})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4, "train/su')  # killed while it wrote
    second = Metrics(tmp_path, 4, resume_from=2)
    assert [row["iteration"] for row in rows(tmp_path)] == [1, 2]
    for iteration in (3, 4):
        second.write(iteration, {"train/success": 0.9})
    second.close()
    assert [row["iteration"] for row in rows(tmp_path)] == [1, 2, 3, 4]
    assert [row["train/success"] for row in rows(tmp_path)] == [0.1, 0.2, 0.9, 0.9]
    events = scalars(tmp_path, "train/success")
    assert [step for step, _ in events] == [1, 2, 3, 4]
    assert events[2][1] == pytest.approx(0.9)


def test_rows_that_are_kept_are_kept_byte_for_byte(tmp_path: Path) -> None:
    written = Metrics(tmp_path, 2, tensorboard=False)
    written.write(1, {"a/b": 0.1 + 0.2, "c/d": 1e-17})
    written.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    metrics.cut_back(tmp_path / "metrics.jsonl", 5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_resuming_before_the_first_row_begins_anew(tmp_path: Path) -> None:
    metrics.cut_back(tmp_path / "metrics.jsonl", 0)
    assert metrics.read(tmp_path) == []
    written = Metrics(tmp_path, 1, resume_from=0, tensorboard=False)
    written.write(1, {"a/b": 1.0})
    written.close()
    assert metrics.read(tmp_path) == [{"iteration": 1, "a/b": 1.0}]


def test_a_transcript_goes_to_the_text_tab_and_to_the_screen(tmp_path: Path) -> None:
    screen = io.StringIO()
    written = Metrics(tmp_path, 1, Console(stream=screen, live=False))
    written.text("transcript", "env: largest of cut\nagent: max(x[1:])", 1)
    written.close()
    assert "agent: max(x[1:])" in screen.getvalue()
    events = accumulated(tmp_path)
    assert events.Tags()["tensors"] == ["transcript/text_summary"]


def test_settings_stand_in_the_hparams_tab(tmp_path: Path) -> None:
    written = Metrics(tmp_path, 1)
    written.settings({"optim.lr": 1e-3, "algo.name": "ppo", "betas": (0.9, 0.98)}, {"final/x": 1.0})
    written.close()
    events = accumulated(tmp_path)
    plugins = events.summary_metadata
    assert any(one.plugin_data.plugin_name == "hparams" for one in plugins.values())


def test_without_tensorboard_settings_go_nowhere(tmp_path: Path) -> None:
    written = Metrics(tmp_path, 1, tensorboard=False)
    written.settings({"a": 1}, {})
    written.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
