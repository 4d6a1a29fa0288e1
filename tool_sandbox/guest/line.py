"""One branch of a session as pid 1 holds it, and the line to its interpreter.

What comes over the line is the guest's word: "done" can be forged, and then spoils its own call.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .. import wire
from . import turns
from .trees import processor_clock
from .watch import PIECES, Stream

_ANSWER_MOST = 4096  # bytes; an interpreter that says more is broken or hostile
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_STATUSES = range(-64, 256)

_STIR = 0.001  # seconds of processor time that waking up without work to do may cost

_ids = itertools.count(1)


class Look(NamedTuple):
    """One process that stands still."""

    settings: tuple[bytes, ...]
    clock: float  # seconds of processor time

    def meddled(self, before: Look | None) -> bool:
        """Whether somebody has changed it since, or let it run."""
        if before is None or self.settings != before.settings:
            return True
        return self.clock - before.clock > _STIR


class Branch:
    """One interpreter with its descriptors.

    Attributes:
        status: The answer to the question asked last; None as long as there is none.
        words: What came with it.
    """

    def __init__(
        self,
        name: int,
        pid: int,
        fds: tuple[int, int, int],
        line: wire.Socket,
        also: Iterable[int],
    ) -> None:
        """Takes the descriptors over.

        Args:
            name: Number of the branch.
            pid: Of its interpreter.
            fds: Its pidfd, and our ends of its standard output and error.
            line: Connected to it.
            also: Further descriptors that end a wait for it.
        """
        self.name = name
        self.pid = pid
        self.pidfd, self.out, self.err = fds
        self.line = line
        self.alive = True
        self._streams: tuple[Stream, Stream] | None = None
        self.left: dict[int, Look] = {}  # its processes, when another took its place
        self.clock = 0.0  # seconds of processor time up to the last call
        self.status: int | None = None
        self.words = ""
        self._id = 0  # of the question; an interpreter's first word answers none
        self._pieces: wire.Assembler | None = None
        self._heard = 0
        line.setblocking(False)
        self._number = line.fileno()
        self._poller = select.poll()
        for fd in (*fds, self._number, *also):
            self._poller.register(fd, select.POLLIN)

    def close(self) -> None:
        """Lets the descriptors go."""
        self.alive = False
        for fd in (self.pidfd, self.out, self.err):
            os.close(fd)
        self.line.close()

    def begin(self, body: bytes, fds: Sequence[int] = ()) -> bytes | None:
        """Sends as much of a question as fits; the rest, or None if nobody listens any more."""
        self._id = next(_ids) & 0xFFFFFFFF
        self._pieces, self._heard = None, 0
        self.status, self.words = None, ""
        data = wire.pack(turns.TURN, self._id, body)
        try:
            sent = self.line.sendmsg([data], _rights(fds)) if fds else self.line.send(data)
        except BlockingIOError:
            return data
        except OSError:
            return None
        return data[sent:]

    def go_on(self, rest: bytes | memoryview, seconds: float) -> memoryview | None:
        """Sends more of a question when there is room, or the time is over; as `begin`."""
        room = select.poll()
        room.register(self._number, select.POLLOUT)
        room.poll(seconds * 1000)
        try:
            return memoryview(rest)[self.line.send(rest) :]
        except BlockingIOError:
            return memoryview(rest)
        except OSError:
            return None

    def hear(self) -> bool:
        """Takes what was said; True when that was the answer or the end."""
        try:
            data = self.line.recv(_ANSWER_MOST)
        except BlockingIOError:
            return False
        except OSError:
            return True
        if data == turns.ANSWERED + turns.NUMBER.pack(self._id) + turns.WELL:
            self.status = 0  # as most answers are
            return True
        self._heard += len(data)
        if not data or self._heard > _ANSWER_MOST:
            return True
        self._pieces = self._pieces or wire.Assembler()
        try:
            for frame in self._pieces.feed(data):
                if frame.id != self._id:
                    continue  # late, to a question that a forged answer had ended
                status, self.words = turns.unpack_word(frame.body)
                self.status = status if status in _STATUSES else None
                return True
        except wire.Malformed:
            return True
        return False

    def wait(self, seconds: float) -> bool:
        """Waits for the answer alone; False if none comes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._number], [], [], left)[0] and self.hear():
                return self.status is not None
        return False

    def streams(self, keep: int) -> tuple[Stream, Stream]:
        """Its standard output and error, of which so many bytes are kept a call."""
        if self._streams is None or self._streams[0].keep != keep:
            self._streams = Stream(self.out, keep), Stream(self.err, keep)
        return self._streams

    def prompt(self, streams: tuple[Stream, Stream], end: float, most: int) -> bool:
        """Waits for the answer while at most that much output comes; False: somebody must look."""
        readers = {stream.fd: stream for stream in streams}
        while (left := end - time.monotonic()) > 0:
            for fd, _ in self._poller.poll(left * 1000):
                if fd == self._number:
                    if self.hear():
                        return True
                elif fd not in readers or not readers[fd].read():
                    return False
            if sum(stream.total for stream in streams) > most:
                return False
        return False

    def ready(self) -> set[int]:
        """Of its descriptors, those with something to read, or at their end."""
        return {fd for fd, _ in self._poller.poll(0)}

    def hush(self) -> None:
        """Drops what was said without being asked: it belongs to no call."""
        with contextlib.suppress(OSError):
            for _ in range(PIECES):
                if not self.line.recv(1 << 16):
                    return

    def empty(self) -> None:
        """Drops what another branch, which once held the other ends, has written to us."""
        self.hush()
        for fd in (self.out, self.err):
            with contextlib.suppress(BlockingIOError):
                for _ in range(PIECES):
                    if not os.read(fd, 1 << 16):
                        break

    @property
    def ended(self) -> bool:
        """Whether its interpreter is no more."""
        return not self.alive or self.pidfd in self.ready()

    def used(self) -> float:
        """Seconds of processor time since this was asked last."""
        before, self.clock = self.clock, processor_clock(self.pid)
        return max(0.0, self.clock - before)


def _rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]


def newborn(line: wire.Socket) -> tuple[int, list[int]]:
    """Who has spoken: its pid, from the kernel and not from its own mouth, and what it sent."""
    _, ancillary, _, _ = line.recvmsg(_ANSWER_MOST, 256, _CLOEXEC)
    pid, fds = 0, array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = int(struct.unpack("=iII", data[:12])[0])
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
    return pid, list(fds)
