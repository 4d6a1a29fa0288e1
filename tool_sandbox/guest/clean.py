"""Proves that an execution left nothing behind, or says that the cell must retire."""

from __future__ import annotations

import os
import stat

from . import layout

_MOST = 200  # entries removed by hand; a fuller or deeper tree retires the cell


class Cleaner:
    """Remembers what a clean cell looks like."""

    def __init__(self) -> None:
        self._free = self._space()
        self._mark = _marks()

    @staticmethod
    def _space() -> tuple[int, int]:
        now = os.statvfs(layout.root())
        return now.f_bfree, now.f_ffree

    def clean(self) -> bool:
        """Whether the next execution finds what the first one found; tidies up if need be."""
        try:
            if self._space() == self._free and _marks() == self._mark:
                return True
            return self._tidy()
        except OSError:
            return False

    def _tidy(self) -> bool:
        left = _MOST
        folders = layout.writable()
        for path in reversed(folders):
            names = _entries(path, left)
            if names is None:
                return False
            left -= len(names)
            for name in names:
                if f"{path}/{name}" not in folders:
                    os.unlink(f"{path}/{name}")
        for path in reversed(folders[1:]):
            os.rmdir(path)
        for path in folders[1:]:
            os.mkdir(path, 0o700)
        os.chdir(layout.work())
        self._mark = _marks()
        return self._space() == self._free and _root_unchanged(self._mark[0])


def _entries(path: str, most: int) -> list[str] | None:
    """Names in a directory, or None if they are too many or one is a directory of the guest's."""
    names: list[str] = []
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        return None
    with os.scandir(path) as listing:
        for entry in listing:
            own = entry.path in layout.writable()
            if len(names) >= most or (not own and entry.is_dir(follow_symlinks=False)):
                return None
            names.append(entry.name)
    return names


def _marks() -> tuple[tuple[int, ...], ...]:
    marks: list[tuple[int, ...]] = []
    for path in layout.writable():
        now = os.lstat(path)
        marks.append(
            (
                now.st_ino,
                now.st_mode,
                now.st_uid,
                now.st_gid,
                now.st_size,
                now.st_nlink,
                now.st_mtime_ns,
                now.st_ctime_ns,
            )
        )
    return tuple(marks)


def _root_unchanged(mark: tuple[int, ...]) -> bool:
    # The mount's own root cannot be remade; its mode and entries must be what they were.
    return stat.S_IMODE(mark[1]) == 0o700 and mark[5] == 1 + len(layout.writable())
