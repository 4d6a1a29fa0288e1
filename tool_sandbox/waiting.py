"""Waiting for descriptors, however high their numbers: select() refuses those from 1024 on."""

from __future__ import annotations

import select
from collections.abc import Sequence


def readable(fds: Sequence[int], seconds: float | None = None) -> list[int]:
    """Returns those that can be read, or have hung up; empty when the time is over.

    Args:
        fds: open descriptors.
        seconds: how long to wait; None: until one is ready, 0: not at all.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    wait = None if seconds is None else max(0, round(seconds * 1000))
    return [fd for fd, _ in poll.poll(wait)]
