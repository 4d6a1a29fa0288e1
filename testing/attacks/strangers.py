"""Attacks on other processes, and on whatever may be left running."""

from __future__ import annotations

from .attack import SMALL, Attack, program

_STAY = "os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(30)', '@MARK@'])"


def _case(name: str, code: str, *, harms: bool = False, after: str = "") -> Attack:
    return program("processes", name, code, harms=harms, after=after, limits=SMALL)


SYSCALLS = r"""
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
INTEL = platform.machine() == "x86_64"
def call(intel, arm, *args):
    ctypes.set_errno(0)
    answer = libc.syscall(intel if INTEL else arm, *(ctypes.c_long(a) for a in args))
    if answer == -1: raise OSError(ctypes.get_errno(), "refused")
    return answer
"""

ATTACKS: tuple[Attack, ...] = (
    _case(
        "double fork",
        f"if not os.fork():\n    os.setsid()\n    if not os.fork(): {_STAY}\n    os._exit(0)\n"
        "os.wait()",
        harms=True,
    ),
    _case("orphan that holds stdout", f"if not os.fork(): {_STAY}", harms=True),
    _case(
        "clone with CLONE_PARENT",
        SYSCALLS
        + r"""
import time
try: child = call(56, 220, 0x00008000 | 17, 0, 0, 0, 0)
except OSError: child = -1
if child == 0:
    time.sleep(30)
    os._exit(0)
""",
        harms=True,
    ),
    _case(
        "kill(-1)",
        "import signal\ntry: os.kill(-1, signal.SIGKILL)\nexcept OSError: pass",
        harms=True,
        after="print('alive')",
    ),
    _case(
        "signals at parent, 1 and the trainer",
        r"""
import signal
for pid in {os.getppid(), 1, @SELF@} - {0, os.getpid()}:
    for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL, 0):
        gone(f"signal {number} at {pid}", lambda: os.kill(pid, number))
    gone(f"a pidfd of {pid}", lambda: os.pidfd_open(pid)) if pid == 1 else None
""",
        harms=True,
        after="print('alive')",
    ),
    _case(
        "renice, affinity, prlimit, scheduler at parent and 1",
        SYSCALLS
        + r"""
import resource
for pid in {os.getppid(), 1} - {0}:
    gone(f"renice {pid}", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    gone(f"affinity of {pid}", lambda: os.sched_setaffinity(pid, {0}))
    idle = os.SCHED_IDLE, os.sched_param(0)
    gone(f"scheduler of {pid}", lambda: os.sched_setscheduler(pid, *idle))
    gone(f"prlimit of {pid}", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, 8)))
gone("renice of everybody", lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19))
gone("renice of a group", lambda: os.setpriority(os.PRIO_PGRP, 0, 19))
""",
        harms=True,
        after="print('alive')",
    ),
    _case(
        "ptrace, process_vm_readv, pidfd_getfd, kcmp, process_madvise",
        SYSCALLS
        + r"""
refused("ptrace", lambda: call(101, 117, 16, 0, 0, 0))
refused("process_vm_readv", lambda: call(310, 270, 0, 8, 1, 8, 1, 0))
refused("process_vm_writev", lambda: call(311, 271, 0, 8, 1, 8, 1, 0))
refused("pidfd_getfd", lambda: call(438, 438, -1, 0, 0))
refused("pidfd_send_signal", lambda: call(424, 424, -1, 0, 0, 0))
refused("kcmp", lambda: call(312, 272, 0, 0, 99, 0, 0))
refused("process_madvise", lambda: call(440, 440, -1, 8, 1, 0, 0))
""",
    ),
    _case(
        "/proc of others",
        r"""
mine = {os.getpid()}
try: seen = {int(name) for name in os.listdir("/proc") if name.isdigit()} - mine
except OSError: seen = set()
for pid in seen | {1, os.getppid(), @SELF@} - {0}:
    for name in ("environ", "mem", "maps", "fd", "root", "cwd"):
        path = f"/proc/{pid}/{name}"
        if name in ("fd",): gone(path, lambda: os.listdir(path))
        elif name in ("root", "cwd"): gone(path, lambda: os.readlink(path))
        else: gone(path, lambda: open(path, "rb").read(1))
""",
    ),
)
