"""What is taken out of a cell: result files, and figures of memory."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from .. import wire
from . import layout, passing, scratch
from .syscalls import call
from .trees import Proc

_RESOLVE = 0x08 | 0x04 | 0x02 | 0x01  # BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV
_PIECE = 1 << 20
_PAUSES = (0.001, 0.002, 0.004)  # seconds between looks at memory that seems too much
_SHORT = 400  # bytes of a control file; a small block of memory lies on pages in use


def open_beneath(path: str | memoryview, flags: int = os.O_RDONLY, mode: int = 0) -> int:
    """Opens a path of the work directory: no symlink on the way, no way out, no wait on a FIFO.

    Raises:
        OSError: As the kernel says.
    """
    how = ctypes.create_string_buffer(
        struct.pack("=QQQ", flags | os.O_CLOEXEC | os.O_NONBLOCK, mode, _RESOLVE), 24
    )
    folder = os.open(layout.work(), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    word = os.fsencode(path) if isinstance(path, str) else path
    name = bytearray(len(word) + 1)
    name[:-1] = word
    try:
        return call("openat2", folder, (ctypes.c_char * len(name)).from_buffer(name), how, 24)
    finally:
        os.close(folder)
        name[:] = bytes(len(name))  # the next guest inherits this memory


def open_regular(path: str | memoryview) -> int | None:
    """A descriptor of a regular file, or None if the path is anything else."""
    try:
        fd = open_beneath(path)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def send_files(
    control: socket.socket,
    request_id: int,
    paths: tuple[memoryview, ...],
    most: int,
    room: Callable[[int], memoryview] = scratch.pages,
) -> None:
    """Sends the files of a request piece by piece, together at most what the disk may hold.

    Args:
        control: Leads to the host.
        request_id: Of the request.
        paths: In the work directory.
        most: Bytes, where the disk is larger than the guest's share of it.
        room: Where memory comes from.
    """
    start = wire.HEAD.size + wire.PIECE.size
    frame = room(start + _PIECE)
    space = os.statvfs(layout.root())
    budget = min(most, space.f_blocks * space.f_frsize)
    for index, path in enumerate(paths):
        fd = open_regular(path)
        if fd is None:
            continue
        try:
            budget -= os.fstat(fd).st_size
            if budget < 0:
                return  # sparse files can be larger than the disk
            size = _PIECE
            while size == _PIECE:
                size = os.readv(fd, [frame[start:]])
                passing.pack_piece_head(frame, request_id, index, size)
                control.sendall(frame[: start + size])
        finally:
            os.close(fd)


def control(fd: int) -> bytes:
    """An open control file as it reads now; nothing without one."""
    return os.pread(fd, _SHORT, 0) if fd >= 0 else b""


def kills(text: bytes) -> int:
    r"""The `oom_kill` count of a control file's text.

    >>> kills(b"oom_kill_disable 0\noom_kill 3\n")
    3
    """
    for line in text.split(b"\n"):
        if line.startswith(b"oom_kill "):
            return int(line.split()[1])
    return 0


class Memory:
    """Counts what a cell without a resource group uses, by looking."""

    def __init__(self, proc: Proc, limit: int) -> None:
        self._proc = proc
        self._limit = limit
        self.until = float("inf")  # of the monotonic clock: a look ends by then, whatever it saw
        self.spare = 0  # bytes over the limit that may be, while somebody counts twice
        self._shown: dict[int, int] = {}  # what processes that hide have opened for us, by pid

    def keep(self, pid: int) -> None:
        """Opens what shows the memory of a process that will hide later."""
        with suppress(OSError):
            path, flags = f"{pid}/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC
            self._shown[pid] = os.open(path, flags, dir_fd=self._proc.fd)

    def show(self, pid: int, fd: int) -> None:
        """Takes over what a process that hides has opened of itself: it alone may.

        Args:
            pid: Of the process.
            fd: Its `smaps_rollup`; another file is not believed.
        """
        try:
            own = os.readlink(f"/proc/self/fd/{fd}") == f"/proc/{pid}/smaps_rollup"
            genuine = own and os.fstat(fd).st_dev == os.stat("/proc").st_dev
        except OSError:
            genuine = False
        if genuine:
            self.hide(pid)
            self._shown[pid] = fd
        else:
            os.close(fd)

    def hide(self, pid: int) -> None:
        """Closes what was shown of a process; idempotent."""
        if pid in self._shown:
            os.close(self._shown.pop(pid))

    def over(self) -> bool:
        """Whether all processes and files together hold more than the limit.

        Looked at more than once: a child between `vfork` and `exec` shows its parent's memory
        a second time.
        """
        for pause in _PAUSES:
            if self._used() <= self._limit + self.spare:
                return False
            time.sleep(pause)
        return self._used() > self._limit + self.spare

    def _used(self) -> int:
        used = 0
        if layout.jailed():  # its files are memory, too
            space = os.statvfs(layout.root())
            used = (space.f_blocks - space.f_bfree) * space.f_frsize
        for pid in self._proc.tree(os.getpid())[1:]:
            if used > self._limit + self.spare or time.monotonic() >= self.until:
                break
            used += self._one(str(pid))
        return used

    def _one(self, pid: str) -> int:
        found = self._figure(pid)
        if not found:  # its first thread may have ended; any other shows the same memory
            for thread in self._threads(pid):
                found = found or self._figure(f"{pid}/task/{thread}")
        return found

    def _threads(self, pid: str) -> list[str]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            fd = os.open(f"{pid}/task", flags, dir_fd=self._proc.fd)
        except OSError:
            return []
        try:
            return os.listdir(fd)
        except OSError:
            return []
        finally:
            os.close(fd)

    def _figure(self, pid: str) -> int:
        text = self._proc.read(f"{pid}/smaps_rollup") or self._hidden(pid)
        for line in text.split(b"\n"):
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
        return self.resident(pid)

    def resident(self, pid: str) -> int:
        """Bytes of a process that are in memory, shared or not."""
        fields = self._proc.read(f"{pid}/statm").split()
        return int(fields[1]) * 4096 if len(fields) > 1 else 0

    def _hidden(self, pid: str) -> bytes:
        fd = self._shown.get(int(pid)) if pid.isdigit() else None
        try:
            return os.pread(fd, 4096, 0) if fd is not None else b""
        except OSError:
            return b""  # it runs another program by now
