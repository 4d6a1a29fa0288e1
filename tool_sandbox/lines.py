"""Pairs of sockets of which one end goes to a guest."""

from __future__ import annotations

import socket

from .errors import BackendFailed


def new_line() -> tuple[socket.socket, socket.socket]:
    """Two connected ends that block, whatever `socket.setdefaulttimeout` says.

    A default time-out would travel along: it makes the open file itself non-blocking, also for the
    process at the other end.

    Raises:
        OSError: This process has no descriptors left.
    """
    pair = socket.socketpair()
    for end in pair:
        end.settimeout(None)
    return pair


def line_for(what: str) -> tuple[socket.socket, socket.socket]:
    """As `new_line`, while a worker is asked.

    Args:
        what: What it is for, in the error's words.

    Raises:
        BackendFailed: This process has no descriptors left.
    """
    try:
        return new_line()
    except OSError as problem:
        raise BackendFailed(f"no line {what}: {problem}") from None
