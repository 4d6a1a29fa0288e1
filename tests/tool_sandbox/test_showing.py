"""A candidate's values and words for human eyes."""

from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.tool_sandbox.showing import DETAIL, detail, short

SHOWN: list[tuple[Any, str]] = [
    ({3, 1, 2}, "{1, 2, 3}"),
    (set[int](), "set()"),
    (frozenset[int](), "frozenset()"),
    (frozenset({"a"}), "frozenset({'a'})"),
    (set(range(9)), "{0, 1, 2, 3, 4, 5, ...}"),
    ({1: 2, 2: 3, 3: 4, 4: 5, 5: 6}, "{1: 2, 2: 3, 3: 4, 4: 5, ...}"),
    ({}, "{}"),
    (Counter("a"), "Counter({'a': 1})"),
    (OrderedDict(a=1), "OrderedDict({'a': 1})"),
    (defaultdict(list, {1: [2]}), "defaultdict({1: [2]})"),
    (deque([1]), "deque([1])"),
    (slice(1, None, 2), "slice(1, None, 2)"),
    ([[[[1]]]], "[[[[...]]]]"),
    ({1: {2: {3: {4: 5}}}}, "{1: {2: {3: {...}}}}"),
    (1 << 5000, "<an int of 5001 bits>"),
    (slice(1 << 5000), "slice(None, <an int of 5001 bits>, None)"),
    (range(10**4900), "<a very long range>"),
    (Fraction(1, 10**4900), "<a very long Fraction>"),
    (Decimal("0.10"), "Decimal('0.10')"),
    (int, "<class 'int'>"),
]


@pytest.mark.parametrize(("value", "shown"), SHOWN)
def test_values_are_shown_as_python_writes_them_but_cut(value: Any, shown: str) -> None:
    assert short(value) == shown


class Incomparable:
    """Fails where it is compared."""

    def __lt__(self, other: object) -> bool:
        raise AssertionError


def test_nothing_is_compared_that_may_be_slow_to_compare() -> None:
    one, two = Incomparable(), Incomparable()
    assert short({one, two, 3}).startswith("{")
    assert short({one: 1, two: 2}).startswith("{")
    assert short(Counter([one, two])).startswith("Counter")


def test_a_large_value_is_a_short_text() -> None:
    value: Any = "y" * 70
    for _ in range(6):
        value = [value] * 6
    assert len(short(value)) < 100_000
    for value in ("x" * 10**6, b"x" * 10**6, Decimal(10**4000), 10**4000):
        assert len(short(value)) <= 80


@given(st.text())
def test_words_become_one_line_that_no_terminal_obeys(text: str) -> None:
    told = detail(text)
    assert told.isprintable()
    assert len(told) <= DETAIL
    assert detail(told) == told
    told.encode()


def test_printable_words_stay_as_they_are() -> None:
    assert detail("Grüße, 世界 \\n") == "Grüße, 世界 \\n"
    assert detail("\x1b[2J\ud800\u202e") == "\\x1b[2J\\ud800\\u202e"
