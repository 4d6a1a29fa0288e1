"""Whose container is whose: labels and names that tell a dead trainer's from a living one's."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

OWNER, PID, BOOT = "palaestra.owner", "palaestra.pid", "palaestra.boot"
DOORS = "palaestra-door-"  # folders of control sockets


def own_pid() -> str:
    """This process, unmistakably: pid, start time, and inode of its pid namespace."""
    return f"{os.getpid()}:{start_time(os.getpid())}:{os.stat('/proc/self/ns/pid').st_ino}"


def start_time(pid: int) -> str:
    """When a process started, in ticks since boot; empty when it does not live."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]


def boot_id() -> str:
    """Of the running kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def orphaned(labels: Mapping[str, str]) -> bool:
    """Whether a container's trainer is dead.

    Only of those whose label has our own pid namespace: of another's processes we see nothing, and
    would take the containers of a trainer that lives for a dead one's.
    """
    pid, _, rest = labels.get(PID, "").partition(":")
    started, _, space = rest.partition(":")
    if not pid.isdigit() or space != str(os.stat("/proc/self/ns/pid").st_ino):
        return False
    return start_time(int(pid)) != started or labels.get(BOOT) != boot_id()


def remove_doors() -> int:
    """Remove the folders of control sockets whose trainer is dead; how many."""
    count = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{DOORS}*"):
        pid, started, space, *_ = (*folder.name.removeprefix(DOORS).split("-"), "", "", "")
        ours = space == str(os.stat("/proc/self/ns/pid").st_ino)
        if ours and pid.isdigit() and start_time(int(pid)) != started:
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count
