"""What every command shares: dotted keys, imports, errors in one line."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.cli import terminal
from palaestra.cli.terminal import Mistake
from palaestra.envs.exchange import EnvError
from palaestra.train.config import ConfigError


def test_dotted_keys_are_taken_out_wherever_they_stand() -> None:
    words = ["train", "--a.b", "1", "file.toml", "--seed", "3", "--c.d.e=x=y", "--f.g=", "--quick"]
    assert terminal.split(words) == (
        ["train", "file.toml", "--seed", "3", "--quick"],
        {"a.b": "1", "c.d.e": "x=y", "f.g": ""},
    )


def test_a_negative_number_is_a_value() -> None:
    assert terminal.split(["--env.reward.step", "-0.05"])[1] == {"env.reward.step": "-0.05"}


@pytest.mark.parametrize(
    "words", [["--optim.lr"], ["--optim.lr", "--seed", "3"], ["--a.b", "-h"], ["--a.b", "--c.d=1"]]
)
def test_a_key_without_a_value_is_refused(words: list[str]) -> None:
    with pytest.raises(Mistake, match="has no value; give --"):
        terminal.split(words)


def test_after_two_dashes_nothing_is_a_key() -> None:
    assert terminal.split(["--", "--a.b", "1"]) == (["--", "--a.b", "1"], {})


@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_command_line_is_split_or_refused(words: list[str]) -> None:
    try:
        rest, overrides = terminal.split(words)
    except Mistake:
        return
    assert len(rest) + 2 * len(overrides) >= len(words) - sum("=" in word for word in words) - 1


def test_a_module_of_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "house_of_the_test.py").write_text("MADE = True\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert terminal.bring_in(["house_of_the_test"]) == ("house_of_the_test",)
    assert sys.modules.pop("house_of_the_test").MADE


@pytest.mark.parametrize(
    ("name", "body", "word"),
    [
        ("none_such_of_the_test", None, "no such module"),
        ("my_file_of_the_test.py", "", r"without \.py: --import my_file_of_the_test"),
        ("needs_of_the_test", "import none_such_of_the_test", "needs none_such_of_the_test"),
        ("raises_of_the_test", "x = 1\ny = x / 0", r"ZeroDivisionError.*raises_of_the_test\.py:2"),
        ("syntax_of_the_test", "def", "SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str | None, word: str
) -> None:
    if body is not None:
        (tmp_path / f"{name.removesuffix('.py')}.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(Mistake, match=word) as caught:
        terminal.bring_in([name])
    assert "\n" not in str(caught.value)
    sys.modules.pop("my_file_of_the_test", None)


def raised(error: Exception) -> Exception:
    """The error, with a traceback of this file."""
    try:
        raise error
    except Exception as caught:
        return caught


def test_a_refusal_of_ours_is_one_line_and_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (Mistake("got a"), ConfigError("got a"), EnvError("got a")):
        assert terminal.report(raised(error)) == 2
        assert capsys.readouterr().err == "error: got a\n"


def test_a_value_refused_by_our_own_code_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from palaestra.envs.exchange import Limits

    with pytest.raises(ValueError, match="turns") as caught:
        Limits(turns=0)
    assert terminal.report(caught.value) == 2
    assert capsys.readouterr().err == "error: Limits.turns is 0; give at least 1\n"


def test_an_environment_that_raises_shows_its_own_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = EnvError("my/Env-v0: ZeroDivisionError; again with: seed 3")
    report.__cause__ = raised(ZeroDivisionError("by hand"))
    assert terminal.report(report) == 1
    shown = capsys.readouterr().err
    assert "test_terminal.py" in shown
    assert shown.endswith("error: my/Env-v0: ZeroDivisionError; again with: seed 3\n")


def test_an_error_of_a_users_file_is_said_to_be_outside(capsys: pytest.CaptureFixture[str]) -> None:
    code = compile("def f():\n    raise KeyError('mine')\n", __file__ + "x", "exec")
    names: dict[str, object] = {}
    exec(code, names)
    assert terminal.report(raised(KeyError("x"))) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "runs/a")
    assert terminal.report(raised(error)) == 1
    assert capsys.readouterr().err == "error: No space left on device (runs/a)\n"


def test_an_interrupt_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.report(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_what_json_has_no_word_for_is_written_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say_json({"path": Path("a"), "set": {1}, "tuple": (1, 2), "text": "Ω"})
    assert json.loads(capsys.readouterr().out) == {
        "path": "a",
        "set": [1],
        "tuple": [1, 2],
        "text": "Ω",
    }
