"""Attacks on memory, files, processes and descriptors."""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace

from ...tool_sandbox import Limits, MiB, Result, Sandbox
from ..victims import until
from .attack import SMALL, Attack, Outside, program, wall

_MEMORY = ("memory",)
_TIGHT = replace(SMALL, memory=64 * MiB)


def _case(name: str, code: str, **more: object) -> Attack:
    return program("resources", name, code, harms=True, **more)  # type: ignore[arg-type]


def _flooded(result: Result) -> str:
    if result.stdout_bytes + result.stderr_bytes < SMALL.output_stop:
        return "the flood was not counted"
    kept = len(result.stdout.encode()) + len(result.stderr.encode())
    return "" if kept <= 2 * SMALL.output else "more than the cap was kept"


def _leaves_inotify(sandbox: Sandbox, targets: Outside) -> None:
    """Guests of one cell cannot take what the trainer's user may open in all."""
    libc = ctypes.CDLL(None)
    with sandbox.session(limits=wall(30.0)) as session:
        session.execute(
            "import ctypes, os, time\nlibc = ctypes.CDLL(None)\n"
            "for k in range(10):\n    if not os.fork():\n"
            "        while libc.inotify_init1(0) >= 0: pass\n"
            "        open(str(k), 'w').close()\n        time.sleep(60)\n"
            "while len(os.listdir('.')) < 10: time.sleep(0.01)"
        )
        found = libc.inotify_init1(os.O_CLOEXEC)
    if found < 0:
        raise AssertionError("nothing of inotify is left to the trainer")
    os.close(found)


# Splits one lock into many, each a piece of the kernel's memory.
_LOCKS = r"""
import ctypes, fcntl, os, struct, time
fd, top = os.open("locked", os.O_CREAT | os.O_RDWR), 1 << 40
fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, top, 0))
hole = ctypes.create_string_buffer(struct.pack("hhqqi4x", fcntl.F_UNLCK, 0, 0, 1, 0))
start, call, began = ctypes.c_int64.from_buffer(hole, 8), ctypes.CDLL(None).fcntl, time.time()
while time.time() < began + 1.5:
    for _ in range(1000):
        start.value = top = top - 2
        if call(fd, fcntl.F_SETLK, hole): break
"""


def _kernels_own() -> int:
    """MiB that the kernel holds for itself."""
    with open("/proc/meminfo") as file:
        return int(file.read().partition("SUnreclaim:")[2].split()[0]) >> 10


def _splits_locks(sandbox: Sandbox, targets: Outside) -> None:
    """What a session leaves between its calls is counted, or is not there."""
    before = _kernels_own()
    with sandbox.session(limits=wall(30.0)) as session:
        session.execute(_LOCKS)
        if not until(lambda: _kernels_own() - before <= 64):  # what neighbours hold goes away
            raise AssertionError(f"{_kernels_own() - before} MiB of locks")


ATTACKS: tuple[Attack, ...] = (
    _case(
        "fork bomb",
        "while True:\n    try: os.fork()\n    except OSError: pass\n",
        wants=("timeout", "memory", "killed", "cpu"),
        limits=wall(1.0),
    ),
    _case(
        "program bomb",
        "b() { b | b & }; b; sleep 100",
        language="shell",
        wants=("timeout", "memory", "killed", "cpu", "error", "ok"),
        limits=wall(1.0),
    ),
    _case(
        "thread bomb",
        r"""
import threading, time
count = 0
try:
    for _ in range(10_000):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        count += 1
except (RuntimeError, MemoryError):
    pass
if count > 40: broken(f"{count} threads")
os._exit(0)
""",
    ),
    _case(
        "private memory",
        "held = []\nwhile True: held.append(bytearray(1 << 20))\n",
        wants=_MEMORY,
        limits=_TIGHT,
    ),
    _case(
        "memory of many processes",
        r"""
import time
for _ in range(6):
    if not os.fork():
        held = bytearray(32 << 20)
        for k in range(0, len(held), 4096): held[k] = 1
        time.sleep(50)
os.wait()  # the kernel may choose one of them
""",
        wants=_MEMORY,
        limits=_TIGHT,
    ),
    _case(
        "shared anonymous memory",
        r"""
import mmap, time
held = []
for _ in range(64):
    try: area = mmap.mmap(-1, 8 << 20)
    except (OSError, MemoryError): raise MemoryError
    for k in range(0, 8 << 20, 4096): area[k] = 1
    held.append(area)
time.sleep(50)
""",
        wants=_MEMORY,
        limits=_TIGHT,
    ),
    _case(
        "shared memory of which one page stays mapped",
        r"""
import ctypes, mmap, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
size, total = 32 << 20, 0
for _ in range(8):
    area = libc.mmap(None, ctypes.c_size_t(size), 3, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, -1, 0)
    if area in (None, ctypes.c_void_p(-1).value): break
    ctypes.memset(area, 1, size)
    libc.munmap(ctypes.c_void_p(area + 4096), ctypes.c_size_t(size - 4096))
    total += size
    time.sleep(0.05)
if total > 100 << 20: broken(f"{total} bytes that nobody sees")
""",
        wants=("ok", "memory"),
        limits=_TIGHT,
    ),
    _case(
        "memory of processes whose first thread has ended",
        r"""
import ctypes, platform, threading, time
leave = 60 if platform.machine() == "x86_64" else 93
def hold():
    time.sleep(0.05)
    held = b"x" * (32 << 20)
    time.sleep(50)
    os._exit(len(held) & 1)
for _ in range(6):
    if not os.fork():
        threading.Thread(target=hold).start()
        ctypes.CDLL(None).syscall(leave, 0)
os.wait()
""",
        wants=_MEMORY,
        limits=_TIGHT,
    ),
    _case(
        "huge pages held by pipes",
        r"""
import ctypes, mmap, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
size, total, held = 2 << 20, 0, []
private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
for _ in range(80):
    if not total % (16 << 20):
        held.append(os.pipe())
        time.sleep(0.03)
    area = libc.mmap(None, ctypes.c_size_t(2 * size), 3, private, -1, 0)
    if area in (None, ctypes.c_void_p(-1).value): break
    place = (area + size - 1) // size * size
    libc.madvise(ctypes.c_void_p(place), ctypes.c_size_t(size), 14)
    ctypes.memset(place, 1, size)
    vector = Vector(place, 4096)
    if libc.vmsplice(held[-1][1], ctypes.byref(vector), ctypes.c_ulong(1), 2) <= 0: break
    libc.munmap(ctypes.c_void_p(area), ctypes.c_size_t(2 * size))
    total += size
if total > 100 << 20: broken(f"{total} bytes that nobody sees")
""",
        wants=("ok", "memory"),
        limits=_TIGHT,
    ),
    program(
        "resources",
        "programs started by one that holds half of the memory",
        r"""
import subprocess
held = b"x" * (40 << 20)
for _ in range(60): subprocess.run(["/bin/true" if os.path.exists("/bin/true") else "true"])
print(len(held))
""",
        says="41943040",
        limits=_TIGHT,
    ),
    _case(
        "memfd",
        r"""
try: fd = os.memfd_create("x")
except OSError: print("refused"); raise SystemExit
total = 0
try:
    for _ in range(256): total += os.write(fd, bytes(1 << 20))
except OSError: pass
if total > 100 << 20: broken(f"{total} bytes in a memfd")
""",
        wants=("ok", "memory"),
        limits=_TIGHT,
    ),
    _case(
        "mappings by the thousand, so that every look is slow",
        r"""
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
pages = 65_000
area = libc.mmap(None, ctypes.c_size_t(pages * 4096), 3, 0x4022, -1, 0)
for k in range(0, pages, 2):
    if libc.mprotect(ctypes.c_void_p(area + k * 4096), ctypes.c_size_t(4096), 1): break
for k in range(1, pages, 2): ctypes.memset(area + k * 4096, 1, 1)
for _ in range(15):
    try:
        if not os.fork(): break
    except OSError: break
while True: pass
""",
        wants=("timeout", "memory", "cpu"),
        limits=Limits(wall=5.0),
    ),
    Attack("inotify of the whole user", "resources", _leaves_inotify, harms=True),
    Attack("a lock of which bytes are given back", "resources", _splits_locks, harms=True),
    _case(
        "full pipes",
        r"""
import fcntl
held, total = [], 0
try:
    while True:
        read, write = os.pipe()
        held += [read, write]
        os.set_blocking(write, False)
        try: fcntl.fcntl(write, 1031, 1 << 20)
        except OSError: pass
        try:
            while True: total += os.write(write, bytes(65536))
        except BlockingIOError: pass
except OSError: pass
if total > 64 << 20: broken(f"{total} bytes in pipes")
""",
        wants=("ok", "memory"),
        limits=_TIGHT,
    ),
    _case(
        "decompression bomb",
        r"""
import zlib
packer = zlib.compressobj(9)
small = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
zlib.decompress(small)
""",
        wants=_MEMORY,
        limits=_TIGHT,
    ),
    _case("endless device", "open('/dev/zero', 'rb').read()", wants=_MEMORY, limits=_TIGHT),
    _case(
        "shm exhaustion",
        r"""
total = 0
try:
    for n in range(64):
        with open(f"/dev/shm/{n}", "wb", buffering=0) as file:
            for _ in range(4): total += file.write(bytes(1 << 20))
except OSError: pass
if total > 10 << 20: broken(f"{total} bytes in /dev/shm")
""",
        wants=("ok", "memory"),
    ),
    _case(
        "disk exhaustion",
        r"""
total = 0
try:
    for n in range(64):
        with open(str(n), "wb", buffering=0) as file:
            for _ in range(4): total += file.write(bytes(1 << 20))
except OSError: pass
if total > 10 << 20: broken(f"{total} bytes in files")
""",
        wants=("ok", "memory"),
        after="if os.listdir('.'): broken('files are left')",
    ),
    _case(
        "inode exhaustion",
        r"""
count = 0
try:
    while count < 100_000:
        os.close(os.open(f"f{count}", os.O_CREAT | os.O_WRONLY)); count += 1
except OSError: pass
if count > 300: broken(f"{count} files")
""",
    ),
    _case(
        "very deep directories",
        r"""
depth = 0
try:
    while depth < 5000:
        os.mkdir("d"); os.chdir("d"); depth += 1
except OSError: pass
print(depth)
""",
        after="if os.listdir('.'): broken('directories are left')",
    ),
    program(
        "resources",
        "descriptors",
        r"""
held = []
try:
    while len(held) < 100_000: held.append(os.open("/dev/null", os.O_RDONLY))
except OSError as problem:
    if problem.errno != errno.EMFILE: broken(str(problem))
if len(held) > 64: broken(f"{len(held)} descriptors")
""",
    ),
    program(
        "resources",
        "sparse file",
        r"""
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open("sparse", "wb") as file:
    refused("a file of 1 TB", lambda: os.truncate(file.fileno(), 1 << 40), errno.EFBIG)
""",
    ),
    program(
        "resources",
        "inotify",
        r"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
count = 0
while count < 100_000 and libc.inotify_init1(0) >= 0: count += 1
if count > 64: broken(f"{count} inotify instances")
""",
    ),
    program(
        "resources",
        "pending signals and timers",
        r"""
import resource
if resource.getrlimit(resource.RLIMIT_SIGPENDING)[1] not in range(0, 257): broken("signals")
if resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1] != 0: broken("message queues")
if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0: broken("core files")
""",
    ),
    program(
        "resources",
        "zombies",
        "for _ in range(8):\n    if not os.fork(): os._exit(0)\n",
    ),
    _case(
        "stdout flood",
        "while True: os.write(1, bytes(65536))",
        wants=("output",),
        check=_flooded,
    ),
    _case(
        "stderr flood",
        "while True: os.write(2, bytes(65536))",
        wants=("output",),
        check=_flooded,
    ),
    _case(
        "flood of many processes",
        "for _ in range(3): os.fork()\nwhile True: os.write(1, bytes(65536))",
        wants=("output",),
        check=_flooded,
    ),
)
