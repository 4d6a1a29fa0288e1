"""Whatever a user gets wrong ends in words, not in a traceback of ours."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., int]
Output = pytest.CaptureFixture[str]

SMALL = (
    "--quiet",
    "--run",
    "r",
    "--policy",
    "nano",
    "--train.iterations",
    "1",
    "--train.eval_episodes",
    "1",
    "--rollout.batch",
    "2",
    "--rollout.max_action_tokens",
    "3",
    "--policy.context",
    "256",
    "--log.tensorboard",
    "false",
)

HOUSE = """
from palaestra.envs import Env, register
from palaestra.envs.core import Reply
from palaestra.envs.rewards import Outcome, Rewards


class Faulty(Env):
    rewards = Rewards(success=Outcome(1.0))

    def begin(self, task):
        self.state = {}
        return "say anything"

    def respond(self, message):
        BODY

    def score(self, answer):
        return SCORE


register("my/NAME-v0", "NAME:Faulty", summary="It is broken.")
"""


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, ...]]:
    """Writes a module with a faulty environment; gives the words that use it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(body: str = "return super().respond(message)", score: str = "1.0") -> tuple[str, ...]:
        name = f"house_{hashlib.sha256((body + score).encode()).hexdigest()[:12]}"
        text = HOUSE.replace("BODY", body).replace("SCORE", score).replace("NAME", name)
        (tmp_path / f"{name}.py").write_text(text)
        return ("--import", name, "--env.id", f"my/{name}-v0")

    return write


def test_an_environment_that_raises_shows_its_traceback_the_transcript_and_the_seed(
    run: Run, house: Callable[..., tuple[str, ...]], capsys: Output
) -> None:
    assert run("train", *SMALL, *house(body="return {}['mine']")) == 1
    shown = capsys.readouterr().err
    assert "return {}['mine']" in shown
    assert "KeyError: 'mine'" in shown
    assert "say anything" in shown
    assert "seed" in shown
    assert "mistake in palaestra" not in shown


@pytest.mark.parametrize("score", ["float('nan')", "'much'", "7.0"])
def test_a_reward_that_is_no_number_in_its_bounds_names_term_and_task(
    run: Run, house: Callable[..., tuple[str, ...]], capsys: Output, score: str
) -> None:
    assert run("train", *SMALL, *house(score=score)) in (1, 2)
    shown = capsys.readouterr().err
    assert "success" in shown
    assert "task" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--env.id", "palaestra/CodeDril-v0"], "palaestra/CodeDrill-v0"),
        (["--env.levle", "2"], '"env.level"'),
        (["--env.level", "44"], "0 to 5"),
        (["--env.reward.tool_pas", "1"], "tool_pass"),
        (["--env.limits.turns", "0"], "turns"),
        (["--policy", "hf:no/such/folder"], "no/such/folder"),
    ],
)
def test_a_wrong_value_of_the_environment_or_policy_is_one_line(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Output,
    words: list[str],
    word: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("train", *SMALL, *words) == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert "Traceback" not in shown


def test_a_task_file_with_a_row_that_lacks_a_field_is_named_with_its_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tasks.jsonl").write_text('{"task_id": 1, "text": "x", "code": "y = 1"}\n')
    words = ("--env.id", "palaestra/Code-v0", "--env.tasks", "tasks.jsonl")
    assert run("train", *SMALL, *words) == 2
    shown = capsys.readouterr().err
    assert "tasks.jsonl:1" in shown
    assert "Traceback" not in shown
