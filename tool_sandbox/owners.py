"""Whose is what: labels and names that tell a dead trainer's things from a living one's."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

OWNER, PID, BOOT = "palaestra.owner", "palaestra.pid", "palaestra.boot"
DOORS = "palaestra-door-"  # folders of control sockets
GROUPS = "palaestra-"  # resource groups
ROOTS = "palaestra-root-"  # folders in which workers without a root file system of their own live


def own_pid() -> str:
    """This process, unmistakably: pid, start time, and inode of its pid namespace."""
    return f"{os.getpid()}:{start_time(os.getpid())}:{os.stat('/proc/self/ns/pid').st_ino}"


def start_time(pid: int) -> str:
    """When a process started, in ticks since boot; empty when it does not live."""
    return words[19] if len(words := _stat(pid)) > 19 else ""


def stands_still(pid: int) -> bool:
    """Whether a process was stopped by a signal."""
    return _stat(pid)[:1] == ["T"]


def _stat(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on; nothing where there is none."""
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()  # a process' name may be any bytes
    except OSError:
        return []
    return data.rpartition(b")")[2].decode("ascii").split()


def boot_id() -> str:
    """Of the running kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_dead(owner: str) -> bool:
    """Whether a process that `own_pid` told is no more.

    Only of our own pid namespace: of another's processes we see nothing, and would take the things
    of a trainer that lives for a dead one's.
    """
    pid, started, space, *_ = (*owner.split(":"), "", "", "")
    if not pid.isdigit() or space != str(os.stat("/proc/self/ns/pid").st_ino):
        return False
    return start_time(int(pid)) != started


def orphaned(labels: Mapping[str, str]) -> bool:
    """Whether a container's trainer is dead."""
    owner = labels.get(PID, "")
    here = owner.endswith(f":{os.stat('/proc/self/ns/pid').st_ino}")
    return is_dead(owner) or (here and labels.get(BOOT) != boot_id())


def name(kind: str) -> str:
    """Begins the name of a thing that tells whose it is; `owner` reads it."""
    return f"{kind}{own_pid().replace(':', '-')}-"


def owner(kind: str, name: str) -> str:
    """Whose a thing of this name is, in the words of `own_pid`."""
    return ":".join(name.removeprefix(kind).split("-")[:3])


def make_folder(kind: str) -> str:
    """A temporary folder of this process, of mode 700, that tells whose it is.

    Args:
        kind: `DOORS` or `ROOTS`.
    """
    path = tempfile.mkdtemp(prefix=name(kind))
    os.chmod(path, 0o700)  # a trainer's umask can take even that away
    return path


def remove_folders(kind: str) -> int:
    """Remove the folders of this kind whose trainer is dead; how many."""
    count = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{kind}*"):
        if is_dead(owner(kind, folder.name)):
            remove_tree(str(folder))
            count += 1
    return count


def remove_doors() -> int:
    """Remove the folders of control sockets whose trainer is dead; how many."""
    return remove_folders(DOORS)


def remove_tree(path: str) -> None:
    """Remove a tree; one that a guest made can be deeper than Python walks."""
    for words in (["rm", "-rf"], ["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        if os.path.lexists(path):  # its folders can be closed to their owner
            subprocess.run([*words, "--", path], check=False, stderr=subprocess.DEVNULL)
