"""Forks without ceremony: a raw clone under the interpreter lock.

The at-fork hooks of the interpreter are skipped on purpose (they cost more than the call, and a
single-threaded, trusted parent holds no lock they would mend); what of their duty matters is done
by hand in `execution.py`.
"""

from __future__ import annotations

import ctypes
import os
import signal

from .syscalls import MACHINE, NUMBERS

PARENT = 0x00008000  # the new process becomes a sibling
_PIDFD, _SETTID, _CLEARTID = 0x1000, 0x01000000, 0x00200000
_PR_GET_TID_ADDRESS = 40

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _tid_address() -> int:
    """Where the C library keeps this thread's id, or 0 where that cannot be known."""
    found = ctypes.c_void_p()
    if _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(found), 0, 0, 0) or not found.value:
        return 0
    kept = ctypes.c_int.from_address(found.value).value
    return found.value if kept == _libc.syscall(ctypes.c_long(NUMBERS["gettid"])) else 0


class Cloner:
    """Argument objects built once: converting them costs more than the system call."""

    def __init__(self, flags: int = 0) -> None:
        self._pidfd = ctypes.c_int(-1)
        self._libc = _libc
        address = _tid_address()
        if not address and flags:
            raise OSError(38, "the C library hides its thread id; a branch cannot be made here")
        tid, nothing = ctypes.c_void_p(address), ctypes.c_void_p(None)
        places = (tid, nothing) if MACHINE == "x86_64" else (nothing, tid)
        self._raw = bool(address)
        self._call = _libc.syscall
        self._arguments = (
            ctypes.c_long(NUMBERS["clone"]),
            ctypes.c_ulong(_PIDFD | _SETTID | _CLEARTID | flags | signal.SIGCHLD),
            nothing,
            ctypes.byref(self._pidfd),
            *places,
        )

    def __call__(self) -> tuple[int, int]:
        """(0, -1) in the child; in the parent its pid and a descriptor of it.

        Raises:
            OSError: No more processes, or no memory.
        """
        if not self._raw:
            return _plain_fork()
        pid = self._call(*self._arguments)
        if pid > 0:
            return pid, self._pidfd.value
        if pid < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return 0, -1


def _plain_fork() -> tuple[int, int]:
    pid = int(_libc.fork())
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return (pid, os.pidfd_open(pid)) if pid else (0, -1)
