"""The embedded backend: asks a zygote for cells, and keeps their processes in hand."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from . import owners
from .cell import Cell, StartFailed
from .limits import Limits
from .lines import new_line
from .resources import Group, Groups
from .waiting import readable
from .zygote import Zygote, failed

_FIRST_ID = 1_000_000_000  # no account has an id from here on
_IDS = 1 << 22  # as many as there can be processes
_FEW_IDS = 27_000  # from the middle of 65,536: up to where those of systemd's own units begin
_FEWEST = 1000  # that a container's root must hold, to give some away
Mode = Literal["full", "reduced", "bare"]
_END = 5.0  # seconds that killed processes have to disappear
_BURIAL = 1.0  # seconds that ended ones have to be reaped: microseconds, but on a loaded machine


class Processes:
    """The keeper of a cell's launcher and pid 1, by descriptors that cannot be mistaken."""

    def __init__(self, group: Group | None, root: str = "") -> None:
        # One thread may kill while another releases; and garbage is collected in the midst of both.
        self._lock = threading.RLock()
        self._fds: list[int] = []
        self._root = root  # of a worker without a root file system of its own
        self._group = group
        self.pids: tuple[int, ...] = ()

    def take(self, data: Mapping[str, Any], fds: Sequence[int]) -> None:
        """The pidfds of pid 1 and launcher, in this order."""
        self._fds += fds
        self.pids = (int(data["pid"]), int(data["launcher"]))

    def settle(self) -> None:
        """The group's limit is the caller's, plus what the cell itself holds by now."""
        if self._group is not None:
            self._group.settle()

    def oom_kills(self) -> int:
        """The group's count."""
        return 0 if self._group is None else self._group.oom_kills()

    def stands_still(self) -> bool:
        """Whether one of the two was stopped by a signal."""
        return any(map(owners.stands_still, self.pids))

    def kill(self) -> None:
        """Pid 1 first (the namespace dies with it), then the launcher.

        Where there is no namespace the launcher is spared: whatever pid 1 leaves comes to it, and
        it ends by itself when the last of them has.
        """
        with self._lock:
            for fd in self._fds[:1] if self._root else self._fds:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            if self._group is not None:
                self._group.kill()

    def release(self) -> None:
        """Waits for both ends, then removes the group."""
        deadline = time.monotonic() + _END
        with self._lock:
            fds, self._fds = self._fds, []
            group, self._group = self._group, None
            root, self._root = self._root, ""
        ended = _END / 2 if root else _END / 5
        with contextlib.ExitStack() as after:  # also where the caller is interrupted meanwhile
            if root:
                after.callback(owners.remove_tree, root)
            if group is not None:
                after.callback(group.remove)
            for fd in fds:
                after.callback(os.close, fd)
            if fds and not _ended(fds, ended):
                for fd in fds:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
                _ended(fds, deadline - time.monotonic())
            _bury(fds)

    def forget(self) -> None:
        """In a forked copy of the trainer: the descriptors go, the processes are not ours."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        if self._group is not None:
            self._group.forget()
            self._group = None


def _ended(fds: Sequence[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    for fd in fds:
        left = max(0.0, deadline - time.monotonic())
        if not readable([fd], left):
            return False
    return True


def _bury(fds: Sequence[int]) -> None:
    """Waits for the last of them to be reaped, so that who looks for them now finds nobody."""
    deadline = time.monotonic() + _BURIAL
    while any(map(_is_there, fds)) and time.monotonic() < deadline:
        time.sleep(0.0005)


def _is_there(fd: int) -> bool:
    with contextlib.suppress(ChildProcessError):  # ours only where we inherit a dead zygote's
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)
    try:
        signal.pidfd_send_signal(fd, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Embedded:
    """Makes cells."""

    def __init__(
        self,
        python: str | None,
        preload: Sequence[str],
        readable: Sequence[str],
        *,
        mode: Mode = "full",
    ) -> None:
        """Starts nothing yet.

        Args:
            python: Another interpreter or virtual environment.
            preload: Modules imported once.
            readable: Further paths that show inside, read-only.
            mode: "full", "reduced" (no namespaces) or "bare" (nothing at all).
        """
        site = python is not None or any(
            name.partition(".")[0] not in sys.stdlib_module_names for name in preload
        )
        self.zygote = Zygote(python or sys.executable or "", preload, site)
        self._readable = list(readable)
        self._mode: Mode = mode
        self.name = "process" if mode == "bare" else "cell"
        self._groups = Groups()
        if mode != "full":
            try:
                owners.remove_folders(owners.ROOTS)
            except OSError as problem:
                raise failed("temporary folder", problem) from None
        self._ids = itertools.count()

    def begin(self, limits: Limits) -> Cell:
        """A cell that is starting; `Cell.wait_ready` waits for it.

        Raises:
            BackendFailed: The zygote cannot be started.
            StartFailed: It refuses, or something is short on this machine: a later try may succeed.
        """
        try:
            return self._begin(limits)
        except TimeoutError:
            raise  # of a handler of the trainer's signals: nothing here has so short a time
        except OSError as problem:
            raise failed("worker", problem) from None

    def _begin(self, limits: Limits) -> Cell:
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as handed:
            root = "" if self._mode == "full" else _folder()
            if root:
                undo.callback(owners.remove_tree, root)
            group = self._groups.make(limits)
            if group is not None:
                undo.callback(group.remove)
            ours, theirs = new_line()
            undo.callback(ours.close)
            handed.callback(theirs.close)
            passed = {} if group is None else group.descriptors()
            for fd in passed.values():
                handed.callback(os.close, fd)
            plan = {
                "id": 0,
                "fds": ["control", *passed],
                "memory": limits.memory,
                "processes": limits.processes,
                "file_size": limits.file_size,
                "disk": limits.disk,
                "inodes": limits.inodes,
                "readable": self._readable,
                "group": group is not None,
                "mode": self._mode,
                "root": root,
                **_ids(self._mode),
            }
            self.zygote.spawn(plan, (theirs.fileno(), *passed.values()))
            undo.pop_all()
        return Cell(ours, limits, Processes(group, root))

    @property
    def lacks(self) -> str:
        """Why there is no resource group; empty when there is one."""
        return self._groups.lacks

    def close(self) -> None:
        """Ends the zygote; the cells are closed by whoever holds them."""
        self.zygote.close()

    def forget(self) -> None:
        """In a forked copy of the trainer."""
        self.zygote.forget()


def _folder() -> str:
    """A new folder for a worker without a root file system of its own."""
    try:
        return owners.make_folder(owners.ROOTS)
    except OSError as problem:
        raise StartFailed("temporary folder", problem.errno or 0, str(problem)) from None


def _ids(mode: Mode) -> dict[str, int]:
    """Where the ids of a root's cells begin, and how many there are; 0: the plain user's road."""
    if os.geteuid() != 0 or mode == "bare":
        return {"owner": 0, "owners": 1}
    share = os.stat("/proc/self/ns/pid").st_ino % 128  # containers number their processes alike
    first = _FIRST_ID + share * _IDS
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    if any(start <= first and first + _IDS <= start + count for start, _, count in ranges):
        return {"owner": first, "owners": _IDS}
    start, _, count = max(ranges, key=lambda one: one[2])  # the root of a container
    if count < _FEWEST:
        return {"owner": 0, "owners": 1}
    # its accounts begin from below, nobody and systemd's own from above
    return {"owner": start + count // 2, "owners": min(count // 2, _FEW_IDS)}
