"""Where the files of branches that do not run are kept, out of reach of the one that does.

All branches have one user id, so no right of a file keeps them apart for good: whoever owns a
folder can open it. But the kernel writes down when. The park is closed (mode 0) while programs run,
and whoever opens it, moves it or changes its rights changes its time of change, which no program
can set: then nothing in it is believed any more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

from . import folders, layout

_NAME = ".park"
_TRIES = 8  # changes in a row that must be told apart by their times
_COARSE = 5  # CLOCK_REALTIME_COARSE, from which such kernels take the times of files
_TICK = 0.001  # seconds between looks at a clock that has coarse ticks


class Park:
    """Folders by branch, in one folder that only the supervisor opens."""

    def __init__(self) -> None:
        """Makes it, with a place for the first branch, before any program runs."""
        path = f"{layout.root()}/{_NAME}"
        os.mkdir(path, 0o700)
        self._fd = folders.open_folder(path)
        os.mkdir("1", dir_fd=self._fd)  # a place for each branch: later there may be no room
        self._fine = self._told_apart()
        self._close()

    def _told_apart(self) -> bool:
        """Whether two changes in a row have two times (Linux 6.13 on), or ticks are coarse."""
        times: set[int] = set()
        for _ in range(_TRIES):
            os.fchmod(self._fd, 0o700)
            times.add(os.fstat(self._fd).st_ctime_ns)
        return len(times) == _TRIES

    def _close(self) -> None:
        os.fchmod(self._fd, 0)
        self._mark = self._state()
        while not self._fine and time.clock_gettime_ns(_COARSE) <= self._mark[-1]:
            time.sleep(_TICK)  # a change within this tick would leave no trace

    def _state(self) -> tuple[int, ...]:
        now = os.fstat(self._fd)
        return now.st_mode, now.st_nlink, now.st_mtime_ns, now.st_ctime_ns

    def touched(self) -> bool:
        """Whether anybody else has had it open."""
        return self._state() != self._mark

    @contextmanager
    def _opened(self) -> Generator[int]:
        if self.touched():
            raise PermissionError(1, "a program opened the folders of other branches")
        os.chmod(layout.root(), 0o700)
        os.fchmod(self._fd, 0o700)
        try:
            yield self._fd
        finally:
            self._close()

    def put(self, name: int) -> None:
        """Takes the active folders in under a branch's name.

        Raises:
            OSError: The park was touched.
        """
        with self._opened() as park:
            _move_all(layout.root(), None, str(name), park)

    def fetch(self, name: int) -> None:
        """Makes a branch's folders the active ones.

        Raises:
            OSError: The place is taken, or the park was touched.
        """
        with self._opened() as park:
            _move_all(str(name), park, layout.root(), None)

    def copy(self, name: int) -> None:
        """Copies the active folders for a new branch.

        Raises:
            OSError: No room, nested too deep, or the park was touched.
        """
        with self._opened() as park:
            os.mkdir(str(name), 0o700, dir_fd=park)
            try:
                source = folders.open_folder(layout.root())
                target = folders.open_folder(str(name), park)
                try:
                    for folder in folders.NAMES:
                        folders.copy_folder(folder, source, target)
                finally:
                    os.close(source)
                    os.close(target)
            except OSError:
                folders.remove(str(name), park)
                raise

    def remove(self, name: int) -> None:
        """Removes a branch's folders, as far as they can be walked.

        Raises:
            OSError: The park was touched.
        """
        with self._opened() as park:
            folders.remove(str(name), park)


def _move_all(source: str, above: int | None, target: str, into: int | None) -> None:
    """Moves what bears the folders' names, whatever a program has made of it."""
    old = folders.open_folder(source, above)
    new = folders.open_folder(target, into)
    try:
        for folder in folders.NAMES:
            with suppress(FileNotFoundError):
                folders.allow(folder, old)  # without the right to write it keeps its place
                os.rename(folder, folder, src_dir_fd=old, dst_dir_fd=new)
    finally:
        os.close(old)
        os.close(new)
