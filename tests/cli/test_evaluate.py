"""The command evaluate: runs, players, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from palaestra.train import build, checkpoint, config, manifest

Run = Callable[..., int]
Output = pytest.CaptureFixture[str]
SMALL = {
    "policy.preset": "nano",
    "env.id": "palaestra/Sum-v0",
    "rollout.max_action_tokens": "8",
    "rollout.shield": "grammar",
    "policy.context": "128",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run whose weights were never trained."""
    settings = config.load(None, SMALL)
    manifest.open_run(tmp_path, settings, command=["x"], env_ids=[settings.env.id])
    env = build.env_maker(settings.env.id, settings.env.options)()
    policy = build.policy(settings, env)
    checkpoint.save_best(tmp_path, 7, {"model": policy.save})
    checkpoint.save_model(tmp_path, policy.save)
    return tmp_path


def figures(capsys: Output) -> dict[str, Any]:
    """What ``--json`` printed."""
    return json.loads(capsys.readouterr().out)


def test_a_run_is_measured_both_ways_on_its_best_weights(
    run: Run, folder: Path, capsys: Output
) -> None:
    assert run("evaluate", str(folder), "--n", "6", "--attempts", "2", "--k", "1,2", "--json") == 0
    found = figures(capsys)
    assert {"success_greedy", "success_sampled", "return", "pass@2", "pass^2"} <= set(found)
    assert set(found["intervals"]) >= {"success_greedy", "success_sampled", "return"}
    assert (found["n"], found["attempts"]) == (6, 2)
    assert "best (iteration 7)" in found["policy"]
    assert (folder / "eval" / "greedy-n6.json").is_file()
    assert len((folder / "eval" / "sampled-n6.jsonl").read_text().splitlines()) == 12


def test_one_way_and_the_last_weights_can_be_asked_for(
    run: Run, folder: Path, capsys: Output
) -> None:
    assert run("evaluate", str(folder), "--n", "3", "--greedy", "--last", "--json") == 0
    found = figures(capsys)
    assert "success_sampled" not in found
    assert found["policy"].endswith("model")


def test_measuring_twice_gives_the_same_figures(run: Run, folder: Path, capsys: Output) -> None:
    words = ("evaluate", str(folder), "--n", "4", "--attempts", "2", "--sampled", "--json")
    assert run(*words) == 0
    first = figures(capsys)
    assert run(*words) == 0
    assert figures(capsys) == first


def test_a_run_stopped_before_its_end_is_measured_at_its_last_checkpoint(
    run: Run, folder: Path, capsys: Output
) -> None:
    (folder / "model").rename(folder / "checkpoints" / "iteration-000003")
    (folder / "checkpoints" / "best").rename(folder / "gone")
    assert run("evaluate", str(folder), "--n", "2") == 2  # it has no index: not whole
    assert "has no whole checkpoint" in capsys.readouterr().err


def test_a_person_reads_a_line_a_measure(run: Run, folder: Path, capsys: Output) -> None:
    assert (
        run("evaluate", str(folder), "--n", "2", "--attempts", "1", "--env.limits.turns", "2") == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("2 tasks")
    assert lines[1].startswith("  success, greedy ")


def test_the_reference_succeeds_where_silence_does_not(run: Run, capsys: Output) -> None:
    for policy, success in (("reference", 1.0), ("silent", 0.0)):
        words = ("--policy", policy, "--env.id", "palaestra/Compare-v0", "--n", "6", "--json")
        assert run("evaluate", *words) == 0
        found = figures(capsys)
        assert found["success_greedy"] == found["success_sampled"] == success


@pytest.mark.parametrize("identity", ["palaestra/KeyDoor-v0", "palaestra/Copy-v0"])
def test_a_random_player_draws_among_what_is_legal(run: Run, capsys: Output, identity: str) -> None:
    words = ("--policy", "random", "--env.id", identity, "--n", "4", "--attempts", "1", "--json")
    assert run("evaluate", *words) == 0
    assert figures(capsys)["turns"] > 0


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ([], "either the folder of a RUN or --policy"),
        (["none"], "holds no config.toml"),
        (["RUN", "--policy", "silent"], "either"),
        (["RUN", "--greedy", "--sampled"], "give one of"),
        (["RUN", "--k", "8"], "FB-E06: pass@8 was asked with 4 attempts a task"),
        (["RUN", "--k", "x"], "whole numbers"),
        (["RUN", "--k", "0"], ">= 1"),
        (["RUN", "--optim.lr", "1"], "--env.KEY only"),
        (["RUN", "--shield", "iron"], "rollout.shield"),
        (["--policy", "silent"], "needs --env.id"),
        (["--policy", "nobody", "--env.id", "palaestra/Sum-v0"], "reference, random, silent"),
        (["--policy", "silent", "--env.id", "palaestra/Som-v0"], "palaestra/Sum-v0"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_two(
    run: Run, folder: Path, capsys: Output, words: list[str], word: str
) -> None:
    assert run("evaluate", *[str(folder) if one == "RUN" else one for one in words]) == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert len(shown.splitlines()) == 1
