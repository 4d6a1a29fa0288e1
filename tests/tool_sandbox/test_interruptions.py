"""Whoever is interrupted, by Ctrl-C or a handler of his own, loses no worker's place and no truth.

Each interruption is raised by what is called at that moment, so that it comes at exactly that step.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from palaestra.testing.victims import children_of, descriptors
from palaestra.tool_sandbox import (
    Calls,
    Case,
    Limits,
    MiB,
    Sandbox,
    Script,
    SessionDead,
    backends,
    embedded,
    pool,
    script,
    wire,
    zygote,
)
from palaestra.tool_sandbox.cell import Cell
from palaestra.tool_sandbox.guest import turns
from palaestra.tool_sandbox.keeper import Keeper
from palaestra.tool_sandbox.resources import Group
from palaestra.tool_sandbox.stats import Counters

pytestmark = pytest.mark.linux
LIMITS = Limits(wall=30.0, memory=128 * MiB)
TESTS = Script("assert f(1) == 1")
GOOD = "def f(x): return x"


class Bang(KeyboardInterrupt):
    """Ctrl-C, of these tests alone."""


class Alarm(TimeoutError):
    """What a handler of the trainer's SIGALRM raises."""


BOTH = pytest.mark.parametrize("kind", [Bang, Alarm])


def once(kind: type[BaseException], real: Callable[..., Any], *, after: bool = False) -> Any:
    """A function that is interrupted at its first call, before or after its work."""
    calls: list[object] = []

    def interrupted(*words: Any, **named: Any) -> Any:
        calls.append(None)
        if len(calls) > 1:
            return real(*words, **named)
        if after:
            real(*words, **named)
        raise kind

    return interrupted


@pytest.fixture(scope="module")
def sandbox(cells: Sandbox) -> Iterator[Sandbox]:
    """One worker: whoever loses its place stops all."""
    with Sandbox("cell", workers=1, preload=("json",), limits=LIMITS) as found:
        yield found


def sound(sandbox: Sandbox) -> bool:
    """Whether the next callers get their own answers."""
    kept = sandbox._engine.pool, sandbox._engine.judges  # pyright: ignore[reportPrivateUsage]
    assert not [cell for one in kept for cell in one._idle if cell.asked]  # pyright: ignore
    return (
        sandbox.execute("print(1)").stdout == "1\n"
        and sandbox.grade(GOOD, TESTS).passed
        and sandbox.execute("print(2)").stdout == "2\n"
    )


class Old:
    """As much of a cell as a pool looks at; it cannot go on."""

    limits = LIMITS
    alive = asked = False
    retired, fault, executions, ready = True, "unclean", 0, True

    def __init__(self) -> None:
        self.closed = False

    def wait_ready(self) -> None: ...
    def dead(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    hang_up = close


@pytest.mark.parametrize("step", ["close", "begin"])
@BOTH
def test_an_interrupt_while_a_worker_is_replaced_keeps_no_place(
    step: str, kind: type[BaseException]
) -> None:
    begun: list[Old] = []

    def begin(_: Limits) -> Cell:
        begun.append(Old())
        if step == "begin" and len(begun) == 2:
            raise kind
        return cast("Cell", begun[-1])

    ground = pool.Pool(begin, lambda _: None, LIMITS, 1, Counters())
    cell = ground.acquire(LIMITS)
    if step == "close":
        begun[0].close = once(kind, begun[0].close)  # type: ignore[method-assign]
    with pytest.raises(kind):
        ground.release(cell)
    assert ground.permit() is None
    ground.close()


class Counted:
    """A resource group of which only the removal is seen."""

    removed = 0

    def remove(self) -> None:
        self.removed += 1


@BOTH
def test_an_interrupt_while_a_worker_ends_leaves_neither_descriptor_nor_group_nor_folder(
    kind: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, root = Counted(), tmp_path / "root"
    root.mkdir()
    keeper = embedded.Processes(cast("Group", group), str(root))
    keeper.take({"pid": 1, "launcher": 1}, [os.open("/dev/null", os.O_RDONLY)])
    (fd,) = keeper._fds  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(embedded, "_ended", once(kind, lambda *_: True))
    with pytest.raises(kind):
        keeper.release()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert group.removed == 1
    assert not root.exists()


def first_of(fds: list[int], *_: float) -> list[int]:
    """One of the two sides has ended, and the other does not follow."""
    return fds[:1] if len(fds) > 1 else []


@pytest.mark.parametrize("step", ["worker.begin", "bench.begin", "readable", "hurry", "finish"])
@BOTH
def test_an_interrupted_script_leaves_no_answer_to_the_next(
    sandbox: Sandbox, step: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sound(sandbox)
    slow = "import time\ndef f(x):\n    time.sleep(0.2)\n    return x"
    with monkeypatch.context() as patch:
        if step == "worker.begin":
            patch.setattr(wire, "send_fds", once(kind, wire.send_fds, after=True))
        elif step == "bench.begin":
            begin, order = Cell.begin, iter((True, False))

            def second(cell: Cell, request: Any) -> None:
                if next(order):
                    return begin(cell, request)
                raise kind

            patch.setattr(Cell, "begin", second)
        elif step == "readable":
            patch.setattr(script, "readable", once(kind, script.readable))
        elif step == "hurry":
            patch.setattr(Cell, "hurry", once(kind, Cell.hurry))
            slow = "import os\nos._exit(0)"
            patch.setattr(script, "readable", first_of)
        else:
            patch.setattr(Cell, "finish", once(kind, Cell.finish))
        with pytest.raises(kind):
            sandbox.grade(slow, TESTS)
    assert sound(sandbox)


def test_a_handlers_time_out_within_a_word_to_a_cell_is_not_swallowed() -> None:
    class Line:
        def sendall(self, *_: object) -> None:
            raise Alarm

        def close(self) -> None: ...

    ours, theirs = socket.socketpair()
    cell: Any = Cell(ours, LIMITS, cast("Keeper", None))
    ours.close()
    theirs.close()
    cell.hurry(0.0)  # its socket is closed: `finish` says so
    cell._control = Line()
    with pytest.raises(Alarm):
        cell.hurry(0.0)


@pytest.mark.parametrize("step", ["begin", "between", "read"])
@BOTH
def test_an_interrupted_execution_raises_what_interrupted_it(
    sandbox: Sandbox, step: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sound(sandbox)
    before = sandbox.stats
    owner, name = {
        "begin": (wire, "send_fds"),
        "between": (Cell, "finish"),
        "read": (wire, "read_frame"),
    }[step]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, once(kind, getattr(owner, name), after=step == "begin"))
        with pytest.raises(kind):
            sandbox.execute("print('of the interrupted')")
    now = sandbox.stats
    assert (now.executions, now.lost) == (before.executions, before.lost)
    assert now.reasons["timeout"] == before.reasons["timeout"]
    assert sound(sandbox)


@BOTH
def test_an_interrupted_grading_blames_no_candidate(
    sandbox: Sandbox, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sound(sandbox)
    with monkeypatch.context() as patch:
        patch.setattr(wire, "read_frame", once(kind, wire.read_frame))
        with pytest.raises(kind):
            sandbox.grade(GOOD, Calls("f", (Case((1,), expected=1),)))
    assert sound(sandbox)


@BOTH
def test_an_interrupted_call_of_a_session_raises_and_ends_it(
    sandbox: Sandbox, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    with sandbox.session() as session:
        session.execute("x = 1")
        with monkeypatch.context() as patch:
            patch.setattr(turns, "read", once(kind, turns.read))
            with pytest.raises(kind):
                session.execute("x")
        with pytest.raises(SessionDead):
            session.execute("x")


@pytest.mark.parametrize("step", ["hello", "ask", "ready"])
@BOTH
def test_an_interrupted_start_raises_and_the_next_one_succeeds(
    cells: Sandbox, step: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name = {
        "hello": (zygote.Zygote, "_launch"),
        "ask": (zygote.Zygote, "_running"),
        "ready": (wire, "read_frame_fds"),
    }[step]
    with Sandbox("cell", workers=1, preload=("json",), limits=LIMITS) as cold:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, once(kind, getattr(owner, name)))
            with pytest.raises(kind):
                cold.execute("print(1)")
        assert cold.execute("print(1)").stdout == "1\n"


@BOTH
def test_an_interrupted_start_of_a_zygote_leaves_neither_process_nor_descriptor(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    before = {*children_of(os.getpid())}, descriptors()
    warm = zygote.Zygote(sys.executable, ("json",), False)
    monkeypatch.setattr(wire, "read_frame", once(kind, wire.read_frame))  # it has not said hello
    with pytest.raises(kind):
        warm.spawn({}, ())
    assert not {*children_of(os.getpid())} - before[0]
    assert not descriptors() - before[1]
    warm.close()


@BOTH
def test_an_interrupted_choice_of_a_backend_closes_what_it_had_begun(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    class Made:
        name, lacks = "cell", ""

        def begin(self, limits: Limits) -> Cell:
            raise kind

        def close(self) -> None:
            closed.append("backend")

    def candidates(_: backends.Wish) -> list[tuple[str, type[Made]]]:
        return [("cell", Made)]

    monkeypatch.setattr(backends, "candidates", candidates)
    wish = backends.Wish("cell", "full", None, (), (), None)
    with pytest.raises(kind):
        backends.choose(wish, LIMITS)
    assert closed == ["backend"]
