"""Programs of many threads and processes: all of them count, and only the first one answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from palaestra.tool_sandbox import Limits, MiB, Sandbox, Session

pytestmark = pytest.mark.linux


@pytest.fixture(scope="module", params=["cell", "process"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    backend: Any = request.param
    level = "full" if backend == "cell" else "none"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Sandbox(backend, minimum=level, workers=1, preload=(), limits=Limits(wall=30.0))
    with found:
        yield found


@pytest.fixture
def session(sandbox: Sandbox) -> Iterator[Session]:
    with sandbox.session() as found:
        yield found


def test_as_many_threads_as_the_limit_says_fit_into_the_memory(sandbox: Sandbox) -> None:
    program = """
    import threading
    room = threading.Barrier(14)
    def work():
        held = [bytearray(100) for _ in range(1000)]
        room.wait()
    threads = [threading.Thread(target=work) for _ in range(13)]
    for one in threads: one.start()
    work()
    print(len(threads))
    """
    for memory in (512, 256):
        limits = Limits(wall=30.0, memory=memory * MiB)
        result = sandbox.execute("if 1:" + program, limits=limits)
        assert result.stdout == "13\n", result


def test_children_over_the_memory_limit_end_the_execution_at_once(sandbox: Sandbox) -> None:
    program = """
    import os, time
    for _ in range(6):
        if os.fork() == 0:
            held = bytearray(60 << 20)
            time.sleep(60)
    time.sleep(60)
    """
    limits = Limits(wall=40.0, memory=200 * MiB)
    result = sandbox.execute("if 1:" + program, limits=limits)
    assert result.reason == "memory", result
    assert result.wall < 20.0, result


def test_a_child_that_a_sessions_program_makes_answers_for_itself_only(session: Session) -> None:
    session.execute("import os, sys")
    result = session.execute("if os.fork() == 0: sys.exit(3)\nprint(os.wait()[1])")
    assert (result.reason, result.stdout) == ("ok", f"{3 << 8}\n")
    program = "x = 'parent'\nif os.fork(): os.wait()\nelse: x = 'child'\nx"
    assert session.execute(program).stdout == "'child'\n'parent'\n"
    assert [session.execute("x").stdout for _ in range(6)] == ["'parent'\n"] * 6


def test_a_child_ends_as_a_program_does(session: Session) -> None:
    session.execute("import atexit, os\natexit.register(print, 'bye')")
    program = "if os.fork() == 0: raise KeyError(1)\nos.wait()[1]"
    result = session.execute(program)
    assert result.stdout == f"bye\n{1 << 8}\n"
    assert "KeyError: 1" in result.stderr


def test_a_child_of_a_fork_is_not_mistaken_for_it(sandbox: Sandbox) -> None:
    if not sandbox.isolation.layers:
        pytest.skip("the process backend cannot branch")
    with sandbox.session() as session:
        session.execute("import os; os.getpid = lambda: 1")
        with session.fork() as other:
            for one in (session, other):
                program = "if os.fork(): print(os.wait()[1])\nelse: raise SystemExit(5)"
                assert one.execute(program).stdout == f"{5 << 8}\n"
                assert one.execute("1").stdout == "1\n"
