"""Whether a decoded value is the one that was expected; on the host, between exact types only."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

_EXACT = 1 << 53  # up to here a float holds every int


def equal(got: object, expected: object, tolerance: float | None = None) -> bool:
    """Whether a decoded value is what was expected.

    Without tolerance Python's own `==` between exact builtin types, so `True` equals 1 and a tuple
    never equals a list. With it numbers may differ by `tolerance`, or by that share of the expected
    number. NaN equals NaN only where it is expected.

    >>> equal([1, 2.0000001], [1, 2], 1e-6), equal((1,), [1])
    (True, False)
    """
    try:
        return bool(got == expected) or _alike(got, expected, tolerance)
    except Exception:  # a signalling NaN, an int too large for a float
        return False


def _alike(got: Any, expected: Any, tolerance: float | None) -> bool:
    kind: Any = _kind(expected)
    if issubclass(kind, dict):
        return issubclass(type(got), dict) and _alike_pairs(got, expected, tolerance)
    if any(kind is one for one in (list, tuple, deque)):
        same = _kind(got) is kind and len(got) == len(expected)
        return same and all(map(equal, got, expected, [tolerance] * len(expected)))
    if kind is bool or not _is_number(expected) or not _is_number(got):
        return False
    return _near(got, expected, tolerance)


def _kind(value: object) -> type:
    return type(value)


def _alike_pairs(got: Any, expected: Any, tolerance: float | None) -> bool:
    if type(got) is type(expected) is OrderedDict and list(got) != list(expected):
        return False  # as between two of them in Python; beside a dict their order is nothing
    return len(got) == len(expected) and all(
        key in got and equal(got[key], expected[key], tolerance) for key in expected
    )


def _is_number(value: object) -> bool:
    return type(value) in (int, float, complex, Decimal, Fraction)


def _near(got: Any, expected: Any, tolerance: float | None) -> bool:
    if expected != expected:
        return bool(got != got)
    if tolerance is None or isinstance(got, complex) > isinstance(expected, float | complex):
        return False
    if {type(got), type(expected)} <= {int, Fraction}:
        return _near_exactly(got, expected, tolerance)
    kind = complex if complex in (type(got), type(expected)) else float
    size = abs(kind(expected))
    return math.isfinite(size) and abs(kind(got) - kind(expected)) <= tolerance * max(1.0, size)


def _near_exactly(got: Any, expected: Any, tolerance: float) -> bool:
    """Of numbers that floats would round, or could not hold."""
    size = max(1, abs(expected))
    if type(size) is int and size <= _EXACT:  # the same, and ten times as fast
        return bool(abs(got - expected) <= tolerance * size)
    return bool(abs(got - expected) <= Fraction(tolerance) * size)
