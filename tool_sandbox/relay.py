"""A worker's control over the engine's own connection, where no folder is shared with it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from typing import Any

from . import wire
from .lines import new_line
from .waiting import readable

_HEAD = struct.Struct(">BxxxI")  # of what the engine sends: stream, length
_STDOUT = 1
_PIECE = 1 << 16


class Streams:
    """Takes a container's standard output out of what the engine sends.

    >>> Streams().feed(_HEAD.pack(1, 3) + b"abc" + _HEAD.pack(2, 2) + b"xx" + _HEAD.pack(1, 9))
    b'abc'
    """

    def __init__(self) -> None:
        self._head = b""
        self._stream = self._left = 0  # of the piece that is under way

    def feed(self, data: bytes) -> bytes:
        """Takes a piece, however it was cut; the output in it."""
        found = bytearray()
        while data:
            if not self._left:
                missing = _HEAD.size - len(self._head)
                self._head, data = self._head + data[:missing], data[missing:]
                if len(self._head) == _HEAD.size:
                    self._stream, self._left = _HEAD.unpack(self._head)
                    self._head = b""
                continue
            part, data = data[: self._left], data[self._left :]
            self._left -= len(part)
            if self._stream == _STDOUT:
                found += part
        return bytes(found)


class Relay:
    """Carries bytes between a socket for a `Cell` and a container's standard streams."""

    def __init__(self, attached: Any) -> None:
        """Takes over a connection.

        Args:
            attached: What the engine's client gives for a container that was attached to.
        """
        self._attached = attached  # it holds what would close the connection
        self._line: Any = getattr(attached, "_sock", attached)
        self._line.settimeout(None)
        self.ours, self._near = new_line()

    def start(self) -> None:
        """Begins to carry, in a thread that ends with either side."""
        threading.Thread(target=self._carry, name="palaestra-relay", daemon=True).start()

    def _carry(self) -> None:
        streams = Streams()
        line, near = self._line, self._near
        flags = 0 if isinstance(line, ssl.SSLSocket) else wire.NO_SIGNAL  # TLS knows no flags
        waiting = getattr(line, "pending", lambda: 0)  # TLS: decrypted, and so unseen by poll
        try:
            while True:
                ready = [line.fileno()] if waiting() else readable([line.fileno(), near.fileno()])
                if line.fileno() in ready:
                    data = line.recv(_PIECE)
                    if not data:
                        return
                    near.sendall(streams.feed(data), wire.NO_SIGNAL)
                elif near.fileno() in ready:
                    data = near.recv(_PIECE)
                    if not data:
                        return
                    line.sendall(data, flags)
        except (OSError, ValueError):
            return  # closed on one of the sides
        finally:
            self.close()

    def close(self) -> None:
        """Hangs up on both sides; idempotent. The engine then ends the container's input."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        for one in (self._line, self._attached, self._near):
            with contextlib.suppress(OSError):
                one.close()

    def forget(self) -> None:
        """In a forked copy of the trainer: lets go without hanging up."""
        for one in (self._line, self._attached, self._near):
            with contextlib.suppress(OSError):
                one.close()
