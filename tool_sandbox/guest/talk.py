"""Frames between a judge and its candidate: one question, one answer."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from .. import values

SOCKET = 6  # both sides inherit their end as this descriptor
ENDED = "the other side has ended"
ROOT = 0  # the handle of the candidate's module
LARGEST = 16 << 20
_LENGTH = struct.Struct("<I")

# Operators that both sides know, by their names in `operator` and among the builtins.
ARITHMETIC = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("lshift", "rshift", "and_", "or_", "xor"),
)
UNARY = ("neg", "pos", "invert", "index", "getitem", "setitem", "delitem")
FUNCTIONS = (
    *("abs", "str", "repr", "len", "iter", "next", "int", "float", "complex", "round"),
    *("divmod", "reversed"),
)

# What an answer is.
PLAIN, RAISED, REFUSED, UNKNOWN = range(4)


class Gone(BaseException):
    """The other side has ended, or speaks another language."""


def exactly(thing: object, kind: type) -> bool:
    """Whether this is of the type itself; told without narrowing what a checker knows."""
    return type(thing) is kind


def send(sock: socket.socket, message: object, handle: Callable[[object], int | None]) -> None:
    """Write one frame.

    Raises:
        NotPlain: The message holds what no wire carries.
        Gone: The other side has ended.
    """
    data = values.encode(message, size=LARGEST, handle=handle)
    try:
        sock.sendall(_LENGTH.pack(len(data)) + data)
    except OSError:
        raise Gone(ENDED) from None


def receive(sock: socket.socket, handle: Callable[[int], object]) -> tuple[Any, ...]:
    """Read one frame.

    Raises:
        Gone: The other side has ended, or what it sent is no tuple of values.
    """
    (length,) = _LENGTH.unpack(_whole(sock, _LENGTH.size))
    if length > LARGEST:
        raise Gone("the other side sent a frame too large")
    try:
        message = values.decode(_whole(sock, length), handle=handle)
    except values.BadValue as problem:
        raise Gone(f"the other side sent what is no value: {problem}") from None
    if type(message) is not tuple:
        raise Gone("the other side sent what is no message")
    return cast("tuple[Any, ...]", message)


def _whole(sock: socket.socket, count: int) -> bytes:
    held = bytearray()
    while len(held) < count:
        try:
            piece = sock.recv(min(count - len(held), 1 << 20))
        except OSError:
            piece = b""
        if not piece:
            raise Gone(ENDED)
        held += piece
    return bytes(held)
