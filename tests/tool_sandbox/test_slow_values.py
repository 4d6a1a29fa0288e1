"""Plain values made to cost their reader time or memory."""

import math
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from palaestra.tool_sandbox import values
from palaestra.tool_sandbox.values import decode

PRIME = (1 << 61) - 1  # numbers that are equal modulo this one share a hash
LONG = 1 << values.BITS - 1


def keyed(keys: list[Any], times: int = 1) -> bytes:
    """A list with so many dicts, each of these keys, as an adversary would write it."""
    pairs = b"".join(values.encode(key) + b"N" for key in keys)
    one = b"d" + struct.pack("<I", len(keys)) + pairs
    return b"l" + struct.pack("<I", times) + one * times


def test_keys_that_share_a_hash_are_refused_before_they_cost_time() -> None:
    # Inserting these would take hours, and the suite's own time-out would end the test.
    prime = (1 << 61) - 1
    keys = [n * prime for n in range(100_000)]
    body = b"".join(map(values.encode, keys))
    for tag in b"Sz":
        with pytest.raises(values.BadValue, match="hash"):
            decode(bytes([tag]) + struct.pack("<I", len(keys)) + body)


@pytest.mark.parametrize(
    ("keys", "times"),
    [
        ([LONG, Decimal(hash(LONG))], 1),
        ([(0, LONG), (0, Decimal(hash(LONG)))], 1),
        ([frozenset({LONG}), frozenset({Decimal(hash(LONG))})], 1),
        ([*(5 + n * PRIME << 9000 for n in range(20)), Decimal(5)], 100),
        ([math.ldexp(1.0, 61 * n) for n in range(16)] + [Decimal(1 + PRIME)] * 9, 1000),
        ([Fraction(1, 7) + n * PRIME for n in range(32)], 1000),
    ],
    ids=["an int", "in tuples", "in sets", "ints", "floats", "Fractions"],
)  # fmt: skip
def test_keys_that_share_a_hash_count_for_the_time_it_takes_to_compare_them(
    keys: list[Any], times: int
) -> None:
    assert len({*map(hash, keys)}) < len(keys)
    with pytest.raises(values.BadValue, match="slow to compare"):
        decode(keyed(keys, times))


def test_keys_that_share_a_hash_honestly_are_read() -> None:
    near = [(x, y, z) for x in (-1, -2) for y in (-1, -2) for z in (-1, -2)]
    for value in (
        [{place: Decimal(1) for place in near}] * 50,
        {Decimal(-1), -2, Fraction(1, 3)},
        {(x, y) for x in range(-9, 9) for y in range(-9, 9)},
        {Decimal(n): LONG for n in range(-9, 9)},
    ):
        assert decode(values.encode(value)) == value


def test_a_range_has_parts_that_are_quickly_divided() -> None:
    most = (1 << values.RATIO_BITS) - 1
    for value in (range(most), slice(most), range(-most, most, most)):
        assert decode(values.encode(value)) == value
    for value in (range(most + 1), slice(None, None, most + 1)):
        with pytest.raises(values.NotPlain, match="bits"):
            values.encode(value)
    data = b"y" + values.encode("range") + values.encode((0, most + 1, 1))
    with pytest.raises(values.BadValue, match="too long"):
        decode(data)


def test_a_reader_tells_of_numbers_that_must_not_meet() -> None:
    for value, longs, decimals in (
        ([1, 1.5], False, False),
        ([1 << values.MIXED_BITS], True, False),
        ([1 << values.MIXED_BITS - 1, Decimal(1)], False, True),
        (Fraction(1, 1 << values.MIXED_BITS), True, False),
        ({Decimal(1): LONG}, True, True),
    ):
        reader = values.Reader(values.encode(value) + b"N", None, 9)
        reader.value()
        assert (reader.longs, reader.decimals) == (longs, decimals)
        reader.value()
        assert (reader.longs, reader.decimals) == (False, False)


@pytest.mark.parametrize("make", [deque, set, Counter, OrderedDict, defaultdict])
def test_containers_count_for_the_memory_they_take(make: Any) -> None:
    """A few bytes each, and hundreds when read: a million of them would take a gigabyte."""
    many = [make() for _ in range(120_000)]
    with pytest.raises(values.NotPlain):
        values.encode(many)
    one = values.encode(make())
    with pytest.raises(values.BadValue):
        decode(b"l" + struct.pack("<I", len(many)) + one * len(many))
