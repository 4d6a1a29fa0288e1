"""Whose is what: labels and names that tell a dead trainer's things from a living one's."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

OWNER, PID, BOOT = "palaestra.owner", "palaestra.pid", "palaestra.boot"
DOORS = "palaestra-door-"  # folders of control sockets
GROUPS = "palaestra-"  # resource groups
ROOTS = "palaestra-root-"  # folders in which workers without a root file system of their own live


def own_pid() -> str:
    """This process, unmistakably: pid, start time, and where both are counted."""
    return f"{os.getpid()}:{start_time(os.getpid())}:{_space()}"


def _space() -> str:
    """Where our pids and start times mean something: the namespaces of pids and of time."""
    found = [os.stat("/proc/self/ns/pid").st_ino]
    with contextlib.suppress(FileNotFoundError):  # a kernel without namespaces of time
        found.append(os.stat("/proc/self/ns/time").st_ino)
    return ".".join(map(str, found))


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

    Only of our own namespaces: of another's processes we see nothing, and would take the things of
    a trainer that lives for a dead one's.
    """
    pid, started, space, *_ = (*owner.split(":"), "", "", "")
    if not pid.isdigit() or space != _space() or os.readlink("/proc/self") != str(os.getpid()):
        return False
    seen = start_time(int(pid))
    return seen != started if seen else not _lives(int(pid))  # hidepid= may hide the living


def is_elsewhere(owner: str) -> bool:
    """Whether a trainer is in other namespaces than ours, so that nobody here knows of its end."""
    pid, _, space, *_ = (*owner.split(":"), "", "", "")
    return pid.isdigit() and space.replace(".", "").isdigit() and space != _space()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def orphaned(labels: Mapping[str, str]) -> bool:
    """Whether a container's trainer is dead."""
    owner = labels.get(PID, "")
    here = owner.endswith(f":{_space()}")
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
    """Remove our user's folders of this kind whose trainer is dead; how many."""
    count = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{kind}*"):
        if _is_own(folder) and is_dead(owner(kind, folder.name)):
            remove_tree(str(folder))
            count += 1
    return count


def _is_own(folder: Path) -> bool:
    """Whether it is a folder of our user: chmod would follow a stranger's link to what is ours."""
    try:
        seen = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid()


def remove_doors() -> int:
    """Remove the folders of control sockets whose trainer is dead; how many."""
    return remove_folders(DOORS)


def remove_tree(path: str) -> None:
    """Remove a tree; one that a guest made can be deeper than Python walks."""
    for words in (["rm", "-rf"], ["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        if os.path.lexists(path):  # its folders can be closed to their owner
            subprocess.run([*words, "--", path], check=False, stderr=subprocess.DEVNULL)
