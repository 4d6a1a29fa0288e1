"""Who descends from whom among a worker's processes, and signals to all of them."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """One process."""

    pid: int
    parent: int
    state: str


class Proc:
    """Reads a proc file system: the hidden one of the cell, or the visible one."""

    def __init__(self, fd: int) -> None:
        visible = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self.fd = fd if fd >= 0 else os.open("/proc", visible)

    def entries(self) -> list[Entry]:
        """Every process that can be seen."""
        found: list[Entry] = []
        for name in os.listdir(self.fd):
            if not name.isdigit():
                continue
            try:
                fd = os.open(f"{name}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
            except OSError:
                continue
            try:
                # The name in brackets is the guest's to choose; nothing behind it is.
                fields = os.read(fd, 4096).rpartition(b")")[2].split()
                found.append(Entry(int(name), int(fields[1]), fields[0].decode()))
            except (OSError, IndexError):
                continue
            finally:
                os.close(fd)
        return found

    def tree(self, root: int) -> list[int]:
        """A process and all its descendants, parents first."""
        children: dict[int, list[int]] = defaultdict(list)
        for entry in self.entries():
            children[entry.parent].append(entry.pid)
        found = [root]
        for pid in found:
            found += children[pid]
        return found

    def strays(self, own: set[int]) -> list[int]:
        """Living children of ours that are not in `own`."""
        me = os.getpid()
        return [e.pid for e in self.entries() if e.parent == me and e.pid not in own]


class Crowd(Protocol):
    """Everybody a worker has started."""

    def signal(self, number: int) -> None:
        """Sends a signal to all of them."""
        ...


class Namespace:
    """All but pid 1: one call, atomic over the pid namespace."""

    def signal(self, number: int) -> None:
        """Sends a signal to all of them."""
        send(-1, number)


class Descendants:
    """All that descend from us, found by walking: we are a subreaper, so nobody gets away."""

    def __init__(self, proc: Proc) -> None:
        self._proc = proc

    def signal(self, number: int) -> None:
        """Sends a signal to all of them; stops them first if they are to end."""
        if number == signal.SIGKILL:
            self._send(signal.SIGSTOP)
        self._send(number)

    def _send(self, number: int) -> None:
        reached: set[int] = set()
        while True:
            new = set(self._proc.tree(os.getpid())[1:]) - reached
            if not new:
                return
            for pid in new:
                send(pid, number)
            reached |= new


def send(pid: int, number: int) -> None:
    """kill(2), where nobody being there any more is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
