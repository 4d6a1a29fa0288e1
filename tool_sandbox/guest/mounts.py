"""The root file system a cell sees: read-only binds, made-up files, one writable tmpfs."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import layout
from .syscalls import call

DEVICES = ("null", "zero", "full", "random", "urandom")
HIDDEN = ("/tmp", "/mnt", "/dev", "/proc")  # a path below these cannot keep its place

_NOSUID, _NODEV, _NOEXEC, _RDONLY, _NOATIME = 2, 4, 8, 1, 1024
_REMOUNT, _PRIVATE = 32, (1 << 18) | 16384  # MS_PRIVATE | MS_REC
_CLONE_TREE = 1 | 0o2000000 | 0x8000  # OPEN_TREE_CLONE | O_CLOEXEC | AT_RECURSIVE
_AT_FDCWD, _EMPTY, _AT_RECURSIVE = -100, 0x1000, 0x8000
_ATTR = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8}
_SYSTEM = ("/usr", "/bin", "/sbin", "/etc/alternatives", "/etc/ld.so.cache")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/:/bin/false\nguest:x:1000:1000:guest:/mnt/data:/bin/sh\n",
    "etc/group": "root:x:0:\nguest:x:1000:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


class Source(NamedTuple):
    """One read-only bind: what, where it shows, and a descriptor of its copy."""

    place: str
    directory: bool
    tree: int


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """The system call."""
    call(
        "mount",
        source.encode() + b"\0",
        target.encode() + b"\0",
        None if kind is None else kind.encode() + b"\0",
        flags,
        data.encode() + b"\0" if data else None,
    )


def grab(path: str, place: str, *attributes: str) -> Source:
    """A detached copy of the mounts at a path, with these attributes added to all of them."""
    tree = call("open_tree", _AT_FDCWD, path.encode() + b"\0", _CLONE_TREE)
    bits = sum(_ATTR[name] for name in attributes)
    packed = ctypes.create_string_buffer(struct.pack("=QQQQ", bits, 0, 0, 0), 32)
    call("mount_setattr", tree, b"\0", _EMPTY | _AT_RECURSIVE, packed, 32)
    return Source(place, os.path.isdir(path), tree)


def attach(source: Source, stage: str) -> None:
    """Puts a detached copy at its place on the stage."""
    target = stage + source.place
    if source.directory:
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        if not os.path.lexists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    call("move_mount", source.tree, b"\0", _AT_FDCWD, target.encode() + b"\0", 4)
    os.close(source.tree)


def hidden(path: str) -> bool:
    """Whether a cell has something of its own in this place."""
    return any(f"{path}/".startswith(f"{place}/") for place in HIDDEN)


def system_paths() -> list[str]:
    """The machine's own folders that a program needs, symlinks among them."""
    libraries = sorted(name for name in os.listdir("/") if name.startswith("lib"))
    paths = [*_SYSTEM, *(f"/{name}" for name in libraries)]
    return [path for path in paths if os.path.lexists(path)]


def gather(
    prefixes: Iterable[tuple[str, str]], readable: Sequence[str], counted: bool = True
) -> list[Source]:
    """Copies of all that will be bound, taken while the old root is still in place.

    Args:
        prefixes: (path, where it shows) of the interpreter's folders.
        readable: Further paths, shown at their own place.
        counted: Whether a group counts memory. Else /dev/zero cannot be mapped, for shared pages
            of it would be memory that nobody sees; /dev/full reads the same.
    """
    sources: list[Source] = []
    wanted = [(path, path) for path in system_paths() if not os.path.islink(path)]
    wanted += [*prefixes, *((path, path) for path in readable)]
    for path, place in sorted(set(wanted), key=lambda pair: pair[1]):
        inside = any(place.startswith(f"{other.place}/") for other in sources if other.directory)
        if not (inside and path == place):
            sources.append(grab(path, place, "ro", "nosuid", "nodev"))
    for name in DEVICES:
        device = "full" if name == "zero" and not counted else name
        sources.append(grab(f"/dev/{device}", f"/dev/{name}", "ro", "nosuid", "noexec"))
    return sources


def build(stage: str, sources: Sequence[Source], disk: int, inodes: int, owner: int) -> None:
    """Mounts the new root on the stage and fills it.

    Args:
        stage: A directory that exists; it is covered.
        sources: From `gather`.
        disk: Bytes of the writable part.
        inodes: Files and directories of the writable part.
        owner: Id that owns the writable part.
    """
    links = [(path, os.readlink(path)) for path in system_paths() if os.path.islink(path)]
    mount("none", stage, "tmpfs", _NOSUID | _NODEV, "size=4m,nr_inodes=4096,mode=755")
    for source in sources:
        attach(source, stage)
    for path, target in links:
        if not os.path.lexists(stage + path):
            os.symlink(target, stage + path)
    os.makedirs(f"{stage}/etc", 0o755, exist_ok=True)
    for name, text in _FILES.items():
        with open(f"{stage}/{name}", "w") as file:
            file.write(text)
    for name in ("proc", "mnt"):
        os.mkdir(f"{stage}/{name}", 0o755)
    os.symlink("/mnt/.tmp", f"{stage}/tmp")
    os.symlink("/mnt/.shm", f"{stage}/dev/shm")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{stage}/dev/{name}")
    pages = -(-disk // 4096)
    options = (
        f"size={pages * 4096},nr_inodes={inodes + layout.FOLDERS},mode=700,uid={owner},gid={owner}"
    )
    mount("none", f"{stage}/mnt", "tmpfs", _NOSUID | _NODEV | _NOATIME, options)
    for path in layout.writable()[1:]:
        os.mkdir(stage + path, 0o700)
        os.chown(stage + path, owner, owner)


def proc(stage: str) -> None:
    """The guest's own /proc: it sees itself and nobody else."""
    flags = _NOSUID | _NODEV | _NOEXEC
    mount("proc", f"{stage}/proc", "proc", flags, "hidepid=invisible,subset=pid")


def full_proc() -> int:
    """A proc that hides nobody, attached nowhere; only this descriptor reaches it.

    Returns:
        The descriptor, or -1 where the kernel refuses.
    """
    try:
        context = call("fsopen", b"proc\0", 1)
        try:
            call("fsconfig", context, 6, None, None, 0)  # FSCONFIG_CMD_CREATE
            tree = call("fsmount", context, 1, _ATTR["nosuid"] | _ATTR["nodev"])
        finally:
            os.close(context)
        try:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
        finally:
            os.close(tree)
    except OSError:
        return -1


def private() -> None:
    """Keeps what follows from spreading to the machine's mounts."""
    mount("none", "/", None, _PRIVATE)


def pivot(stage: str) -> None:
    """Makes the stage the root; the old one is unreachable afterwards, not merely hidden."""
    os.chdir(stage)
    call("pivot_root", b".\0", b".\0")
    call("umount2", b".\0", 2)  # MNT_DETACH
    os.chdir("/")
    mount("none", "/", None, _REMOUNT | 4096 | _RDONLY | _NOSUID | _NODEV)  # with MS_BIND
