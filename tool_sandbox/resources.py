"""Resource groups of the kernel, v1 and v2, or an honest "none"."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import owners
from .limits import Limits, MiB

_SPARE = 3  # launcher, pid 1 and the execution that is armed already
_START = 64 * MiB  # what a cell may use beyond the limit while it comes up
_JOINED = 600.0  # seconds after which an empty group waits for no cell any more
_RETRIES, _PAUSE = 500, 0.01  # EBUSY while the last process is reaped
# Not the place's fault; None is no error of the kernel: a handler of the trainer's raised it.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, None)
_counter = itertools.count()


class Places(NamedTuple):
    """Where groups can be made: one folder of v2, or two of v1."""

    version: int
    memory: Path
    pids: Path


class Group:
    """One cell's group. Nobody but the cell is ever moved into it."""

    def __init__(self, places: Places, name: str, limits: Limits) -> None:
        """Makes the folders and sets the limits.

        Raises:
            OSError: The kernel refuses.
        """
        self.version = places.version
        self._memory = places.memory / name
        folders = {self._memory: None, places.pids / name: None}
        self._folders = tuple(folders)
        self._limit = limits.memory
        try:
            for folder in self._folders:
                folder.mkdir()
            self._set(limits)
            self._oom = os.open(self._memory / self._oom_name, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self._remove_folders()
            raise

    @property
    def _oom_name(self) -> str:
        return "memory.events" if self.version == 2 else "memory.oom_control"

    @property
    def _limit_name(self) -> str:
        return "memory.max" if self.version == 2 else "memory.limit_in_bytes"

    def _set(self, limits: Limits) -> None:
        self._write_limit(limits.memory + _START)
        _write(self._folders[-1] / "pids.max", limits.processes + _SPARE)
        if self.version == 2:
            _write(self._memory / "memory.oom.group", 1)
            with contextlib.suppress(OSError):
                _write(self._memory / "memory.swap.max", 0)
        else:
            with contextlib.suppress(OSError):
                _write(self._memory / "memory.swappiness", 0)

    def _write_limit(self, value: int) -> None:
        swap = self._memory / "memory.memsw.limit_in_bytes"
        both = [self._memory / self._limit_name]
        if self.version == 1 and swap.exists():
            both.append(swap)
        try:
            for path in both:
                _write(path, value)
        except OSError:
            for path in reversed(both):  # the sum may never be below its part
                _write(path, value)

    def descriptors(self) -> dict[str, int]:
        """Control files for the cell, newly opened: to join, to read peak and kills.

        Raises:
            OSError: There are no descriptors left; none stays open.
        """
        found: dict[str, int] = {}
        try:
            for i, folder in enumerate(self._folders):
                found[f"procs{i}"] = os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            found["oom"] = os.open(self._memory / self._oom_name, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            for fd in found.values():
                os.close(fd)
            raise
        peak = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        with contextlib.suppress(OSError):
            fd = os.open(self._memory / peak, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.pwrite(fd, b"0", 0)
                found["peak"] = fd
            except OSError:  # v2 before Linux 6.12 keeps one mark for all calls: worth nothing
                os.close(fd)
        return found

    def settle(self) -> None:
        """Sets the limit to the caller's, plus what the cell itself holds by now."""
        name = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        self._write_limit(self._limit + int((self._memory / name).read_text()))

    def oom_kills(self) -> int:
        """How often the kernel killed in it for want of memory."""
        if self._oom < 0:
            return 0
        for line in os.pread(self._oom, 4096, 0).split(b"\n"):
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
        return 0

    def kill(self) -> None:
        """Kills all in it, where the kernel can do that in one stroke."""
        if self.version == 2:
            with contextlib.suppress(OSError):
                _write(self._memory / "cgroup.kill", 1)

    def remove(self) -> None:
        """Removes it; its processes have ended, or are about to."""
        self.forget()
        self._remove_folders()

    def _remove_folders(self) -> None:
        for folder in self._folders:
            _remove(folder, _RETRIES)

    def forget(self) -> None:
        """Closes the descriptor; idempotent."""
        if self._oom >= 0:
            os.close(self._oom)
            self._oom = -1


class Groups:
    """Makes groups where the machine lets us, and says why where it does not."""

    def __init__(self, membership: str | None = None, mounts: str | None = None) -> None:
        """Looks for places; removes what dead owners left there.

        Args:
            membership: Text of `/proc/self/cgroup`; None reads it.
            mounts: Text of `/proc/self/mountinfo`; None reads it.
        """
        self.places: Places | None = None
        self.lacks = ""
        self._made = False  # at least one
        own = _read("/proc/self/cgroup") if membership is None else membership
        table = _read("/proc/self/mountinfo") if mounts is None else mounts
        for places in itertools.chain(_unified(own, table), _legacy(own, table)):
            if _usable(places):
                self.places = places
                for folder in {places.memory, places.pids}:
                    _sweep(folder)
                return
        self.lacks = "no writable resource group with memory and pids"

    def make(self, limits: Limits) -> Group | None:
        """A group with these limits, or None where there is no place for one.

        Raises:
            OSError: It cannot be made now, and yet there is a place: one was made there, or what
                is short passes. Cells without a group would be weaker than those before.
        """
        if self.places is None:
            return None
        name = f"{owners.name(owners.GROUPS)}{next(_counter)}"
        try:
            group = Group(self.places, name, limits)
        except OSError as problem:
            if self._made or problem.errno in _PASSING:
                raise
            self.places = None
            self.lacks = f"a resource group cannot be made ({problem})"
            return None
        self._made = True
        return group


def _read(path: str) -> str:
    try:
        return os.fsdecode(Path(path).read_bytes())  # mount points and names may be any bytes
    except OSError:
        return ""


def _write(path: Path, value: int) -> None:
    # Unbuffered: the kernel answers at the write, and an error must not wait for the close.
    with open(path, "wb", buffering=0) as file:
        file.write(str(value).encode())


def _remove(folder: Path, tries: int) -> None:
    for _ in range(tries):
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(_PAUSE)


class _Mount(NamedTuple):
    point: Path
    root: str
    options: frozenset[str]


def _mounts(table: str, kind: str) -> Iterator[_Mount]:
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        fields, rest = left.split(), right.split()
        if len(fields) > 4 and len(rest) > 2 and rest[0] == kind:
            yield _Mount(Path(fields[4]), fields[3], frozenset(rest[2].split(",")))


def _memberships(own: str) -> Iterator[tuple[frozenset[str], str]]:
    for line in own.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            yield frozenset(filter(None, parts[1].split(","))), parts[2]


def _inside(mount: _Mount, path: str) -> Path | None:
    """Where a group shows below a mount point that may itself show a part only."""
    root = mount.root.rstrip("/")
    if path != root and not path.startswith(f"{root}/"):
        return None
    return mount.point / path[len(root) :].strip("/")


def _unified(own: str, table: str) -> Iterator[Places]:
    """The nearest ancestor that hands memory and pids on to its children."""
    for mount in _mounts(table, "cgroup2"):
        for controllers, path in _memberships(own):
            folder = _inside(mount, path)
            if controllers or folder is None:
                continue
            # A group that holds processes hands nothing on, unless it is the root.
            first = folder if folder == mount.point else folder.parent
            for place in (first, *first.parents):
                handed = _read(str(place / "cgroup.subtree_control")).split()
                if {"memory", "pids"} <= set(handed):
                    yield Places(2, place, place)
                if place == mount.point:
                    break


def _legacy(own: str, table: str) -> Iterator[Places]:
    found: dict[str, Path] = {}
    for mount in _mounts(table, "cgroup"):
        for controllers, path in _memberships(own):
            for name in {"memory", "pids"} & controllers & mount.options:
                folder = _inside(mount, path)
                if folder is not None:
                    found[name] = folder
    if len(found) == 2:
        yield Places(1, found["memory"], found["pids"])


def _usable(places: Places) -> bool:
    folders = {places.memory, places.pids}
    return all(
        os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)
        for folder in folders
    )


def _sweep(folder: Path) -> None:
    """Removes groups whose owner is gone."""
    for group in folder.glob(f"{owners.GROUPS}*"):
        owner = owners.owner(owners.GROUPS, group.name)
        if owners.is_dead(owner) or (owners.is_elsewhere(owner) and _age(group) > _JOINED):
            _remove(group, 1)  # the kernel keeps one that holds a process


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def usable_cores() -> int:
    """Cores this process may use: its affinity, and the quota of its group."""
    cores = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min(float(cores), _quota())))


def _quota() -> float:
    own, table = _read("/proc/self/cgroup"), _read("/proc/self/mountinfo")
    for mount in _mounts(table, "cgroup2"):
        for controllers, path in _memberships(own):
            folder = _inside(mount, path)
            if not controllers and folder is not None:
                words = _read(str(folder / "cpu.max")).split()
                if len(words) == 2 and words[0].isdigit():
                    return int(words[0]) / int(words[1])
    for mount in _mounts(table, "cgroup"):
        for controllers, path in _memberships(own):
            if "cpu" in controllers & mount.options and (folder := _inside(mount, path)):
                quota = _read(str(folder / "cpu.cfs_quota_us")).strip()
                period = _read(str(folder / "cpu.cfs_period_us")).strip()
                if quota.isdigit() and period.isdigit():
                    return int(quota) / int(period)
    return math.inf
