"""What a supervisor passes on from host to guest and back, without a copy in its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .. import wire


class Arrival(NamedTuple):
    """A frame whose body lies where the receiver wanted it."""

    kind: int
    id: int
    body: memoryview
    fds: list[int]


class Bounds(NamedTuple):
    """What a supervisor needs to know of an order; all else it only passes on."""

    wall: float
    output: int
    output_stop: int
    flags: int
    fetch: tuple[memoryview, ...]  # names


def bounds(body: memoryview) -> Bounds:
    """The bounds of an order, without copying anything of it.

    >>> order = wire.Order(b"1", wall=2.0, files=(("a", b"b"),), fetch=("c",))
    >>> found = bounds(memoryview(wire.pack_order(order)))
    >>> found.wall, bytes(found.fetch[0])
    (2.0, b'c')
    """
    wall, _, _, output, stop, _, _, flags, n_files, n_fetch = wire.ORDER.unpack_from(body)
    fetch: tuple[memoryview, ...] = ()
    if n_fetch:
        fetch = tuple(wire.blobs_of(body, wire.ORDER.size, 4 + 2 * n_files + n_fetch)[-n_fetch:])
    return Bounds(wall, output, stop, flags, fetch)


def pack_piece_head(frame: memoryview, request_id: int, index: int, size: int) -> None:
    """Completes the frame of a piece of a result file; the piece lies in it already."""
    wire.HEAD.pack_into(
        frame, 0, wire.MAGIC, wire.VERSION, wire.FILE, request_id, wire.PIECE.size + size
    )
    wire.PIECE.pack_into(frame, wire.HEAD.size, index)


def read_arrival(sock: wire.Socket, most: int, room: Callable[[int], memoryview]) -> Arrival:
    """The next frame and its descriptors, the body straight into memory of the caller's choice."""
    (kind, request_id, length), fds = wire.read_head_fds(sock, most)
    body = room(length)
    left = body
    while left:
        count = sock.recv_into(left)
        if not count:
            raise wire.Hangup
        left = left[count:]
    return Arrival(kind, request_id, body, fds)
