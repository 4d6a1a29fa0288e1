"""What is taken out of a cell: result files, and figures of memory."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct

from .. import wire
from . import layout
from .syscalls import call
from .trees import Proc

_RESOLVE = 0x08 | 0x04 | 0x02 | 0x01  # BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV
_PIECE = 1 << 20


def open_beneath(path: str, flags: int = os.O_RDONLY, mode: int = 0) -> int:
    """Opens a path of the work directory: no symlink on the way, no way out, no wait on a FIFO.

    Raises:
        OSError: As the kernel says.
    """
    how = ctypes.create_string_buffer(
        struct.pack("=QQQ", flags | os.O_CLOEXEC | os.O_NONBLOCK, mode, _RESOLVE), 24
    )
    folder = os.open(layout.work(), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return call("openat2", folder, os.fsencode(path) + b"\0", how, 24)
    finally:
        os.close(folder)


def open_regular(path: str) -> int | None:
    """A descriptor of a regular file, or None if the path is anything else."""
    try:
        fd = open_beneath(path)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def send_files(control: socket.socket, request_id: int, paths: tuple[str, ...]) -> None:
    """Sends the files of a request piece by piece, together at most what the disk may hold."""
    space = os.statvfs(layout.root())
    budget = space.f_blocks * space.f_frsize
    for index, path in enumerate(paths):
        fd = open_regular(path)
        if fd is None:
            continue
        try:
            budget -= os.fstat(fd).st_size
            if budget < 0:
                return  # sparse files can be larger than the disk
            piece = b"x" * _PIECE
            while len(piece) == _PIECE:
                piece = os.read(fd, _PIECE)
                control.sendall(wire.pack(wire.FILE, request_id, wire.pack_piece(index, piece)))
        finally:
            os.close(fd)


def counter(fd: int) -> int:
    """The `oom_kill` count of an open control file; 0 without one."""
    if fd < 0:
        return 0
    for line in os.pread(fd, 4096, 0).split(b"\n"):
        if line.startswith(b"oom_kill "):
            return int(line.split()[1])
    return 0


class Memory:
    """Counts what a cell without a resource group uses, by looking."""

    def __init__(self, proc: Proc, limit: int) -> None:
        self._proc = proc
        self._limit = limit
        self.peak = 0

    def over(self) -> bool:
        """Whether all processes and files together hold more than the limit."""
        used = 0
        if layout.jailed():  # its files are memory, too
            space = os.statvfs(layout.root())
            used = (space.f_blocks - space.f_bfree) * space.f_frsize
        for pid in self._proc.tree(os.getpid())[1:]:
            used += self._one(str(pid))
        self.peak = max(self.peak, used)
        return used > self._limit

    def _one(self, pid: str) -> int:
        text = self._read(f"{pid}/smaps_rollup")
        for line in text.split(b"\n"):
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
        fields = self._read(f"{pid}/statm").split()
        return int(fields[1]) * 4096 if len(fields) > 1 else 0

    def _read(self, path: str) -> bytes:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc.fd)
        except OSError:
            return b""
        try:
            return os.read(fd, 4096)
        except OSError:
            return b""
        finally:
            os.close(fd)
