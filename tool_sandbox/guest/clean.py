"""Proves that an execution left nothing behind, or says that the cell must retire."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

from . import layout

_MOST = 200  # entries removed by hand; a fuller or deeper tree retires the cell
_SOCKETS = "/proc/self/net/sockstat"
_PAUSES = (0.0005, 0.001, 0.002, 0.004)  # seconds
_MADE = ("shm", "fd", "stdin", "stdout", "stderr")  # in /dev: a mount of its own, and links

_Mark = tuple[int, ...]


class Cleaner:
    """Remembers what a clean cell looks like."""

    def __init__(self) -> None:
        self._mounts = (layout.root(), *layout.extra())
        self._folders = (*layout.writable(), *layout.extra())
        self._sockets = os.open(_SOCKETS, os.O_RDONLY | os.O_CLOEXEC)
        self._open_sockets = self._in_use()
        self._devices = self._touched()
        self._free = self._space()
        self._mark = self._marks()

    def _space(self) -> list[tuple[int, int]]:
        free: list[tuple[int, int]] = []
        for path in self._mounts:
            now = os.statvfs(path)
            free.append((now.f_bfree, now.f_ffree))
        return free

    def _marks(self) -> list[_Mark]:
        # Times alone are not enough: before Linux 6.13 a change within one tick leaves none.
        marks: list[_Mark] = []
        for path in self._folders:
            now = os.lstat(path)
            kept = now.st_ino, now.st_mode, now.st_uid, now.st_gid, now.st_size, now.st_nlink
            marks.append((*kept, now.st_mtime_ns, now.st_ctime_ns))
        return marks

    def clean(self) -> bool:
        """Whether the next execution finds what the first one found; tidies up if need be."""
        try:
            if not self._unbound() or self._touched() != self._devices:
                return False
            if self._space() == self._free and self._marks() == self._mark:
                return True
            return self._tidy()
        except OSError:
            return False

    def _touched(self) -> list[int]:
        """When nodes of a container's /dev changed: it can be written, a cell's own cannot."""
        if not layout.extra():
            return []
        return [one.stat().st_mtime_ns for one in os.scandir("/dev") if one.name not in _MADE]

    def _in_use(self) -> int:
        return int(os.pread(self._sockets, 24, 0).split()[2])  # "sockets: used 3"

    def _unbound(self) -> bool:
        """Whether no socket is left: those that hold each other are collected a moment later."""
        for pause in (*_PAUSES, 0.0):
            used = self._in_use()
            if used <= self._open_sockets:
                self._open_sockets = used  # an engine that ends takes one of its own away
                return True
            time.sleep(pause)
        return False

    def _tidy(self) -> bool:
        before = self._mark
        # The names are the guest's words: read here, the next guest would find them in its memory.
        if not in_a_fork(self._remake):
            return False
        os.chdir(layout.work())
        self._mark = self._marks()
        return self._space() == self._free and self._same_mounts(before)

    def _remake(self) -> bool:
        """Empties the folders and makes them anew; False where that is too much."""
        left = _MOST
        for path in reversed(self._folders):
            names = self._entries(path, left)
            if names is None:
                return False
            left -= len(names)
            for name in names:
                if f"{path}/{name}" not in self._folders:
                    os.unlink(f"{path}/{name}")
        remade = layout.writable()[1:]
        for path in reversed(remade):
            os.rmdir(path)
        for path in remade:
            os.mkdir(path, 0o700)
        return True

    def _entries(self, path: str, most: int) -> list[str] | None:
        """Names in a folder, or None if they are too many or one is a folder of the guest's."""
        names: list[str] = []
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return None
        with os.scandir(path) as listing:
            for entry in listing:
                own = entry.path in self._folders
                if len(names) >= most or (not own and entry.is_dir(follow_symlinks=False)):
                    return None
                names.append(entry.name)
        return names

    def _same_mounts(self, before: list[_Mark]) -> bool:
        """A mount's own root cannot be remade: all but its times must be what it was."""
        for path, old, new in zip(self._folders, before, self._mark, strict=True):
            if path in self._mounts and old[:6] != new[:6]:
                return False
        return True


def in_a_fork(work: Callable[[], bool]) -> bool:
    """Whether a copy of this process has done the work; what it saw ends with it."""
    pid = os.fork()
    if not pid:
        done = 1
        try:
            done = 0 if work() else 1
        finally:
            os._exit(done)
    return os.waitpid(pid, 0)[1] == 0
