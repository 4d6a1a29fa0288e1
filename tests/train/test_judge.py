"""Judging the weights of a run, and being interrupted while it is done."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from palaestra.rollout.engine import Engine
from palaestra.train import checkpoint, judge
from palaestra.train.config import Config, load_run
from palaestra.train.judge import Progress
from palaestra.train.loop import train
from palaestra.train.metrics import read
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

MakeConfig = Callable[..., Config]
CLOCK = ("second", "time", "latency", "memory")


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [
        {tag: value for tag, value in row.items() if not any(word in tag for word in CLOCK)}
        for row in read(run_dir)
    ]


def same(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    left, right = (load_file(one / "model" / "model.safetensors") for one in (a, b))
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())
    assert (a / "eval" / "greedy.jsonl").read_text() == (b / "eval" / "greedy.jsonl").read_text()


def interrupting(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A SIGINT in the middle of the ``at``-th evaluation."""
    original, count = judge.evaluate, 0

    def evaluated(agent: Any, engine: Engine, **rest: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            inner, asked = rest["stop"], 0

            def stop() -> bool:
                nonlocal asked
                asked += 1
                if asked == 3:
                    signal.raise_signal(signal.SIGINT)
                return inner()

            rest["stop"] = stop
        return original(agent, engine, **rest)

    monkeypatch.setattr(judge, "evaluate", evaluated)


@pytest.fixture(scope="module")
def whole(small_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four iterations in one go."""
    run = tmp_path_factory.mktemp("judge") / "whole"
    train(small_config(**FOUR), run)
    return run


FOUR: dict[str, Any] = {
    "train__iterations": 4,
    "train__save_every": 10,
    "train__eval_episodes": 4,
    "log__tensorboard": "false",
}


# evaluations: greedy and sampled after iteration 2, the same after 4, the same at the end
@pytest.mark.parametrize(("at", "done", "written"), [(1, 2, 1), (4, 4, 3), (5, 4, 4)])
def test_a_signal_during_an_evaluation_saves_and_leaves_and_the_run_goes_on_exactly(
    small_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: Path,
    at: int,
    done: int,
    written: int,
) -> None:
    config = small_config(**FOUR)
    with monkeypatch.context() as patch:
        interrupting(patch, at)
        stopped = train(config, tmp_path / "parts")
    assert stopped.exit_code == 130
    assert stopped.iteration == done
    assert not stopped.evaluations
    assert len(read(tmp_path / "parts")) == written
    assert checkpoint.latest(tmp_path / "parts").iteration == done
    train(load_run(tmp_path / "parts"), tmp_path / "parts", resume=True)
    same(whole, tmp_path / "parts")


def test_a_run_ended_by_its_rule_stays_ended_when_resumed(
    small_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(
        train__iterations=6, train__eval_every=1, train__stop_when="eval/return_greedy > -9 twice"
    )
    train(config, tmp_path / "whole")
    assert len(read(tmp_path / "whole")) == 2
    with monkeypatch.context() as patch:
        interrupting(patch, 5)  # the first of the final ones
        assert train(config, tmp_path / "parts").exit_code == 130
    train(load_run(tmp_path / "parts"), tmp_path / "parts", resume=True)
    same(tmp_path / "whole", tmp_path / "parts")


def test_the_rule_may_speak_of_a_figure_of_every_iteration(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    config = small_config(
        train__iterations=6, train__eval_every=0, train__stop_when="rollout/return > -9 3 times"
    )
    assert train(config, tmp_path / "run").iteration == 3


def test_progress_survives_json() -> None:
    first = Progress()
    assert Progress.of(first.to_json()) == first
    later = Progress(7, (0.5, 0.25), 5, 1, {"x": 0.1})
    assert Progress.of(later.to_json()) == later


def test_last_keeps_the_last_weights(small_config: MakeConfig, tmp_path: Path) -> None:
    summary = train(small_config(train__keep="last"), tmp_path / "run")
    assert summary.kept == "last, iteration 3"
    assert checkpoint.best(tmp_path / "run") is None
