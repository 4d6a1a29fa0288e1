"""Watches one running program from outside: its streams, its time, its end.

Shared by the cell's pid 1 and by the bare `process` backend; what differs (how to kill, whose
hang-up matters) comes in as callables.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from . import scratch

ROWS_MOST = 7 << 20  # bytes kept of the result pipe; more ends the execution
TICK = 0.02  # seconds between looks at rows, and at the memory of a cell without a group
_PIECE = 1 << 16
PIECES = 64  # more than a pipe holds: who goes on writing keeps nobody reading
_READ = select.POLLIN
_EXIT, _TIMEOUT, _OUTPUT, _MEMORY, _HURRIED = range(5)  # as in wire.CAUSES


class Stream:
    """One pipe: its head is kept, the rest counted and dropped."""

    def __init__(
        self, fd: int, keep: int, room: Callable[[int], memoryview] = scratch.pages
    ) -> None:
        """Reads nothing yet.

        Args:
            fd: The pipe's end; it does not block.
            keep: Bytes of the head.
            room: Where memory comes from; not from what the next guest inherits.
        """
        self.fd = fd
        self.keep = keep
        self.total = 0
        self._room = room(keep + _PIECE)
        self._held = 0

    def read(self) -> bool:
        """Takes a piece; False when there is nothing more for now, or ever."""
        try:
            size = os.readv(self.fd, [self._room[self._held : self._held + _PIECE]])
        except BlockingIOError:
            return False
        self.total += size
        self._held = min(self._held + size, self.keep)
        return size > 0

    def drain(self) -> None:
        """Takes what is there; only after the last writer is dead, or a flood never ends."""
        while self.read():
            pass

    def empty(self) -> None:
        """Takes what is there, and no more: its writers stand still, or will in a moment."""
        for _ in range(PIECES):
            if not self.read():
                return

    def view(self) -> memoryview:
        """What was kept, where it lies."""
        return self._room[: self._held]

    def take(self) -> bytes:
        """What was kept; the count begins anew."""
        data = bytes(self.view())
        self._held = 0
        self.total = 0
        return data


class Bounds(NamedTuple):
    """What ends a watch."""

    deadline: float  # of the monotonic clock
    output_stop: int


class Watch:
    """One execution under watch.

    Attributes:
        cause: Why it ended: index into `wire.CAUSES`.
    """

    def __init__(
        self,
        pidfd: int,
        streams: tuple[Stream, Stream],
        rows: Stream | None,
        bounds: Bounds,
        events: Mapping[int, Callable[[], float | None]],
        over_memory: Callable[[], bool] | None = None,
    ) -> None:
        """Takes the descriptors over for the time of `run`.

        Args:
            pidfd: Readable when the main process has ended.
            streams: Standard output and error.
            rows: The result pipe, if the execution has one.
            bounds: Deadline and output.
            events: Further descriptors; a callable may return a new, earlier deadline.
            over_memory: Asked every `TICK` whether the memory limit is passed.
        """
        self._pidfd = pidfd
        self._streams = streams
        self._rows = rows
        self._bounds = bounds
        self._events = events
        self._over = over_memory
        self.cause = _EXIT
        self._stopped = False

    def stop(self) -> None:
        """Ends `run`; for the callables in `events`."""
        self._stopped = True

    def run(self) -> None:
        """Returns when the main process has ended or must be ended; kills nobody."""
        poller = select.poll()
        poller.register(self._pidfd, _READ)
        readers: dict[int, Stream] = {stream.fd: stream for stream in self._streams}
        if self._rows is not None:
            readers[self._rows.fd] = self._rows
        quiet = self._rows  # looked at now and then: rows are small, and each would wake us
        for fd in (*readers, *self._events):
            if quiet is None or fd != quiet.fd:
                poller.register(fd, _READ)
        deadline = self._bounds.deadline
        look = time.monotonic() + TICK
        while True:
            now = time.monotonic()
            left = deadline - now
            if left <= 0:
                self.cause = self.cause or _TIMEOUT
                return
            if self._over is not None and now >= look:
                if self._over():
                    self.cause = _MEMORY
                    return
                look = now + TICK
            wait = left if self._over is None and quiet is None else min(left, TICK)
            ready = poller.poll(wait * 1000 + 1)
            for fd, _ in ready:
                if fd == self._pidfd:
                    self.cause = _EXIT  # hurried, it came to its own end in time
                    return
                stream = readers.get(fd)
                if stream is None:
                    earlier = self._events[fd]()
                    if earlier is not None and earlier < deadline:
                        deadline, self.cause = earlier, _HURRIED
                elif not stream.read():
                    poller.unregister(fd)  # its last writer closed it
            if quiet is not None and _much(quiet):
                poller.register(quiet.fd, _READ)  # or its writer would wait for us
                quiet = None
            if self._stopped:
                return
            if self._flooded():
                self.cause = _OUTPUT
                return

    def settle(self) -> None:
        """Counts what was drained after the end: a flood is one however early its writer left."""
        if self.cause == _EXIT and self._flooded():
            self.cause = _OUTPUT

    def _flooded(self) -> bool:
        out, err = self._streams
        if out.total + err.total > self._bounds.output_stop:
            return True
        return self._rows is not None and self._rows.total > ROWS_MOST


def _much(stream: Stream) -> bool:
    """Takes what a pipe nobody listens to holds; whether it was filling up."""
    before = stream.total
    stream.read()
    return stream.total - before > _PIECE // 2
