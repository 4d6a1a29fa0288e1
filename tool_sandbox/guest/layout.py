"""Where a guest's writable folders are: one place a process, settled before it serves."""

from __future__ import annotations

_JAIL = "/mnt"
_root = _JAIL


def settle(root: str) -> None:
    """Says where they are, for a worker without a root file system of its own."""
    global _root
    _root = root


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


def writable() -> tuple[str, ...]:
    """All of them, the root first."""
    return _root, work(), temporary(), f"{_root}/.shm"
