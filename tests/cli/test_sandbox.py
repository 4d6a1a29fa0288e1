"""The commands about the sandbox."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from palaestra import tool_sandbox
from palaestra.tool_sandbox.errors import SandboxError, SandboxUnavailable

Run = Callable[..., int]


@pytest.fixture(scope="module")
def isolated() -> None:
    """Skips where this machine isolates nothing."""
    try:
        with tool_sandbox.Sandbox("auto", workers=1) as sandbox:
            assert sandbox.isolation
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
def test_the_doctor_names_backend_level_and_layers(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sandbox", "doctor") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("backend  ")
    assert "seccomp" in shown
    assert run("sandbox", "doctor", "--json") == 0
    assert json.loads(capsys.readouterr().out)["level"] == "full"


def test_a_machine_that_isolates_nothing_is_told_what_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*words: object, **options: object) -> None:
        raise SandboxUnavailable("cell: user namespaces are off; do: sysctl ...")

    monkeypatch.setattr(tool_sandbox, "Sandbox", refuse)
    assert run("sandbox", "doctor") == 1
    assert "do: sysctl" in capsys.readouterr().out
    assert run("sandbox", "doctor", "--json") == 1
    assert "sysctl" in json.loads(capsys.readouterr().out)["advice"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("1"))
    assert run("sandbox", "run") == 2


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
def test_a_program_runs_inside(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.py").write_text("print(6 * 7)")
    assert run("sandbox", "run", str(tmp_path / "a.py")) == 0
    assert capsys.readouterr().out == "42\n"


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
def test_a_program_that_fails_is_exit_code_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("1 / 0"))
    assert run("sandbox", "run") == 1
    assert "ZeroDivisionError" in (shown := capsys.readouterr().err)
    assert "ended: error" in shown
    monkeypatch.setattr(sys, "stdin", io.StringIO("while True: pass"))
    assert run("sandbox", "run", "--wall", "0.2", "--json") == 1
    assert json.loads(capsys.readouterr().out)["reason"] == "timeout"


def test_a_file_that_is_not_there_is_wrong_use(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sandbox", "run", "none.py") == 2
    assert "none.py cannot be read" in capsys.readouterr().err
