"""The command train: settings, folders, refusals, last words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from palaestra.cli import terminal
from palaestra.train import config, manifest

Run = Callable[..., int]


@dataclass
class Measure:
    """A number with its interval."""

    value: float
    low: float
    high: float


@dataclass
class Evaluation:
    """Numbers by name."""

    measures: dict[str, Measure]


@dataclass
class Summary:
    """What the loop hands back."""

    run_dir: Path
    iteration: int = 4
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict[str, Evaluation])
    transcript: str = ""
    exit_code: int = 0
    kept: str = "best, iteration 3"


@dataclass
class Loop:
    """Stands for the training loop and remembers what it was asked."""

    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    summary: dict[str, Any] = field(default_factory=dict[str, Any])

    def train(self, settings: config.Config, run_dir: Path, **rest: Any) -> Summary:
        """Write what a run writes at its start."""
        self.calls.append({"settings": settings, "run_dir": run_dir, **rest})
        manifest.open_run(
            run_dir, settings, command=["x"], env_ids=[settings.env.id], imports=rest["imports"]
        )
        return Summary(run_dir, **self.summary)


def tuple_of(modules: Sequence[str] | None) -> tuple[str, ...]:
    """What ``bring_in`` gives back, without importing anything."""
    return tuple(modules or ())


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loop:
    """A loop that trains nothing, in an empty folder."""
    fake = Loop()
    module = ModuleType("palaestra.train.loop")
    module.train = fake.train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "palaestra.train.loop", module)
    import palaestra.train

    monkeypatch.setattr(palaestra.train, "loop", module, raising=False)
    monkeypatch.setattr(terminal, "bring_in", tuple_of)
    monkeypatch.chdir(tmp_path)
    return fake


def test_without_arguments_the_default_run_gets_a_folder_of_its_own(run: Run, loop: Loop) -> None:
    assert run("train") == 0
    call = loop.calls[0]
    assert call["settings"] == config.load()
    assert call["resume"] is False
    assert call["run_dir"].parent == Path("runs")
    assert call["run_dir"].name.startswith("CodeDrill-v0-seed0-")


def test_flags_reach_the_settings(run: Run, loop: Loop) -> None:
    words = ("--run", "r", "--seed", "3", "--train.iterations", "5", "--policy", "nano", "--quick")
    assert run("train", *words, "--import", "my_env") == 0
    settings = loop.calls[0]["settings"]
    assert (settings.seed, settings.train.iterations) == (3, 5)
    assert settings.policy.preset == "nano"
    assert settings.env.options == {"level": 1}
    assert loop.calls[0]["imports"] == ("my_env",)


def test_a_hugging_face_policy_is_passed_on_with_a_whole_path(run: Run, loop: Loop) -> None:
    Path("model").mkdir()
    assert run("train", "--run", "a", "--policy", "hf:model") == 0
    assert loop.calls[0]["settings"].policy.model == f"hf:{Path('model').resolve()}"
    assert run("train", "--run", "b", "--policy", "hf:org/name") == 0
    assert loop.calls[1]["settings"].policy.model == "hf:org/name"


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--train.iterationz", "3"], '"train.iterations"'),
        (["--train.iterations", "x"], "whole number"),
        (["--train.iterations", "0"], ">= 1"),
        (["--iterations", "3"], "did you mean --train.iterations?"),
        (["--lr=3"], "did you mean --optim.lr?"),
        (["--policy", "big"], "nano, tiny or small"),
        (["--preset", "drill-cod"], "drill-code"),
        (["none.toml"], "No such file"),
        (["broken.toml"], "broken.toml:2:"),
        (["--seed", "-1"], "seed is -1"),
        (["--resume", "none"], "no config.toml"),
        (["--resume", "full", "--run", "x"], "leave out --run"),
        (["--run", "full"], "not empty"),
        (["--optim.lr"], "has no value"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_two(
    run: Run,
    loop: Loop,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    word: str,
) -> None:
    Path("full").mkdir()
    Path("full/file").write_text("x")
    Path("broken.toml").write_text("seed = 1\nseed\n")
    assert run("train", *words) == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert "Traceback" not in shown
    assert len(shown.splitlines()) == 1
    assert not loop.calls


def test_a_run_goes_on_with_its_own_settings_and_more_iterations(run: Run, loop: Loop) -> None:
    first = ("--run", "r", "--optim.lr", "0.01", "--train.iterations", "2", "--import", "my_env")
    assert run("train", *first) == 0
    assert run("train", "--resume", "r", "--train.iterations", "4") == 0
    again = loop.calls[1]
    assert again["resume"] is True
    assert again["imports"] == ("my_env",)
    assert config.difference(loop.calls[0]["settings"], again["settings"]) == {
        "train.iterations": (2, 4)
    }


def test_a_run_does_not_go_on_with_another_config(
    run: Run,
    loop: Loop,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("train", "--run", "r", "--train.iterations", "2") == 0
    Path("other.toml").write_text("[algo]\nclip = 0.1\n")
    assert run("train", "other.toml", "--resume", "r", "--optim.lr", "0.5", "--seed", "9") == 2
    shown = capsys.readouterr().err
    assert "only train.iterations may differ" in shown
    assert "algo.clip: the run has 0.2, asked for 0.1" in shown
    assert "optim.lr: the run has 0.003, asked for 0.5" in shown
    assert "seed: the run has 0, asked for 9" in shown
    assert len(loop.calls) == 1


def test_the_same_settings_given_again_are_no_difference(run: Run, loop: Loop) -> None:
    Path("mine.toml").write_text("[optim]\nlr = 0.01\n")
    assert run("train", "mine.toml", "--run", "r") == 0
    assert run("train", "mine.toml", "--resume", "r", "--seed", "0") == 0


def test_a_second_run_does_not_write_over_the_first(
    run: Run,
    loop: Loop,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("train", "--run", "r") == 0
    assert run("train", "--run", "r") == 2
    assert "--resume r" in capsys.readouterr().err


def test_the_last_words_are_the_evaluation_an_episode_and_three_commands(
    run: Run,
    loop: Loop,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = {"success": Measure(0.98, 0.94, 0.99), "return": Measure(0.99, 0.97, 1.0)}
    loop.summary = {
        "evaluations": {"greedy": Evaluation(figures), "sampled": Evaluation(figures)},
        "transcript": "env: largest of cut\nagent: max(x[1:])",
    }
    assert run("train", "--run", "r", "--quiet") == 0
    shown = capsys.readouterr().out
    assert "success, greedy    0.980  [0.940, 0.990]" in shown
    assert "success, sampled   0.980" in shown
    assert "best, iteration 3" in shown
    assert "agent: max(x[1:])" in shown
    for command in ("tensorboard --logdir r", "palaestra show r", "palaestra evaluate r"):
        assert command in shown


def test_a_stopped_run_says_how_to_go_on_and_ends_with_the_signals_code(
    run: Run,
    loop: Loop,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loop.summary = {"exit_code": 130, "iteration": 7}
    assert run("train", "--run", "r") == 130
    assert "after 7 iterations" in (shown := capsys.readouterr().out)
    assert "palaestra train --resume r" in shown


def test_every_key_is_listed_with_its_default(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--keys") == 0
    shown = capsys.readouterr().out
    for key, leaf in config.keys().items():
        assert (f"--{key} " in shown) is not leaf.hidden
    assert "ppo, reinforce, rloo, grpo [ppo]" in shown
