"""What counts as a plain value: the closed set of types, its bounds and its errors."""

from __future__ import annotations

import builtins
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

DEPTH = 100
SIZE = 16 * 1024 * 1024
NODES = 1_000_000
HEAVY = 8  # parts that an empty set, OrderedDict, Counter or defaultdict counts for: its memory
HEAVIEST = 24  # and a deque
MUTABLE = frozenset((list, dict, set, Counter, OrderedDict, defaultdict, deque))
BITS = 1 << 20  # of an int
RATIO_BITS = 1 << 14  # of a Fraction's parts, and a range's: reading and hashing them divides
# Of an int that is compared with a Decimal: that takes the square of its length, in one step that
# lets no other thread go on; 20 microseconds at this length, over a second at `BITS`.
MIXED_BITS = 1 << 12
DIGITS = 100_000  # of a Decimal
# Keys of one set or dict that share a hash: more is an attack on the reader's time. In a value with
# Decimals or Fractions they count, moreover, for the time that it takes to compare each with each.
TWINS = 64

TYPES: dict[str, type] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and kind.__name__ == name and not name.startswith("_")
}
TYPES["NoneType"] = type(None)
NAMES: dict[type, str] = {kind: name for name, kind in TYPES.items()}


class ValueProblem(ValueError):
    """A value and its bytes do not go together."""


class NotPlain(ValueProblem):
    """A value without a plain form: its type is outside the closed set, or it is too big."""


class BadValue(ValueProblem):
    """Bytes that no encoder of ours wrote."""


def _clock(value: Any) -> tuple[Any, ...]:
    return (value.hour, value.minute, value.second, value.microsecond)


# What each constructor takes; `fold` last where there is one, and the zone before it.
PARTS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    date: lambda v: (v.year, v.month, v.day),
    time: lambda v: (*_clock(v), v.tzinfo, v.fold),
    datetime: lambda v: (v.year, v.month, v.day, *_clock(v), v.tzinfo, v.fold),
    timedelta: lambda v: (v.days, v.seconds, v.microseconds),
    timezone: lambda v: v.__getinitargs__(),
    range: lambda v: (v.start, v.stop, v.step),
    slice: lambda v: (v.start, v.stop, v.step),
}
MAKERS: dict[str, Callable[..., object]] = {
    "date": date,
    "time": lambda *a: time(*a[:-1], fold=a[-1]),
    "datetime": lambda *a: datetime(*a[:-1], fold=a[-1]),
    "timedelta": timedelta,
    "timezone": timezone,
    "range": range,
    "slice": slice,
}
