"""Frames between host and guest.

A frame is `<2sBBII>`: magic `PA`, version, kind, request id, length of the body; then the body.
Bodies are fixed structs (numbers) followed by blobs by length; the rare structured ones are JSON.
The same file serves both sides. The host treats every byte from a cell as hostile: whatever does
not parse raises `Malformed`, and nothing else.
"""

from __future__ import annotations

import _socket
import array
import json
import os
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

Socket = _socket.socket  # a plain one, or a `socket.socket`, which is made of it
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
    return pack_head(kind, request_id, len(body)) + body


def pack_head(kind: int, request_id: int, length: int) -> bytes:
    """The head of a frame whose body has so many bytes."""
    if length > LIMIT:
        raise ValueError(f"a frame of {length} bytes; at most {LIMIT} travel at once")
    return HEAD.pack(MAGIC, VERSION, kind, request_id, length)


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


ORDER = struct.Struct("<dIIQQBBBxHH")
_Buffer = bytes | memoryview
_B = TypeVar("_B", bytes, memoryview)


def pack_order(order: Order) -> bytes:
    """An order as a frame's body."""
    blobs: list[bytes] = [order.code, order.seed, order.stdin, order.payload]
    for name, data in order.files:
        blobs += (name.encode(), data)
    blobs += (name.encode() for name in order.fetch)
    numbers = ORDER.pack(
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
        ORDER.unpack_from(body)
    )
    blobs = blobs_of(body, ORDER.size, 4 + 2 * n_files + n_fetch)
    names = [blob.decode() for blob in blobs[4 + 2 * n_files :]]
    files = [(blobs[at].decode(), blobs[at + 1]) for at in range(4, 4 + 2 * n_files, 2)]
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
        tuple(files),
        tuple(names),
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
PIECE = struct.Struct("<H")


def pack_ending(ending: Ending) -> bytes:
    """An ending as a frame's body."""
    blobs = ending.stdout, ending.stderr, ending.rows
    return b"".join((pack_numbers(ending, *map(len, blobs)), *blobs))


def pack_numbers(ending: Ending, out: int, err: int, rows: int) -> bytes:
    """The fixed part of an ending, of which stdout, stderr and rows have so many bytes."""
    return _ENDING.pack(
        ending.cause,
        ending.retired,
        ending.status,
        ending.stdout_bytes,
        ending.stderr_bytes,
        ending.wall,
        ending.cpu,
        ending.memory_peak,
        out,
        err,
        rows,
    )


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
    return PIECE.pack(index) + piece


def blobs_of(body: _B, at: int, count: int) -> list[_B]:
    """The blobs that end a body, by the lengths before them; Malformed if they do not add up."""
    lengths = struct.unpack_from(f"<{count}I", body, at)
    at += 4 * count
    blobs: list[_B] = []
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
        blobs = blobs_of(body, 2, count)
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


def receive(sock: Socket, count: int) -> bytes:
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


def read_frame(sock: Socket) -> Frame:
    """The next frame of a blocking socket."""
    kind, request_id, length = head(receive(sock, HEAD.size))
    return Frame(kind, request_id, receive(sock, length) if length else b"")


_ANCILLARY = socket.CMSG_SPACE(4 * 16)  # bytes for 16 descriptors
# Plain numbers: an enum's arithmetic costs a process that has just forked many pages.
_CLOEXEC, _TRUNCATED = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
NO_SIGNAL = int(socket.MSG_NOSIGNAL)  # a trainer with the default action of SIGPIPE would die of it


def read_frame_fds(sock: Socket, most: int) -> tuple[Frame, list[int]]:
    """The next frame and the descriptors that travel with its first byte."""
    (kind, request_id, length), fds = read_head_fds(sock, most)
    return Frame(kind, request_id, receive(sock, length) if length else b""), fds


def read_head_fds(sock: Socket, most: int) -> tuple[tuple[int, int, int], list[int]]:
    """Kind, request id and length of the next frame, and the descriptors that came with it."""
    first, rights, flags, _ = sock.recvmsg(HEAD.size, _ANCILLARY, _CLOEXEC)
    if not first:
        raise Hangup
    fds = list(array.array("i", rights[0][2])) if rights else []
    if flags & _TRUNCATED or len(fds) > most:
        for fd in fds:
            os.close(fd)
        raise Malformed("more descriptors than allowed")
    if len(first) < HEAD.size:
        first += receive(sock, HEAD.size - len(first))
    return head(first), fds


def send_fds(sock: Socket, data: _Buffer, fds: Sequence[int]) -> None:
    """Sends all of `data`, the descriptors with its first bytes."""
    sent = 0
    if fds:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        sent = sock.sendmsg([data], rights, NO_SIGNAL)
    if sent < len(data):
        sock.sendall(data[sent:], NO_SIGNAL)


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
