"""What a trainer makes of a worker that says something odd, nothing, or something too late."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from palaestra.tool_sandbox import BackendFailed, Limits, Sandbox, owners, wire
from palaestra.tool_sandbox import cell as cells_module
from palaestra.tool_sandbox.cell import Cell, Request, StartFailed
from palaestra.tool_sandbox.guest import collect, layout, trees
from palaestra.tool_sandbox.outcome import Outcome

pytestmark = pytest.mark.linux


class Deaf:
    """A keeper of nothing."""

    def take(self, data: object, fds: object) -> None: ...
    def settle(self) -> None: ...
    def oom_kills(self) -> int:
        return 0

    def stands_still(self) -> bool:
        return False

    def kill(self) -> None: ...
    def release(self) -> None: ...
    def forget(self) -> None: ...


READY = wire.pack(wire.READY, 0, wire.pack_json({"layers": ["x"], "missing": [], "level": "full"}))
SOUND = wire.pack_ending(wire.Ending(0, 0, b"hi", b"", 2, 0))
BROKEN = {
    "nothing": b"",
    "noise": os.urandom(64),
    "half a head": b"PA\x01",
    "wrong id": wire.pack(wire.RESULT, 77, SOUND),
    "wrong kind": wire.pack(wire.READY, 1, SOUND),
    "short body": wire.pack(wire.RESULT, 1, SOUND)[:-1],
    "long body": wire.pack(wire.RESULT, 1, SOUND + b"x"),
    "huge length": b"PA\x01\x13\x01\0\0\0\xff\xff\xff\xff",
    "a file unasked": wire.pack(wire.FILE, 1, wire.pack_piece(0, b"x")),
    "rows unasked": wire.pack(wire.RESULT, 1, wire.pack_ending(wire.Ending(0, 0, rows=b"x"))),
    "a status that cannot be": wire.pack(wire.RESULT, 1, wire.pack_ending(wire.Ending(0, 999))),
    "a cause that cannot be": wire.pack(wire.RESULT, 1, b"\xff" + SOUND[1:]),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_whatever_a_worker_says_it_never_raises(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    cell = Cell(ours, Limits(), Deaf())

    def worker() -> None:
        with theirs:
            theirs.sendall(READY)
            wire.read_frame(theirs)
            theirs.sendall(answer)

    thread = threading.Thread(target=worker)
    thread.start()
    result = cell.execute(Request("1", limits=Limits(wall=60.0))).result
    thread.join()
    assert result.reason == "lost"
    assert result.exit_code is None
    assert not cell.alive
    cell.close()


class Keeping(Deaf):
    """A keeper that knows the processes of its worker."""

    def __init__(self, *pids: int) -> None:
        self.pids = pids

    def stands_still(self) -> bool:
        return any(map(owners.stands_still, self.pids))


@pytest.fixture
def stopped() -> Iterator[int]:
    """A process that somebody has stopped."""
    process = subprocess.Popen(["sleep", "60"])
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize("way", ["execute", "aexecute", "call"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_worker_that_lives_and_is_late_was_kept_busy_by_its_guest(
    way: str, alone: bool, stopped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells_module, "GRACE", 0.05)
    ours, theirs = socket.socketpair()
    cell = Cell(ours, Limits(), Keeping(os.getpid(), *(() if alone else (stopped,))))
    request = Request("1", limits=Limits(wall=0.01))
    with theirs:
        theirs.sendall(READY)
        cell.wait_ready()
        if way == "call":
            with pytest.raises(ConnectionError, match="timeout" if alone else "lost"):
                cell.call(wire.CALL, b"", wall=0.01)
        else:
            outcome = cell.execute(request) if way == "execute" else run_async(cell, request)
            assert outcome.result.reason == ("timeout" if alone else "lost")
            assert outcome.result.exit_code is None
    assert not cell.alive
    assert cell.fault == ("timeout" if alone else "lost")
    cell.close()


def run_async(cell: Cell, request: Request) -> Outcome:
    return asyncio.run(cell.aexecute(request))


def test_a_look_at_memory_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def resident(self: collect.Memory, pid: str) -> int:
        looked.append(pid)
        return 1

    monkeypatch.setattr(layout, "jailed", lambda: False)
    monkeypatch.setattr(collect.Memory, "_one", resident)
    monkeypatch.setattr(trees.Proc, "tree", lambda self, root: [1, 2, 3, 4])  # pyright: ignore
    memory = collect.Memory(trees.Proc(-1), limit=2)
    assert memory.over()
    assert looked == ["2", "3", "4"] * 4  # a burst must last to count
    looked.clear()
    memory.spare = 1
    assert not memory.over()
    memory.spare, memory.until = 0, 0.0
    looked.clear()
    assert not memory.over()
    assert looked == []


def test_a_sound_answer_is_taken() -> None:
    ours, theirs = socket.socketpair()
    cell = Cell(ours, Limits(), Deaf())
    theirs.sendall(READY + wire.pack(wire.RESULT, 1, SOUND))
    assert cell.execute(Request("1")).result.stdout == "hi"
    cell.close()
    theirs.close()


def test_a_worker_that_cannot_start_says_which_step(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    cell = Cell(ours, Limits(), Deaf())
    report = {"step": "proc", "code": 1, "text": "Operation not permitted"}
    theirs.sendall(wire.pack(wire.FAILED, 0, wire.pack_json(report)))
    with theirs, pytest.raises(StartFailed, match="proc: Operation not permitted") as caught:
        cell.wait_ready()
    assert (caught.value.step, caught.value.code) == ("proc", 1)
    cell.close()


def test_a_worker_weaker_than_the_first_is_refused() -> None:
    with Sandbox("cell", workers=1) as sandbox:
        seen = sandbox.isolation
        engine = sandbox._engine  # pyright: ignore[reportPrivateUsage]
        engine._isolation = replace(seen, layers=(*seen.layers, "one more"))  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(BackendFailed, match="one more"):
            sandbox.execute("print(1)")
        with pytest.raises(BackendFailed, match="one more"):
            sandbox.session()
