"""The commands about environments."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from palaestra.testing import conformance

Run = Callable[..., int]
BUILT_IN = {
    "palaestra/Code-v0",
    "palaestra/CodeDrill-v0",
    "palaestra/Compare-v0",
    "palaestra/Copy-v0",
    "palaestra/KeyDoor-v0",
    "palaestra/Sum-v0",
}


def test_a_script_reads_the_ids_as_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("envs", "list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["id"] for row in rows} >= BUILT_IN
    assert all(row["summary"] and row["views"] == ["turn", "tool", "token"] for row in rows)


def test_a_word_narrows_the_list(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("envs", "list", "hidden number") == 0
    assert capsys.readouterr().out.startswith("palaestra/Compare-v0")
    assert run("envs", "list", "zzz") == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert 'no environment holds "zzz"' in shown.err


def test_a_module_of_the_current_folder_adds_its_ids(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "envs_of_the_test.py").write_text(
        "from palaestra.envs import register\n"
        "register('my/FromAFile-v0', 'palaestra.envs.small:Compare', summary='Mine.')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert run("envs", "list", "FromAFile", "--import", "envs_of_the_test") == 0
    assert capsys.readouterr().out == "my/FromAFile-v0  Mine.\n"


def test_a_description_shows_tools_terms_and_limits(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("envs", "describe", "palaestra/Compare-v0") == 0
    shown = capsys.readouterr().out
    for word in ("Is the hidden number higher", "narrowing", "turns", "TextSpace"):
        assert word in shown
    assert run("envs", "describe", "palaestra/Compare-v0", "--json") == 0
    assert json.loads(capsys.readouterr().out)["id"] == "palaestra/Compare-v0"


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["describe", "palaestra/Compar-v0"], "palaestra/Compare-v0"),
        (["check", "palaestra/Compar-v0"], "palaestra/Compare-v0"),
        (["play", "palaestra/Compar-v0"], "palaestra/Compare-v0"),
        (["play", "palaestra/Compare-v0", "--env.turns", "3"], "turns"),
        (["play", "palaestra/Compare-v0", "--env.id", "x/Y-v0"], "given already"),
        (["play", "palaestra/Compare-v0", "--optim.lr", "1"], "--env.KEY only"),
        (["play", "palaestra/Compare-v0", "--policy", "nobody"], "human, reference"),
        (["check", "palaestra/Compare-v0", "--view", "side"], "turn, tool, token"),
        (["list", "--env.level", "1"], "no dotted keys"),
        (["list", "--import", "none_such_of_the_test"], "no such module"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_two(
    run: Run, capsys: pytest.CaptureFixture[str], words: list[str], word: str
) -> None:
    assert run("envs", *words) == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert len(shown.splitlines()) == 1


def test_a_person_plays_an_episode(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("7\n:quit\n"))
    assert run("envs", "play", "palaestra/Compare-v0", "--seed", "3") == 0
    assert "[answered: no success, return 0]" in capsys.readouterr().out


def test_arguments_of_the_environment_reach_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hm\n"))
    words = ("--env.limits.turns", "5", "--env.domain.high", "50")
    assert run("envs", "play", "palaestra/Compare-v0", "--seed", "1", *words) == 0
    assert "from 1 to 50" in capsys.readouterr().out


@pytest.mark.parametrize("policy", ["reference", "random", "silent"])
def test_a_player_is_watched(run: Run, capsys: pytest.CaptureFixture[str], policy: str) -> None:
    assert run("envs", "play", "palaestra/Sum-v0", "--seed", "3", "--policy", policy) == 0
    assert "palaestra/Sum-v0  seed 3" in capsys.readouterr().out


def test_a_broken_plug_in_is_one_line_of_warning(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import warnings

    from palaestra.envs import registry

    def discover() -> list[str]:
        warnings.warn("plug-in worn (worn.envs) is broken: KeyError: 'x'", stacklevel=2)
        return []

    monkeypatch.setattr(registry, "discover", discover)
    assert run("envs", "list") == 0
    assert capsys.readouterr().err.startswith("warning: plug-in worn (worn.envs) is broken")


class Report:
    """What a check found."""

    def __init__(self, ok: bool) -> None:
        self.ok = ok

    def __str__(self) -> str:
        return "ENV-SPACE1 held" if self.ok else "ENV-SPACE1 broken"

    def to_json(self) -> dict[str, bool]:
        """Plain values."""
        return {"ok": self.ok}


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_a_broken_law_is_exit_code_one(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ok: bool,
    code: int,
) -> None:
    asked: list[tuple[object, ...]] = []

    def check(make: Callable[[], object], *, views: Sequence[str], quick: bool) -> Report:
        asked.append((type(make()).__name__, tuple(views), quick))
        return Report(ok)

    monkeypatch.setattr(conformance, "check_environment", check)
    words = ("envs", "check", "palaestra/Compare-v0", "--quick", "--view", "turn")
    assert run(*words) == code
    assert capsys.readouterr().out.startswith("ENV-SPACE1")
    assert run(*words, "--json") == code
    assert json.loads(capsys.readouterr().out) == {"ok": ok}
    assert asked[0] == ("Compare", ("turn",), True)
