"""Attacks on the host's secrets and files."""

from __future__ import annotations

from ...tool_sandbox import Result
from .attack import SMALL, Attack, program


def _case(name: str, code: str, **more: object) -> Attack:
    return program("secrets", name, code, limits=SMALL, **more)  # type: ignore[arg-type]


def _nothing_fetched(result: Result) -> str:
    return f"came back: {sorted(result.files)}" if result.files else ""


ATTACKS: tuple[Attack, ...] = (
    _case(
        "what the host calls our process",
        "import threading\n"
        "if threading.main_thread().native_id != threading.get_native_id(): broken('a number')\n",
    ),
    _case(
        "environment",
        r"""
head = "@SECRET_HEAD@"[::-1]
for name, value in os.environ.items():
    if head in value: broken(f"variable {name}")
if head.encode() in open("/proc/self/environ", "rb").read(): broken("/proc/self/environ")
""",
    ),
    _case(
        "memory scan for secrets of the host",
        r"""
import re
pattern = re.compile(re.escape("@SECRET_HEAD@"[::-1].encode()) + b"[0-9a-f]{32}")
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
    for line in maps:
        place, rights = line.split()[:2]
        start, end = (int(part, 16) for part in place.split("-"))
        if "r" not in rights or "[v" in line or end - start > 1 << 28: continue
        try:
            memory.seek(start)
            found = pattern.search(memory.read(end - start))
        except (OSError, ValueError, OverflowError): continue
        if found: broken("a secret of the host in memory"); break
""",
    ),
    _case(
        "home",
        r"""
home = "@HOME@"
if home not in ("/", "") and os.path.realpath(home) != os.path.realpath(os.getcwd()):
    try: names = os.listdir(home)
    except OSError: names = []
    own = os.path.realpath(sys.base_prefix)
    kept = [name for name in names if not own.startswith(os.path.join(home, name))]
    if kept: broken(f"the home folder shows {kept[:3]}")
""",
    ),
    _case("shadow", "gone('/etc/shadow', lambda: open('/etc/shadow').read())"),
    _case("world-readable canary", "gone('the canary', lambda: open('@CANARY@').read())"),
    _case(
        "writes outside",
        r"""
for folder in ("/", "/etc", "/usr", "/usr/bin", "/usr/lib", "/opt", "/var", "/home", "/root",
               "/lib", "/run", "/srv", "/bin", "/dev", "/proc", "/sys", "/mnt/..", sys.prefix,
               os.path.dirname(os.__file__), os.path.dirname("@CANARY@")):
    if os.access(folder, os.W_OK): broken(f"{folder} is writable")
    try: os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR))
    except OSError: continue
    broken(f"a file in {folder}")
gone("the canary", lambda: open("@CANARY@", "r+"))
""",
    ),
    _case(
        "stdlib writes",
        r"""
for path in (os.__file__, sys.executable, errno.__spec__.origin or ""):
    if os.path.exists(path): refused(path, lambda: os.open(path, os.O_RDWR), errno.EACCES,
        errno.EPERM, errno.EROFS, errno.ETXTBSY)
""",
    ),
    _case(
        "symlink, FIFO, device and directory as results",
        r"""
os.symlink("/etc/passwd", "a"); os.mkfifo("b"); os.mkdir("c"); os.symlink("/proc/self/environ", "d")
os.symlink("/", "e")
""",
        fetch=("a", "b", "c", "d", "e/etc/passwd"),
        check=_nothing_fetched,
    ),
    _case(
        "hard link as a result",
        r"""
try: os.link("/etc/passwd", "a")
except OSError: pass
try: os.link("@CANARY@", "b")
except OSError: pass
""",
        fetch=("a", "b"),
        check=_nothing_fetched,
    ),
    _case(
        "set-uid file",
        r"""
status = open("/proc/self/status").read()
if "NoNewPrivs:\t1" not in status: broken("set-uid programs give new privileges")
""",
    ),
    _case(
        "inherited descriptors",
        r"""
for name in os.listdir("/proc/self/fd"):
    try: target = os.readlink(f"/proc/self/fd/{name}")
    except OSError: continue
    if int(name) > 2: broken(f"descriptor {name} is {target}")
""",
    ),
)
