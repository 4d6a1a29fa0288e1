"""Hostile bytes read as plain values: a closed set of types, bounded time, one error."""

from __future__ import annotations

import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

from .kinds import (
    BITS,
    DEPTH,
    DIGITS,
    HEAVIEST,
    HEAVY,
    MAKERS,
    MIXED_BITS,
    MUTABLE,
    RATIO_BITS,
    TWINS,
    TYPES,
    BadValue,
)

_COUNT = struct.Struct("<I")
_INT = struct.Struct("<q")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")
_HANDLE = struct.Struct("<Q")
_ARRAY = struct.Struct("<ccI")


class _Walk:
    """The steps of a `Reader`; each checks what it takes."""

    __slots__ = ("at", "containers", "data", "decimals", "handle", "longs", "nodes", "slow")

    def __init__(self, data: bytes, handle: Callable[[int], object] | None, nodes: int) -> None:
        self.data = data
        self.at = 0
        self.handle = handle
        self.containers: list[tuple[object, int]] = []  # those read so far, with their parts
        self.nodes = nodes
        # Seen in the value being read: ints over MIXED_BITS, Decimals, and what is slow to compare.
        self.longs = self.decimals = self.slow = False

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
        before = self.nodes
        tag = self.data[self.at]  # past the end: IndexError, which the caller knows
        self.at += 1
        if tag == _J:
            self.at += 8
            return _INT.unpack_from(self.data, self.at - 8)[0]
        if tag == _S:
            return self.text()
        if tag == _T:
            return tuple(self.items(depth))
        if tag == _L:
            return self.kept(self.items(depth), before)
        if tag == _K:
            return self.again()
        taker = _TAKERS[tag]
        if taker is None:
            raise BadValue(f"tag {tag} is unknown")
        return self.kept(taker(self, depth), before)

    def kept(self, made: object, before: int) -> object:
        """Notes a container, which may be spoken of again."""
        if self.handle is not None and type(made) in MUTABLE:
            self.containers.append((made, before - self.nodes))
        return made

    def again(self) -> object:
        if self.handle is None:
            raise BadValue("a reference has no meaning here")
        made, parts = self.containers[self.count()]
        self.nodes -= parts
        if self.nodes < 0:
            raise BadValue("the value has too many parts")
        return made

    def array(self, depth: int) -> object:
        """Numbers of one machine type."""
        kind, name, count = _ARRAY.unpack(self.bytes(6))
        self.nodes -= count
        if kind not in b"lt" or name not in b"jf" or self.nodes < 0 or depth >= DEPTH:
            raise BadValue("an array is a list or tuple of ints or floats")
        items = struct.unpack(f"<{count}{'q' if name == b'j' else 'd'}", self.bytes(8 * count))
        return items if kind == b"t" else list(items)

    def text(self) -> str:
        return self.bytes(self.count()).decode("utf-8", "surrogatepass")

    def long(self) -> int:
        count = self.count()
        if count > BITS // 4 + 1:
            raise BadValue("an int is too long")
        number = int(self.bytes(count).decode("ascii"), 16)
        if number.bit_length() > MIXED_BITS:
            self.longs = True
        return number

    def decimal(self) -> Decimal:
        text = self.text()
        if len(text) > DIGITS:
            raise BadValue("a Decimal is too long")
        self.decimals = self.slow = True
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
        self.nodes -= HEAVY
        items = self.items(depth)
        self.guard(items)
        return items

    def pairs(self, depth: int) -> list[tuple[object, object]]:
        pairs = [(self.take(depth + 1), self.take(depth + 1)) for _ in range(self.count())]
        if len(pairs) > TWINS or self.slow:
            self.guard([key for key, _ in pairs])
        return pairs

    def guard(self, keys: Sequence[object]) -> None:
        """Refuses keys chosen to share a hash: inserting n of those takes n squared steps."""
        if len(keys) <= TWINS and not self.slow:
            return
        marks = list(map(hash, keys))
        if len(set(marks)) == len(marks):
            return
        twins = Counter(marks)
        if max(twins.values()) > TWINS:
            raise BadValue(f"more than {TWINS} keys share one hash")
        if self.slow:
            others = [twins[mark] - 1 for mark in marks]
            self.nodes -= sum(n * _weight(key) for key, n in zip(keys, others, strict=True) if n)
            if self.nodes < 0:
                raise BadValue("too many keys share a hash, and are slow to compare")

    def default(self, depth: int) -> object:
        self.nodes -= HEAVY
        factory = self.take(depth + 1)
        if factory is not None and not isinstance(factory, type):
            raise BadValue("a defaultdict's factory is no type")
        return defaultdict(factory, self.pairs(depth))

    def ordered(self, depth: int) -> object:
        self.nodes -= HEAVY
        return OrderedDict(self.pairs(depth))

    def counter(self, depth: int) -> object:
        self.nodes -= HEAVY
        counter: Counter[object] = Counter()
        dict.update(counter, self.pairs(depth))
        return counter

    def queue(self, depth: int) -> object:
        self.nodes -= HEAVIEST
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
        self.slow = True  # its comparison is Python's own code
        return Fraction(above, below)

    def made(self, depth: int) -> object:
        name, found = self.take(depth + 1), self.take(depth + 1)
        if type(name) is not str or type(found) is not tuple or name not in MAKERS:
            raise BadValue("a date, range or slice is made of its name and a tuple")
        parts = cast("tuple[object, ...]", found)
        if any(type(part) is int and part.bit_length() > RATIO_BITS for part in parts):
            raise BadValue("a range or slice is too long")  # hashing a range divides
        return MAKERS[name](*parts)


def _weight(key: object) -> int:
    """The parts that one comparison of a key counts for, in step with the time it may take.

    Its bytes in memory; and the square of an int's length, for the other key may be a Decimal.
    """
    kind, inner = type(key), cast("Any", key)
    if kind is tuple or kind is frozenset:
        return sum(map(_weight, inner)) + sys.getsizeof(key)
    if kind is Fraction:
        return _weight(inner.numerator) + _weight(inner.denominator)
    if kind is int:
        return (inner.bit_length() ** 2 >> 16) + sys.getsizeof(key)
    return sys.getsizeof(key)


_J, _S, _T, _L, _K = b"jstlk"  # the commonest tags; the others by number
_BY_TAG: dict[bytes, Callable[[_Walk, int], object]] = {
    b"N": lambda r, d: None,
    b"T": lambda r, d: True,
    b"F": lambda r, d: False,
    b"i": lambda r, d: r.long(),
    b"f": lambda r, d: _FLOAT.unpack(r.bytes(8))[0],
    b"c": lambda r, d: complex(*_COMPLEX.unpack(r.bytes(16))),
    b"b": lambda r, d: r.bytes(r.count()),
    b"m": lambda r, d: r.decimal(),
    b"e": lambda r, d: r.kind(),
    b"h": lambda r, d: r.handled(),
    b"a": _Walk.array,
    b"S": lambda r, d: set(r.members(d)),
    b"z": lambda r, d: frozenset(r.members(d)),
    b"d": lambda r, d: dict(r.pairs(d)),
    b"C": _Walk.counter,
    b"O": _Walk.ordered,
    b"D": _Walk.default,
    b"q": _Walk.queue,
    b"r": _Walk.ratio,
    b"y": _Walk.made,
}
_TAKERS = tuple(_BY_TAG.get(bytes((number,))) for number in range(256))


class Reader(_Walk):
    """Walks the bytes that `values.encode` wrote, or somebody else.

    Attributes:
        at: Where the next value begins.
        nodes: How many more values, containers and their members counted alike, may be read.
        longs: Whether the last value holds ints of more than `MIXED_BITS`.
        decimals: Whether it holds Decimals.
    """

    __slots__ = ()

    def value(self) -> object:
        """The value at `at`.

        Raises:
            BadValue: None is there, or it exceeds a bound.
        """
        self.longs = self.decimals = self.slow = False
        try:
            return self.take(0)
        except BadValue:
            raise
        except Exception as problem:  # Decimal, dates and hashing have errors of their own
            raise BadValue(f"{type(problem).__name__}: {problem}") from None
