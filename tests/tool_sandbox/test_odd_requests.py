"""Requests that are odd rather than evil: each is refused in words, or means what it says."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from palaestra.testing.victims import descriptors
from palaestra.tool_sandbox import (
    BadRequest,
    Calls,
    Case,
    Job,
    KiB,
    Limits,
    MiB,
    Result,
    Sandbox,
    Session,
)
from palaestra.tool_sandbox.requests import request_of

pytestmark = pytest.mark.linux
TESTS = Calls("f", (Case((1,), expected=1),))


@pytest.fixture
def session(cells: Sandbox) -> Iterator[Session]:
    with cells.session() as found:
        yield found


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a": b"x" * (20 * MiB)}, "at most"),
        ({f"a{i}": b"x" * 300_000 for i in range(64)}, "at most"),
        ({"a": b"x" * 2000}, r"files\['a'\] has 2000 bytes; Limits\.file_size"),
        ({"a": b"x", "a/b": b"y"}, "paths below it"),
        ({f"d{i}/a": b"x" for i in range(12)}, "inodes"),
        ({f"f{i}": b"x" for i in range(20)}, "disk"),
    ],
    ids=["size", "sum", "file_size", "both", "inodes", "disk"],
)
def test_a_session_refuses_files_that_have_no_room(
    cells: Sandbox, files: dict[str, bytes], words: str
) -> None:
    gc.collect()
    before = cells.stats
    small = Limits(file_size=1000, disk=64 * KiB, inodes=16)
    with pytest.raises(BadRequest, match=words):
        cells.session(files=files, limits=small)
    assert cells.stats.cells_started == before.cells_started
    assert cells.stats.sessions_open == before.sessions_open


def test_a_session_opens_with_as_many_files_as_it_takes(cells: Sandbox) -> None:
    tight = Limits(disk=64 * KiB, inodes=16)
    full = {f"f{i}": b"x" for i in range(14)}
    with cells.session(files=full, limits=tight) as session:
        assert len(session.list()) == 14
    with pytest.raises(BadRequest, match="need 17 inodes"):
        cells.session(files={**full, "more": b""}, limits=tight)


def test_a_session_that_does_not_open_is_not_left_open(
    cells: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    cells.execute("1")
    gc.collect()
    before = descriptors(), cells.stats.sessions_open
    monkeypatch.setattr("palaestra.tool_sandbox.session.Shared.send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cells.session()
    assert (descriptors(), cells.stats.sessions_open) == before


def test_a_command_that_is_too_long_says_so(cells: Sandbox, session: Session) -> None:
    command = "true #" + "x" * 200_000
    for result in (session.shell(command), cells.execute(command, language="shell")):
        assert result.reason == "error"
        assert "Argument list too long" in result.stderr
    assert session.shell("echo 1").stdout == "1\n"


def test_a_command_may_hold_a_lone_surrogate(session: Session) -> None:
    result = session.shell("printf '\ud800' | wc -c")
    assert (result.stdout.strip(), result.stderr) == ("3", "")


def test_a_file_may_be_called_stdin(cells: Sandbox) -> None:
    code = "print(open('stdin').read(), input())"
    assert cells.execute(code, files={"stdin": "a"}, stdin="b").stdout == "a b\n"
    with pytest.raises(BadRequest, match=r"files\['stdin'\] has"):
        request_of(Job("1", files={"stdin": b"xx"}), Limits(file_size=1))


def test_what_has_room_by_the_figures_has_room_in_the_folder(cells: Sandbox) -> None:
    tight = Limits(disk=64 * KiB, inodes=16)
    count = "import os; print(len(os.listdir()))"
    full = {f"f{i}": b"x" for i in range(16)}
    assert cells.execute(count, files=full, limits=tight).stdout == "16\n"
    with pytest.raises(BadRequest, match="need 17 inodes"):
        cells.execute(count, files=full, stdin=b"x", limits=Limits(inodes=16))
    wide = Limits(disk=64 * KiB, inodes=64)
    for files in ({f"f{i}": b"x" for i in range(17)}, {**full, "g": b"x" * 4097}):
        with pytest.raises(BadRequest, match="in pages of 4096"):
            cells.execute(count, files=files, limits=wide)


def test_files_closed_to_their_owner_branch_with_the_rest(session: Session) -> None:
    session.write("a", "kept")
    session.execute("import os\nos.chmod('a', 0)\nos.mkdir('d')\nos.chmod('d', 0)")
    branch = session.fork()
    look = "print(*(os.stat(name).st_mode & 0o777 for name in 'ad')); os.chmod('a', 0o600)"
    for one in (branch, session):
        assert one.execute(look).stdout == "0 0\n"
        assert one.read("a") == b"kept"


def test_a_mark_at_the_beginning_is_no_error(cells: Sandbox, session: Session) -> None:
    code = "\ufeffx = '\ufeff'\nprint(len(x))\nlen(x)"
    assert cells.execute(code).stdout == "1\n"
    assert cells.execute(code, want_value=True).value == 1
    assert session.execute(code).stdout == "1\n1\n"
    assert cells.grade("\ufefff = abs", TESTS).passed


def test_a_session_goes_on_where_a_program_closed_its_input(session: Session) -> None:
    for close in ("import os; os.close(0)", "os.close(0)"):
        session.execute(close)
        assert session.execute("print(input())", stdin="a\n").stdout == "a\n"
        session.execute("os.close(0)")
        assert session.execute("x = 1; print(x)", stdin="").stdout == "1\n"
        assert session.shell("cat; echo 2").stdout == "2\n"


async def listed(items: Any) -> list[Any]:
    return [item async for item in items]


async def some() -> AsyncIterator[str]:
    yield "print(1)"


ODD: list[tuple[Callable[[Sandbox], object], str]] = [
    (lambda s: s.map(None), "codes is NoneType; give a sequence of programs"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (lambda s: s.map("12"), "codes is str"),
    (lambda s: s.map({"print(1)": 1}), "codes is dict"),
    (lambda s: asyncio.run(listed(s.amap("ab"))), "codes is str"),
    (lambda s: asyncio.run(listed(s.amap(None))), "codes is NoneType"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (lambda s: list(s.map([None])), "code is NoneType"),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    (lambda s: s.grade_many(None), "pairs is NoneType"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (lambda s: list(s.grade_many(["ab"])), "pairs holds 'ab'"),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    (lambda s: list(s.grade_many([("f = abs", TESTS, 1)])), "give pairs"),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    (lambda s: list(s.grade_many([None])), "pairs holds None"),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    (lambda s: asyncio.run(listed(s.agrade_many([None]))), "pairs holds None"),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    (lambda s: asyncio.run(listed(s.agrade_many(None))), "pairs is NoneType"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (lambda s: s.execute("1", stdin=None), "got NoneType as stdin"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (lambda s: s.execute("1", files={"a": None}), r"got NoneType as files\['a'\]"),  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
]


@pytest.mark.parametrize(("use", "words"), ODD)
def test_what_is_not_what_was_asked_for_is_named(
    cells: Sandbox, use: Callable[[Sandbox], object], words: str
) -> None:
    before = cells.stats.executions
    with pytest.raises(BadRequest, match=words):
        use(cells)
    assert cells.stats.executions == before


def test_many_may_come_from_anything_that_holds_them(cells: Sandbox) -> None:
    results: list[Result] = [*cells.map(("print(1)",)), *asyncio.run(listed(cells.amap(some())))]
    assert [result.stdout for result in results] == ["1\n", "1\n"]
    reports = [*cells.grade_many(iter([["f = abs", TESTS]]))]  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    assert [report.passed for report in reports] == [True]


NEVER: list[tuple[str, dict[str, Any], str]] = [
    ("f", {"args": (x for x in [1])}, "Case.args is generator"),
    ("f", {"args": {1, 2}}, "Case.args is set; give a tuple"),
    ("f", {"args": {1: 2}}, "Case.args is dict"),
    ("f", {"raises": ""}, "Case.raises is ''; give the name of one exception"),
    ("f", {"raises": "ValueError,TypeError"}, "give the name of one exception"),
    ("for", {}, "Calls.entry is 'for', which no program can define"),
    ("A.None", {}, "no program can define"),
]


@pytest.mark.parametrize(("entry", "case", "words"), NEVER)
def test_a_test_that_nobody_could_pass_is_refused(
    cells: Sandbox, entry: str, case: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequest, match=words):
        cells.grade("f = abs", Calls(entry, (Case(**case),)))


def test_an_exception_may_be_named_with_its_module(cells: Sandbox) -> None:
    tests = Calls("f", (Case(["a"], raises="builtins.TypeError"),))  # type: ignore[arg-type]  # pyright: ignore
    assert cells.grade("f = abs", tests).passed


def test_modules_to_preload_may_come_one_by_one(cells: Sandbox) -> None:
    names = (name for name in ["json", "colorsys"])
    code = "import sys; print('colorsys' in sys.modules)"
    with Sandbox("cell", workers=1, preload=names, limits=cells.limits) as sandbox:  # type: ignore[arg-type]  # pyright: ignore
        assert sandbox.execute(code).stdout == "True\n"


def test_docker_refuses_an_interpreter_of_the_host() -> None:
    with pytest.raises(BadRequest, match="the interpreter of its image"):
        Sandbox("docker", python=os.__file__)


def test_too_many_workers_to_write_down_are_refused() -> None:
    with pytest.raises(BadRequest, match="workers is a number of 16,610 bits"):
        Sandbox("cell", workers=10**5000)


@pytest.mark.filterwarnings("ignore::palaestra.tool_sandbox.UnsafeSandboxWarning")
def test_files_that_are_larger_than_the_disk_are_the_guests_doing() -> None:
    """Holes take no room, and on `process` the disk is the machine's: no worker is lost by them."""
    code = "for name in 'abc': open(name, 'wb').truncate(12 << 20)"
    limits = Limits(disk=16 * MiB)
    with Sandbox("process", minimum="none", workers=1, limits=limits) as sandbox:
        results = [sandbox.execute(code, fetch=["a", "b", "c"]) for _ in range(3)]
        assert [result.reason for result in results] == ["ok"] * 3
        assert [sorted(result.files) for result in results] == [["a"]] * 3


def test_a_flood_is_one_however_early_its_writer_left(cells: Sandbox) -> None:
    limits = Limits(output_stop=100, memory=256 * MiB)
    with cells.session(limits=limits) as session:
        assert session.execute("print('x' * 1000)").reason == "output"
        assert session.execute("print('x' * 10)").reason == "ok"


TRACES = {
    "no newline at the end": "def f():\n    return 1 / 0\nf()",
    "an end of line that is none to Python": "a = '\u2028'\nb = '\x0c'\n1 / 0\n",
    "ends of lines of another system": "a = 1\r\nb = 2\r\n1 / 0\r\n",
    "an error of the compiler": "x = 1\nreturn 2\n",
    "an error of the parser": "x = (\n",
}


@pytest.mark.parametrize("code", TRACES.values(), ids=TRACES)
def test_tracebacks_are_those_of_a_bare_interpreter(
    cells: Sandbox, tmp_path: Path, code: str
) -> None:
    file = tmp_path / "main.py"
    file.write_bytes(code.encode())
    bare = subprocess.run([sys.executable, "-I", str(file)], capture_output=True, text=True)
    assert cells.execute(code).stderr == bare.stderr.replace(str(file), "main.py")


def test_odd_words_about_files_are_refused(cells: Sandbox) -> None:
    with cells.session() as session:
        session.write("a", b"1")
        for limit in (True, 10**5000, 0, 1.5):
            with pytest.raises(BadRequest, match="limit is"):
                session.read("a", limit=limit)  # type: ignore[arg-type]  # pyright: ignore
        with pytest.raises(BadRequest, match="got NoneType as data"):
            session.write("a", None)  # type: ignore[arg-type]  # pyright: ignore
