"""Makes a process cheap to fork: fewer mappings, for each one costs every child its copy."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

_READ, _WRITE, _EXECUTE = 1, 2, 4
_PRIVATE = 0x22  # and anonymous
_HUGE = 2 << 20  # bytes of a huge page
_WANTED, _COLLAPSE = 14, 25  # advice: huge pages, and now
_TO_PLACE = 1 | 2  # of mremap: it may move, and where to
_MOST = 16 << 20  # bytes of text worth a copy: an interpreter's, not a linear algebra library's
_SPARE = 64 << 10  # bytes kept free for what the next allocations need


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


def trim() -> None:
    """Gives free memory back, where the C library can: each page costs a fork, and its end."""
    trim_heap = getattr(ctypes.PyDLL(None), "malloc_trim", None)
    if trim_heap is not None:
        trim_heap(ctypes.c_size_t(_SPARE))


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


def enlarge() -> None:
    """Puts the interpreter's text on huge pages, which a fork shares without a look at each page.

    Otherwise each execution faults a thousand small ones in and drops them again at its end. The
    copy takes the place of the text in one call, while this process waits for it in another
    library. Where the kernel has no huge page to give, all stays as it was.
    """
    libc = ctypes.PyDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    for part in mappings():
        start = _up(part.start)
        size = part.end // _HUGE * _HUGE - start
        if part.rights == "r-xp" and 0 < size <= _MOST:
            area = libc.mmap(None, ctypes.c_size_t(size + _HUGE), _READ | _WRITE, _PRIVATE, -1, 0)
            if area not in (None, ctypes.c_void_p(-1).value):
                _replace(libc, start, size, area)


def _up(address: int) -> int:
    return -(-address // _HUGE) * _HUGE


def _replace(libc: ctypes.PyDLL, start: int, size: int, area: int) -> None:
    """Moves a copy of the text over the text; `area` has a huge page more than that needs."""
    copy = _up(area)
    here, whole = ctypes.c_void_p(copy), ctypes.c_size_t(size)
    libc.madvise(here, whole, _WANTED)
    ctypes.memmove(copy, start, size)
    if not libc.madvise(here, whole, _COLLAPSE) and not libc.mprotect(
        here, whole, _READ | _EXECUTE
    ):
        libc.mremap(here, whole, whole, _TO_PLACE, ctypes.c_void_p(start))
    else:
        libc.munmap(here, whole)
    libc.munmap(ctypes.c_void_p(area), ctypes.c_size_t(copy - area))
    libc.munmap(ctypes.c_void_p(copy + size), ctypes.c_size_t(area + _HUGE - copy))
