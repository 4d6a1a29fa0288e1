"""Two pipes in the place of the control socket, where no folder is shared with the host."""

from __future__ import annotations

import os


class Pipes:
    """Offers what the supervisor uses of a socket; descriptors do not travel on it."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink

    def fileno(self) -> int:
        """Readable when something comes, or when the host has hung up."""
        return self._source

    def recv(self, count: int) -> bytes:
        """Some of what comes; empty at the end."""
        return os.read(self._source, count)

    def recv_into(self, room: memoryview) -> int:
        """Some of what comes, into that memory; 0 at the end."""
        return os.readv(self._source, [room])

    def recvmsg(self, count: int, *_: int) -> tuple[bytes, list[object], int, None]:
        """As of a socket that brings no descriptors."""
        return self.recv(count), [], 0, None

    def sendall(self, data: bytes | memoryview) -> None:
        """Writes all of it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._sink, view) :]


def of_standard_streams() -> Pipes:
    """Takes standard input and output over; whoever comes later finds nothing there."""
    found = Pipes(os.dup(0), os.dup(1))
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)
    return found
