"""Attacks within and between sessions, and what a session promises."""

from __future__ import annotations

from collections.abc import Callable

from ...tool_sandbox import Sandbox, SandboxError
from .attack import QUICK, Attack, Outside, wall

_LIMITS = wall(2.0)


def _must(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: {found!r}; wanted {wanted!r}")


def _persists(sandbox: Sandbox, targets: Outside) -> None:
    with sandbox.session(limits=_LIMITS) as session:
        session.execute("x = 41\nopen('kept', 'w').write('here')")
        _must(session.execute("x + 1").stdout, "42\n", "state")
        _must(session.read("kept"), b"here", "file")
        session.write("given", "there")
        _must(session.execute("print(open('given').read())").stdout, "there\n", "file given")
    with sandbox.session(limits=_LIMITS) as other:
        _must(other.execute("'x' in globals()").stdout, "False\n", "state of another session")
        _must(other.list(), (), "files of another session")


def _forks(sandbox: Sandbox, targets: Outside) -> None:
    with sandbox.session(limits=_LIMITS) as session:
        session.execute("x = 1\nopen('f', 'w').write('one')")
        with session.fork() as branch:
            branch.execute("x = 2\nopen('f', 'w').write('two')\nopen('new', 'w').close()")
            _must(session.execute("x").stdout, "1\n", "memory of the stem")
            _must(session.read("f"), b"one", "file of the stem")
            _must(branch.execute("x").stdout, "2\n", "memory of the branch")
            _must(branch.read("f"), b"two", "file of the branch")
            _must([entry.path for entry in session.list()], ["f"], "files of the stem")
        _must(session.execute("x").stdout, "1\n", "memory after the branch")


def _restores(sandbox: Sandbox, targets: Outside) -> None:
    with sandbox.session(limits=_LIMITS) as session:
        session.execute("x = 1")
        point = session.snapshot()
        session.execute("x = 2\nimport os\nos.kill(os.getpid(), 9)")
        session.restore(point)
        _must(session.execute("x").stdout, "1\n", "memory after a restore")


def _interrupts(sandbox: Sandbox, targets: Outside) -> None:
    with sandbox.session(limits=_LIMITS) as session:
        session.execute("x = 1")
        result = session.execute("while True: pass", wall=0.3)
        _must(result.reason, "timeout", "reason")
        _must(session.execute("x").stdout, "1\n", "state after an interrupt")


def _forges(sandbox: Sandbox, targets: Outside) -> None:
    with sandbox.session(limits=_LIMITS) as session:
        session.execute(
            "import os, struct\n"
            "for fd in range(3, 32):\n"
            "    for kind in range(16, 24):\n"
            "        try: os.write(fd, struct.pack('<2sBBII', b'PA', 1, kind, 1, 0))\n"
            "        except OSError: break\n"
        )
    _must(
        sandbox.execute("print(6 * 7)", limits=QUICK).stdout,
        "42\n",
        "an execution after a forged frame",
    )


def _threads(sandbox: Sandbox, targets: Outside) -> None:
    with sandbox.session(limits=_LIMITS) as session:
        session.execute(
            "import threading\nstop = threading.Event()\n"
            "for _ in range(2): threading.Thread(target=stop.wait, daemon=True).start()"
        )
        try:
            session.fork()
        except SandboxError:
            pass
        else:
            raise AssertionError("a session with running threads was forked")
        session.execute("stop.set()")


def _strays(sandbox: Sandbox, targets: Outside) -> None:
    stay = (
        "import os, sys\nif not os.fork():\n    os.setsid()\n    os.execv(sys.executable, "
        f"[sys.executable, '-c', 'import time; time.sleep(60)', '{targets.mark}'])"
    )
    with sandbox.session(limits=_LIMITS) as session:
        branch = session.fork()
        branch.execute(stay)
        branch.close()
        _must(session.execute("1").stdout, "1\n", "the stem")
        if left := targets.settle():
            raise AssertionError("; ".join(left))


def _stops(sandbox: Sandbox, targets: Outside) -> None:
    """Between calls nothing runs: a counter in the background stands still."""
    with sandbox.session(limits=_LIMITS) as session:
        session.execute(
            "import os, time\n"
            "if not os.fork():\n"
            "    n = 0\n"
            "    while True:\n"
            "        n += 1\n"
            "        with open('n.new', 'w') as file: file.write(str(n))\n"
            "        os.rename('n.new', 'n')\n"
            "while not os.path.exists('n'): time.sleep(0.01)\n"
        )
        first = session.read("n")
        sandbox.execute("import time\ntime.sleep(0.2)", limits=QUICK)
        _must(session.read("n"), first, "a counter between calls")


_CASES: dict[str, Callable[[Sandbox, Outside], None]] = {
    "state persists": _persists,
    "fork is independent in memory and files": _forks,
    "restore after a kill": _restores,
    "interrupt keeps state": _interrupts,
    "forged done": _forges,
    "threads refuse fork": _threads,
    "strays of a dropped branch die": _strays,
    "stopped between calls": _stops,
}
_FORKS = {"fork is independent in memory and files", "restore after a kill", "threads refuse fork"}

ATTACKS: tuple[Attack, ...] = tuple(
    Attack(
        name,
        "sessions",
        run,
        harms=name == "strays of a dropped branch die",
        only=("cell", "docker") if name in _FORKS or "strays" in name else (),
    )
    for name, run in _CASES.items()
)
