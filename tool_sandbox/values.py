"""Plain Python values as bytes, strictly; shared by host and guest.

Neither pickle nor marshal: the reader faces bytes that an adversary wrote, so it knows a closed set
of exact types, a depth, a size and a number of nodes, and answers anything else with one error.

    value := tag payload
    N T F            None, True, False
    j i              int: 8 bytes signed; else u32 length and hexadecimal text
    f c              float, complex: 8 or 16 bytes
    s b m e          str, bytes, Decimal (its text), builtin type (its name): u32 length and bytes
    l t S z          list, tuple, set, frozenset: u32 count and values
    d C O D          dict, Counter, OrderedDict: u32 count, keys and values in turn; defaultdict:
                     its factory (None or a type) first
    q r              deque: its maxlen (None or int), then as a list; Fraction: two ints
    y                date and time types, range, slice: a name, then a tuple of what makes one
    h                a handle (u64): only where both sides agreed on handles
"""

from __future__ import annotations

import builtins
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

DEPTH = 100
SIZE = 16 * 1024 * 1024
NODES = 1_000_000
BITS = 1 << 20  # of an int: comparing a longer one with a Decimal takes seconds
RATIO_BITS = 1 << 14  # of a Fraction's parts: reading one takes their greatest common divisor
DIGITS = 100_000  # of a Decimal
TWINS = 64  # keys of one set or dict that share a hash: more is an attack on the reader's time

TYPES: dict[str, type] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and kind.__name__ == name and not name.startswith("_")
}
TYPES["NoneType"] = type(None)
NAMES: dict[type, str] = {kind: name for name, kind in TYPES.items()}

_COUNT = struct.Struct("<I")
_INT = struct.Struct("<q")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")
_HANDLE = struct.Struct("<Q")
_SEQUENCES: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"S", frozenset: b"z"}
_MAPPINGS: dict[type, bytes] = {dict: b"d", Counter: b"C", OrderedDict: b"O"}


class ValueProblem(ValueError):
    """A value and its bytes do not go together."""


class NotPlain(ValueProblem):
    """A value without a plain form: its type is outside the closed set, or it is too big."""


class BadValue(ValueProblem):
    """Bytes that no encoder of ours wrote."""


def encode(
    value: object, *, size: int = SIZE, handle: Callable[[object], int | None] | None = None
) -> bytes:
    """Write a plain value as bytes.

    Args:
        value: None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset,
            Counter, defaultdict, OrderedDict, deque, Decimal, Fraction, a date or time, range,
            slice, a builtin type; containers of these to a depth of 100. A subclass is refused.
        size: most bytes that may be written.
        handle: asked about each object outside the set; a number stands for it, None refuses it.

    Raises:
        NotPlain: with the type that has no plain form, or the bound that was passed.

    >>> decode(encode({"a": [1, 2.5, None]}))
    {'a': [1, 2.5, None]}
    """
    writer = _Writer(size, handle)
    writer.put(value, 0)
    return b"".join(writer.parts)


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
    return decode_some(data, nodes, handle)[0]


def decode_some(
    data: bytes | bytearray | memoryview, nodes: int, handle: Callable[[int], object] | None = None
) -> tuple[object, int]:
    """As `decode`, and how many of `nodes` are left for the values that follow."""
    reader = _Reader(bytes(data), handle, nodes)
    try:
        value = reader.take(0)
    except BadValue:
        raise
    except Exception as problem:  # Decimal, dates and hashing have errors of their own
        raise BadValue(f"{type(problem).__name__}: {problem}") from None
    if reader.at != len(reader.data):
        raise BadValue(f"{len(reader.data) - reader.at} bytes follow the value; wanted none")
    return value, reader.nodes


class _Writer:
    """Collects the pieces of one value and counts its bytes and nodes."""

    def __init__(self, size: int, handle: Callable[[object], int | None] | None) -> None:
        self.parts: list[bytes] = []
        self.left = size
        self.nodes = NODES
        self.handle = handle

    def add(self, piece: bytes) -> None:
        self.left -= len(piece)
        if self.left < 0:
            raise NotPlain("the value needs more bytes than the wire carries; return a smaller one")
        self.parts.append(piece)

    def put(self, item: object, depth: int) -> None:
        self.nodes -= 1
        if depth > DEPTH or self.nodes < 0:
            raise NotPlain(f"the value is deeper than {DEPTH} or has more than {NODES} parts")
        value: Any = item
        kind = type(item)
        if kind is int:
            self.put_int(value)
        elif kind is str:
            self.add_sized(b"s", value.encode("utf-8", "surrogatepass"))
        elif kind is bool:
            self.add(b"T" if value else b"F")
        elif value is None:
            self.add(b"N")
        elif kind is float:
            self.add(b"f" + _FLOAT.pack(value))
        elif kind in _SEQUENCES:
            self.put_all(_SEQUENCES[kind], value, depth)
        elif kind in _MAPPINGS:
            self.put_pairs(_MAPPINGS[kind], value, depth)
        else:
            self.put_rare(value, kind, depth)

    def put_int(self, value: int) -> None:
        if -(1 << 63) <= value < 1 << 63:
            self.add(b"j" + _INT.pack(value))
        elif value.bit_length() > BITS:
            raise NotPlain(f"an int has {value.bit_length()} bits; the wire carries {BITS}")
        else:
            self.add_sized(b"i", b"%x" % value)

    def add_sized(self, tag: bytes, body: bytes) -> None:
        self.add(tag + _COUNT.pack(len(body)))
        self.add(body)

    def put_all(self, tag: bytes, items: Any, depth: int) -> None:
        self.add(tag + _COUNT.pack(len(items)))
        for item in items:
            self.put(item, depth + 1)

    def put_pairs(self, tag: bytes, items: Any, depth: int) -> None:
        self.add(tag + _COUNT.pack(len(items)))
        for key, item in items.items():
            self.put(key, depth + 1)
            self.put(item, depth + 1)

    def put_rare(self, value: Any, kind: type, depth: int) -> None:
        if kind is bytes:
            self.add_sized(b"b", value)
        elif kind is complex:
            self.add(b"c" + _COMPLEX.pack(value.real, value.imag))
        elif kind is defaultdict:
            factory = value.default_factory  # a lambda is no part of what the dict equals
            known = isinstance(factory, type) and factory in NAMES
            self.add(b"D")
            self.put(factory if known else None, depth + 1)
            self.put_pairs(b"", value, depth)
        elif kind is deque:
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
        elif kind in _MADE:
            self.add(b"y")
            self.put(kind.__name__, depth + 1)
            self.put(_MADE[kind](value), depth + 1)
        elif kind is type and value in NAMES:
            self.add_sized(b"e", NAMES[value].encode("ascii"))
        else:
            self.put_handle(value, kind)

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


def _clock(value: Any) -> tuple[Any, ...]:
    return (value.hour, value.minute, value.second, value.microsecond)


# What each constructor takes; `fold` last where there is one, and the zone before it.
_MADE: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    date: lambda v: (v.year, v.month, v.day),
    time: lambda v: (*_clock(v), v.tzinfo, v.fold),
    datetime: lambda v: (v.year, v.month, v.day, *_clock(v), v.tzinfo, v.fold),
    timedelta: lambda v: (v.days, v.seconds, v.microseconds),
    timezone: lambda v: v.__getinitargs__(),
    range: lambda v: (v.start, v.stop, v.step),
    slice: lambda v: (v.start, v.stop, v.step),
}
_MAKERS: dict[str, Callable[..., object]] = {
    "date": date,
    "time": lambda *a: time(*a[:-1], fold=a[-1]),
    "datetime": lambda *a: datetime(*a[:-1], fold=a[-1]),
    "timedelta": timedelta,
    "timezone": timezone,
    "range": range,
    "slice": slice,
}


class _Reader:
    """Walks hostile bytes; each step checks what it takes."""

    def __init__(self, data: bytes, handle: Callable[[int], object] | None, nodes: int) -> None:
        self.data = data
        self.at = 0
        self.handle = handle
        self.nodes = nodes

    def bytes(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise BadValue(f"the value ends at byte {len(self.data)}; wanted {end}")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def count(self) -> int:
        return _COUNT.unpack(self.bytes(4))[0]

    def take(self, depth: int) -> object:
        self.nodes -= 1
        if depth > DEPTH or self.nodes < 0:
            raise BadValue("the value is too deep or has too many parts")
        tag = self.bytes(1)
        simple = _TAKERS.get(tag)
        if simple is not None:
            return simple(self)
        compound = _COMPOUND.get(tag)
        if compound is None:
            raise BadValue(f"tag {tag!r} is unknown")
        return compound(self, depth)

    def text(self) -> str:
        return self.bytes(self.count()).decode("utf-8", "surrogatepass")

    def long(self) -> int:
        count = self.count()
        if count > BITS // 4 + 1:
            raise BadValue("an int is too long")
        return int(self.bytes(count).decode("ascii"), 16)

    def decimal(self) -> Decimal:
        text = self.text()
        if len(text) > DIGITS:
            raise BadValue("a Decimal is too long")
        return Decimal(text)

    def kind(self) -> type:
        name = self.text()
        if name not in TYPES:
            raise BadValue("the type is not a builtin one")
        return TYPES[name]

    def handled(self) -> object:
        number = _HANDLE.unpack(self.bytes(8))[0]
        if self.handle is None:
            raise BadValue("a handle has no meaning here")
        return self.handle(number)

    def items(self, depth: int) -> list[object]:
        return [self.take(depth + 1) for _ in range(self.count())]

    def members(self, depth: int) -> list[object]:
        items = self.items(depth)
        _guard(items)
        return items

    def pairs(self, depth: int) -> list[tuple[object, object]]:
        pairs = [(self.take(depth + 1), self.take(depth + 1)) for _ in range(self.count())]
        _guard(key for key, _ in pairs)
        return pairs

    def default(self, depth: int) -> object:
        factory = self.take(depth + 1)
        if factory is not None and not isinstance(factory, type):
            raise BadValue("a defaultdict's factory is no type")
        return defaultdict(factory, self.pairs(depth))

    def counter(self, depth: int) -> object:
        counter: Counter[object] = Counter()
        dict.update(counter, self.pairs(depth))
        return counter

    def queue(self, depth: int) -> object:
        bound = self.take(depth + 1)
        if bound is not None and type(bound) is not int:
            raise BadValue("a deque's bound is no int")
        return deque(self.items(depth), bound)

    def ratio(self, depth: int) -> object:
        above, below = self.take(depth + 1), self.take(depth + 1)
        if type(above) is not int or type(below) is not int:
            raise BadValue("a fraction is not made of ints")
        if max(above.bit_length(), below.bit_length()) > RATIO_BITS:
            raise BadValue("a fraction is too long")
        return Fraction(above, below)

    def made(self, depth: int) -> object:
        name, parts = self.take(depth + 1), self.take(depth + 1)
        if type(name) is not str or type(parts) is not tuple or name not in _MAKERS:
            raise BadValue("a date, range or slice is made of its name and a tuple")
        return _MAKERS[name](*cast("tuple[object, ...]", parts))


def _guard(keys: Iterable[object]) -> None:
    """Refuse keys chosen to share a hash: inserting n of those takes n squared steps."""
    run, last = 0, None
    for mark in sorted(map(hash, keys)):
        run = run + 1 if mark == last else 0
        last = mark
        if run >= TWINS:
            raise BadValue(f"more than {TWINS} keys share one hash")


_TAKERS: dict[bytes, Callable[[_Reader], object]] = {
    b"N": lambda r: None,
    b"T": lambda r: True,
    b"F": lambda r: False,
    b"j": lambda r: _INT.unpack(r.bytes(8))[0],
    b"i": _Reader.long,
    b"f": lambda r: _FLOAT.unpack(r.bytes(8))[0],
    b"c": lambda r: complex(*_COMPLEX.unpack(r.bytes(16))),
    b"s": _Reader.text,
    b"b": lambda r: r.bytes(r.count()),
    b"m": _Reader.decimal,
    b"e": _Reader.kind,
    b"h": _Reader.handled,
}
_COMPOUND: dict[bytes, Callable[[_Reader, int], object]] = {
    b"l": _Reader.items,
    b"t": lambda r, d: tuple(r.items(d)),
    b"S": lambda r, d: set(r.members(d)),
    b"z": lambda r, d: frozenset(r.members(d)),
    b"d": lambda r, d: dict(r.pairs(d)),
    b"C": _Reader.counter,
    b"O": lambda r, d: OrderedDict(r.pairs(d)),
    b"D": _Reader.default,
    b"q": _Reader.queue,
    b"r": _Reader.ratio,
    b"y": _Reader.made,
}
