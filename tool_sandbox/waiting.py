"""Waiting for descriptors, however high their numbers: select() refuses those from 1024 on."""

from __future__ import annotations

import select
import time
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


async def areadable(fd: int, seconds: float) -> None:
    """Waits until a descriptor can be read, or the time is over; reads nothing itself.

    Args:
        fd: an open descriptor that nobody else waits for in this event loop.
        seconds: how long to wait; none where negative.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
    try:
        await asyncio.wait((ready,), timeout=max(0.0, seconds))
    finally:
        loop.remove_reader(fd)


def foreign(problem: BaseException, deadline: float) -> bool:
    """Whether a time-out is none of a socket's, which do not come before the deadline.

    A handler of the trainer's signals raised it, and it must reach the trainer: taken for the
    socket's it would blame a guest for the trainer's alarm, or be tried again in silence.

    Args:
        problem: what was raised while waiting.
        deadline: of `time.monotonic`.
    """
    return isinstance(problem, TimeoutError) and time.monotonic() < deadline
