"""A sandbox in a trainer whose process is set up oddly, held up, short of something, or ending."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from palaestra.testing.victims import until
from palaestra.tool_sandbox import (
    Calls,
    Case,
    Limits,
    MiB,
    Sandbox,
    Script,
    lines,
    owners,
    resources,
    wire,
)
from palaestra.tool_sandbox import cell as cells_module
from palaestra.tool_sandbox.cell import Cell, Request

from .test_odd_workers import READY, Deaf

pytestmark = pytest.mark.linux
LIMITS = Limits(wall=30.0, memory=128 * MiB)
OTHER = Limits(wall=30.0, memory=130 * MiB)
CALLS = Calls("f", (Case((1,), expected=1),))
SCRIPT = Script("assert f(1) == 1")
GOOD = "def f(x): return x"
BEGINNING = """
import asyncio, os, resource, signal, threading, time
from palaestra.tool_sandbox import *
sandbox = Sandbox("cell", workers=1, preload=("json",), limits=Limits(wall=30.0))
"""


def new_sandbox() -> Sandbox:
    return Sandbox("cell", workers=1, preload=("json",), limits=LIMITS)


def trainer(program: str, within: Sequence[str] = (), **named: Any) -> str:
    """What a trainer of its own prints; `within` are words of a command that starts it."""
    text = BEGINNING + textwrap.dedent(program)
    done = subprocess.run(
        [*within, sys.executable, "-c", text], capture_output=True, text=True, timeout=250, **named
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def apart(*options: str) -> list[str]:
    """Words that start a command in namespaces of its own, for a plain user too."""
    return ["unshare", *options, *(["--user", "--map-root-user"] if os.geteuid() else [])]


class Late:
    """A clock that was far behind when it was looked at first."""

    def __init__(self) -> None:
        self.behind = 100.0

    def monotonic(self) -> float:
        now = time.monotonic() - self.behind
        self.behind = 0.0
        return now


@pytest.mark.parametrize("way", ["execute", "aexecute"])
@pytest.mark.parametrize("size", [2, 1 << 20])  # the longer one does not fit into the socket
def test_an_answer_that_came_in_time_counts_however_late_the_trainer_looks(
    way: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    cell = Cell(ours, Limits(), Deaf())
    ending = wire.pack_ending(wire.Ending(0, 0, b"x" * size, b"", size, 0))
    theirs.sendall(READY)
    cell.wait_ready()
    answer = wire.pack(wire.RESULT, 1, ending)
    worker = threading.Thread(target=theirs.sendall, args=(answer,))
    worker.start()
    assert until(lambda: cell.dead())  # nobody has asked, and there is something to read
    monkeypatch.setattr(cells_module, "time", Late())
    monkeypatch.setattr(cells_module, "_LATE", 30.0)  # seconds for each further piece,
    monkeypatch.setattr(cells_module, "GRACE", 30.0)  # and for all of them: this thread has to run
    request = Request("1", limits=Limits(wall=1.0, output=2 << 20))
    outcome = cell.execute(request) if way == "execute" else asyncio.run(cell.aexecute(request))
    assert (outcome.result.reason, len(outcome.result.stdout)) == ("ok", size)
    worker.join()
    theirs.close()
    cell.close()


def test_an_event_loop_that_wakes_for_nothing_waits_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    cell = Cell(ours, Limits(), Deaf())
    theirs.sendall(READY)
    cell.wait_ready()
    waits: list[float] = []

    async def waking(fd: int, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            theirs.sendall(wire.pack(wire.RESULT, 1, wire.pack_ending(wire.Ending(0, 0))))

    monkeypatch.setattr(cells_module, "areadable", waking)
    assert asyncio.run(cell.aexecute(Request("1"))).result.reason == "ok"
    assert len(waits) == 2
    theirs.close()
    cell.close()


def test_waiting_in_an_event_loop_reads_nothing_and_ends_in_time() -> None:
    from palaestra.tool_sandbox.waiting import areadable

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            await areadable(ours.fileno(), 0.0)
            theirs.send(b"x")
            await areadable(ours.fileno(), 30.0)
            assert ours.recv(2) == b"x"
            task = asyncio.ensure_future(areadable(ours.fileno(), 30.0))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not asyncio.get_running_loop().remove_reader(ours.fileno())

    asyncio.run(main())


@pytest.fixture
def impatient() -> Iterator[None]:
    """A default time-out of all new sockets."""
    socket.setdefaulttimeout(0.05)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("impatient", "cells")
def test_a_default_time_out_of_sockets_reaches_no_guest() -> None:
    for end in lines.new_line():
        assert os.get_blocking(end.fileno())
        assert end.gettimeout() is None
        end.close()
    slow = "import time\ndef f(x):\n    time.sleep(0.2)\n    return x"
    with new_sandbox() as sandbox:
        assert sandbox.grade(slow, SCRIPT).passed
        assert sandbox.grade(slow, CALLS).passed
        with sandbox.session() as session, session.fork() as branch:
            assert branch.execute("import time; time.sleep(0.2); 3").stdout == "3\n"


def test_no_pair_of_sockets_is_made_elsewhere() -> None:
    host = Path(lines.__file__).parent
    made = [path.name for path in host.glob("*.py") if "socketpair(" in path.read_text()]
    assert made == ["lines.py"]


@pytest.mark.usefixtures("cells")
def test_no_guest_kills_a_trainer_with_the_default_action_of_sigpipe() -> None:
    program = """
        from palaestra.testing.victims import gone, until
        from palaestra.tool_sandbox import lines, wire
        from palaestra.tool_sandbox.cell import Cell
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        near, far = lines.new_line()
        far.close()
        for fds in ((), (0,)):
            try:
                wire.send_fds(near, b"x", fds)
            except BrokenPipeError:
                print("broken")
        Cell(near, Limits(), None).hurry(0.0)
        def kill(cell):
            pid = cell.keeper.pids[0]
            os.kill(pid, signal.SIGKILL)
            until(lambda: gone(pid))
        sandbox.execute("1")
        session = sandbox.session()
        kill(session._shared.cell)
        print(session.execute("1").reason)
        for cell in sandbox._engine.pool._idle:
            kill(cell)
        print(sandbox.execute("1").reason)
        sandbox.close()
        """
    assert trainer(program) == "broken\nbroken\nlost\nok\n"


@pytest.mark.usefixtures("cells")
def test_a_guest_that_hangs_up_on_the_broker_kills_no_trainer() -> None:
    program = """
        from palaestra.tool_sandbox.network import Broker
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        broker = Broker(Fetch(allow=("https://example.invalid/",)))
        before = threading.active_count()
        fd = broker.open()
        os.write(fd, b'"https://a.b/"\\n' * 9)
        os.close(fd)
        while threading.active_count() > before:
            time.sleep(0.01)
        print("alive")
        """
    assert trainer(program) == "alive\n"


SEEN = """
import os, signal
ignored = [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN]
print(sorted(ignored), signal.pthread_sigmask(signal.SIG_BLOCK, ()), oct(os.umask(0)))
"""


@pytest.fixture
def odd_process() -> Iterator[None]:
    """Signals that the trainer blocks or ignores, and a mask that takes all rights from files."""
    ignored = (signal.SIGHUP, signal.SIGABRT, signal.SIGXCPU, signal.SIGUSR1, signal.SIGRTMIN + 1)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})
    umask = os.umask(0o777)
    yield
    os.umask(umask)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("backend", ["cell", "process"])
@pytest.mark.filterwarnings("ignore:the process backend")
@pytest.mark.usefixtures("odd_process", "cells")
def test_guests_inherit_neither_signals_nor_umask_of_the_trainer(backend: str) -> None:
    minimum: Any = "full" if backend == "cell" else "none"
    usual = sorted((signal.SIGPIPE, signal.SIGXFSZ))
    expected = f"{usual} set() 0o22\n"
    kind: Any = backend
    with Sandbox(kind, workers=1, preload=("json",), limits=LIMITS, minimum=minimum) as sandbox:
        assert sandbox.execute(SEEN).stdout == expected
        aborted = sandbox.execute("import os\nos.abort()")
        assert aborted.exit_code == -signal.SIGABRT
        with sandbox.session() as session:
            assert session.execute(SEEN).stdout == expected


@pytest.mark.usefixtures("cells")
def test_a_forked_copy_reads_counters_that_another_thread_held() -> None:
    with new_sandbox() as sandbox:
        sandbox.execute("1")
        counters = sandbox._engine.counters  # pyright: ignore[reportPrivateUsage]
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with counters._lock:  # pyright: ignore[reportPrivateUsage]
                held.set()
                go_on.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        child = os.fork()
        if not child:
            signal.alarm(50)  # it hangs
            os._exit(0 if sandbox.stats.executions == 1 else 3)
        go_on.set()
        assert os.waitpid(child, 0)[1] == 0
        holder.join()
        assert sandbox.stats.executions == 1


def test_mount_points_and_names_of_processes_may_be_any_bytes(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    name = os.fsencode(tmp_path) + b"/\xe9"
    os.mkdir(name)
    table.write_bytes(b"25 1 0:23 / " + name + b" rw - cgroup2 cgroup2 rw\n")
    text = resources._read(str(table))  # pyright: ignore[reportPrivateUsage]
    (mount,) = resources._mounts(text, "cgroup2")  # pyright: ignore[reportPrivateUsage]
    assert mount.point.is_dir()
    program = "open('/proc/self/comm', 'wb').write(b'\\xe9) T 1'); print(flush=True); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        odd.stdout.readline()
        assert owners.start_time(odd.pid).isdigit()
        assert not owners.stands_still(odd.pid)
        odd.kill()
