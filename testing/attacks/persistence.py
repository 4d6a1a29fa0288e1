"""Attacks on the next execution: whatever may stay behind of this one."""

from __future__ import annotations

from .attack import Attack, program, wall


def _case(name: str, code: str, after: str, **more: object) -> Attack:
    return program("persistence", name, code, after=after, limits=wall(5.0), **more)  # type: ignore[arg-type]


ATTACKS: tuple[Attack, ...] = (
    _case(
        "files everywhere",
        r"""
import tempfile
for folder in (".", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", os.environ.get("HOME", "."),
               tempfile.gettempdir(), "/mnt", "/run", "/run/lock"):
    for name in ("@MARK@", ".@MARK@"):
        try:
            with open(os.path.join(folder, name), "w") as file: file.write("left")
        except OSError: continue
""",
        r"""
import tempfile
for folder in (".", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", os.environ.get("HOME", "."),
               tempfile.gettempdir(), "/mnt", "/run", "/run/lock"):
    for name in ("@MARK@", ".@MARK@"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            broken(f"{folder} keeps files")
            os.unlink(path)
""",
    ),
    _case(
        "patched modules and builtins",
        r"""
import builtins, json, math, random
builtins.len = lambda x: 0
builtins.marked = "@MARK@"
math.pi = 3
json.loads = os.getcwd = os.listdir = lambda *a: "@MARK@"
sys.modules["string"] = None
sys.path.insert(0, "/@MARK@")
os.environ["MARKED"] = "@MARK@"
random.random = lambda: 4
sys.setrecursionlimit(50)
""",
        r"""
import builtins, json, math, random, string
if len([1]) != 1 or hasattr(builtins, "marked"): broken("builtins")
if math.pi == 3 or json.loads("1") != 1 or os.getcwd() == "@MARK@": broken("modules")
if any("@MARK@" in path for path in sys.path) or "MARKED" in os.environ: broken("path")
if random.random() == 4 or sys.getrecursionlimit() < 100: broken("state")
""",
    ),
    _case(
        "corrupted small ints",
        r"""
import ctypes
ctypes.memmove(id(7) + 24, id(8) + 24, 4)
""",
        "if 3 + 4 != int('7') or str(3 + 4) != '7': broken('seven is eight')",
        wants=("ok", "error", "killed"),
    ),
    _case(
        "niceness, umask, affinity, working directory",
        r"""
os.nice(5)
os.umask(0o777)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.chdir("/")
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
""",
        r"""
import resource
if os.nice(0) >= 5: broken("niceness")
if os.umask(0o022) == 0o777: broken("umask")
if os.getcwd() == "/": broken("directory")
if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 10: broken("limits")
""",
    ),
    _case(
        "extended attributes and metadata of directories",
        r"""
for folder in (".", "/tmp", "/dev/shm"):
    try: os.setxattr(folder, "user.mark", b"left")
    except OSError: pass
try: os.utime(".", (1, 1)); os.chmod(".", 0o711)
except OSError: pass
""",
        r"""
for folder in (".", "/tmp", "/dev/shm"):
    try: names = os.listxattr(folder)
    except OSError: continue
    if "user.mark" in names:
        os.removexattr(folder, "user.mark")
        broken(f"an attribute of {folder}")
about = os.stat(".")
if about.st_mode & 0o777 == 0o711 or int(about.st_mtime) == 1: broken("metadata")
""",
    ),
    _case(
        "frames written to every descriptor",
        r"""
import struct
frame = struct.pack("<2sBBII", b"PA", 1, 19, 1, 4) + b"true"
for fd in range(3, 256):
    for _ in range(3):
        try: os.write(fd, frame)
        except OSError: break
os.write(1, frame); os.write(2, frame)
""",
        "print('alive')",
    ),
    _case("all descriptors closed", "os.closerange(0, 256)", "print('alive')"),
    _case(
        "a timer and a thread that go on",
        r"""
import signal, threading, time
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
""",
        r"""
import signal, threading
if threading.active_count() != 1 or signal.getitimer(signal.ITIMER_REAL)[0]: broken("a timer")
""",
    ),
)
