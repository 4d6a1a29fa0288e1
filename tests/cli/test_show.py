"""Looking at a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from palaestra.cli import show
from palaestra.train import config, manifest
from palaestra.train.metrics import Metrics

Run = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of 30 iterations, evaluated once."""
    manifest.open_run(tmp_path, config.load(), command=["x"], env_ids=["a/B-v0"])
    written = Metrics(tmp_path, 30, tensorboard=False)
    for iteration in range(1, 31):
        figures = {"train/success": iteration / 30, "policy/kl_update": 0.01}
        written.write(
            iteration, figures | ({"eval/success_greedy": 0.5} if iteration == 25 else {})
        )
    written.close()
    return tmp_path


def test_a_run_is_shown_with_its_settings_and_its_curve(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "palaestra/CodeDrill-v0" in lines[0]
    assert "30 of 300 iterations" in lines[0]
    assert "success_greedy" in lines[1]
    assert lines[-1].split() == ["30", "1.0000", "0.0100", "0.5000"]


def test_a_script_reads_a_run_as_json(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", str(folder), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["manifest"]["env_ids"] == ["a/B-v0"]
    assert found["metrics"][-1]["iteration"] == 30


def test_a_folder_without_a_run_is_wrong_use(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", str(tmp_path)) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_curve_keeps_its_last_row_and_its_length() -> None:
    rows = [{"iteration": i, "train/success": 0.1} for i in range(1, 101)]
    lines = show.curve(rows, 7)
    assert 2 <= len(lines) <= 8
    assert lines[-1].split()[0] == "100"
    assert len(show.curve(rows[:3], 7)) == 4
    assert show.curve([]) == ["no iteration was finished yet"]


def test_a_figure_not_measured_yet_is_nan_until_it_is() -> None:
    rows = [{"iteration": 1}, {"iteration": 2, "train/success": 0.5}, {"iteration": 3}]
    assert [line.split() for line in show.curve(rows)[1:]] == [
        ["1", "nan"],
        ["2", "0.5000"],
        ["3", "0.5000"],
    ]
