"""Plain Python values as bytes, strictly; shared by host and guest.

Neither pickle nor marshal: the reader faces bytes that an adversary wrote, so it knows a closed set
of exact types, a depth, a size and a number of nodes, and answers anything else with one error.

    value := tag payload
    N T F            None, True, False
    j i              int: 8 bytes signed; else u32 length and hexadecimal text
    f c              float, complex: 8 or 16 bytes
    s b m e          str, bytes, Decimal (its text), builtin type (its name): u32 length and bytes
    l t S z          list, tuple, set, frozenset: u32 count and values
    a                list or tuple of ints of 64 bits, or of floats: tag l or t, tag j or f, u32
                     count, 8 bytes each
    d C O D          dict, Counter, OrderedDict: u32 count, keys and values in turn; defaultdict:
                     its factory (None or a type) first
    q r              deque: its maxlen (None or int), then as a list; Fraction: two ints
    y                date and time types, range, slice: a name, then a tuple of what makes one
    k                a container that came before (u32: which one): only where handles are agreed on
    h                a handle (u64): only where both sides agreed on handles
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from datetime import timezone
from decimal import Decimal
from fractions import Fraction
from types import NoneType
from typing import Any

from .kinds import (
    BITS,
    DEPTH,
    DIGITS,
    HEAVIEST,
    HEAVY,
    MIXED_BITS,
    MUTABLE,
    NAMES,
    NODES,
    PARTS,
    RATIO_BITS,
    SIZE,
    TWINS,
    TYPES,
    BadValue,
    NotPlain,
    ValueProblem,
)
from .reading import Reader

__all__ = [
    "BITS",
    "DEPTH",
    "MIXED_BITS",
    "NAMES",
    "NODES",
    "RATIO_BITS",
    "SIZE",
    "TWINS",
    "TYPES",
    "BadValue",
    "NotPlain",
    "Reader",
    "ValueProblem",
    "decode",
    "encode",
]

_COUNT = struct.Struct("<I")
_HANDLE = struct.Struct("<Q")
_TAGGED_COUNT = struct.Struct("<cI")
_TAGGED_INT = struct.Struct("<cq")
_TAGGED_FLOAT = struct.Struct("<cd")
_ARRAY = struct.Struct("<cccI")
_LOW, _HIGH = -(1 << 63), (1 << 63) - 1
_ROW = 4  # items from which on an array is the cheaper form
_SEQUENCES: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"S", frozenset: b"z"}
_MAPPINGS: dict[type, bytes] = {dict: b"d", Counter: b"C", OrderedDict: b"O"}


def encode(
    value: object,
    *,
    size: int = SIZE,
    handle: Callable[[object], int | None] | None = None,
    whole: bool = False,
) -> bytes:
    """Write a plain value as bytes.

    Args:
        value: None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset,
            Counter, defaultdict, OrderedDict, deque, Decimal, Fraction, a date or time, range,
            slice, a builtin type; containers of these to a depth of 100. A subclass is refused.
        size: most bytes that may be written.
        handle: asked about each object outside the set; a number stands for it, None refuses it.
        whole: refuse a defaultdict whose factory is no builtin type. Else it travels without its
            factory, which is no part of what it equals.

    Raises:
        NotPlain: with the type that has no plain form, or the bound that was passed.

    >>> decode(encode({"a": [1, 2.5, None]}))
    {'a': [1, 2.5, None]}
    """
    if type(value) is int and _LOW <= value <= _HIGH and size > 8:
        return _TAGGED_INT.pack(b"j", value)
    writer = _Writer(size, handle, whole=whole)
    writer.put(value, 0)
    data = b"".join(writer.parts)
    if len(data) > size:
        raise NotPlain(_LARGE)
    return data


def decode(
    data: bytes | bytearray | memoryview,
    *,
    handle: Callable[[int], object] | None = None,
    nodes: int = NODES,
) -> object:
    """Read what `encode` wrote; any other bytes raise one error, in bounded time.

    Args:
        data: the bytes, all of them.
        handle: gives the object for a handle; without it a handle is refused.
        nodes: most values, containers and their members counted alike.

    Raises:
        BadValue: the bytes are no value, or exceed a bound.
    """
    reader = Reader(bytes(data), handle, nodes)
    value = reader.value()
    if reader.at != len(reader.data):
        raise BadValue(f"{len(reader.data) - reader.at} bytes follow the value; wanted none")
    return value


_LARGE = "the value needs more bytes than the wire carries; return a smaller one"


class _Writer:
    """Collects the pieces of one value; counts its nodes, and the bytes of what has a length."""

    __slots__ = ("handle", "left", "nodes", "parts", "seen", "shares", "whole")

    def __init__(
        self, size: int, handle: Callable[[object], int | None] | None, *, whole: bool
    ) -> None:
        self.parts: list[bytes] = []
        self.left = size
        self.nodes = NODES
        self.whole = whole
        self.handle = handle
        self.shares = handle is not None  # whether a container may be spoken of again
        self.seen: dict[int, tuple[int, int]] = {}  # id -> place, parts

    def put(self, item: object, depth: int) -> None:
        self.nodes -= 1
        if depth > DEPTH or self.nodes < 0:
            raise NotPlain(f"the value is deeper than {DEPTH} or has more than {NODES} parts")
        value: Any = item
        kind = type(item)
        shared = self.shares and kind in MUTABLE
        if shared and self.again(item):
            return
        before = self.nodes
        if kind is int:
            if _LOW <= value <= _HIGH:
                self.parts.append(_TAGGED_INT.pack(b"j", value))
            else:
                self.put_long(value)
        elif kind is str:
            self.add_sized(b"s", value.encode("utf-8", "surrogatepass"))
        elif kind is bool:
            self.parts.append(b"T" if value else b"F")
        elif value is None:
            self.parts.append(b"N")
        elif kind is float:
            self.parts.append(_TAGGED_FLOAT.pack(b"f", value))
        elif kind is list or kind is tuple:
            tag = b"l" if kind is list else b"t"
            if len(value) < _ROW or not self.put_array(tag, value):
                self.put_all(tag, value, depth)
        elif kind in _SEQUENCES:
            self.nodes -= HEAVY
            self.put_all(_SEQUENCES[kind], value, depth)
        elif kind in _MAPPINGS:
            self.nodes -= 0 if kind is dict else HEAVY
            self.put_pairs(_MAPPINGS[kind], value, depth)
        else:
            self.put_rare(value, kind, depth)
        if shared:  # numbered when it is whole, so nothing can hold itself
            self.seen[id(item)] = len(self.seen), before - self.nodes

    def again(self, item: object) -> bool:
        """Writes a container that is there already as a reference; it counts with all its parts."""
        place, parts = self.seen.get(id(item), (-1, 0))
        if place < 0:
            return False
        self.nodes -= parts
        if self.nodes < 0:
            raise NotPlain(_LARGE)
        self.add(_TAGGED_COUNT.pack(b"k", place))
        return True

    def put_array(self, tag: bytes, items: Sequence[object]) -> bool:
        """Items of one machine type in one step; says whether they are that."""
        first = type(items[0])
        if (first is not int and first is not float) or len(set(map(type, items))) != 1:
            return False
        name = "q" if first is int else "d"
        try:
            body = struct.pack(f"<{len(items)}{name}", *items)
        except struct.error:  # an int of more than 64 bits
            return False
        self.nodes -= len(items)
        if self.nodes < 0:
            raise NotPlain(_LARGE)
        head = _ARRAY.pack(b"a", tag, b"j" if first is int else b"f", len(items))
        self.add(head + body)
        return True

    def put_long(self, value: int) -> None:
        if value.bit_length() > BITS:
            raise NotPlain(f"an int has {value.bit_length()} bits; the wire carries {BITS}")
        self.add_sized(b"i", b"%x" % value)

    def add(self, piece: bytes) -> None:
        self.left -= len(piece)
        if self.left < 0:
            raise NotPlain(_LARGE)
        self.parts.append(piece)

    def add_sized(self, tag: bytes, body: bytes) -> None:
        self.add(_TAGGED_COUNT.pack(tag, len(body)) + body)

    def put_all(self, tag: bytes, items: Any, depth: int) -> None:
        self.parts.append(tag + _COUNT.pack(len(items)))
        for item in items:
            self.put(item, depth + 1)

    def put_pairs(self, tag: bytes, items: Any, depth: int) -> None:
        self.parts.append(tag + _COUNT.pack(len(items)))
        for key, item in items.items():
            self.put(key, depth + 1)
            self.put(item, depth + 1)

    def put_rare(self, value: Any, kind: type, depth: int) -> None:
        if kind is bytes:
            self.add_sized(b"b", value)
        elif kind is complex:
            self.add(struct.pack("<cdd", b"c", value.real, value.imag))
        elif kind is defaultdict:
            self.put_default(value, depth)
        elif kind is deque:
            self.nodes -= HEAVIEST
            self.add(b"q")
            self.put(value.maxlen, depth + 1)
            self.put_all(b"", value, depth)
        elif kind is Decimal:
            text = str(value)
            if len(text) > DIGITS:
                raise NotPlain(f"a Decimal has more than {DIGITS} digits")
            self.add_sized(b"m", text.encode("ascii"))
        elif kind is Fraction:
            self.put_ratio(value)
        elif kind in PARTS and type(getattr(value, "tzinfo", None)) in (NoneType, timezone):
            parts = PARTS[kind](value)
            if any(type(part) is int and part.bit_length() > RATIO_BITS for part in parts):
                raise NotPlain(f"a {kind.__name__} has parts of more than {RATIO_BITS} bits")
            self.add(b"y")
            self.put(kind.__name__, depth + 1)
            self.put(parts, depth + 1)
        elif kind is type and value in NAMES:
            self.add_sized(b"e", NAMES[value].encode("ascii"))
        else:
            self.put_handle(value, kind)

    def put_default(self, value: Any, depth: int) -> None:
        factory = value.default_factory
        known = factory is None or (isinstance(factory, type) and factory in NAMES)
        if self.whole and not known:
            raise NotPlain("a defaultdict's factory is no builtin type; give a plain dict, or int")
        self.nodes -= HEAVY
        self.add(b"D")
        self.put(factory if known else None, depth + 1)
        self.put_pairs(b"", value, depth)

    def put_ratio(self, value: Fraction) -> None:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > RATIO_BITS:
            raise NotPlain(f"a Fraction's parts have more than {RATIO_BITS} bits")
        self.add(b"r")
        self.put(value.numerator, 0)
        self.put(value.denominator, 0)

    def put_handle(self, value: object, kind: type) -> None:
        number = self.handle(value) if self.handle is not None else None
        if number is None:
            raise NotPlain(f"a value of type {kind.__name__!r} has no plain form")
        self.add(b"h" + _HANDLE.pack(number))
