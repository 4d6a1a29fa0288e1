"""Whether a value is the expected one: Python's own equality, and what tolerance adds."""

import math
from collections import Counter, OrderedDict
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.tool_sandbox import values
from palaestra.tool_sandbox.comparing import equal

PAIRS: list[tuple[Any, Any, float | None, bool]] = [
    (1, 1, None, True),
    (True, 1, None, True),  # Python's own ==
    (1.0, 1, None, True),
    (-0.0, 0.0, None, True),
    ((1,), [1], None, False),
    ("1", 1, None, False),
    (None, False, None, False),
    (math.nan, math.nan, None, True),
    (math.nan, 1.0, None, False),
    (math.nan, 1.0, 1e-6, False),
    (1.0, math.nan, 1e-6, False),
    ([1, [math.nan]], [1, [math.nan]], None, True),
    ({"a": math.nan}, {"a": math.nan}, None, True),
    (0.1 + 0.2, 0.3, None, False),
    (0.1 + 0.2, 0.3, 1e-9, True),
    ([0.1 + 0.2, 1], [0.3, 1.0], 1e-9, True),
    ((0.1 + 0.2,), [0.3], 1e-9, False),
    (1e12 + 1, 1e12, 1e-9, True),
    (1.0, 2.0, 0.9, True),  # relative to what is expected
    (4.0, 1.0, 0.9, False),
    (math.inf, 1.0, 1e-6, False),
    (math.inf, math.inf, 1e-6, True),
    (1e308, math.inf, 1e-6, False),
    (10**400, 1.0, 1e-6, False),
    (1 + 1e-9j, 1, 1e-6, False),
    (1 + 1e-9j, 1 + 0j, 1e-6, True),
    (Decimal("0.3"), 0.3, 1e-9, True),
    (Decimal("sNaN"), 1, None, False),
    (Counter("aab"), {"a": 2, "b": 1}, None, True),
    ({1, 2}, frozenset({1, 2}), None, True),
    (True, 1.5, 1e9, False),
    ("x", 1.5, 1e9, False),
    (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), None, False),
    (OrderedDict(a=1, b=2.1), OrderedDict(a=1, b=2), 0.1, True),
    ({"a": 1, "b": 2}, OrderedDict(b=2, a=1), None, True),
    (10**17 + 1, 10**17, 0.0, False),  # floats would call them equal
    (10**17 + 1, 10**17, 1e-9, True),
    (Fraction(10**17 + 1), 10**17, 0.0, False),
    (Fraction(1, 3), Fraction(333, 1000), 1e-2, True),
    (10**400 + 1, 10**400, 1e-9, True),  # and could not hold these
    (10**400, 10**399, 1e-9, False),
    (5, 4, 1, True),
]


@pytest.mark.parametrize(("got", "expected", "tolerance", "same"), PAIRS)
def test_values_are_compared_as_python_compares_them(
    got: Any,
    expected: Any,
    tolerance: float | None,
    same: bool,
) -> None:
    assert equal(got, expected, tolerance) is same


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=9))
def test_equality_of_plain_values_is_pythons(value: Any) -> None:
    assert equal(values.decode(values.encode(value)), value)
    assert not equal([value], value)
