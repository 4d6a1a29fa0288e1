"""Where a guest's writable folders are: one place a process, settled before it serves."""

from __future__ import annotations

FOLDERS = 4  # of our own in the writable part; they count against no guest's inodes

_JAIL = "/mnt"
_root = _JAIL
_extra: tuple[str, ...] = ()


def settle(root: str, extra: tuple[str, ...] = ()) -> None:
    """Says where they are, for a worker that did not build its root file system itself.

    Args:
        root: The folder of all of them.
        extra: Further writable mounts that somebody else put there.
    """
    global _root, _extra
    _root, _extra = root, extra


def jailed() -> bool:
    """Whether they are where a jail puts them."""
    return _root == _JAIL


def root() -> str:
    """The folder of all of them."""
    return _root


def work() -> str:
    """The work directory."""
    return f"{_root}/data"


def temporary() -> str:
    """What programs know as /tmp."""
    return f"{_root}/.tmp"


def extra() -> tuple[str, ...]:
    """Further writable mounts."""
    return _extra


def writable() -> tuple[str, ...]:
    """All of our own, the root first."""
    return _root, work(), temporary(), f"{_root}/.shm"
