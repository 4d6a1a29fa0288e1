"""Attacks on the next execution: whatever may stay behind of this one."""

from __future__ import annotations

from dataclasses import replace

from ...tool_sandbox import Sandbox
from .attack import SMALL, Attack, Outside, program


def _case(name: str, code: str, after: str, **more: object) -> Attack:
    return program("persistence", name, code, after=after, limits=SMALL, **more)  # type: ignore[arg-type]


def _often(times: int, name: str, code: str, after: str, **more: object) -> Attack:
    once = _case(name, code, after, **more)

    def run(sandbox: Sandbox, targets: Outside) -> None:
        for _ in range(times):
            once.run(sandbox, targets)

    return replace(once, run=run)


# Looks for a word in all memory of its own; spelled so that the search is not what it finds.
_SEARCH = r"""
import re
word = re.compile(b"LEFT-BY-[T]HE-FIRST")
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
    for line in maps:
        place, rights = line.split()[:2]
        start, end = (int(part, 16) for part in place.split("-"))
        if "r" not in rights or "[v" in line or end - start > 1 << 28: continue
        try:
            memory.seek(start)
            if word.search(memory.read(end - start)): broken("its words in memory"); break
        except (OSError, ValueError, OverflowError): continue
"""

# Shares or makes a label of IPv6, which its network namespace keeps for a minute.
_LABELS = r"""
import socket, struct
def label(number, flags):
    target = socket.inet_pton(socket.AF_INET6, "fd00::1") + struct.pack("!I", 0x100 + number)
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.setsockopt(41, 32, target + struct.pack("=BBHHHI", 0, 255, flags, 60, 60, 0))
    except OSError: return False
    return True
"""
_NAMES = "import socket\nNAMES = [b'\\0held-@MARK@-%d' % k for k in range(15)]\n"

ATTACKS: tuple[Attack, ...] = (
    _case(
        "source and output of the execution before",
        "# LEFT-BY-THE-FIRST" + 40 * " LEFT-BY-THE-FIRST" + "\n"
        "for size in (1, 30, 300, 3000): print(size * 'LEFT-BY-THE-FIRST', flush=True)\n"
        "print('LEFT-BY-THE-FIRST', file=sys.stderr)\n"
        "with open('a', 'w') as file: file.write(3000 * 'LEFT-BY-THE-FIRST')\n",
        _SEARCH,
        fetch=("a",),
    ),
    _case(
        "names of files in memory",
        "for k in range(100): os.close(os.open(f'LEFT-BY-THE-FIRST-{k}', os.O_CREAT))",
        _SEARCH,
    ),
    _case(
        "flags, owners and locks of standard input",
        r"""
import fcntl, struct
fcntl.fcntl(0, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)
try: fcntl.fcntl(0, 10, 34)  # F_SETSIG
except OSError: pass
try: fcntl.fcntl(0, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 4711, 1, 0))  # F_OFD_SETLK
except OSError: pass
""",
        r"""
import fcntl
if fcntl.fcntl(0, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK): broken("flags")
if fcntl.fcntl(0, 11): broken("the signal of its owner")  # F_GETSIG
""",
    ),
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
        "labels of IPv6 flows",
        _LABELS + "for bit in (3, 5, 8): label(bit, 1)  # IPV6_FL_F_CREATE\n",
        _LABELS + "if any(label(bit, 3) for bit in (3, 5, 8)): broken('labels')\n",
        harms=True,
    ),
    _often(
        5,  # the kernel collects them in its own time
        "names of sockets that hold each other",
        _NAMES
        + r"""
import array
for name in NAMES:
    a, b = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    try:
        a.bind(name)
        b.connect(name)
        b.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [a.fileno()]))])
    except OSError: pass
    a.close(), b.close()
""",
        _NAMES
        + r"""
with open("/proc/self/net/unix") as file:
    if "held-@MARK@" in file.read(): broken("names of sockets")
for name in NAMES:
    try: socket.socket(socket.AF_UNIX).bind(name)
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE: broken("a name is taken")
""",
        only=("cell", "docker"),
    ),
    _case(
        "times of devices",
        r"""
for name in os.listdir("/dev"):
    try: os.utime(f"/dev/{name}", (4711, 4711))
    except OSError: pass
""",
        r"""
for name in os.listdir("/dev"):
    if os.path.exists(f"/dev/{name}") and int(os.stat(f"/dev/{name}").st_mtime) == 4711:
        broken(f"the time of /dev/{name}")
""",
        harms=True,
    ),
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
