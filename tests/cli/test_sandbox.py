"""The commands about the sandbox."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from palaestra import tool_sandbox
from palaestra.cli import inside
from palaestra.tool_sandbox import doctor
from palaestra.tool_sandbox.doctor import Finding
from palaestra.tool_sandbox.errors import SandboxError, SandboxUnavailable

Run = Callable[..., int]
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FULL = Finding("cell", True, "full", ("pid", "seccomp"), (), "", 0.001)
OFF = Finding("cell", False, "none", advice="sysctl ...", problem="user namespaces are off")


@pytest.fixture(scope="module")
def isolated() -> None:
    """Skips where this machine isolates nothing."""
    try:
        with tool_sandbox.Sandbox("auto", workers=1) as sandbox:
            assert sandbox.isolation
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")


def feed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def examined(monkeypatch: pytest.MonkeyPatch, *found: Finding) -> None:
    monkeypatch.setattr(doctor, "examine", lambda runs: found)  # type: ignore[misc]


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
def test_the_doctor_tries_every_backend(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sandbox", "doctor", "--runs", "3", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["full"] is True
    rows = {(row["backend"], row["asked"]): row for row in told["backends"]}
    assert set(rows) == {
        ("cell", "full"),
        ("cell", "reduced"),
        ("docker", "full"),
        ("process", "none"),
    }
    for row in rows.values():
        assert row["advice"] if not row["usable"] else row["p50"] > 0
    assert rows["process", "none"]["level"] == "none"


def test_the_doctor_says_in_its_exit_code_whether_auto_would_isolate_fully(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examined(monkeypatch, FULL)
    assert run("sandbox", "doctor") == 0
    assert "fully isolated" in capsys.readouterr().out
    examined(monkeypatch, OFF, Finding("cell", True, "reduced", asked="reduced", p50=0.002))
    assert run("sandbox", "doctor") == 1
    shown = capsys.readouterr().out
    assert "would refuse" in shown
    assert "do       sysctl" in shown
    assert 'cell (only with minimum="reduced"): reduced' in shown
    assert run("sandbox", "doctor", "--json") == 1
    assert "sysctl" in json.loads(capsys.readouterr().out)["backends"][0]["advice"]


def test_a_machine_that_isolates_nothing_runs_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*words: object, **options: object) -> None:
        raise SandboxUnavailable("cell: user namespaces are off; do: sysctl ...")

    monkeypatch.setattr(tool_sandbox, "Sandbox", refuse)
    feed(monkeypatch, "1")
    assert run("sandbox", "run") == 2
    assert "do: sysctl" in capsys.readouterr().err


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
def test_a_program_runs_inside_and_its_end_is_told_beside_its_output(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.py").write_text("print(6 * 7)")
    assert run("sandbox", "run", str(tmp_path / "a.py")) == 0
    shown = capsys.readouterr()
    assert shown.out == "42\n"
    assert shown.err.startswith("ended: ok, exit code 0, ")


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("1 / 0", 1),
        ("raise SystemExit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 143),
    ],
)
def test_the_exit_code_is_the_programs(
    run: Run, monkeypatch: pytest.MonkeyPatch, program: str, code: int
) -> None:
    feed(monkeypatch, program)
    assert run("sandbox", "run") == code


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
def test_limits_and_input_reach_the_program(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, "while True: pass")
    assert run("sandbox", "run", "--wall", "0.2", "--json") == 137
    assert json.loads(capsys.readouterr().out)["reason"] == "timeout"
    (tmp_path / "a.py").write_text("print(input()[::-1])")
    (tmp_path / "in").write_text("abc")
    words = ("sandbox", "run", str(tmp_path / "a.py"), "--stdin")
    assert run(*words, str(tmp_path / "in")) == 0
    assert capsys.readouterr().out == "cba\n"
    feed(monkeypatch, "xyz")
    assert run(*words, "-", "--output", "2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["stdout"], told["stdout_bytes"], told["truncated"]) == ("zy", 4, True)
    feed(monkeypatch, "echo $((6 * 7))")
    assert run("sandbox", "run", "--language", "shell", "--memory", "64M") == 0
    assert capsys.readouterr().out == "42\n"


PRINTS = "print('\\u00e9')"


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("words", [(), ("--json",)])
def test_what_a_stream_has_no_letters_for_is_spelt_out(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "a.py").write_text(PRINTS)
    command = [sys.executable, "-m", "palaestra", "sandbox", "run", str(tmp_path / "a.py"), *words]
    narrow = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=narrow, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert ("\u00e9".encode() in done.stdout) if words else (done.stdout == b"\\xe9\n")


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
def test_a_program_on_standard_input_is_utf_8_whatever_the_locale(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = io.BytesIO("print(len('\u00e9'))".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="ascii"))
    assert run("sandbox", "run") == 0
    assert capsys.readouterr().out == "1\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert run("sandbox", "run") == 2
    assert "standard input is no UTF-8 text" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", None)
    assert run("sandbox", "run") == 2
    assert "standard input is closed" in capsys.readouterr().err


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_program_runs_where_nobody_listens(tmp_path: Path, closed: str) -> None:
    (tmp_path / "a.py").write_text(PRINTS + "; raise SystemExit(7)")
    line = f'"$0" -m palaestra sandbox run "$1" {closed}'
    command = ["/bin/sh", "-c", line, sys.executable, str(tmp_path / "a.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("none.py",), "none.py cannot be read"),
        (("--stdin", "-"), "the program itself comes from there"),
        (("--memory", "lots"), "is no size; give bytes"),
        (("--memory", "3"), "Limits.memory is 3"),
        (("--backend", "process"), 'say minimum="none"'),
        ((__file__, "--stdin", "none.txt"), "none.txt cannot be read"),
    ],
)
def test_wrong_use_of_run_says_what_to_do(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    told: str,
) -> None:
    feed(monkeypatch, "pass")
    assert run("sandbox", "run", *words) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_what_isolates_nothing_is_said_in_a_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, "print(1)")
    assert run("sandbox", "run", "--backend", "process", "--minimum", "none") == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first == (
        "warning: the process backend isolates nothing: guests can read, write and kill"
    )


def test_a_terminal_is_not_steered_by_a_programs_output() -> None:
    assert inside.visible("\x1b]0;title\x07a\tb\r\n\u202e") == "\\x1b]0;title\\x07a\tb\\r\n\\u202e"


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks of our own shape, of which one's solution is wrong."""
    rows = [
        {
            "id": name,
            "prompt": "Add.",
            "entry_point": "add",
            "tests": [{"code": "assert add(1, 2) == 3", "hidden": True}],
            "solution": f"def add(a, b):\n    return a {sign} b\n",
        }
        for name, sign in (("right", "+"), ("wrong", "-"))
    ]
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
def test_a_solution_that_fails_is_listed_by_id(
    run: Run, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sandbox", "grade", "--reference", str(tasks)) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "wrong: wrong: add(1, 2): returned -1",
        "1 of 2 reference solutions pass",
    ]
    assert run("sandbox", "grade", "--reference", str(tasks), "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["passed"], told["total"], told["malformed"]) == (1, 2, [])
    assert [one["id"] for one in told["failed"]] == ["wrong"]
    assert run("sandbox", "grade", "--reference", str(tasks), "--task", "right") == 0


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
def test_what_no_wire_carries_is_listed_apart(
    run: Run, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.py").write_text("def add(a, b):\n    return lambda: a + b\n")
    words = ("sandbox", "grade", str(tasks), "--candidate", str(tmp_path / "a.py"))
    assert run(*words, "--task", "right") == 1
    shown = capsys.readouterr().out
    assert "malformed (no wire carries them): right" in shown
    (tmp_path / "a.py").write_text("def add(a, b):\n    return b + a\n")
    assert run(*words, "--task", "right") == 0


def test_wrong_use_of_grade_says_what_to_do(
    run: Run, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sandbox", "grade", str(tasks)) == 2
    assert "Give --reference" in capsys.readouterr().err
    assert run("sandbox", "grade", str(tasks), "--candidate", __file__) == 2
    assert "say which by --task" in capsys.readouterr().err
    assert run("sandbox", "grade", str(tasks), "--reference", "--task", "rigth") == 2
    assert "did you mean right?" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").write_text("")
    assert run("sandbox", "grade", "--reference", str(tmp_path / "empty.jsonl")) == 2
    assert "empty.jsonl" in capsys.readouterr().err
    assert run("sandbox", "grade", "--reference", str(tmp_path / "none.jsonl")) == 2


@pytest.mark.linux
@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("name", ["humaneval", "quixbugs"])
def test_the_solutions_of_public_files_all_pass(
    run: Run, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = DATA / name / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no data: {path.name}")
    assert run("sandbox", "grade", "--reference", str(path)) == 0
    passed, _, total, *_ = capsys.readouterr().out.splitlines()[-1].split()
    assert passed == total


def test_build_hands_its_source_to_the_engine(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from palaestra.tool_sandbox import docker

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(docker, "build", lambda **words: asked.append(words) or "made:1")  # type: ignore[misc]
    assert run("sandbox", "build") == 0
    assert run("sandbox", "build", "--from", "python:3.13-slim") == 0
    assert run("sandbox", "build", "--rootfs", "self") == 0
    assert capsys.readouterr().out.split() == ["made:1"] * 3
    assert asked == [
        {"base": None, "rootfs": None},
        {"base": "python:3.13-slim", "rootfs": None},
        {"base": None, "rootfs": "self"},
    ]
    assert run("sandbox", "build", "--from", "a", "--rootfs", "b") == 2


def test_build_without_an_engine_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert run("sandbox", "build", "--rootfs", "self") == 2
    assert "no docker engine answers" in capsys.readouterr().err
