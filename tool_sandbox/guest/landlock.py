"""Rules for files, ports and signals that hold without namespaces, where the kernel has them."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from .syscalls import call

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_IOCTL_DEV = 1 << 15
READ = _EXECUTE | _READ_FILE | _READ_DIR
OPEN = READ | _WRITE_FILE
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | (1 << 14) | _IOCTL_DEV


class Rule(NamedTuple):
    """What is allowed beneath one path (or one open directory)."""

    path: str | int
    rights: int


def abi() -> int:
    """The version the kernel speaks; 0 where it has none."""
    try:
        return call("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def everything(version: int) -> int:
    """All file rights of a version.

    >>> hex(everything(7))
    '0xffff'
    """
    bits = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    return (1 << bits) - 1


def restrict(rules: Sequence[Rule], version: int, *, signals: bool = True) -> None:
    """Restricts this process and all it will start to the rules.

    Args:
        rules: What stays allowed; missing paths are left out.
        version: From `abi`.
        signals: Whether signals and abstract sockets end at this domain (from version 6).

    Raises:
        OSError: The kernel refused.
    """
    files = everything(version)
    ports = 3 if version >= 4 else 0
    scopes = 3 if version >= 6 and signals else 0
    ruleset = call("landlock_create_ruleset", struct.pack("=QQQ", files, ports, scopes), 24, 0)
    try:
        for rule in rules:
            _add(ruleset, rule, files)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _add(ruleset: int, rule: Rule, handled: int) -> None:
    if isinstance(rule.path, int):
        descriptor = os.dup(rule.path)
    else:
        try:
            descriptor = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return  # what is not there needs no permission
    try:
        rights = rule.rights & handled
        if not _directory(descriptor):
            rights &= _FILE_RIGHTS
        packed = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
        call("landlock_add_rule", ruleset, 1, packed, 0)
    finally:
        os.close(descriptor)


def _directory(descriptor: int) -> bool:
    return (os.fstat(descriptor).st_mode & 0o170000) == 0o040000
