"""Pages that a fork copies at once, instead of one by one when either side first writes to them.

A supervisor and its execution write the same few hundred pages after each fork, for the counts of
references they hold; each such write is a fault on either side. The kernel copies a page at the
fork itself where a device may be writing to it. So these are registered as buffers of an io_uring
that never does any work: it is disabled, has no descriptor, and no child has it. A machine that
refuses all this forks as before.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from .. import wire
from . import serve
from .syscalls import call

_PAGE = mmap.PAGESIZE
_PRESENT, _FILE, _EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56  # of an entry in pagemap
_DISABLED, _PARAMETERS = 1 << 6, struct.Struct("=8xI108x")  # of io_uring_setup
_BUFFERS, _BUFFER = 0, struct.Struct("=QQ")  # of io_uring_register
_WARM = 3  # executions after which a supervisor writes what it will always write
_PATIENCE = 5.0  # seconds
_PROGRAM = b"""def f(x=1):
    return [i * x for i in range(3)]
print(sum(f(2)), len({'a': 1}), f'{1.5:.2f}')
"""
# The same, but it stays at its very end.
_WITNESS = (
    _PROGRAM
    + b"""import atexit, os, signal
atexit.register(lambda: (os.write(1, b'.'), signal.pause()))
"""
)


class Run(NamedTuple):
    """Neighbouring pages."""

    start: int
    size: int  # bytes


class Pages:
    """The hot pages of all cells of a zygote: the first cell finds them for those after it.

    They are the same in each, since each is a fork of the same memory that then does the same.
    """

    def __init__(self) -> None:
        """Made in the zygote."""
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._known: list[Run] | None = None

    def learn(self) -> None:
        """Takes what a cell has found since; for the zygote, before it forks the next."""
        with suppress(BlockingIOError):
            found = self._ours.recv(1 << 16)
            self._known = [Run(*fields) for fields in _BUFFER.iter_unpack(found)]

    def settle(self, setting: serve.Setting) -> None:
        """Pins them in a cell that is not locked yet; finds them first if nobody has.

        Args:
            setting: Of the server to come.
        """
        # Whatever is refused here, or fails: then each page is copied when it is written.
        with suppress(Exception):
            ring = idle_ring()
            try:
                runs = self._find(setting) if self._known is None else self._known
                if runs:
                    pin(ring, runs)
            finally:
                os.close(ring)
        self.close()

    def _find(self, setting: serve.Setting) -> list[Run]:
        """Finds them and tells the zygote; none where that is impossible, for nobody need try."""
        try:
            runs = _find(setting)
        except TimeoutError:
            raise  # of the moment: the next cell may find them
        except Exception:
            runs = []
        with suppress(BlockingIOError):  # many cells tell the same at once
            self._theirs.send(b"".join(_BUFFER.pack(*run) for run in runs))
        return runs

    def close(self) -> None:
        """Forgets the zygote, for a cell."""
        self._ours.close()
        self._theirs.close()


class _Practice(serve.Server):
    """A server that asks itself, and buries an execution without the others."""

    def __init__(self, setting: serve.Setting) -> None:
        ours, self._host = socket.socketpair()
        super().__init__(setting._replace(control=ours))
        self._host.settimeout(_PATIENCE)

    def cycle(self) -> None:
        """One execution, from fork to reply."""
        order = wire.Order(_PROGRAM, wall=_PATIENCE, output=1 << 10, output_stop=1 << 20)
        self._host.sendall(wire.pack(wire.RUN, 1, wire.pack_order(order)))
        self._armed = self._armed or self.arm()
        self._answer()
        wire.read_frame(self._host)

    def bury(self, pid: int) -> tuple[int, float, int]:
        """As the original, but a witness lives on."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        return os.waitstatus_to_exitcode(status), cpu, peak

    @contextmanager
    def witness(self) -> Generator[int]:
        """The pid of an execution that has done all it does but end."""
        armed = self.arm()
        try:
            data = wire.pack_order(wire.Order(_WITNESS, wall=_PATIENCE))
            armed.line.sendall(len(data).to_bytes(4, "little") + data)
            while not _said(armed.out).endswith(b"."):
                pass
            yield armed.pid
        finally:
            self.drop(armed)

    def drop(self, armed: serve.Armed) -> None:
        """Ends an execution."""
        self.bury(armed.pid)
        armed.line.close()
        for fd in (armed.pidfd, armed.out, armed.err):
            os.close(fd)

    def close(self) -> None:
        """Leaves no process and no descriptor."""
        if self._armed is not None:
            self.drop(self._armed)
        if self.proc.fd != self.setting.polling:
            os.close(self.proc.fd)
        self.setting.control.close()
        self._host.close()


def _said(out: int) -> bytes:
    if select.select([out], [], [], _PATIENCE)[0] and (said := os.read(out, 1 << 10)):
        return said
    raise TimeoutError("an execution of our own did not come to its end")


def _find(setting: serve.Setting) -> list[Run]:
    server = _Practice(setting)
    try:
        for _ in range(_WARM):
            server.cycle()
        with server.witness() as pid:
            server.cycle()  # from one fork to the next the supervisor does all it ever does
            return written(pid)
    finally:
        server.close()


def written(pid: int) -> list[Run]:
    """Our pages of which a fork of this process has a copy of its own: either side wrote to them.

    Args:
        pid: Of the fork.

    Raises:
        OSError: We may not look.
    """
    found: list[Run] = []
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        for start, end in _writable():
            file.seek(start // _PAGE * 8)
            entries = memoryview(file.read((end - start) // _PAGE * 8)).cast("Q")
            for at, entry in zip(range(start, end, _PAGE), entries, strict=False):
                if entry & (_PRESENT | _EXCLUSIVE | _FILE) != _PRESENT | _EXCLUSIVE:
                    continue
                if found and sum(found[-1]) == at:
                    found[-1] = Run(found[-1].start, found[-1].size + _PAGE)
                else:
                    found.append(Run(at, _PAGE))
    return found


def _writable() -> list[tuple[int, int]]:
    """Where this process may write, in private memory."""
    with open("/proc/self/maps") as file:
        lines = [line.split(maxsplit=2) for line in file]
    spans = [fields[0].split("-") for fields in lines if fields[1] == "rw-p"]
    return [(int(start, 16), int(end, 16)) for start, end in spans]


def idle_ring() -> int:
    """A descriptor of a ring that is disabled for good.

    Raises:
        OSError: The machine, or what surrounds us, refuses io_uring.
    """
    parameters = ctypes.create_string_buffer(_PARAMETERS.pack(_DISABLED), _PARAMETERS.size)
    return call("io_uring_setup", 1, parameters)


def pin(ring: int, runs: list[Run]) -> None:
    """Registers pages for as long as this process lives; the descriptor can be closed then.

    Raises:
        OSError: The kernel refuses, for instance more locked memory than RLIMIT_MEMLOCK.
    """
    table = b"".join(_BUFFER.pack(*run) for run in runs)
    buffers = ctypes.create_string_buffer(table, len(table))
    call("io_uring_register", ring, _BUFFERS, buffers, len(runs))
    libc = ctypes.PyDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = ctypes.c_size_t(_PAGE)
    held = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, ring, ctypes.c_long(0))
    if held == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "the ring cannot be mapped")
    libc.madvise(ctypes.c_void_p(held), size, mmap.MADV_DONTFORK)
