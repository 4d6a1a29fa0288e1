"""A session's files: read, write, list, copy for a branch. All its processes are stopped then."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from .collect import open_beneath

_DEPTH = 64  # folders within folders that a branch may have
_LISTED = 2 << 20  # characters of one listing: it travels as one frame
NAMES = ("data", ".tmp", ".shm")


def open_folder(path: str, above: int | None = None) -> int:
    """A descriptor of a folder itself, never of what a symlink in its place points to."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, dir_fd=above)


def allow(name: str, above: int) -> None:
    """Gives the owner, who may have given them up, all rights in a folder itself."""
    mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
        os.chmod(name, stat.S_IMODE(mode) | 0o700, dir_fd=above)


def copy_folder(name: str, above: int, into: int, depth: int = _DEPTH) -> None:
    """Copies a folder from one into another.

    Raises:
        OSError: No room, or nested too deep.
    """
    if not depth:
        raise OSError(errno.ELOOP, "folders nested too deep")
    mode = stat.S_IMODE(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
    allow(name, above)
    source = open_folder(name, above)
    try:
        os.mkdir(name, 0o700, dir_fd=into)
        target = open_folder(name, into)
        try:
            _copy_entries(source, target, depth)
            os.fchmod(target, mode if depth < _DEPTH else mode | 0o700)  # ours: we go in and out
        finally:
            os.close(target)
    finally:
        if mode & 0o700 != 0o700:
            os.fchmod(source, mode)
        os.close(source)


def _copy_entries(source: int, target: int, depth: int) -> None:
    with os.scandir(source) as listing:
        entries = list(listing)
    for entry in entries:
        if entry.is_symlink():
            os.symlink(os.readlink(entry.name, dir_fd=source), entry.name, dir_fd=target)
        elif entry.is_dir(follow_symlinks=False):
            copy_folder(entry.name, source, target, depth - 1)
        elif entry.is_file(follow_symlinks=False):
            _copy_file(entry.name, source, target)


def _copy_file(name: str, above: int, into: int) -> None:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    found = os.stat(name, dir_fd=above, follow_symlinks=False)
    mode = stat.S_IMODE(found.st_mode)
    if not mode & stat.S_IRUSR:  # its owner may have closed it to himself
        os.chmod(name, mode | stat.S_IRUSR, dir_fd=above)
    read = os.open(name, os.O_RDONLY | flags, dir_fd=above)
    try:
        write = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600, dir_fd=into)
        try:
            copy_bytes(read, write)
            os.fchmod(write, mode)
            os.utime(write, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(write)
    finally:
        if not mode & stat.S_IRUSR:
            os.fchmod(read, mode)
        os.close(read)


def copy_bytes(read: int, write: int) -> None:
    """Copies a file from its beginning to the end, by hand: the filter refuses sendfile to some.

    Args:
        read: Descriptor of the file; its place stays.
        write: Descriptor of the new one.
    """
    at = 0
    while piece := memoryview(os.pread(read, 1 << 20, at)):
        at += len(piece)
        while piece:
            piece = piece[os.write(write, piece) :]


def remove(name: str, above: int, depth: int = _DEPTH + 2) -> None:
    """Removes a folder, as far as it can be walked; what stays counts against the quota."""
    if not depth:
        return
    try:
        allow(name, above)
        folder = open_folder(name, above)
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove(entry.name, folder, depth - 1)
                else:
                    os.unlink(entry.name, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=above)
    except OSError:
        return


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
