"""Tries from inside what must fail, before the cell says ready."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable

from . import layout
from .jail import Jail, JailError
from .syscalls import call


def check(jail: Jail) -> None:
    """Every attempt must be refused with the errno that its layer gives.

    Raises:
        JailError: Something that must not work does.
    """
    _identity()
    _refused("seccomp: unshare", lambda: call("unshare", 0x10000000), errno.EPERM)
    _refused("seccomp: mount", lambda: call("mount", None, None, None, 0, None), errno.EPERM)
    _refused("seccomp: ptrace", lambda: call("ptrace", 0, 0, 0, 0), errno.EPERM)
    _refused("seccomp: kill of pid 1", lambda: os.kill(1, 0), errno.EPERM)
    _refused("seccomp: netlink", lambda: socket.socket(16, 3, 0), errno.EPERM)
    _refused("root file system", lambda: os.mkdir("/x"), errno.EROFS, errno.EACCES, errno.EPERM)
    if jail.plan.mode == "reduced":
        _refused("network", _datagram, errno.EPERM)
        _refused("home", lambda: os.listdir("/"), errno.EACCES)
    else:
        _refused("network", _datagram, errno.ENETUNREACH, errno.EACCES)
        if os.getpid() != 1:
            raise JailError("self-test", "pid namespace: not the first process")
    _interpreter()


def _identity() -> None:
    if 0 in os.getresuid() or 0 in os.getresgid():
        raise JailError("self-test", "identity: still root")
    head = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    held = ctypes.create_string_buffer(24)
    call("capget", head, held)
    if any(held.raw):
        raise JailError("self-test", "capabilities: some are left")
    for name, option, wanted in (("no_new_privs", 39, 1), ("seccomp", 21, 2), ("dumpable", 3, 0)):
        if call("prctl", option, 0, 0, 0, 0) != wanted:
            raise JailError("self-test", f"{name}: not in force")


def _refused(name: str, attempt: Callable[[], object], *codes: int) -> None:
    try:
        attempt()
    except OSError as problem:
        if problem.errno in codes:
            return
        raise JailError("self-test", f"{name}: {problem}") from None
    raise JailError("self-test", f"{name}: was not refused")


def _datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))


def _interpreter() -> None:
    library = next((path for path in sys.path if path.endswith(f"python{_version()}")), "")
    for path in (library, layout.work()):
        if path and not os.access(path, os.R_OK | os.X_OK):
            raise JailError("self-test", f"readable: {path} cannot be read from inside")


def _version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"
