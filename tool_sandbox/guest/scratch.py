"""Memory of a supervisor that no execution inherits: all that guests are sent and say goes here.

An execution is a fork of pid 1 and can read every byte of it, so what passed through its ordinary
memory would reach the next guest. These pages are left out of a fork.
"""

from __future__ import annotations

import mmap

_KEPT = 512 << 10  # bytes that stay mapped: enough for a common request and its output


def pages(size: int) -> memoryview:
    """Fresh pages that no fork copies; given back when the last view of them is gone."""
    area = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_DONTFORK)
    return memoryview(area)


class Scratch:
    """Room for one request at a time."""

    def __init__(self) -> None:
        self._kept = pages(_KEPT)
        self._used = 0

    def begin(self) -> None:
        """Everything of the request before is forgotten."""
        self._used = 0

    def room(self, size: int) -> memoryview:
        """So many bytes, until the next `begin`."""
        start, end = self._used, self._used + size
        if end > _KEPT:
            return pages(size)[:size]
        self._used = end
        return self._kept[start:end]

    def join(self, *parts: bytes | memoryview) -> memoryview:
        """All parts, one after the other."""
        whole = self.room(sum(map(len, parts)))
        at = 0
        for part in parts:
            whole[at : at + len(part)] = part
            at += len(part)
        return whole
