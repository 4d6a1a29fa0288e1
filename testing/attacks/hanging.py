"""Attacks on time, and crashes."""

from __future__ import annotations

from .attack import Attack, program, wall

_LATE = ("timeout", "cpu")


def _late(name: str, code: str, *, harms: bool = False, seconds: float = 0.4) -> Attack:
    return program("time", name, code, wants=_LATE, harms=harms, limits=wall(seconds))


ATTACKS: tuple[Attack, ...] = (
    _late("busy loop", "while True: pass"),
    _late(
        "many spinners", "for _ in range(3): os.fork()\nwhile True: pass", harms=True, seconds=0.6
    ),
    _late("sleep", "import time\ntime.sleep(600)"),
    _late(
        "all signals ignored and blocked",
        r"""
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: time.sleep(1)
""",
    ),
    _late("self-stop", "import signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    _late("C-level regex", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')"),
    _late("huge integers", "x = 3 ** 10_000_000\nwhile x: x *= x"),
    _late(
        "swallowing every exception",
        "import time\nwhile True:\n    try: time.sleep(1)\n    except BaseException: pass\n",
    ),
    _late("hanging atexit", "import atexit, time\natexit.register(time.sleep, 600)"),
    _late(
        "endless thread",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()",
    ),
    program(
        "time",
        "an end exactly at the limit",
        "import time\ntime.sleep(0.3)",
        wants=("ok", "timeout"),
        limits=wall(0.3),
    ),
    program(
        "crash",
        "stack overflow",
        "sys.setrecursionlimit(1 << 30)\ndef f(): return f() + 1\nf()",
        wants=("error", "killed", "memory"),
    ),
    program(
        "crash",
        "null pointer",
        "import ctypes\nctypes.string_at(0)",
        wants=("killed",),
        exits=-11,
    ),
    program(
        "crash",
        "abort without core",
        "os.abort()",
        wants=("killed",),
        exits=-6,
        fetch=("core",),
        check=lambda result: "a core file was written" if result.files else "",
    ),
    program(
        "crash",
        "raising limits",
        r"""
import resource
for name in ("RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_NOFILE"):
    kind = getattr(resource, name)
    soft, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY:
        broken(f"{name} is unlimited"); continue
    try: resource.setrlimit(kind, (hard + 1, hard + 1))
    except (ValueError, OSError): continue
    broken(f"{name} was raised")
""",
    ),
    program(
        "crash",
        "oom_score",
        r"""
def lower():
    with open("/proc/self/oom_score_adj", "w") as file: file.write("-1000")
gone("a lower oom score", lower)
""",
    ),
)
