"""Attacks within and between sessions, and what a session promises."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

from ...tool_sandbox import Limits, MiB, Sandbox, SandboxError, Session, SessionDead
from .attack import SMALL, Attack, Outside

_LIMITS = SMALL


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
        sandbox.execute("print(6 * 7)", limits=SMALL).stdout,
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
        time.sleep(0.2)  # who was told to stop in the midst of a call to the kernel ends it first
        first = session.read("n")
        sandbox.execute("import time\ntime.sleep(0.2)", limits=SMALL)
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


_SLEEPER = r"""
import ctypes, fcntl, mmap, os, platform, signal, struct, time
libc = ctypes.CDLL(None)
intel = platform.machine() == "x86_64"
for number in (signal.SIGHUP, signal.SIGIO): signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGCONT, lambda *_: None)

def count():
    n = 0
    while True:
        n += 1
        if n % 1000 == 0:
            with open("n.new", "w") as file: file.write(str(n))
            os.rename("n.new", "n")

def end_slowly():
    held = mmap.mmap(-1, 200 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.addressof(ctypes.c_char.from_buffer(held))
    libc.madvise(ctypes.c_void_p(place), ctypes.c_size_t(len(held)), 15)  # small pages: more work
    for k in range(0, len(held), 4096): held[k] = 1
    open("held", "w").close()
    time.sleep(60)

def begun(*names):
    while not all(map(os.path.exists, names)): time.sleep(0.01)
"""
_WAKES = {
    "a timer": r"""
if not os.fork():
    event = ctypes.create_string_buffer(struct.pack("Qii", 0, 18, 0), 64)
    timer = ctypes.c_void_p()
    if not libc.timer_create(1, event, ctypes.byref(timer)):
        libc.timer_settime(timer, 0, struct.pack("qqqq", 0, 10**6, 0, 10**6), None)
    count()
begun("n")
""",
    "a file that is watched": r"""
if not os.fork():
    fd = libc.inotify_init1(0)
    libc.inotify_add_watch(fd, os.fsencode(os.getcwd()), 0xFFF)
    try: fcntl.fcntl(fd, 10, 18)
    except OSError: pass
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    count()
begun("n")
""",
    "the death of a parent": r"""
dying = os.fork()
if not dying:
    if not os.fork():
        libc.prctl(1, 18, 0, 0, 0)
        count()
    end_slowly()
begun("n", "held")
""",
    "the death of a child": r"""
if not os.fork():
    dying = libc.syscall(56 if intel else 220, 18, 0, 0, 0, 0)
    if dying == 0: end_slowly()
    with open("pid", "w") as file: file.write(str(dying))
    count()
begun("n", "pid")
dying = int(open("pid").read())
if dying > 0: begun("held")
""",
    "the death of a session's leader": r"""
dying = os.fork()
if not dying:
    os.setsid()
    if not os.fork():
        os.setpgid(0, 0)
        count()
    end_slowly()
begun("n", "held")
""",
}


def _wakes(sandbox: Sandbox, targets: Outside) -> None:
    """Nothing undoes the stop between calls: not the kernel's own signals, either."""
    for name, code in _WAKES.items():
        with sandbox.session(limits=Limits(wall=60.0)) as session:
            found = session.execute(_SLEEPER + code)
            _must((found.reason, found.stderr), ("ok", ""), f"preparing {name}")
            session.execute("if globals().get('dying', -1) > 0: os.kill(dying, 9)")
            session.read("n")  # which is what the watched file tells
            time.sleep(0.5)
            first = session.read("n")
            time.sleep(0.5)
            _must(session.read("n"), first, f"a counter between calls, after {name}")


def _fills_while_forking(sandbox: Sandbox, targets: Outside) -> None:
    """While a branch is made, its programs run, and are looked at."""
    with sandbox.session(limits=replace(_LIMITS, memory=64 * MiB)) as session:
        session.execute(
            "import os, sys, time\nflushes = []\nclass Out:\n"
            "    def write(self, text): return len(text)\n"
            "    def flush(self):\n"
            "        flushes.append(1)\n        if len(flushes) != 2: return\n"
            "        for _ in range(5):\n            if not os.fork():\n"
            "                held = b'x' * (40 << 20)\n                time.sleep(60)\n"
            "        time.sleep(2)\n        found = 0\n"
            "        for name in filter(str.isdigit, os.listdir('/proc')):\n"
            "            try: found += int(open(f'/proc/{name}/statm').read().split()[1]) >> 8\n"
            "            except OSError: pass\n"
            "        open('found', 'w').write(str(found))\nsys.stdout = Out()"
        )
        with contextlib.suppress(SandboxError):
            session.fork().close()
        found = b"0"
        with contextlib.suppress(SandboxError):
            found = session.read("found")
    if int(found) > 160:
        raise AssertionError(f"{int(found)} MiB were held while a branch was made")


def _fills_while_asked(sandbox: Sandbox, targets: Outside) -> None:
    """A question that is not read does not keep the supervisor from looking."""
    with sandbox.session(limits=replace(_LIMITS, memory=64 * MiB)) as session:
        session.execute(
            "import os, signal, time\nfor k in range(6):\n    if not os.fork():\n"
            "        open(f'r{k}', 'w').close()\n"
            "        while not os.path.exists('go'): time.sleep(0.001)\n"
            "        while not k: os.kill(os.getppid(), signal.SIGSTOP)\n"
            "        held = b'x' * (40 << 20)\n        time.sleep(60)\n"
            "while len(os.listdir('.')) < 6: time.sleep(0.01)"
        )
        session.write("go", b"")
        question = "#" + "x" * 3_000_000 + "\nimport time\ntime.sleep(50)"  # it may be read, too
        _must(session.execute(question, wall=8.0).reason, "memory", "a question not read")


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
    "waking between calls": _wakes,
    "memory while a branch is made": _fills_while_forking,
    "memory while a question waits": _fills_while_asked,
}
_FORKS = {
    "fork is independent in memory and files",
    "restore after a kill",
    "threads refuse fork",
    "files of another branch",
    "memory of another branch",
    "kill of another branch",
    "handles open at a fork",
    "memory while a branch is made",
}

_HARMS = {
    "strays of a dropped branch die",
    "kill of another branch",
    "memory while a branch is made",
    "memory while a question waits",
}

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
