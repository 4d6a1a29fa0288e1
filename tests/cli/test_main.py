"""The root command: help on every level, exit codes, nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from palaestra.cli import main as cli

Run = Callable[..., int]
HEAVY = ("torch", "transformers", "docker", "tensorboard", "pettingzoo")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["train"],
        ["evaluate"],
        ["show"],
        ["envs"],
        ["envs", "list"],
        ["envs", "describe"],
        ["envs", "check"],
        ["envs", "play"],
        ["sandbox"],
        ["sandbox", "doctor"],
        ["sandbox", "run"],
    ],
)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_there_is_help_on_every_level(
    run: Run,
    words: list[str],
    flag: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*words, flag) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: palaestra")
    assert len(shown.splitlines()) > 5


def test_the_root_help_names_every_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for name, summary in cli.COMMANDS.items():
        assert name in shown
        assert summary in shown


def test_the_version_is_printed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("palaestra 0.")


@pytest.mark.parametrize(
    "words", [["fly"], ["train", "--fly"], ["train", "a", "b"], ["envs", "fly"]]
)
def test_a_wrong_word_is_wrong_use_without_a_traceback(
    run: Run,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*words) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["train", "--help"], ["train", "--keys"]]
)
def test_help_imports_nothing_heavy(run: Run, words: list[str]) -> None:
    program = (
        "import sys\n"
        "from palaestra.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_only_the_command_that_runs_is_imported(
    run: Run,
) -> None:
    program = (
        "import sys\n"
        "from palaestra.cli.main import application\n"
        "application('show')\n"
        "print(sorted(name for name in sys.modules if name.startswith('palaestra.cli.')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(
        ["palaestra.cli.main", "palaestra.cli.show", "palaestra.cli.terminal"]
    )
