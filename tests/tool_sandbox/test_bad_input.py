"""Bad input, the same on every backend: refused before anything runs, or a `Result`; never a crash.

An image that does not exist and an engine that dies stand in test_docker.py, a machine without
namespaces in test_doctor_places.py, wrong frames of every kind in test_odd_workers.py and
test_wire.py.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from palaestra.tool_sandbox import (
    BadRequest,
    Calls,
    Case,
    Job,
    Limits,
    MiB,
    Sandbox,
    SandboxClosed,
    SandboxUnavailable,
    Script,
    Session,
    SessionDead,
    Streams,
    UnsafeSandboxWarning,
)

LIMITS = Limits(wall=60.0, memory=256 * MiB)
DOCKER = pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow])
BACKENDS = ["cell", "process", DOCKER]
pytestmark = pytest.mark.linux
OUTSIDE = [
    *("../x", "/etc/passwd", "a/../b", "a//b", "./a", ".", "..", "a/", "", "a\0b", "\ud800"),
    *("x" * 256, "x" * 5000, "a/" * 3000 + "b"),
]
ONE = (Case((1,), expected=1),)
NESTED = "[" * 100_000


def made(backend: Any) -> Sandbox:
    minimum = "none" if backend == "process" else "full"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeSandboxWarning)
        return Sandbox(backend, minimum=minimum, limits=LIMITS, workers=1, preload=("json",))


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "docker":
            patch.setenv("DOCKER_HOST", request.getfixturevalue("engine"))
        elif request.param == "cell":
            request.getfixturevalue("cells")  # skips where this machine cannot isolate
        yield request.param


@pytest.fixture(scope="module")
def sandbox(backend: str) -> Iterator[Sandbox]:
    with made(backend) as found:
        yield found


@pytest.fixture
def session(sandbox: Sandbox) -> Iterator[Session]:
    with sandbox.session() as found:
        yield found


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leaves_the_work_directory_is_refused(sandbox: Sandbox, path: str) -> None:
    before = sandbox.stats.executions
    for job in ({"files": {path: b""}}, {"fetch": [path]}):
        with pytest.raises(BadRequest, match=r"give|leave out|shorten"):
            sandbox.execute("1", **job)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadRequest):
        sandbox.session(files={path: b""})
    assert sandbox.stats.executions == before


def test_a_session_refuses_such_paths_too(session: Session) -> None:
    for path in OUTSIDE:
        with pytest.raises(BadRequest):
            session.read(path)
        with pytest.raises(BadRequest):
            session.write(path, b"")
        if path not in ("", "."):
            with pytest.raises(BadRequest):
                session.list(path)
    assert session.execute("print(1)").stdout == "1\n"


@pytest.mark.parametrize("path", ["/tmp", "/dev/null"])
def test_a_readable_path_in_a_place_that_a_cell_has_itself_is_refused(
    cells: Sandbox, path: str
) -> None:
    assert cells.isolation.level == "full"
    with (
        Sandbox("cell", readable=[path], preload=()) as sandbox,
        pytest.raises(SandboxUnavailable) as caught,
    ):
        sandbox.execute("1")
    assert f"readable= holds '{path}'; a cell has its own /tmp" in str(caught.value)
    assert "give paths outside these" in str(caught.value)


@pytest.mark.parametrize("name", ["memory", "disk"])
def test_limits_beyond_the_machine_are_refused(sandbox: Sandbox, name: str) -> None:
    beyond = Limits(**{name: 1 << 45})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    before = sandbox.stats.executions
    for use in (
        lambda: sandbox.execute("1", limits=beyond),
        lambda: sandbox.session(limits=beyond),
        lambda: sandbox.grade("f = abs", Calls("f", ONE), limits=beyond),
        lambda: list(sandbox.map([Job("1", limits=beyond)])),
    ):
        with pytest.raises(BadRequest, match="this machine has"):
            use()
    assert sandbox.stats.executions == before


@pytest.mark.parametrize("wall", [0, -1, math.nan, math.inf, 1e9, "1"])
def test_a_sessions_wall_is_checked_like_any_limit(session: Session, wall: Any) -> None:
    for call in (session.execute, session.shell):
        with pytest.raises(BadRequest, match=r"Limits\.wall"):
            call("1", wall=wall)


def deep(levels: int) -> object:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


def round_and_round() -> object:
    value: list[object] = []
    value.append(value)
    return value


class Odd(int):
    """A subclass of a plain type is none itself."""


@pytest.mark.parametrize(
    "value",
    [object(), Odd(1), abs, deep(200), deep(100_000), round_and_round(), {1: [object()]}],
    ids=["object", "subclass", "function", "deep", "deeper", "cycle", "inside"],
)
def test_a_value_that_is_no_plain_data_is_refused(sandbox: Sandbox, value: object) -> None:
    before = sandbox.stats.executions
    for case in (Case((value,)), Case(kwargs={"x": value}), Case((), expected=value)):
        with pytest.raises(BadRequest, match="no wire carries"):
            sandbox.grade("f = abs", Calls("f", (case,)))
    assert sandbox.stats.executions == before


@pytest.mark.parametrize(
    ("code", "reasons", "words"),
    [
        ("print(1)\0", {"error"}, "null byte"),
        (NESTED, {"error"}, "main.py"),
        ("(" * 100_000 + ")" * 100_000, {"error"}, "main.py"),
        ("-" * 100_000 + "1", {"error", "memory"}, "Error"),
        ("lambda:" * 100_000 + "1", {"error", "memory"}, "Error"),
        ("1" + "+1" * 100_000, {"error"}, "RecursionError"),
        ("a" + ".a" * 100_000, {"error"}, "Error"),
        ("x = '\ud800'", {"error"}, "surrogates"),
    ],
    ids=["NUL", "brackets", "pairs", "signs", "lambdas", "sums", "attributes", "surrogate"],
)
def test_source_that_is_no_program_is_an_error_of_the_guest(
    sandbox: Sandbox, session: Session, code: str, reasons: set[str], words: str
) -> None:
    result = sandbox.execute(code)
    assert result.reason in reasons
    assert words in result.stderr
    assert session.execute(code).reason in {*reasons, "error"}
    if session.alive:
        assert session.execute("print(1)").stdout == "1\n"
    assert not sandbox.grade(code, Calls("f", ONE)).passed
    assert not sandbox.grade(code, Script("assert f(1) == 1")).passed
    assert not sandbox.grade(code, Streams((("", "1"),))).passed
    assert sandbox.execute("print(42)").stdout == "42\n"
    assert sandbox.stats.malformed == sandbox.stats.lost == 0


def test_ten_megabytes_of_source_run_and_more_are_refused(
    sandbox: Sandbox, session: Session
) -> None:
    code = "#" + "x" * 10_000_000 + "\nf = abs\nprint(7)"
    assert sandbox.execute(code).stdout == "7\n"
    assert session.execute(code).stdout == "7\n"
    assert sandbox.grade(code, Calls("f", ONE)).passed
    assert sandbox.grade(code, Script("assert f(1) == 1")).passed
    for use in (
        lambda: sandbox.execute(code * 2),
        lambda: sandbox.execute("1", stdin=code * 2),
        lambda: sandbox.execute("1", files={"f": code * 2}),
        lambda: session.execute(code * 2),
        lambda: session.write("f", code * 2),
        lambda: sandbox.grade(code * 2, Calls("f", ONE)),
        lambda: sandbox.grade(code * 2, Script("assert f(1) == 1")),
    ):
        with pytest.raises(BadRequest, match="at most"):
            use()


def test_bytes_that_are_no_text_become_replacement_characters(
    sandbox: Sandbox, session: Session
) -> None:
    code = "import os; os.write(1, b'\\xff\\xfe a\\x00\\xc3'); os.write(2, b'\\x80')"
    for result in (sandbox.execute(code), session.execute(code)):
        assert result.stdout.startswith("\ufffd\ufffd a\x00\ufffd")
        assert result.stdout_bytes >= 6
        assert result.stderr == "\ufffd"
    raw = bytes(range(256))
    result = sandbox.execute(
        "import sys\nopen('o', 'wb').write(sys.stdin.buffer.read() + open('i', 'rb').read())",
        stdin=raw,
        files={"i": raw},
        fetch=["o"],
    )
    assert result.files["o"] == raw * 2


def test_a_value_that_cannot_travel_back_is_none(sandbox: Sandbox) -> None:
    for code in ("object()", "x = []\nfor _ in range(9999): x = [x]\nx", "class A(int): ...\nA()"):
        result = sandbox.execute(code, want_value=True)
        assert (result.reason, result.value) == ("ok", None)


def test_a_closed_sandbox_says_so(backend: str) -> None:
    sandbox = made(backend)
    session = sandbox.session()
    sandbox.execute("1")
    sandbox.close()
    sandbox.close()
    for use in (
        lambda: sandbox.execute("1"),
        sandbox.session,
        lambda: sandbox.isolation,
        lambda: list(sandbox.map(["1"])),
        lambda: sandbox.grade("f = abs", Calls("f", ONE)),
        lambda: list(sandbox.grade_many([("f = abs", Script("assert f(1) == 1"))])),
    ):
        with pytest.raises(SandboxClosed, match="make a new one"):
            use()
    with pytest.raises(SessionDead, match="open a new session"):
        session.execute("1")


def test_a_dead_session_says_so(session: Session) -> None:
    result = session.execute("import os; os._exit(3)")
    assert (result.reason, result.exit_code, session.alive) == ("error", 3, False)
    for use in (
        lambda: session.execute("1"),
        lambda: session.shell("true"),
        lambda: session.read("f"),
        lambda: session.write("f", b""),
        session.list,
        session.snapshot,
    ):
        with pytest.raises(SessionDead, match="open a new session"):
            use()


FULL = """
import json, sys, tempfile, warnings
from palaestra.testing.plain_user import Mounts
from palaestra.tool_sandbox import Sandbox, SandboxError
mounts = Mounts()
mounts.own()
folder = tempfile.mkdtemp()
mounts.mount("none", folder, "tmpfs", 0, "mode=755,size=4k,nr_inodes=2")
open(folder + "/all", "wb").write(b"x" * 4096)
tempfile.tempdir = folder
warnings.simplefilter("ignore")
name = sys.argv[1]
try:
    with Sandbox(name, minimum="none" if name == "process" else "full", workers=1) as sandbox:
        print(json.dumps(sandbox.execute("open('/tmp/x', 'w').write('ok'); print(7)").stdout))
except SandboxError as problem:
    print(json.dumps(str(problem)))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can fill a folder of its own")
def test_a_full_folder_for_temporary_files_stops_only_those_that_need_it(backend: str) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, backend], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    if backend == "cell":
        assert told == "7\n"
    else:
        assert "No space left" in told
        assert "TMPDIR" in told


def test_a_guest_that_fills_its_own_folder_harms_itself_only(sandbox: Sandbox) -> None:
    if sandbox.isolation.level == "none":
        pytest.skip("not tried: it would fill the machine's own")
    code = "open('/tmp/a', 'wb').write(b'x' * (8 << 20))"
    small = Limits(wall=60.0, memory=256 * MiB, disk=2 * MiB)
    result = sandbox.execute(code, limits=small)
    assert (result.reason, "No space left" in result.stderr) == ("error", True)
    assert sandbox.execute("open('/tmp/a', 'w').write('x'); print(1)", limits=small).stdout == "1\n"
