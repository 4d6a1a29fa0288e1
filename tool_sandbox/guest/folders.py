"""A session's files: read, write, list, copy for a branch. All its processes are stopped then."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from . import layout
from .collect import open_beneath

_DEPTH = 64  # folders within folders that a branch may have
_LISTED = 2 << 20  # characters of one listing: it travels as one frame
_NAMES = ("data", ".tmp", ".shm")


def _home(name: int) -> str:
    return f"{layout.root()}/.b{name}"


def park(name: int) -> None:
    """Puts the active folders aside under a branch's name."""
    os.mkdir(_home(name), 0o700)
    for folder in _NAMES:
        os.rename(f"{layout.root()}/{folder}", f"{_home(name)}/{folder}")


def unpark(name: int) -> None:
    """Makes a branch's folders the active ones."""
    for folder in _NAMES:
        os.rename(f"{_home(name)}/{folder}", f"{layout.root()}/{folder}")
    os.rmdir(_home(name))


def copy(name: int) -> str:
    """Copies the active folders for a new branch; its work directory.

    Raises:
        OSError: No room, or nested too deep.
    """
    os.mkdir(_home(name), 0o700)
    try:
        source, target = _open_folder(layout.root()), _open_folder(_home(name))
        try:
            for folder in _NAMES:
                _copy_folder(folder, source, target, _DEPTH)
        finally:
            os.close(source)
            os.close(target)
    except OSError:
        remove(name)
        raise
    return f"{_home(name)}/{_NAMES[0]}"


def _open_folder(path: str, above: int | None = None) -> int:
    """A folder itself, never what a symlink in its place points to: the names are the guest's."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, dir_fd=above)


def _copy_folder(name: str, above: int, into: int, depth: int) -> None:
    if not depth:
        raise OSError(errno.ELOOP, "folders nested too deep")
    source = _open_folder(name, above)
    try:
        os.mkdir(name, 0o700, dir_fd=into)
        target = _open_folder(name, into)
        try:
            _copy_entries(source, target, depth)
            os.fchmod(target, stat.S_IMODE(os.fstat(source).st_mode) | 0o700)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_entries(source: int, target: int, depth: int) -> None:
    with os.scandir(source) as listing:
        entries = list(listing)
    for entry in entries:
        if entry.is_symlink():
            os.symlink(os.readlink(entry.name, dir_fd=source), entry.name, dir_fd=target)
        elif entry.is_dir(follow_symlinks=False):
            _copy_folder(entry.name, source, target, depth - 1)
        elif entry.is_file(follow_symlinks=False):
            _copy_file(entry.name, source, target)


def _copy_file(name: str, above: int, into: int) -> None:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    read = os.open(name, os.O_RDONLY | flags, dir_fd=above)
    try:
        mode = stat.S_IMODE(os.fstat(read).st_mode)
        write = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600, dir_fd=into)
        try:
            while os.sendfile(write, read, None, 1 << 20):
                pass
            os.fchmod(write, mode)
        finally:
            os.close(write)
    finally:
        os.close(read)


def remove(name: int) -> None:
    """Removes a branch's folders, as far as they can be walked."""
    _remove(_home(name), _DEPTH + 2)


def _remove(path: str, depth: int) -> None:
    if not depth:
        return
    try:
        os.chmod(path, 0o700)
        with os.scandir(path) as listing:
            entries = list(listing)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove(entry.path, depth - 1)
            else:
                os.unlink(entry.path)
        os.rmdir(path)
    except OSError:
        return  # what stays counts against the session's own quota


def read(path: str, limit: int) -> bytes:
    """At most `limit` bytes of a regular file.

    Raises:
        OSError: It is missing, or no regular file.
    """
    fd = open_beneath(path)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(22, "no regular file")
        parts: list[bytes] = []
        while limit > 0 and (piece := os.read(fd, min(limit, 1 << 20))):
            parts.append(piece)
            limit -= len(piece)
        return b"".join(parts)
    finally:
        os.close(fd)


def write(path: str, data: bytes) -> None:
    """Replaces a file's content, making missing folders on the way.

    Raises:
        OSError: No room, or the path is no regular file.
    """
    parts = path.split("/")
    for end in range(1, len(parts)):
        _folder("/".join(parts[:end]))
    fd = open_beneath(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(22, "no regular file")
        os.ftruncate(fd, 0)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def _folder(path: str) -> None:
    try:
        os.close(open_beneath(path, os.O_RDONLY | os.O_DIRECTORY))
    except FileNotFoundError:
        above, _, name = path.rpartition("/")
        fd = open_beneath(above or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.mkdir(name, 0o755, dir_fd=fd)
        finally:
            os.close(fd)


def entries(path: str) -> list[list[Any]]:
    """[path, kind, size] of what a folder holds, in the order of names.

    Raises:
        OSError: It is missing, no folder, or holds too much to be told.
    """
    fd = open_beneath(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found: list[list[Any]] = []
        left = _LISTED
        for name in sorted(os.listdir(fd)):
            entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
            kind = "file" if stat.S_ISREG(entry.st_mode) else "other"
            if stat.S_ISDIR(entry.st_mode):
                kind = "directory"
            shown = os.fsencode(name).decode("utf-8", "replace")
            joined = shown if path == "." else f"{path}/{shown}"
            left -= len(joined) + 16
            if left < 0:
                raise OSError(errno.E2BIG, "too many names to list")
            found.append([joined, kind, entry.st_size])
        return found
    finally:
        os.close(fd)
