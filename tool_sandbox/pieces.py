"""Result files as they come from a cell, piece by piece."""

from __future__ import annotations

from . import wire


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
        if len(body) < wire.PIECE.size:
            raise wire.Malformed("short piece")
        index = wire.PIECE.unpack_from(body)[0]
        self._most -= len(body) - wire.PIECE.size
        if not self._last <= index < self._asked or self._most < 0:
            raise wire.Malformed("a file nobody asked for")
        self._last = index
        self.files.setdefault(index, bytearray()).extend(body[wire.PIECE.size :])
