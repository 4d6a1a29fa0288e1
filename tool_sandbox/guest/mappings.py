"""Makes a process cheap to fork: fewer mappings, for each one costs every child its copy."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

_READ, _WRITE, _EXECUTE = 1, 2, 4


class Mapping(NamedTuple):
    """One line of `/proc/self/maps` that shows a file."""

    start: int
    end: int
    rights: str
    offset: int
    path: str

    def precedes(self, other: Mapping) -> bool:
        """Whether the other continues this one, in memory as in the file."""
        return (
            self.path == other.path
            and self.end == other.start
            and self.offset + self.end - self.start == other.offset
        )


def mappings() -> list[Mapping]:
    """The file mappings of this process, in the order of addresses."""
    found: list[Mapping] = []
    with open("/proc/self/maps") as file:
        for line in file:
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith("/"):
                start, end = (int(part, 16) for part in fields[0].split("-"))
                path = fields[5].rstrip()
                found.append(Mapping(start, end, fields[1], int(fields[2], 16), path))
    return found


def wanted(known: list[Mapping]) -> list[tuple[Mapping, int]]:
    """The rights each part should have, for those that can join a neighbour.

    Args:
        known: All file mappings, in the order of addresses.

    >>> code = [Mapping(0, 1, "r--p", 0, "/l"), Mapping(1, 2, "r-xp", 1, "/l")]
    >>> data = [Mapping(2, 3, "r--p", 2, "/l"), Mapping(3, 4, "rw-p", 3, "/l")]
    >>> [rights for _, rights in wanted(code + data)]
    [5, 5, 3, 3]
    """
    found: list[tuple[Mapping, int]] = []
    for at, part in enumerate(known):
        after = known[at + 1] if at + 1 < len(known) else None
        if "w" in part.rights:
            rights = _READ | _WRITE
        elif part.rights == "r--p" and after and "w" in after.rights and part.precedes(after):
            rights = _READ | _WRITE  # read-only since its relocation
        else:
            rights = _READ | _EXECUTE
        found.append((part, rights))
    return found


def merge() -> None:
    """Gives neighbouring parts of a library the same rights, so that the kernel joins them.

    A loader maps each library in five parts. Headers, code and constants become one readable and
    executable mapping; what it made read-only after relocation joins the data again. This weakens
    a hardening against faults inside a process whose code is hostile anyway.
    """
    libc = ctypes.PyDLL(None)
    for part, rights in wanted(mappings()):
        if part.rights.startswith("r") and part.rights.endswith("p"):
            size = ctypes.c_size_t(part.end - part.start)
            libc.mprotect(ctypes.c_void_p(part.start), size, rights)
