from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from palaestra.tool_sandbox import (
    Calls,
    Case,
    Limits,
    MiB,
    Sandbox,
    SandboxError,
    UnsafeSandboxWarning,
)

from .test_trainer_states import apart, trainer

pytestmark = pytest.mark.linux


@pytest.fixture(scope="module")
def bare() -> Iterator[Sandbox]:
    limits = Limits(wall=60.0)
    with pytest.warns(UnsafeSandboxWarning):
        sandbox = Sandbox("process", minimum="none", workers=1, limits=limits, preload=("json",))
    with sandbox:
        yield sandbox


def test_it_says_that_it_isolates_nothing(bare: Sandbox) -> None:
    assert (bare.isolation.backend, bare.isolation.level) == ("process", "none")
    assert bare.isolation.layers == ()


def test_every_construction_warns() -> None:
    for _ in range(2):
        with pytest.warns(UnsafeSandboxWarning, match="isolates nothing"):
            Sandbox("process", minimum="none")


def test_programs_run_with_files_input_and_value(bare: Sandbox) -> None:
    result = bare.execute(
        "x = open('a').read() + input()\nopen('b', 'w').write(x)\nx",
        files={"a": "1"},
        stdin="2\n",
        fetch=("b",),
        want_value=True,
    )
    assert (result.reason, result.value, result.files) == ("ok", "12", {"b": b"12"})


def test_the_trainers_environment_does_not_travel(
    bare: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALAESTRA_SECRET", "secret")
    assert "secret" not in bare.execute("import os; print(os.environ)").stdout


def test_each_execution_finds_a_new_folder(bare: Sandbox) -> None:
    bare.execute("import os; os.makedirs('a/b/c'); open('x', 'w'); os.symlink('/etc', 'l')")
    assert bare.execute("import os; print(os.listdir('.'))").stdout == "[]\n"


@pytest.mark.parametrize(
    ("code", "reason", "wall"),
    [
        ("while True: pass", "timeout", 0.5),
        ("import time; time.sleep(600)", "timeout", 0.5),
        ("x = bytearray(3 << 30)", "memory", 60.0),
        ("1 / 0", "error", 60.0),
        ("import os; os.abort()", "killed", 60.0),
    ],
)
def test_ends_are_told_apart(bare: Sandbox, code: str, reason: str, wall: float) -> None:
    limits = Limits(wall=wall, memory=256 * MiB)
    assert bare.execute(code, limits=limits).reason == reason


def test_what_a_program_leaves_running_is_ended(bare: Sandbox, marked: str) -> None:
    code = f"""
import os, subprocess
subprocess.Popen(["sh", "-c", "sleep 60; : {marked}"], start_new_session=True)
if not os.fork():
    os.setsid()
    if not os.fork():
        os.execv("/bin/sh", ["sh", "-c", "sleep 60; : {marked}"])
"""
    assert bare.execute(code).ok


def test_calls_are_graded(bare: Sandbox) -> None:
    tests = Calls(entry="f", cases=(Case(args=(1,), expected=2),))
    assert bare.grade("f = lambda x: x + 1", tests).passed
    assert not bare.grade("f = lambda x: x", tests).passed


def test_sessions_go_on_but_do_not_branch(bare: Sandbox) -> None:
    with bare.session(files={"f": "1"}) as session:
        session.execute("x = 1")
        assert session.execute("x, open('f').read()").stdout == "(1, '1')\n"
        session.write("d/g", "2")
        assert session.shell("cat d/g").stdout == "2"
        assert session.execute("while True: pass", wall=0.2).reason == "timeout"
        assert session.execute("x").stdout == "1\n"
        with pytest.raises(SandboxError, match="cannot branch"):
            session.fork()


def test_nothing_of_it_stays() -> None:
    with pytest.warns(UnsafeSandboxWarning):
        sandbox = Sandbox("process", minimum="none", workers=1, preload=())
    with sandbox:
        folder = sandbox.execute("import os; print(os.path.dirname(os.getcwd()))").stdout.strip()
        assert os.path.isdir(folder)
        deep = "import os\nfor i in range(300):\n os.mkdir('d'); os.chdir('d')"
        assert sandbox.execute(deep).ok
        assert sandbox.execute("print(1)").stdout == "1\n"
        assert sandbox.stats.unclean == 1
    assert not os.path.exists(folder)


def test_where_proc_shows_another_namespace_it_refuses() -> None:
    """Walking it, we would find strangers, and kill them for our guests."""
    program = """
    import warnings
    warnings.simplefilter("ignore")
    print(os.readlink("/proc/self") == str(os.getpid()))
    try:
        with Sandbox("process", minimum="none", workers=1, preload=()) as found:
            found.execute("1")
    except SandboxUnavailable as problem:
        print(problem)
    """
    same, *words = trainer(program, apart("--pid", "--fork")).splitlines()
    assert same == "False"
    assert "process: proc: it shows another pid namespace" in words[1]
    assert "mount -t proc proc /proc" in words[1]
