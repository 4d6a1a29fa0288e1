"""One turn of a session as it travels: host to cell, cell to interpreter, and back.

Fixed numbers, then text: a turn is short, and half of its time would go into JSON. What an
interpreter says is the guest's word; a cell's answer is checked as every other frame.
"""

from __future__ import annotations

import array
import socket
import struct
from typing import NamedTuple, Protocol

from .. import wire

TURN = 6  # kind of a frame, host to cell, beside those of `wire`
OPEN, EXECUTE, SHELL, FORK = range(4)  # operations
DEAD, ALIVE, REFUSED = range(3)  # how an answer begins
_QUESTION = struct.Struct("<BxxxIdQQI")
_WORD = struct.Struct("<i")
_PIECE = 4096  # bytes of the first read: most turns have no more
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)  # a plain number: an enum's arithmetic costs pages
_RIGHTS = 64  # bytes for descriptors that come with it


NUMBER = struct.Struct("<I")
ANSWERED = wire.pack(wire.ANSWER, 0, _WORD.pack(0))[:4]  # how the answer "all went well" begins,
WELL = wire.pack(wire.ANSWER, 0, _WORD.pack(0))[8:]  # and ends; between them is its number


class Question(NamedTuple):
    """What one branch is asked."""

    operation: int
    branch: int = 0
    wall: float = 0.0  # seconds
    output: int = 0  # bytes kept of each stream
    output_stop: int = 0  # bytes written that end the call
    text: bytes = b""  # the program, or what else the operation needs
    stdin: bytes = b""


class Line(Protocol):
    """What is needed of a socket, or of pipes in its place."""

    def recv(self, count: int, /) -> bytes:
        """Some bytes; empty at the end."""
        ...


def pack(question: Question) -> bytes:
    """A question as a frame's body."""
    operation, branch, wall, output, stop, text, stdin = question
    head = _QUESTION.pack(operation, branch, wall, output, stop, len(text))
    return b"".join((head, text, stdin))


def unpack(body: bytes) -> Question:
    """The inverse of `pack`; its input comes from the trusted side.

    >>> unpack(pack(Question(EXECUTE, 3, 1.5, text=b"x = 1", stdin=b"in")))[-2:]
    (b'x = 1', b'in')
    """
    operation, branch, wall, output, stop, length = _QUESTION.unpack_from(body)
    end = _QUESTION.size + length
    text = body[_QUESTION.size : end]
    return Question(operation, branch, wall, output, stop, text, body[end:])


def pack_word(status: int, text: str = "") -> bytes:
    """What an interpreter answers, as a frame's body."""
    return _WORD.pack(status) + text.encode("utf-8", "replace")


def unpack_word(body: bytes) -> tuple[int, str]:
    """A status and words of what claims to be an interpreter.

    Raises:
        Malformed: Too short.
    """
    if len(body) < _WORD.size:
        raise wire.Malformed("short word")
    return _WORD.unpack_from(body)[0], body[_WORD.size :].decode("utf-8", "replace")


def read(line: Line) -> wire.Frame:
    """The next frame of a line on which nobody speaks unasked: mostly in one read.

    Raises:
        Hangup: The other side closed first.
        Malformed: No frame, or more than one.
        OSError: Of the line.
    """
    return complete(line, line.recv(_PIECE))


def complete(line: Line, data: bytes) -> wire.Frame:
    """The frame that begins with `data`; raises as `read`."""
    if not data:
        raise wire.Hangup
    if len(data) < wire.HEAD.size:
        data += _rest(line, wire.HEAD.size - len(data))
    kind, number, length = wire.head(data[: wire.HEAD.size])
    missing = wire.HEAD.size + length - len(data)
    if missing < 0:
        raise wire.Malformed("more than was asked for")
    if missing:
        data += _rest(line, missing)
    return wire.Frame(kind, number, data[wire.HEAD.size :])


def _rest(line: Line, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        piece = line.recv(min(count - len(parts), 1 << 20))
        if not piece:
            raise wire.Hangup
        parts += piece
    return bytes(parts)


def read_with_descriptors(line: wire.Socket) -> tuple[wire.Frame, list[int]]:
    """As `read`, with the descriptors that travel with the first byte."""
    data, rights, _, _ = line.recvmsg(_PIECE, _RIGHTS, _CLOEXEC)
    fds = list(array.array("i", rights[0][2])) if rights else []
    return complete(line, data), fds
