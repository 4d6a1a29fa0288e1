"""Who descends from whom among a worker's processes, and signals to all of them."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

# Signals that reach a process which stands still in the ordinary course of things.
_USUAL = sum(1 << n - 1 for n in (signal.SIGSTOP, signal.SIGCONT, signal.SIGCHLD, signal.SIGALRM))
_LOOKS, _PAUSE = 1000, 0.0002  # seconds between looks at who is stopping


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
        own = os.getpid()
        self._lists = os.access(f"{own}/task/{own}/children", os.R_OK, dir_fd=self.fd)

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

    def family(self, root: int) -> list[int]:
        """As `tree`, by the kernel's own lists: quick, but it may miss who is just being born."""
        if not self._lists:
            return self.tree(root)
        found = [root]
        for pid in found:
            try:
                threads = os.open(f"{pid}/task", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
            except OSError:
                continue
            try:
                for thread in os.listdir(threads):
                    found += self.children(f"{pid}/task/{thread}")
            except OSError:
                continue
            finally:
                os.close(threads)
        return found

    def still(self, root: int) -> set[int]:
        """Who lives of a family that was told to stop, once it has, or cannot at the moment."""
        states: dict[int, str] = {}
        for _ in range(_LOOKS):
            states = {pid: self.state(pid) for pid in self.family(root)}
            if not {"R", "S"} & set(states.values()):
                break
            time.sleep(_PAUSE)
        return {pid for pid, state in states.items() if state not in ("", "Z", "X")}

    def state(self, pid: int) -> str:
        """The kernel's letter for what a process does; nothing where there is none."""
        return self.read(f"{pid}/stat").rpartition(b")")[2][1:2].decode()

    def settings(self, pid: int) -> tuple[bytes, ...]:
        """What others can change of a process that stands still.

        Its limits, its rank, and the signals it will find.
        """
        lines = self.read(f"{pid}/status").splitlines()
        status = {name: value for name, _, value in (line.partition(b":") for line in lines)}
        stat = self.read(f"{pid}/stat").rpartition(b")")[2].split()
        pending = int(status.get(b"SigPnd", b"0"), 16) | int(status.get(b"ShdPnd", b"0"), 16)
        signals = b"%x" % (pending & ~_USUAL)
        return self.read(f"{pid}/limits"), signals, *stat[15:17], *stat[37:39]

    def children(self, thread: str) -> list[int]:
        """Who was started by one thread; nobody where the kernel keeps no such list."""
        return [int(word) for word in self.read(f"{thread}/children").split()]

    def read(self, path: str) -> bytes:
        """The head of a file below; nothing where it cannot be read any more."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return b""
        try:
            return os.read(fd, 4096)
        except OSError:
            return b""
        finally:
            os.close(fd)

    def open_children(self) -> int:
        """The kernel's list of our children, open; -1 where it keeps none."""
        own = os.getpid()
        try:
            path = f"{own}/task/{own}/children"
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return -1

    def strays(self, own: set[int]) -> list[int]:
        """Living children of ours that are not in `own`."""
        me = os.getpid()
        return [e.pid for e in self.entries() if e.parent == me and e.pid not in own]


def open_process(pid: int) -> int:
    """A pidfd, or -1: whoever said to be born may have ended since."""
    try:
        return os.pidfd_open(pid) if pid > 1 else -1
    except OSError:
        return -1


def processor_clock(pid: int) -> float:
    """Seconds of processor time a process has used, to the moment; 0 once it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


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
        if number != signal.SIGKILL:  # who is missed now is there the next time
            self._send(number, self._proc.family)
            return
        self._send(signal.SIGSTOP, self._proc.tree)
        self._send(number, self._proc.tree)

    def _send(self, number: int, walk: Callable[[int], list[int]]) -> None:
        reached: set[int] = set()
        while True:
            new = set(walk(os.getpid())[1:]) - reached
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
