"""What a new branch inherits besides memory: open files, which become its own, and pipes, which go.

A descriptor that two branches share would tie them together: one moves the other's place in a file,
writes into the other's file, reads what was meant for the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import NamedTuple

from . import layout
from .folders import copy_bytes

_KEPT = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_DIRECTORY
_GONE = " (deleted)"


class _Open(NamedTuple):
    """A file or folder as it was open at the fork."""

    fd: int
    path: str
    flags: int
    place: int  # offset


def shared_memory() -> int:
    """How many mappings of this process change when another process writes."""
    try:
        with open("/proc/self/maps") as file:
            found = [line.split(maxsplit=5) for line in file]
    except OSError:  # hidden where Landlock stands alone
        return 0
    shared = [fields for fields in found if fields[1].endswith("s")]
    return sum("w" in fields[1] or layout.root() in fields[-1] for fields in shared)


class Inherited:
    """The descriptors at the moment of the fork, and where the process stood."""

    def __init__(self, known: set[int]) -> None:
        """Notes them, before the fork.

        Args:
            known: Descriptors of the session's own.
        """
        self._folder = _place()
        self._files: list[_Open] = []
        self._nameless: list[_Open] = []
        self._others: list[int] = []
        for fd in _descriptors():
            if fd in known:
                continue
            with contextlib.suppress(OSError):
                self._note(fd)

    def _note(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        if stat.S_ISCHR(mode):
            return
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        path = os.readlink(f"/proc/self/fd/{fd}")
        if flags & os.O_PATH or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            self._others.append(fd)
        elif stat.S_ISDIR(mode):
            self._files.append(_Open(fd, path, flags & _KEPT, 0))
        else:
            nameless = path.endswith(_GONE) or not path.startswith("/")
            found = _Open(fd, path, flags & _KEPT, os.lseek(fd, 0, os.SEEK_CUR))
            (self._nameless if nameless else self._files).append(found)

    def sever(self) -> None:
        """In the new branch, at once: pipes and the like go, files without a name are copied."""
        closed = os.open("/", os.O_PATH | os.O_CLOEXEC)  # whoever uses it gets EBADF
        for fd in self._others:
            os.dup2(closed, fd, inheritable=False)
        for one in self._nameless:
            try:
                _replace(one, _copied(one.fd))
            except OSError:
                os.dup2(closed, one.fd, inheritable=False)
        os.close(closed)

    def settle(self) -> None:
        """In the new branch, once its files are in place: opens them anew, under the same names."""
        for one in self._files:
            try:
                _replace(one, os.open(one.path, one.flags | os.O_CLOEXEC))
            except OSError:
                closed = os.open("/", os.O_PATH | os.O_CLOEXEC)
                os.dup2(closed, one.fd, inheritable=False)
                os.close(closed)
        try:
            os.chdir(self._folder)
        except OSError:
            os.chdir(layout.work())


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # hidden where Landlock stands alone
        import resource

        return list(range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def _place() -> str:
    try:
        return os.getcwd()
    except OSError:
        return layout.work()


def _copied(fd: int) -> int:
    new = os.open(layout.temporary(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    copy_bytes(fd, new)
    return new


def _replace(one: _Open, new: int) -> None:
    kept = os.get_inheritable(one.fd)
    if one.place:
        os.lseek(new, one.place, os.SEEK_SET)
    os.dup2(new, one.fd, inheritable=kept)
    os.close(new)
