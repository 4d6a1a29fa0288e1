"""Attacks on the life of a sandbox, from the side of whoever uses it."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable

from ...tool_sandbox import Limits, Sandbox, SandboxError, UnsafeSandboxWarning
from .attack import QUICK, Attack, Outside


def _must_run(sandbox: Sandbox, what: str) -> None:
    result = sandbox.execute("print(6 * 7)", limits=QUICK)
    if result.stdout != "42\n":
        raise AssertionError(f"{what}: {result}")


def _short_lived_thread(sandbox: Sandbox, targets: Outside) -> None:
    """A worker made in a thread that has ended lives on."""
    with _sibling(sandbox) as other:
        thread = threading.Thread(target=_must_run, args=(other, "in the thread"))
        thread.start()
        thread.join()
        _must_run(other, "after the thread")


def _forked_trainer(sandbox: Sandbox, targets: Outside) -> None:
    """A forked copy opens workers of its own and leaves the parent's alone."""
    _must_run(sandbox, "before the fork")
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, sandbox.execute("print(6 * 7)", limits=QUICK).stdout.encode())
            sandbox.close()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    if said != b"42\n":
        raise AssertionError(f"the forked copy said {said!r}")
    _must_run(sandbox, "after the fork")


def _closed_meanwhile(sandbox: Sandbox, targets: Outside) -> None:
    """`close` from another thread ends a running execution; what follows is refused."""
    other = _sibling(sandbox)
    other.execute("pass")
    ended = threading.Event()

    def work() -> None:
        with contextlib.suppress(SandboxError):
            other.execute("import time\ntime.sleep(60)", limits=Limits(wall=100.0))
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    other.close()
    if not ended.wait(30):
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
    with _sibling(sandbox) as other:
        for k in range(60):
            other.execute(f"open('f{k}', 'w').write('x')\n" if k % 3 else "1 / 0")
        other.execute("import os\nos.mkdir('d')\nopen('d/f', 'w').close()")
        with other.session() as session:
            session.execute("x = 1")
    after = _belongings()
    if after[0] > before[0] or after[1] != before[1]:
        raise AssertionError(f"descriptors and children were {before}, now {after}")


def _belongings() -> tuple[int, int]:
    children = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                children += len(file.read().split())
        except OSError:
            continue
    return len(os.listdir("/proc/self/fd")), children


def _sibling(sandbox: Sandbox) -> Sandbox:
    """A fresh sandbox of the same arguments: pickling carries just these."""
    make, arguments = sandbox.__reduce__()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeSandboxWarning)  # said when the first was made
        return make(*arguments)


_CASES: dict[str, Callable[[Sandbox, Outside], None]] = {
    "worker made in a thread that ended": _short_lived_thread,
    "trainer forks": _forked_trainer,
    "close from another thread": _closed_meanwhile,
    "many executions leave nothing": _nothing_left,
}
ATTACKS: tuple[Attack, ...] = tuple(Attack(name, "lifecycle", run) for name, run in _CASES.items())
