"""A sandbox where the trainer forks, spawns, threads, is interrupted or dies."""

from __future__ import annotations

import contextlib
import operator
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from palaestra.testing.victims import children_of, descendants_of, gone, until, zygotes
from palaestra.tool_sandbox import (
    BackendFailed,
    BadRequest,
    Limits,
    MiB,
    Sandbox,
    SandboxClosed,
    SessionDead,
    engine,
)
from palaestra.tool_sandbox.cell import StartFailed
from palaestra.tool_sandbox.guest import layout, park
from palaestra.tool_sandbox.zygote import Zygote

pytestmark = pytest.mark.linux
PRELOAD = ("json",)
QUICK = Limits(wall=30.0, memory=128 * MiB)


def new_sandbox(workers: int = 1) -> Sandbox:
    return Sandbox("cell", workers=workers, preload=PRELOAD, limits=QUICK)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_process_pools_work_with_sandboxes_of_their_own(method: str) -> None:
    with new_sandbox() as sandbox:
        assert sandbox.execute("print(0)").stdout == "0\n"
        run = operator.methodcaller("execute", "print(6 * 7)")
        with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
            found = list(pool.map(run, [sandbox] * 4))
        assert [(one.reason, one.stdout, one.stderr) for one in found] == [("ok", "42\n", "")] * 4
        assert sandbox.execute("print(5)").stdout == "5\n"
        assert sandbox.stats.executions == 2


def test_a_copy_that_was_pickled_is_closed_by_itself() -> None:
    with new_sandbox() as sandbox:
        sandbox.execute("1")
        copy = pickle.loads(pickle.dumps(sandbox))
        copy.execute("1")
        copy.close()
        assert sandbox.execute("print(1)").stdout == "1\n"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_workers_of_a_data_loader_may_use_it_and_leave_nothing() -> None:
    from torch.utils.data import DataLoader, Dataset

    class Programs(Dataset[Any]):
        def __getitem__(self, index: int) -> int:
            return int(sandbox.execute(f"print({index} ** 2)").stdout)

        def __len__(self) -> int:
            return 6

    others = carrying("zygote.py")  # of fixtures, while another test waits
    with new_sandbox() as sandbox:
        sandbox.execute("1")
        loader: Any = DataLoader(Programs(), batch_size=None, num_workers=2)
        stepper: Any = iter(loader)
        found = [int(next(stepper))]
        seen = [pid for pid in carrying("zygote.py") if pid not in others]
        assert len(seen) > 3
        found += [int(one) for one in stepper]
        del stepper
        assert found == [0, 1, 4, 9, 16, 25]
        assert sandbox.execute("print(1)").stdout == "1\n"
    assert until(lambda: all(map(gone, seen))), left(seen)


def left(pids: list[int]) -> list[str]:
    """Who is not gone, for a message."""
    found: list[str] = []
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
            found.append(" ".join(file.read().split()[:20]))
    return found


def test_it_works_beside_threads_of_torch() -> None:
    import torch

    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            torch.ones(200, 200).matmul(torch.ones(200, 200))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with new_sandbox(2) as sandbox:
            results = list(sandbox.map([f"print({k})" for k in range(20)]))
            assert [result.stdout for result in results] == [f"{k}\n" for k in range(20)]
            with sandbox.session() as session, session.fork() as branch:
                assert branch.execute("2 + 2").stdout == "4\n"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


LEAVING = """
import os, sys
from palaestra.tool_sandbox import Sandbox
sandbox = Sandbox("cell", workers=1, preload=("json",))
sandbox.execute("1")
session = sandbox.session()
session.execute("x = 1")
snapshot = session.snapshot()
if not os.fork():
    {leave}
assert os.wait()[1] == 0
assert session.execute("x").stdout == "1\\n"
session.restore(snapshot)
assert sandbox.execute("print(1)").stdout == "1\\n"
assert sandbox.stats.cells_retired == {{}}, sandbox.stats.cells_retired
print("well")
"""


@pytest.mark.parametrize(
    "leave",
    [
        "os._exit(0)",
        "sys.exit(0)",  # runs what was registered for the end, weak references and all
        "sandbox.close(); session.close(); snapshot.close(); sys.exit(0)",
        "del session, snapshot, sandbox; import gc; gc.collect(); sys.exit(0)",
        "assert not session.alive; sys.exit(0)",
    ],
)
def test_a_forked_copy_that_leaves_takes_nothing_along(leave: str) -> None:
    program = LEAVING.format(leave=leave)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "well\n", done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("what", ["execute", "session"])
def test_an_interrupt_of_the_caller_does_not_reach_the_next_execution(
    what: str, marked: str
) -> None:
    code = f"import os; os.execv('/bin/sh', ['sh', '-c', 'sleep 60; : {marked}'])"

    def interrupt() -> None:
        if until(lambda: bool(carrying(marked))):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with Sandbox("cell", workers=1, preload=PRELOAD, limits=Limits(wall=90)) as sandbox:
        session = sandbox.session()
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            _ = sandbox.execute(code) if what == "execute" else session.execute(code)
        thread.join()
        assert until(lambda: not carrying(marked))
        assert sandbox.execute("print(1)").stdout == "1\n"
        assert sandbox.stats.lost == 0
        if what == "session":
            with pytest.raises(SessionDead):
                session.execute("1")


def carrying(word: str) -> list[int]:
    """Guests whose command line holds a word."""
    found: list[int] = []
    for pid in descendants_of(os.getpid()):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if word.encode() in file.read():
                found.append(pid)
    return found


def test_the_machines_memory_bounds_the_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_available", lambda: 3 * 2 * 8 * MiB)
    with new_sandbox() as sandbox:
        sessions = [sandbox.session() for _ in range(3)]
        with pytest.raises(BadRequest, match="3 sessions are open; this machine bears 3"):
            sandbox.session()
        sessions.pop().close()
        with sandbox.session() as another:
            assert another.execute("1").stdout == "1\n"


DEAD = """
from palaestra.tool_sandbox import Sandbox
sandbox = Sandbox("cell", workers=1, preload=("json",))
sandbox.execute("1")
print("ready", flush=True)
input()
"""


def groups_of(pid: int) -> list[str]:
    """Resource groups that carry a trainer's number."""
    found = subprocess.run(
        ["find", "/sys/fs/cgroup", "-maxdepth", "6", "-name", f"palaestra-{pid}-*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.split()


def test_groups_of_a_killed_trainer_go_at_the_next_start() -> None:
    command = [sys.executable, "-c", DEAD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"ready\n"
        seen = descendants_of(trainer.pid)
        trainer.kill()
    assert until(lambda: all(map(gone, seen)))

    def swept() -> bool:
        new_sandbox().isolation  # noqa: B018  (starts a worker)
        return not groups_of(trainer.pid)

    assert until(swept)


def test_a_zygote_killed_again_and_again_is_started_again_and_again() -> None:
    others = zygotes()
    with new_sandbox() as sandbox:
        for _ in range(5):
            with sandbox.session() as session:
                assert session.execute("1").stdout == "1\n"
            (zygote,) = zygotes(others)
            os.kill(zygote, signal.SIGKILL)
            assert until(lambda: gone(zygote))  # noqa: B023  (called at once)


def test_three_failed_starts_are_told_with_the_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho it cannot be >&2\n")
    broken.chmod(0o755)
    zygote = Zygote(str(broken), PRELOAD, False)
    for _ in range(3):
        with pytest.raises(StartFailed, match="it cannot be"):
            zygote.spawn({}, ())
    with pytest.raises(BackendFailed, match=r"failed 3 times in 10 s: zygote: .*it cannot be"):
        zygote.spawn({}, ())
    zygote.close()


def test_a_late_request_does_not_start_what_was_closed() -> None:
    before = children_of(os.getpid())
    with new_sandbox() as sandbox:
        sandbox.execute("1")
        backend = sandbox._engine._backend  # pyright: ignore[reportPrivateUsage]
    assert backend is not None
    with pytest.raises(SandboxClosed):
        backend.begin(QUICK)
    assert not {*children_of(os.getpid())} - {*before}


@pytest.mark.parametrize("call", ["fork", "snapshot", "execute"])
def test_a_session_whose_interpreter_was_killed_from_outside_is_dead(call: str) -> None:
    others = zygotes()
    with new_sandbox() as sandbox, sandbox.session() as session:
        (zygote,) = zygotes(others)
        launchers = children_of(zygote)
        firsts = [pid for launcher in launchers for pid in children_of(launcher)]
        guests = [guest for first in firsts for guest in children_of(first)]
        for pid in guests:
            os.kill(pid, signal.SIGKILL)
        assert until(lambda: all(map(gone, guests)))
        assert session.list() == ()  # pid 1 reads the files, and it lives
        if call == "execute":
            assert session.execute("1").reason == "killed"
        else:
            with pytest.raises(SessionDead):
                getattr(session, call)()
        with pytest.raises(SessionDead):
            session.execute("1")
        assert sandbox.execute("print(1)").stdout == "1\n"


def test_the_park_of_branches_closes_where_the_times_of_files_have_coarse_ticks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_root", str(tmp_path))

    def told_apart(_: park.Park) -> bool:
        return False  # before Linux 6.13

    monkeypatch.setattr(park.Park, "_told_apart", told_apart)
    closed = park.Park()
    assert not closed.touched()
    held = (tmp_path / ".park").stat()
    assert time.clock_gettime_ns(time.CLOCK_REALTIME) > held.st_ctime_ns
    os.close(closed._fd)  # pyright: ignore[reportPrivateUsage]
