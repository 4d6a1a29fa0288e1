"""Frames between a judge and its candidate: one question, one answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .. import values
from . import rows

SOCKET = 6  # both sides inherit their end as this descriptor
ENDED = "the other side has ended"
ROOT = 0  # the handle of the candidate's module
LARGEST = 16 << 20
PRINTED = -3  # among the changes that an answer tells of: what was printed, if the tests catch it
_FIRST = 1 << 14  # bytes of a first piece: most frames have fewer
_read = os.read

# Operators that both sides know, by their names in `operator` and among the builtins.
ARITHMETIC = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("lshift", "rshift", "and_", "or_", "xor"),
)
IN_PLACE = tuple(f"i{name.rstrip('_')}" for name in ARITHMETIC)
UNARY = ("neg", "pos", "invert", "index", "getitem", "setitem", "delitem")
FUNCTIONS = (
    *("abs", "str", "repr", "len", "iter", "next", "int", "float", "complex", "round"),
    *("divmod", "reversed", "format", "type", "callable", "hasattr", "bool", "hash", "bytes"),
)
WHOLE = ("floor", "ceil", "trunc")  # and in `math`

# What an answer is.
PLAIN, RAISED, REFUSED, UNKNOWN = range(4)


class Gone(BaseException):
    """The other side has ended."""


class Forged(Gone):
    """The other side speaks another language, and is asked no more."""


def exactly(thing: object, kind: type) -> bool:
    """Whether this is of the type itself; told without narrowing what a checker knows."""
    return type(thing) is kind


def send(line: int, message: object, handle: Callable[[object], int | None]) -> None:
    """Write one frame.

    Raises:
        NotPlain: The message holds what no wire carries.
        Gone: The other side has ended.
    """
    transmit(line, values.encode(message, size=LARGEST, handle=handle))


def transmit(line: int, data: bytes) -> None:
    """Write one frame of bytes that are encoded already.

    Raises:
        Gone: The other side has ended.
    """
    try:
        rows.put(line, rows.LENGTH.pack(len(data)) + data)
    except OSError:
        raise Gone(ENDED) from None


def receive(line: int, handle: Callable[[int], object]) -> tuple[Any, ...]:
    """Read one frame; since the sides take turns, nothing may follow it.

    Raises:
        Gone: The other side has ended, or what it sent is no tuple of values.
    """
    return decoded(frame(line), handle)


def frame(line: int) -> bytes:
    """The bytes of one frame's value.

    Raises:
        Gone: The other side has ended, or announces too large a frame.
    """
    data = _piece(line, _FIRST)
    while len(data) < rows.LENGTH.size:
        data += _piece(line, _FIRST)
    length = rows.LENGTH.unpack_from(data)[0]
    if length > LARGEST:
        raise Forged("the other side sent a frame too large")
    if len(data) - rows.LENGTH.size < length:
        data = _whole(line, data, rows.LENGTH.size + length)
    return data[rows.LENGTH.size :]


def decoded(data: bytes, handle: Callable[[int], object]) -> tuple[Any, ...]:
    """The message that a frame carries.

    Raises:
        Forged: It is no tuple of values.
    """
    try:
        message: Any = values.decode(data, handle=handle)
    except values.BadValue as problem:
        raise Forged(f"the other side sent what is no value: {problem}") from None
    if not exactly(message, tuple):
        raise Forged("the other side sent what is no message")
    return message


def _whole(line: int, begun: bytes, size: int) -> bytes:
    held = bytearray(begun)
    while len(held) < size:
        held += _piece(line, min(size - len(held), 1 << 20))
    return bytes(held)


def _piece(line: int, most: int) -> bytes:
    try:
        piece = _read(line, most)
    except OSError as problem:
        if problem.errno is None:  # the TimeoutError of a handler of the tests, say
            raise
        piece = b""
    if not piece:
        raise Gone(ENDED)
    return piece
