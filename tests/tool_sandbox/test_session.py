from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from palaestra.testing.victims import children_of, descendants_of, state_of, until
from palaestra.tool_sandbox import (
    BadRequest,
    FileProblem,
    Limits,
    MiB,
    MissingFile,
    Sandbox,
    SandboxError,
    Session,
    SessionDead,
    wire,
)
from palaestra.tool_sandbox.embedded import Processes
from palaestra.tool_sandbox.guest import turns

pytestmark = pytest.mark.linux


@pytest.fixture
def session(cells: Sandbox) -> Iterator[Session]:
    with cells.session(files={"given.txt": "here"}) as session:
        yield session


def keeper_of(session: Session) -> Processes:
    keeper = session._shared.cell.keeper  # pyright: ignore[reportPrivateUsage]
    assert isinstance(keeper, Processes)
    return keeper


def test_state_persists_between_calls(session: Session) -> None:
    session.execute("x = 40\ndef f(): return x + 2")
    assert session.execute("f()").stdout == "42\n"
    assert session.execute("import json; json.dumps([x])").stdout == "'[40]'\n"
    assert session.execute("None").stdout == ""


def test_an_exception_keeps_the_state_and_shows_its_line(session: Session) -> None:
    session.execute("x = 1")
    result = session.execute("x = 2\n1 / 0")
    assert (result.reason, result.exit_code) == ("error", 1)
    assert "1 / 0" in result.stderr
    assert session.execute("x").stdout == "2\n"


def test_exit_ends_the_call_and_not_the_session(session: Session) -> None:
    assert session.execute("x = 1; exit(3)").exit_code == 3
    assert session.execute("import sys; sys.exit('bye')").stderr == "bye\n"
    assert session.execute("x").stdout == "1\n"


def test_a_call_reads_its_own_input(session: Session) -> None:
    assert session.execute("input()", stdin="one\ntwo\n").stdout == "'one'\n"
    assert session.execute("import sys; sys.stdin.read()").stdout == "''\n"


def test_the_wall_interrupts_and_keeps_the_state(session: Session) -> None:
    session.execute("x = 1")
    result = session.execute("x = 2\nwhile True: pass", wall=1.0)
    assert result.reason == "timeout"
    assert session.alive
    assert session.execute("x").stdout == "2\n"


def test_who_swallows_the_interrupt_is_killed(session: Session) -> None:
    session.execute(
        "import time\ndef swallow():\n try: time.sleep(60)\n except BaseException: swallow()\n"
    )
    assert session.execute("swallow()", wall=1.0).reason == "timeout"
    assert not session.alive
    with pytest.raises(SessionDead, match="open a new session"):
        session.execute("1")
    with pytest.raises(SessionDead):
        session.read("given.txt")


def test_the_interpreters_end_is_a_result_and_then_dead(session: Session) -> None:
    result = session.execute("import os; os._exit(5)")
    assert (result.reason, result.exit_code) == ("error", 5)
    assert not session.alive
    with pytest.raises(SessionDead):
        session.shell("true")


def test_memory_errors_are_named(session: Session) -> None:
    result = session.execute("x = bytearray(3 << 30)")
    assert result.reason == "memory"
    assert session.execute("1").stdout == "1\n"


def test_a_shell_goes_on_where_it_ended(session: Session) -> None:
    session.shell("mkdir -p a/b; cd a/b; echo hi > f")
    result = session.shell("pwd; cat f; exit 4")
    assert (result.exit_code, result.stdout) == (4, "/mnt/data/a/b\nhi\n")
    assert session.execute("import os; os.getcwd()").stdout == "'/mnt/data/a/b'\n"


def test_a_shell_that_does_not_end_is_interrupted(session: Session) -> None:
    session.execute("x = 1")
    assert session.shell("sleep 60", wall=1.0).reason == "timeout"
    assert session.execute("x").stdout == "1\n"


def test_files_are_written_read_and_listed(session: Session) -> None:
    assert session.read("given.txt") == b"here"
    session.write("pkg/mod.py", "y = 5\n")
    assert session.execute("from pkg.mod import y; y").stdout == "5\n"
    session.write("given.txt", b"new")
    assert session.read("given.txt", limit=2) == b"ne"
    assert [(i.path, i.kind, i.size) for i in session.list()] == [
        ("given.txt", "file", 3),
        ("pkg", "directory", session.list()[1].size),
    ]
    assert {info.path for info in session.list("pkg")} >= {"pkg/mod.py"}


def test_a_missing_file_and_a_strange_one_are_told_apart(session: Session) -> None:
    with pytest.raises(MissingFile, match="nothing"):
        session.read("nothing")
    with pytest.raises(FileNotFoundError):
        session.list("nothing")
    session.shell("ln -s /etc/passwd link; mkfifo pipe; mkdir dir; ln -s /etc out")
    for path in ("link", "pipe", "dir", "out/passwd"):
        with pytest.raises(FileProblem):
            session.read(path)
    with pytest.raises(FileProblem):
        session.write("out/x", "1")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/./b", "", "x\0"])
def test_paths_outside_are_refused(session: Session, path: str) -> None:
    with pytest.raises(BadRequest):
        session.read(path)
    with pytest.raises(BadRequest):
        session.write(path, "x")


def test_a_wall_that_cannot_be_is_refused(session: Session) -> None:
    with pytest.raises(BadRequest):
        session.execute("1", wall=-1)


def test_output_is_capped_and_counted_in_calls(cells: Sandbox) -> None:
    with cells.session(limits=Limits(memory=256 * MiB, output=100)) as session:
        result = session.execute("print('x' * 1000)")
        assert (len(result.stdout), result.stdout_bytes) == (100, 1001)
        flood = session.execute("while True: print('x' * 1000)")
        assert flood.reason == "output"


def test_nobody_runs_between_calls(session: Session) -> None:
    session.shell("(while true; do echo tick >> ticks; done) > /dev/null 2>&1 &")
    session.execute("import os, time\nwhile not os.path.exists('ticks'): time.sleep(0.01)")
    first = keeper_of(session).pids[0]
    assert until(lambda: {state_of(pid)[0] for pid in descendants_of(first)} == {"T"})
    sizes: list[int] = []
    for _ in range(20):
        sizes.append(session.list()[-1].size)
        time.sleep(0.01)
    assert len(set(sizes)) == 1


def test_a_fork_is_independent_in_memory_and_files(session: Session) -> None:
    session.execute("x = 1; open('f', 'w').write('trunk')")
    other = session.fork()
    other.execute("x = 2; open('f', 'w').write('branch'); open('g', 'w')")
    assert session.execute("x, open('f').read()").stdout == "(1, 'trunk')\n"
    assert other.execute("x, open('f').read()").stdout == "(2, 'branch')\n"
    assert session.read("f") == b"trunk"
    assert other.read("f") == b"branch"
    assert [info.path for info in session.list()] == ["f", "given.txt"]
    other.close()
    assert session.execute("x").stdout == "1\n"


def test_absolute_paths_hold_in_every_branch(session: Session) -> None:
    other = session.fork()
    other.execute("open('/mnt/data/x', 'w').write('o'); open('/tmp/y', 'w').write('o')")
    probe = "import os; os.path.exists('/mnt/data/x'), os.path.exists('/tmp/y'), os.getcwd()"
    assert session.execute(probe).stdout == "(False, False, '/mnt/data')\n"
    assert other.execute(probe).stdout == "(True, True, '/mnt/data')\n"
    other.close()


def test_branches_of_branches_go_on_when_the_trunk_is_gone(session: Session) -> None:
    session.execute("x = [1]")
    second = session.fork()
    second.execute("x.append(2)")
    third = second.fork()
    second.close()
    session.close()
    third.execute("x.append(3)")
    assert third.execute("x").stdout == "[1, 2, 3]\n"
    third.close()


def test_a_snapshot_is_restored_even_after_the_end(session: Session) -> None:
    session.execute("x = 1; open('f', 'w').write('a')")
    snapshot = session.snapshot()
    session.execute("x = 2; open('f', 'w').write('b')")
    session.restore(snapshot)
    assert session.execute("x, open('f').read()").stdout == "(1, 'a')\n"
    session.execute("import os; os._exit(1)")
    session.restore(snapshot)
    assert session.execute("x, open('f').read()").stdout == "(1, 'a')\n"
    snapshot.close()
    assert not snapshot.alive


def test_a_snapshot_of_another_session_is_refused(cells: Sandbox, session: Session) -> None:
    with cells.session() as other, pytest.raises(BadRequest):
        session.restore(other.snapshot())


def test_live_threads_refuse_a_fork(session: Session) -> None:
    session.execute("import threading, time; e = threading.Event()")
    session.execute("t = threading.Thread(target=e.wait); t.start()")
    with pytest.raises(SandboxError, match="2 threads are running; join them before fork"):
        session.fork()
    session.execute("e.set(); t.join()")
    session.fork().close()


def test_strays_of_a_dropped_branch_die(session: Session) -> None:
    other = session.fork()
    other.shell("(setsid sleep 60 &) > /dev/null 2>&1")
    probe = "import os; len([p for p in os.listdir('/proc') if p.isdigit()])"
    assert int(session.execute(probe).stdout) >= 2  # it and the stray; the branch hides
    other.close()
    assert until(lambda: int(session.execute(probe).stdout) == 1)


def test_what_is_said_unasked_spoils_nothing_but_the_own_call(session: Session) -> None:
    word = wire.pack(wire.ANSWER, 1, turns.pack_word(77))
    forged = f"import os\nn = os.write(3, {word!r})"
    assert session.execute(forged).exit_code == 77
    assert session.execute("1 + 1").stdout == "2\n"


@pytest.mark.parametrize("noise", ["b'x' * 100", "b'PA' + bytes(200)", "b'\\0' * 100000"])
def test_noise_on_the_line_ends_in_a_result(session: Session, noise: str) -> None:
    assert session.execute(f"import os; os.write(3, {noise})").reason in (
        "killed",
        "timeout",
        "error",
    )


def test_a_fork_by_the_guest_itself_does_no_harm(session: Session) -> None:
    session.execute("import os\npid = os.fork()\nif not pid: os._exit(0)\n_ = os.waitpid(pid, 0)")
    assert session.execute("1").stdout == "1\n"


def test_a_session_that_nobody_holds_is_ended(cells: Sandbox) -> None:
    gc.collect()
    before = cells.stats.sessions_open
    session = cells.session()
    assert cells.stats.sessions_open == before + 1
    del session
    gc.collect()
    assert cells.stats.sessions_open == before


def test_many_sessions_answer_in_turn(cells: Sandbox) -> None:
    sessions = [cells.session() for _ in range(8)]
    for turn in range(3):
        for index, session in enumerate(sessions):
            session.execute(f"x = {index * 10 + turn}")
    assert [s.execute("x").stdout for s in sessions] == [f"{i * 10 + 2}\n" for i in range(8)]
    for session in sessions:
        session.close()
        session.close()


def test_a_cell_killed_under_a_session_is_lost_and_then_dead(cells: Sandbox) -> None:
    with cells.session() as session:
        session._shared.cell.keeper.kill()  # pyright: ignore[reportPrivateUsage]
        before = cells.stats
        assert session.execute("1").reason == "lost"
        assert not session.alive
        assert (cells.stats.lost, cells.stats.executions) == (
            before.lost + 1,
            before.executions + 1,
        )
        with pytest.raises(SessionDead):
            session.execute("1")


def test_a_question_that_is_not_read_ends_at_the_wall(cells: Sandbox) -> None:
    hold = "signal.signal(signal.SIGCONT, lambda *_: time.sleep(60))"  # who is woken reads nothing
    with cells.session() as session:
        assert session.execute("import signal, time").ok  # and from here on it stands still
        assert session.execute(hold).ok
        result = session.execute("#" + "x" * 3_000_000, wall=0.5)
        assert result.reason == "timeout"
        assert result.wall >= 0.5
        assert session._shared.cell.alive  # pyright: ignore[reportPrivateUsage]  # pid 1 saw to it
        assert not session.alive


def test_a_question_far_longer_than_the_line_is_answered(session: Session) -> None:
    assert session.execute("#" + "x" * 10_000_000 + "\n6 * 7").stdout == "42\n"


def test_who_is_woken_between_calls_is_stopped_again(cells: Sandbox) -> None:
    with cells.session() as session:
        (guest,) = children_of(keeper_of(session).pids[0])

        def woken_in_vain() -> bool:
            session.execute("1")  # who is woken long after is the doing of somebody outside
            os.kill(guest, signal.SIGCONT)
            return until(lambda: state_of(guest)[0] == "T", 1.0)

        assert any(woken_in_vain() for _ in range(30))
        result = session.execute("6 * 7")
        assert result.stdout == "42\n", result


def test_a_call_that_comes_while_somebody_is_woken_is_answered(cells: Sandbox) -> None:
    with cells.session() as session:
        (guest,) = children_of(keeper_of(session).pids[0])
        over = threading.Event()

        def wake() -> None:
            while not over.wait(0.0005):
                os.kill(guest, signal.SIGCONT)

        waker = threading.Thread(target=wake)
        waker.start()
        try:
            for k in range(60):
                result = session.execute(f"{k}")
                assert result.stdout == f"{k}\n", result
                until(lambda: state_of(guest)[0] == "R", 0.02)
        finally:
            over.set()
            waker.join()


def test_closing_twice_is_fine_and_leaves_nobody(cells: Sandbox, marked: str) -> None:
    session = cells.session()
    session.shell(f"sh -c 'sleep 60; : {marked}' > /dev/null 2>&1 &")
    pids = keeper_of(session).pids
    session.close()
    session.close()
    assert until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_a_full_folder_and_names_with_brackets_are_listed(session: Session) -> None:
    session.execute("for i in range(500): open(f'[{{{i:03d}', 'w').close()")
    assert len(session.list()) == 501
    assert session.alive


def test_a_fork_copies_no_folder_behind_a_link(session: Session) -> None:
    session.execute("import os; os.rename('/mnt/data', '/mnt/x'); os.symlink('/etc', '/mnt/data')")
    with pytest.raises(SandboxError, match="cannot be copied"):
        session.fork()
    assert session.execute("1").stdout == "1\n"


def test_a_closed_session_is_not_restored(cells: Sandbox) -> None:
    session = cells.session()
    snapshot = session.snapshot()
    session.close()
    with pytest.raises(SessionDead):
        session.restore(snapshot)
    snapshot.close()


def test_what_is_no_text_is_refused(session: Session) -> None:
    with pytest.raises(BadRequest):
        session.execute(5)  # type: ignore[arg-type]
    with pytest.raises(BadRequest):
        session.shell(None)  # type: ignore[arg-type]
    with pytest.raises(BadRequest):
        session.read("given.txt", limit="all")  # type: ignore[arg-type]
    assert session.alive
