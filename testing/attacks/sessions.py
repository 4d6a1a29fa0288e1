"""Attacks within and between sessions, and what a session promises."""

from __future__ import annotations

from collections.abc import Callable

from ...tool_sandbox import Sandbox, SandboxError, Session, SessionDead
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


def _dead(branch: Session, what: str) -> None:
    try:
        found = branch.execute("1")
    except SessionDead:
        return
    if found.ok:
        raise AssertionError(f"{what} goes on")


def _opens_folders(sandbox: Sandbox, targets: Outside) -> None:
    """A branch cannot read another's files, and changing them ends both."""
    with sandbox.session(limits=_LIMITS) as session:
        session.execute("open('f', 'w').write('kept')")
        with session.fork() as branch:
            found = session.execute(
                "import os\nfor folder, _, files in os.walk('/mnt'):\n"
                "    for name in files: print(os.path.join(folder, name))"
            )
            _must(found.stdout, "/mnt/data/f\n", "files that a branch can see")
            _must(branch.read("f"), b"kept", "file of the other")
            session.execute(
                "import os\nfor folder, _, _ in os.walk('/mnt'):\n"
                "    for name in os.listdir(folder):\n"
                "        path = os.path.join(folder, name)\n"
                "        if os.path.isdir(path): os.chmod(path, 0o700)\n"
                "for folder, _, files in os.walk('/mnt', topdown=False):\n"
                "    for name in files: open(os.path.join(folder, name), 'w').write('lie')"
            )
            _dead(branch, "a branch whose files another has changed")


def _looks_into(sandbox: Sandbox, targets: Outside) -> None:
    """The memory of a branch that stands still is closed to the others."""
    with sandbox.session(limits=_LIMITS) as session:
        session.execute("import os\nx = 1\npid = os.getpid()")
        with session.fork() as branch:
            reached = branch.execute(
                "import os\nreached = []\nfor name in os.listdir('/proc'):\n"
                "    if name.isdigit() and int(name) != os.getpid():\n"
                "        for what in ('mem', 'maps', 'environ'):\n"
                "            try: open(f'/proc/{name}/{what}', 'rb').close()\n"
                "            except OSError: pass\n"
                "            else: reached.append(what)\nreached"
            )
            _must(reached.stdout, "[]\n", "what is open of another branch")
            found = branch.execute("open(f'/proc/{pid}/mem', 'r+b')")
            _must(found.reason, "error", "opening another branch's memory")
        _must(session.execute("x").stdout, "1\n", "memory of the stem")


def _kills_branch(sandbox: Sandbox, targets: Outside) -> None:
    """A branch that another killed is dead, and nothing else is wrong."""
    with sandbox.session(limits=_LIMITS) as session:
        session.execute("x = 1\nimport os")
        with session.fork() as branch:
            session.execute(
                "for pid in range(2, 64):\n    if pid != os.getpid():\n"
                "        try: os.kill(pid, 9)\n        except OSError: pass"
            )
            _dead(branch, "a branch that was killed")
        _must(session.execute("x").stdout, "1\n", "memory of the stem")


def _shares_handles(sandbox: Sandbox, targets: Outside) -> None:
    """What was open at the fork does not lead from branch to branch."""
    with sandbox.session(limits=_LIMITS) as session:
        session.execute("import os\nf = open('f', 'w')\nr, w = os.pipe()\nd = os.open('.', 0)")
        with session.fork() as branch:
            branch.execute(
                "f.write('branch'); f.flush()\n"
                "os.close(os.open('made', os.O_CREAT | os.O_WRONLY, dir_fd=d))\n"
                "os.write(w, b'branch')"
            )
            _must(session.read("f"), b"", "a file open at the fork")
            _must([entry.path for entry in session.list()], ["f"], "files of the stem")
            found = session.execute("os.set_blocking(r, False)\nos.read(r, 9)")
            _must("BlockingIOError" in found.stderr, True, "a pipe open at the fork is empty")


_CASES: dict[str, Callable[[Sandbox, Outside], None]] = {
    "state persists": _persists,
    "fork is independent in memory and files": _forks,
    "restore after a kill": _restores,
    "interrupt keeps state": _interrupts,
    "forged done": _forges,
    "threads refuse fork": _threads,
    "strays of a dropped branch die": _strays,
    "stopped between calls": _stops,
    "files of another branch": _opens_folders,
    "memory of another branch": _looks_into,
    "kill of another branch": _kills_branch,
    "handles open at a fork": _shares_handles,
}
_FORKS = {
    "fork is independent in memory and files",
    "restore after a kill",
    "threads refuse fork",
    "files of another branch",
    "memory of another branch",
    "kill of another branch",
    "handles open at a fork",
}

_HARMS = {"strays of a dropped branch die", "kill of another branch"}

ATTACKS: tuple[Attack, ...] = tuple(
    Attack(
        name,
        "sessions",
        run,
        harms=name in _HARMS,
        only=("cell", "docker") if name in _FORKS or "strays" in name else (),
    )
    for name, run in _CASES.items()
)
