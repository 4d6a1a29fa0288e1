from __future__ import annotations

import gc
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from palaestra.testing import plain_user
from palaestra.testing.victims import (
    carriers,
    children_of,
    descriptors,
    gone,
    state_of,
    until,
)
from palaestra.tool_sandbox import Limits, Sandbox, engine
from palaestra.tool_sandbox.cell import Cell
from palaestra.tool_sandbox.embedded import Embedded, Processes

pytestmark = pytest.mark.linux
PRELOAD = ("json",)
HERE = Path(__file__)


def groups() -> list[str]:
    """Resource groups of this process."""
    own = f"palaestra-{os.getpid()}-"
    found = subprocess.run(
        ["find", "/sys/fs/cgroup", "-maxdepth", "6", "-name", f"{own}*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.split()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", workers=1, preload=PRELOAD, limits=Limits(wall=60)) as sandbox:
        assert sandbox.execute("1").ok
        yield sandbox


def only_cell(sandbox: Sandbox) -> Cell:
    pool = sandbox._engine.pool  # pyright: ignore[reportPrivateUsage]
    return [*pool._idle, *pool._busy][-1]  # pyright: ignore[reportPrivateUsage]


def victim(sandbox: Sandbox, name: str) -> int:
    if name == "zygote":
        backend = sandbox._engine._backend  # pyright: ignore[reportPrivateUsage]
        assert isinstance(backend, Embedded)
        assert backend.zygote.pid is not None
        return backend.zygote.pid
    keeper = only_cell(sandbox).keeper
    assert isinstance(keeper, Processes)
    return keeper.pids[("pid 1", "launcher").index(name)]


NAMES = ("zygote", "launcher", "pid 1")


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_while_idle_is_not_noticed(sandbox: Sandbox, name: str) -> None:
    pids = [victim(sandbox, each) for each in NAMES]
    os.kill(pids[NAMES.index(name)], signal.SIGKILL)
    if name != "zygote":
        assert until(lambda: all(gone(pid) for pid in pids[1:]))
    assert sandbox.execute("print(1)").stdout == "1\n"
    with sandbox.session() as session:
        assert session.execute("1").stdout == "1\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_while_busy_loses_at_most_this_execution(
    sandbox: Sandbox, name: str, marked: str
) -> None:
    line = f"kill -STOP $$; echo done; : {marked}"  # goes on when it is told to
    code = f"import os; os.execv('/bin/sh', ['sh', '-c', {line!r}])"
    found: list[tuple[str, str]] = []

    def run() -> None:
        result = sandbox.execute(code)
        found.append((result.reason, result.stdout))

    thread = threading.Thread(target=run)
    thread.start()
    assert until(lambda: [state_of(pid)[0] for pid in carriers(marked)] == ["T"])
    (guest,) = carriers(marked)
    pid = victim(sandbox, name)
    os.kill(pid, signal.SIGKILL)
    if name == "zygote":
        assert until(lambda: gone(pid))
        os.kill(guest, signal.SIGCONT)
    thread.join()
    assert found == [("ok", "done\n") if name == "zygote" else ("lost", "")]
    assert until(lambda: not carriers(marked))
    assert sandbox.execute("print(1)").stdout == "1\n"


def test_a_stopped_pid_1_is_given_up_and_killed(sandbox: Sandbox) -> None:
    pid = victim(sandbox, "pid 1")
    os.kill(pid, signal.SIGSTOP)
    assert sandbox.execute("1", limits=Limits(wall=0.2)).reason == "lost"
    assert until(lambda: gone(pid))
    assert sandbox.execute("print(1)").ok


def test_a_session_whose_pid_1_was_stopped_is_lost_and_counted(sandbox: Sandbox) -> None:
    with sandbox.session(limits=Limits(wall=0.2)) as session:
        keeper = session._shared.cell.keeper  # pyright: ignore[reportPrivateUsage]
        assert isinstance(keeper, Processes)
        before = sandbox.stats
        os.kill(keeper.pids[0], signal.SIGSTOP)
        result = session.execute("1")
        assert (result.reason, result.exit_code) == ("lost", None)
        assert result.wall > 0.2
        counts = sandbox.stats
        assert (counts.lost, counts.executions) == (before.lost + 1, before.executions + 1)


def test_closing_leaves_nothing() -> None:
    gc.collect()
    before = descriptors(), children_of(os.getpid()), groups()
    sandbox = Sandbox("cell", workers=2, preload=PRELOAD)
    list(sandbox.map(["print(1)"] * 6))
    session = sandbox.session()
    session.execute("x = 1")
    branch, snapshot = session.fork(), session.snapshot()
    sandbox.execute("import os; os.makedirs('a/b')")
    sandbox.execute("while True: pass", limits=Limits(wall=0.1))
    pids = [victim(sandbox, name) for name in NAMES]
    sandbox.close()
    assert all(gone(pid) for pid in pids)
    del session, branch, snapshot, sandbox
    gc.collect()
    assert (descriptors(), children_of(os.getpid()), groups()) == before


def test_a_sandbox_that_nobody_holds_closes_itself() -> None:
    sandbox = Sandbox("cell", workers=1, preload=PRELOAD)
    sandbox.execute("1")
    pids = [victim(sandbox, name) for name in NAMES]
    del sandbox
    gc.collect()
    assert until(lambda: all(gone(pid) for pid in pids))


def test_a_worker_made_in_a_thread_that_ended_lives_on() -> None:
    with Sandbox("cell", workers=1, preload=PRELOAD) as sandbox:
        thread = threading.Thread(target=sandbox.execute, args=("1",))
        thread.start()
        thread.join()
        pid = victim(sandbox, "pid 1")
        assert sandbox.execute("print(1)").ok
        assert victim(sandbox, "pid 1") == pid


TRAINER = """
import os, sys, threading
from palaestra.tool_sandbox import Sandbox, Limits
sandbox = Sandbox("cell", workers=2, preload=("json",), limits=Limits(wall=60))
sandbox.execute("1")
session = sandbox.session()
session.shell("sleep 60 > /dev/null 2>&1 &")
threading.Thread(target=sandbox.execute, args=("while True: pass",), daemon=True).start()
pool = sandbox._engine.pool
while not pool._busy: pass
cells = [*pool._busy, *pool._idle, session._shared.cell]
for cell in cells: cell.wait_ready()
print(sandbox._engine._backend.zygote.pid, *(p for c in cells for p in c.keeper.pids), flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["sys.stdin.read()", "os._exit(1)", "sys.exit(0)"])
def test_a_trainer_that_ends_takes_everything_along(end: str) -> None:
    command = [sys.executable, "-c", TRAINER.format(end=end)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        pids = [int(word) for word in trainer.stdout.readline().split()]
        assert len(pids) >= 7
        if "stdin" in end:
            assert not any(gone(pid) for pid in pids)
        trainer.kill()
    assert until(lambda: all(gone(pid) for pid in pids))


def test_a_forked_trainer_opens_its_own_zygote(sandbox: Sandbox) -> None:
    pid = victim(sandbox, "zygote")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            first = sandbox.execute("print(2)").stdout
            second = victim(sandbox, "zygote") != pid
            sandbox.close()
            os.write(write, f"{first.strip()} {second}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as file:
        assert file.read() == "2 True"
    os.waitpid(child, 0)
    assert victim(sandbox, "zygote") == pid
    assert sandbox.execute("print(1)").ok


def test_a_forked_copy_does_not_hold_the_parents_cells(sandbox: Sandbox) -> None:
    pids = [victim(sandbox, name) for name in NAMES]
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    sandbox.close()
    assert all(gone(pid) for pid in pids)
    os.close(write)
    os.waitpid(child, 0)


def test_spawned_workers_have_sandboxes_of_their_own() -> None:
    run = operator.methodcaller("execute", "print(1)")
    with Sandbox("cell", workers=1, preload=PRELOAD) as sandbox:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            assert [result.stdout for result in pool.map(run, [sandbox] * 2)] == ["1\n"] * 2
        assert sandbox.stats.executions == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_executions_leave_nothing() -> None:
    gc.collect()
    before = descriptors(), children_of(os.getpid()), groups()
    codes = [
        "print(1)",
        "open('x', 'w')",
        "import os; os.makedirs('a/b')",
        "import os, time\nif not os.fork(): time.sleep(60)",
        "1 / 0",
        "import os; os.kill(os.getpid(), 9)",
        "import os\nfor _ in range(300):\n os.mkdir('d'); os.chdir('d')",
    ]
    with Sandbox("cell", workers=2, preload=PRELOAD) as sandbox:
        programs = (codes[0] if i % 50 else codes[i // 50 % 7] for i in range(20_000))
        reasons = [result.reason for result in sandbox.map(programs)]
        assert len(reasons) == 20_000
        assert set(reasons) == {"ok", "error", "killed"}
        pids = [victim(sandbox, name) for name in NAMES]
    assert all(gone(pid) for pid in pids)
    assert (descriptors(), children_of(os.getpid()), groups()) == before


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hundred_sessions_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_available", lambda: 1 << 40)  # however little is free just now
    with Sandbox("cell", workers=2, preload=PRELOAD) as sandbox:
        sessions = [sandbox.session() for _ in range(200)]
        for turn in range(20):
            for index, session in enumerate(sessions):
                assert session.execute(f"x = {index + turn}; x").stdout == f"{index + turn}\n"
    assert not any(session.alive for session in sessions)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a plain user")
@pytest.mark.parametrize("name", ["lifecycle", "survival", "cell", "session", "sandbox", "process"])
def test_it_all_holds_for_a_plain_user(name: str) -> None:
    root = HERE.parents[2]
    command = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml")]
    command += ["--rootdir", str(root), "-q", "-p", "no:cacheprovider"]
    done = plain_user.run([*command, str(HERE.with_name(f"test_{name}.py"))], timeout=800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
