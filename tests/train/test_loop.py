"""Whole runs: they repeat, resume bit for bit, survive signals, and their folder is as promised."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from palaestra.train import build, checkpoint
from palaestra.train.config import Config, load, load_run, to_toml
from palaestra.train.loop import Summary, starts, train
from palaestra.train.metrics import read
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

MakeConfig = Callable[..., Config]
CLOCK = ("second", "time", "latency", "memory")


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """The figures of a run that do not depend on the clock."""
    return [
        {tag: value for tag, value in row.items() if not any(word in tag for word in CLOCK)}
        for row in read(run_dir)
    ]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "model" / "model.safetensors")


def same(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def test_a_run_leaves_the_folder_that_the_docs_promise(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    summary = train(small_config(), run)
    names = {path.name for path in run.iterdir()}
    assert {"config.toml", "manifest.json", "metrics.jsonl", "checkpoints", "model"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert [row["iteration"] for row in read(run)] == [1, 2, 3]
    assert summary.evaluations["greedy"]["success"].tasks == 8
    assert (run / "eval" / "sampled.jsonl").read_text().count("\n") == 32
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["env_ids"] == ["palaestra/KeyDoor-v0"]


def test_equal_seeds_give_equal_runs_and_others_do_not(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(small_config(seed=seed), tmp_path / name)
    same(tmp_path / "a", tmp_path / "b")
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


def test_a_resumed_run_equals_one_in_one_go(small_config: MakeConfig, tmp_path: Path) -> None:
    train(small_config(train__iterations=4), tmp_path / "whole")
    train(small_config(train__iterations=2), tmp_path / "parts")
    again = load_run(tmp_path / "parts", {"train.iterations": "4"})
    train(again, tmp_path / "parts", resume=True)
    same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    "changes",
    [
        {"algo__name": "grpo", "rollout__group_size": 4},
        {"algo__name": "rloo", "rollout__group_size": 2},
        {"kl__mode": "reward", "kl__coef": 0.05, "kl__target": 3},
        {"kl__mode": "loss", "kl__coef": 0.05},
    ],
)
def test_every_composition_resumes_exactly(
    small_config: MakeConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(small_config(train__iterations=3, **changes), tmp_path / "whole")
    train(small_config(train__iterations=2, **changes), tmp_path / "parts")
    again = load_run(tmp_path / "parts", {"train.iterations": "3"})
    train(again, tmp_path / "parts", resume=True)
    same(tmp_path / "whole", tmp_path / "parts")


def test_a_checkpoint_cut_in_half_falls_back_to_the_one_before(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    train(small_config(train__iterations=4), tmp_path / "whole")
    train(small_config(train__iterations=4), tmp_path / "cut")
    file = tmp_path / "cut" / "checkpoints" / "iteration-000004" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert checkpoint.latest(tmp_path / "cut").iteration == 3
    train(load_run(tmp_path / "cut"), tmp_path / "cut", resume=True)
    same(tmp_path / "whole", tmp_path / "cut")


def test_training_never_plays_an_evaluation_seed(small_config: MakeConfig) -> None:
    config = small_config()
    for iteration in range(1, 50):
        assert all(2**20 <= start.seed < 2**30 for start in starts(config, iteration))


def test_one_group_shares_its_seed(small_config: MakeConfig) -> None:
    config = small_config(algo__name="rloo", rollout__group_size=4)
    found = starts(config, 1)
    assert len(found) == 8
    for group in {start.group for start in found}:
        members = [start for start in found if start.group == group]
        assert len({start.seed for start in members}) == 1
        assert [start.attempt for start in members] == [0, 1, 2, 3]


class Interrupt:
    """A console that sends a signal when an iteration has been shown."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def nothing(*words: Any, **more: Any) -> None:
            if name == "iteration" and words[0] == self.at:
                signal.raise_signal(signal.SIGTERM)

        return nothing


def test_a_signal_saves_and_the_run_goes_on_as_if_nothing_was(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    config = small_config(train__iterations=4, train__save_every=10)
    train(config, tmp_path / "whole")
    stopped: Summary = train(config, tmp_path / "parts", console=Interrupt(2))  # type: ignore[arg-type]
    assert stopped.exit_code == 128 + signal.SIGTERM
    assert stopped.iteration == 2
    train(load_run(tmp_path / "parts"), tmp_path / "parts", resume=True)
    same(tmp_path / "whole", tmp_path / "parts")


KILLED = """
import os, sys
from pathlib import Path
from palaestra.train import checkpoint, learner, metrics
from palaestra.rollout import engine
from palaestra.train.config import load
from palaestra.train.loop import train

folder, where, moment = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
owner, name = {
    "update": (learner.Learner, "_descend"),
    "decode": (engine._Gather, "decode"),
    "save": (checkpoint, "_sync"),
    "swap": (checkpoint, "_swap"),
    "log": (metrics.Metrics, "write"),
}[where]
original, count = getattr(owner, name), 0

def dying(*words, **more):
    global count
    count += 1
    if count == moment:
        os.kill(os.getpid(), 9)
    return original(*words, **more)

setattr(owner, name, dying)
train(load(folder.parent / "run.toml", {}, preset="drill-code"), folder)
"""


@pytest.mark.parametrize(
    ("where", "moment"),
    [("update", 1), ("update", 10), ("decode", 60), ("save", 3), ("swap", 2), ("log", 3)],
)
def test_kill_minus_nine_anywhere_loses_nothing(
    small_config: MakeConfig, tmp_path: Path, where: str, moment: int
) -> None:
    config = small_config(train__iterations=3, train__save_every=1)
    (tmp_path / "run.toml").write_text(to_toml(config))
    train(config, tmp_path / "whole")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "parts"), where, str(moment)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    try:
        checkpoint.latest(tmp_path / "parts")
    except checkpoint.CheckpointError:
        assert (where, moment) == ("update", 1)  # killed before the first checkpoint
        return
    train(load_run(tmp_path / "parts"), tmp_path / "parts", resume=True)
    same(tmp_path / "whole", tmp_path / "parts")


def test_a_full_disk_while_saving_leaves_the_checkpoint_before(
    small_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count = checkpoint._write_index, 0  # pyright: ignore[reportPrivateUsage]

    def full(folder: Path, iteration: int) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(folder, iteration)

    monkeypatch.setattr(checkpoint, "_write_index", full)
    config = small_config(train__iterations=3, train__save_every=1, train__eval_every=0)
    with pytest.raises(checkpoint.CheckpointError, match=r"No space left.*--resume"):
        train(config, tmp_path / "run")
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path / "run").iteration == 1
    train(load_run(tmp_path / "run"), tmp_path / "run", resume=True)
    train(config, tmp_path / "whole")
    same(tmp_path / "whole", tmp_path / "run")


def test_the_null_of_no_learning_rate_leaves_every_weight_as_it_was(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    for null in ("lr0", "none"):
        train(small_config(train__null=null, train__eval_every=0), tmp_path / null)
    still, moved = weights(tmp_path / "lr0"), weights(tmp_path / "none")
    config = small_config()
    env = build.env_maker(config.env.id, {})()
    fresh = build.policy(config, env)
    fresh.save(tmp_path / "fresh")
    first = load_file(tmp_path / "fresh" / "model.safetensors")
    assert all(torch.equal(still[name], tensor) for name, tensor in first.items())
    assert any(not torch.equal(moved[name], tensor) for name, tensor in first.items())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_is_learned_in_the_drill_is_not_learned_by_the_nulls(tmp_path: Path) -> None:
    found: dict[str, float] = {}
    for null in ("none", "lr0", "shuffle", "random_reward"):
        values = {
            "env.level": "0",
            "train.iterations": "25",
            "train.eval_every": "0",
            "train.eval_episodes": "4",
            "train.null": null,
            "rollout.batch": "64",
            "algo.minibatch": "32",
            "policy.preset": "nano",
            "log.tensorboard": "false",
        }
        train(load(None, values, preset="drill-code"), tmp_path / null)
        last = read(tmp_path / null)[-5:]
        found[null] = sum(row["train/success"] for row in last) / len(last)
    assert found.pop("none") > 0.4
    assert max(found.values()) < 0.2, found
