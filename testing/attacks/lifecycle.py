"""Attacks on the life of a sandbox, from the side of whoever uses it."""

from __future__ import annotations

import contextlib
import operator
import os
import socket
import threading
from collections.abc import Callable

from ...tool_sandbox import Limits, Sandbox, SandboxError, wire
from ...tool_sandbox.cell import Request
from .. import victims
from .attack import SMALL, Attack, Outside, must_run, sibling


def _short_lived_thread(sandbox: Sandbox, targets: Outside) -> None:
    """A worker made in a thread that has ended lives on."""
    with sibling(sandbox) as other:
        thread = threading.Thread(target=must_run, args=(other, "in the thread"))
        thread.start()
        thread.join()
        must_run(other, "after the thread")


def _forked_trainer(sandbox: Sandbox, targets: Outside) -> None:
    """A forked copy opens workers of its own and leaves the parent's alone."""
    must_run(sandbox, "before the fork")
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, sandbox.execute("print(6 * 7)", limits=SMALL).stdout.encode())
            sandbox.close()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    if said != b"42\n":
        raise AssertionError(f"the forked copy said {said!r}")
    must_run(sandbox, "after the fork")


def _closed_meanwhile(sandbox: Sandbox, targets: Outside) -> None:
    """`close` from another thread ends a running execution; what follows is refused."""
    other = sibling(sandbox)
    other.execute("pass")
    ended = threading.Event()

    def work() -> None:
        with contextlib.suppress(SandboxError):
            other.execute("import time\ntime.sleep(60)", limits=Limits(wall=100.0))
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    other.close()
    if not ended.wait(60):
        raise AssertionError("an execution outlives its sandbox")
    thread.join()
    try:
        other.execute("1")
    except SandboxError:
        return
    raise AssertionError("a closed sandbox executes")


def _nothing_left(sandbox: Sandbox, targets: Outside) -> None:
    """After many executions and a close: as many descriptors and children as before."""
    before = _belongings()
    with sibling(sandbox) as other:
        for k in range(60):
            other.execute(f"open('f{k}', 'w').write('x')\n" if k % 3 else "1 / 0")
        other.execute("import os\nos.mkdir('d')\nopen('d/f', 'w').close()")
        with other.session() as session:
            session.execute("x = 1")
    if not victims.until(lambda: all(map(operator.le, _belongings(), before))):
        raise AssertionError(f"descriptors and children were {before}, now {_belongings()}")


def _belongings() -> tuple[int, int]:
    children = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                children += len(file.read().split())
        except OSError:
            continue
    return len(os.listdir("/proc/self/fd")), children


def _answers(request_id: int) -> dict[str, bytes]:
    """What no worker says to a request; each is sent, then the line hangs up."""
    sound = wire.pack_ending(wire.Ending(0, 0, b"hi", b"", 2, 0))
    result = wire.pack(wire.RESULT, request_id, sound)
    return {
        "nothing": b"",
        "noise": bytes(range(64)),
        "another magic": b"XX" + result[2:],
        "another version": result[:2] + b"\xff" + result[3:],
        "another id": wire.pack(wire.RESULT, request_id + 1, sound),
        "another kind": wire.pack(wire.READY, request_id, sound),
        "a kind that cannot be": wire.pack(255, request_id, sound),
        "half a head": result[:5],
        "half a body": result[:-1],
        "a longer body": wire.pack(wire.RESULT, request_id, sound + b"x"),
        "a huge length": result[:8] + b"\xff" * 4,
        "a cause that cannot be": wire.pack(wire.RESULT, request_id, b"\xff" + sound[1:]),
        "a file unasked": wire.pack(wire.FILE, request_id, wire.pack_piece(0, b"x")),
    }


def _malformed(sandbox: Sandbox, targets: Outside) -> None:
    """A worker that has been taken over can say what it likes: the call is lost, no more."""
    with sibling(sandbox) as other:
        for name in _answers(0):
            must_run(other, f"before {name}")
            reason = _impersonate(other, name)
            if reason != "lost":
                raise AssertionError(f"{name} gave {reason!r}; wanted 'lost'")
        must_run(other, "after all of them")


def _impersonate(sandbox: Sandbox, name: str) -> str:
    """How an execution ends whose worker answers in this way."""
    with sandbox._engine.borrow() as cell:  # pyright: ignore[reportPrivateUsage]
        ours, theirs = socket.socketpair()

        def answer() -> None:
            with theirs:
                asked = wire.read_frame(theirs)
                theirs.sendall(_answers(asked.id)[name])

        thread = threading.Thread(target=answer)
        thread.start()
        real, cell._control = cell._control, ours  # pyright: ignore[reportPrivateUsage]
        try:
            return cell.execute(Request("pass", limits=SMALL)).result.reason
        finally:
            real.close()
            thread.join()


_CASES: dict[str, Callable[[Sandbox, Outside], None]] = {
    "worker made in a thread that ended": _short_lived_thread,
    "trainer forks": _forked_trainer,
    "close from another thread": _closed_meanwhile,
    "many executions leave nothing": _nothing_left,
    "malformed frames of every kind": _malformed,
}
ATTACKS: tuple[Attack, ...] = tuple(Attack(name, "lifecycle", run) for name, run in _CASES.items())
