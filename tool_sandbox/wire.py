"""Frames between host and guest.

A frame is `<2sBBII>`: magic `PA`, version, kind, request id, length of the body; then the body.
Bodies are fixed structs (numbers) followed by blobs by length; the rare structured ones are JSON.
The same file serves both sides. The host treats every byte from a cell as hostile: whatever does
not parse raises `Malformed`, and nothing else.
"""

from __future__ import annotations

import array
import json
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

MAGIC = b"PA"
VERSION = 1
LIMIT = 16 * 1024 * 1024  # bytes of a body
DEPTH = 100  # of JSON

HEAD = struct.Struct("<2sBBII")
SECONDS = struct.Struct("<d")

# kinds, host to guest
SPAWN, RUN, CALL, HURRY, ROOM = 1, 2, 3, 4, 5
# kinds, guest to host
HELLO, READY, FAILED, FILE, RESULT, ANSWER, HANDLES = 16, 17, 18, 19, 20, 21, 22

# modes of an execution
MODES = ("run", "calls", "judge", "candidate", "session")
LANGUAGES = ("python", "shell")
WANT_VALUE, SEEDED, ROWS, BROKER = 1, 2, 4, 8  # flags of an order


class Malformed(Exception):
    """Bytes that are no frame, or a frame that is not what was waited for."""


class Hangup(Exception):
    """The other side closed its end."""


class Frame(NamedTuple):
    """One message."""

    kind: int
    id: int
    body: bytes


def pack(kind: int, request_id: int, body: bytes) -> bytes:
    """One frame as bytes."""
    if len(body) > LIMIT:
        raise ValueError(f"a frame of {len(body)} bytes; at most {LIMIT} travel at once")
    return HEAD.pack(MAGIC, VERSION, kind, request_id, len(body)) + body


def head(data: bytes) -> tuple[int, int, int]:
    """Kind, request id and body length of a frame's first bytes.

    Raises:
        Malformed: Wrong magic, version or length.

    >>> head(pack(RUN, 7, b"abc")[:HEAD.size])
    (2, 7, 3)
    """
    if len(data) != HEAD.size:
        raise Malformed("short head")
    magic, version, kind, request_id, length = HEAD.unpack(data)
    if magic != MAGIC or version != VERSION:
        raise Malformed("wrong magic or version")
    if length > LIMIT:
        raise Malformed("body too long")
    return kind, request_id, length


class Order(NamedTuple):
    """One execution as it travels to the guest."""

    code: bytes
    wall: float = 5.0
    cpu: int = 6  # whole seconds
    open_files: int = 64
    output: int = 65536
    output_stop: int = 8388608
    mode: int = 0
    language: int = 0
    flags: int = SEEDED
    seed: bytes = b"0"  # decimal
    stdin: bytes = b""
    payload: bytes = b""
    files: tuple[tuple[str, bytes], ...] = ()
    fetch: tuple[str, ...] = ()


_ORDER = struct.Struct("<dIIQQBBBxHH")


def pack_order(order: Order) -> bytes:
    """An order as a frame's body."""
    blobs: list[bytes] = [order.code, order.seed, order.stdin, order.payload]
    for name, data in order.files:
        blobs += (name.encode(), data)
    blobs += (name.encode() for name in order.fetch)
    numbers = _ORDER.pack(
        order.wall,
        order.cpu,
        order.open_files,
        order.output,
        order.output_stop,
        order.mode,
        order.language,
        order.flags,
        len(order.files),
        len(order.fetch),
    )
    return b"".join((numbers, struct.pack(f"<{len(blobs)}I", *map(len, blobs)), *blobs))


def unpack_order(body: bytes) -> Order:
    """The inverse of `pack_order`; its input comes from the trusted side.

    >>> unpack_order(pack_order(Order(b"1", files=(("a", b"b"),), fetch=("c",)))).files
    (('a', b'b'),)
    """
    wall, cpu, open_files, output, stop, mode, language, flags, n_files, n_fetch = (
        _ORDER.unpack_from(body)
    )
    blobs = _blobs(body, _ORDER.size, 4 + 2 * n_files + n_fetch)
    names = blobs[4:]
    return Order(
        blobs[0],
        wall,
        cpu,
        open_files,
        output,
        stop,
        mode,
        language,
        flags,
        blobs[1],
        blobs[2],
        blobs[3],
        tuple((names[2 * i].decode(), names[2 * i + 1]) for i in range(n_files)),
        tuple(name.decode() for name in names[2 * n_files :]),
    )


class Ending(NamedTuple):
    """One execution as the supervisor in the cell saw it end."""

    cause: int  # index into CAUSES
    status: int  # as wait4 gave it, decoded: exit code, or minus the signal
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    memory_peak: int = -1  # bytes; -1: not known
    retired: int = 0  # the cell will take no more
    rows: bytes = b""  # what was written to the result pipe


CAUSES = ("exit", "timeout", "output", "memory", "hurried", "stopped")
_ENDING = struct.Struct("<BBxxiQQddqIII")
_PIECE = struct.Struct("<H")


def pack_ending(ending: Ending) -> bytes:
    """An ending as a frame's body."""
    numbers = _ENDING.pack(
        ending.cause,
        ending.retired,
        ending.status,
        ending.stdout_bytes,
        ending.stderr_bytes,
        ending.wall,
        ending.cpu,
        ending.memory_peak,
        len(ending.stdout),
        len(ending.stderr),
        len(ending.rows),
    )
    return b"".join((numbers, ending.stdout, ending.stderr, ending.rows))


def unpack_ending(body: bytes, order: Order) -> Ending:
    """What a cell reported about this order, checked field by field.

    Raises:
        Malformed: The bytes are no ending, or one that this order cannot have.
    """
    try:
        cause, retired, status, n_out, n_err, wall, cpu, peak, out, err, rows = _ENDING.unpack_from(
            body
        )
    except struct.error:
        raise Malformed("short ending") from None
    start = _ENDING.size
    ends = (start + out, start + out + err, start + out + err + rows)
    sound = (
        cause < len(CAUSES)
        and -65 <= status <= 255
        and ends[2] == len(body)
        and out <= min(n_out, order.output)
        and err <= min(n_err, order.output)
        and 0.0 <= wall < 1e9
        and 0.0 <= cpu < 1e9
        and peak >= -1
        and (rows == 0 or order.flags & (ROWS | WANT_VALUE))
    )
    if not sound:
        raise Malformed("an ending that cannot be")
    return Ending(
        cause,
        status,
        body[start : ends[0]],
        body[ends[0] : ends[1]],
        n_out,
        n_err,
        wall,
        cpu,
        peak,
        retired,
        body[ends[1] :],
    )


def pack_piece(index: int, piece: bytes) -> bytes:
    """A piece of the file that an order's `fetch[index]` names, as a frame's body."""
    return _PIECE.pack(index) + piece


class Collector:
    """Puts the pieces of an order's files together; they come before the ending."""

    def __init__(self, asked: int, most: int) -> None:
        self.files: dict[int, bytearray] = {}
        self._asked = asked
        self._most = most  # bytes in all
        self._last = 0

    def take(self, body: bytes) -> None:
        """One piece.

        Raises:
            Malformed: Of a file nobody asked for, out of order, or too much.
        """
        if len(body) < _PIECE.size:
            raise Malformed("short piece")
        index = _PIECE.unpack_from(body)[0]
        self._most -= len(body) - _PIECE.size
        if not self._last <= index < self._asked or self._most < 0:
            raise Malformed("a file nobody asked for")
        self._last = index
        self.files.setdefault(index, bytearray()).extend(body[_PIECE.size :])


def _blobs(body: bytes, at: int, count: int) -> list[bytes]:
    lengths = struct.unpack_from(f"<{count}I", body, at)
    at += 4 * count
    blobs: list[bytes] = []
    for length in lengths:
        blobs.append(body[at : at + length])
        at += length
    if at != len(body):
        raise Malformed("lengths do not add up")
    return blobs


def pack_json(value: Mapping[str, object], *blobs: bytes) -> bytes:
    """A small structured body with blobs behind it."""
    text = json.dumps(value, separators=(",", ":")).encode()
    parts = (text, *blobs)
    return struct.pack(f"<H{len(parts)}I", len(parts), *map(len, parts)) + b"".join(parts)


def unpack_json(body: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """A structured body and its blobs.

    Raises:
        Malformed: Not that; or nested deeper than 100.

    >>> unpack_json(pack_json({"a": 1}, b"x"))
    ({'a': 1}, [b'x'])
    """
    try:
        (count,) = struct.unpack_from("<H", body)
        blobs = _blobs(body, 2, count)
        text = blobs.pop(0)
    except (struct.error, IndexError):
        raise Malformed("short body") from None
    if _depth(text) > DEPTH:
        raise Malformed("nested too deep")
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("no JSON") from None
    if not isinstance(value, dict):
        raise Malformed("no JSON object")
    return cast("dict[str, Any]", value), blobs


# A whole string, or a bracket. Possessive, and a string may lack its end: linear on any bytes.
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_MARKS = 1 << 20


def _depth(text: bytes) -> int:
    """How deep brackets nest outside strings; over `DEPTH` as well for more than `_MARKS` parts."""
    depth = deepest = 0
    for count, found in enumerate(_MARK.finditer(text)):
        mark = text[found.start()]
        depth += (mark in b"[{") - (mark in b"]}")
        deepest = max(deepest, depth)
        if deepest > DEPTH or count > _MARKS:
            return DEPTH + 1
    return deepest


def receive(sock: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes.

    Raises:
        Hangup: The other side closed first.
        OSError: Of the socket, its time-out included.
    """
    data = sock.recv(count)
    if len(data) == count:
        return data
    parts = bytearray(data)
    while len(parts) < count:
        if not data:
            raise Hangup
        data = sock.recv(min(count - len(parts), 1 << 20))
        parts += data
    return bytes(parts)


def read_frame(sock: socket.socket) -> Frame:
    """The next frame of a blocking socket."""
    kind, request_id, length = head(receive(sock, HEAD.size))
    return Frame(kind, request_id, receive(sock, length) if length else b"")


def read_frame_fds(sock: socket.socket, most: int) -> tuple[Frame, list[int]]:
    """The next frame and the descriptors that travel with its first byte."""
    first, fds, flags, _ = socket.recv_fds(sock, HEAD.size, most, socket.MSG_CMSG_CLOEXEC)
    if not first:
        raise Hangup
    if flags & socket.MSG_CTRUNC:
        raise Malformed("more descriptors than allowed")
    if len(first) < HEAD.size:
        first += receive(sock, HEAD.size - len(first))
    kind, request_id, length = head(first)
    return Frame(kind, request_id, receive(sock, length) if length else b""), fds


def send_fds(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """Sends all of `data`, the descriptors with its first bytes."""
    if not fds:
        sock.sendall(data)
        return
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    sent = sock.sendmsg([data], rights)
    if sent < len(data):
        sock.sendall(data[sent:])


class Assembler:
    """Frames out of pieces, for sockets that do not block."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Takes a piece; the frames it completes.

        Raises:
            Malformed: What came is no frame.
        """
        self._held += data
        frames: list[Frame] = []
        while len(self._held) >= HEAD.size:
            kind, request_id, length = head(bytes(self._held[: HEAD.size]))
            end = HEAD.size + length
            if len(self._held) < end:
                break
            frames.append(Frame(kind, request_id, bytes(self._held[HEAD.size : end])))
            del self._held[:end]
        return frames
