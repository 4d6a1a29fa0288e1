"""What keeps a sandbox alive, and what it still does when the trainer's main thread has ended."""

from __future__ import annotations

import contextlib
import gc
import weakref
from typing import Any

import pytest
from palaestra.testing.victims import gone, until

from .test_trainer_states import apart, new_sandbox, trainer

pytestmark = pytest.mark.linux


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize("what", ["session", "fork", "snapshot"])
def test_a_session_keeps_a_sandbox_that_nobody_else_holds(what: str) -> None:
    session = new_sandbox().session()
    sandbox: Any = weakref.ref(session._owner)  # type: ignore[type-var]  # pyright: ignore
    held: Any = session
    if what != "session":
        held = getattr(session, what)()
        del session
        session = held if what == "fork" else sandbox().session()
        if what == "snapshot":
            session.close()
    gc.collect()
    assert sandbox() is not None
    pids = held._shared.cell.keeper.pids
    if what != "snapshot":
        assert session.execute("6 * 7").stdout == "42\n"
    del session
    held.itself = held  # only the garbage collector ends this
    del held
    gc.collect()
    assert sandbox() is None
    assert until(lambda: all(map(gone, pids)))


@pytest.mark.usefixtures("cells")
def test_a_sandbox_that_knows_its_session_is_collected_all_the_same() -> None:
    sandbox: Any = new_sandbox()
    sandbox.session_of_mine = sandbox.session()
    pids = sandbox.session_of_mine._shared.cell.keeper.pids
    seen = weakref.ref(sandbox)
    del sandbox
    gc.collect()
    assert seen() is None
    assert until(lambda: all(map(gone, pids)))


@pytest.mark.usefixtures("cells")
def test_a_closed_session_lets_its_sandbox_go() -> None:
    session = new_sandbox().session()
    sandbox: Any = weakref.ref(session._owner)  # type: ignore[type-var]  # pyright: ignore
    with contextlib.closing(session):
        assert session.alive
    assert sandbox() is None


ENDED = {
    "map": "[one.reason for one in sandbox.map(['1'] * 3)]",
    "grade_many": "list(sandbox.grade_many([('f = abs', tests)]))",
    "aexecute": "asyncio.run(sandbox.aexecute('1', limits=Limits(memory=130 * MiB)))",
    "agrade": "asyncio.run(sandbox.agrade('f = abs', tests))",
}


@pytest.mark.parametrize("what", ENDED)
@pytest.mark.usefixtures("cells")
def test_after_the_main_thread_has_ended_it_says_what_still_works(what: str) -> None:
    program = f"""
        tests = Calls("f", (Case((-1,), expected=1),))
        def go():
            threading.main_thread().join()
            while True:
                try:
                    {ENDED[what]}
                except SandboxError as problem:
                    print(type(problem).__name__, problem)
                    break
            print(sandbox.execute("print(1)").reason, sandbox.grade("f = abs", tests).passed)
        threading.Thread(target=go).start()
        """
    said, works = trainer(program).splitlines()
    assert said.startswith("SandboxError no thread can be started (")
    assert "execute, grade and session work" in said
    assert works == "ok True"


@pytest.mark.usefixtures("cells")
def test_a_trainer_that_is_its_containers_init_is_left_no_dead_children() -> None:
    program = """
    from palaestra.testing.victims import children_of, until
    def ended(session):
        keeper = session._shared.cell.keeper
        session.close()
        there = lambda: [pid for pid in keeper.pids if os.path.exists(f"/proc/{pid}")]
        until(lambda: not there())
        return there()
    print(os.getpid())
    killed, orphaned, closed = sandbox.session(), sandbox.session(), sandbox.session()
    killed._shared.cell.kill()
    print(ended(killed), ended(closed))
    zygote, = children_of(1)
    os.kill(zygote, signal.SIGKILL)
    print(ended(orphaned))
    sandbox.close()
    until(lambda: not children_of(1))
    print(children_of(1))
    """
    assert trainer(program, apart("--pid", "--fork", "--mount-proc")) == "1\n[] []\n[]\n[]\n"
