"""Plain values as bytes: exact types out, one error for anything else."""

import contextlib
import math
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from palaestra.tool_sandbox import values


def decode(data: bytes | bytearray, **more: Any) -> Any:
    """As the real one, for tests that know what comes."""
    return values.decode(data, **more)


ZONES = st.none() | st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
EXACT = st.decimals(allow_nan=False) | st.fractions()
MOMENTS = st.dates() | st.times(timezones=ZONES) | st.datetimes(timezones=ZONES) | st.timedeltas()
TEXTS = st.text() | st.binary() | st.text(st.characters(categories=["Cs", "Lu"]))
RANGES = st.builds(range, st.integers(), st.integers(), st.integers(1, 9))
TYPES = RANGES | st.sampled_from([int, str, dict, ValueError, type(None), type])


@st.composite
def keys(draw: Any, depth: int = 2) -> Any:
    """A hashable plain value."""
    shape = draw(st.integers(0, 7 if depth else 5))
    if shape > 5:
        items = draw(st.lists(keys(depth - 1), max_size=3))
        return tuple(items) if shape == 6 else frozenset(items)
    return draw((st.none() | st.booleans(), NUMBERS, EXACT, MOMENTS, TEXTS, TYPES)[shape])


@st.composite
def plain(draw: Any, depth: int = 3) -> Any:
    """Any plain value."""
    if not depth or draw(st.booleans()):
        return draw(keys())
    items = draw(st.lists(plain(depth - 1), max_size=3))
    names = draw(st.lists(keys(1), max_size=3))
    pairs = dict(zip(names, items, strict=False))
    forms = (
        lambda: items,
        lambda: tuple(items),
        lambda: set(names),
        lambda: pairs,
        lambda: OrderedDict(pairs),
        lambda: defaultdict(list, pairs),
        lambda: Counter[Any](names),
        lambda: deque(items, 9),
    )
    return draw(st.sampled_from(forms))()


def same(one: Any, two: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(two) or one != two:
        return False
    if isinstance(one, type | range | bytes):
        return True
    if hasattr(one, "values"):
        return all(map(same, one, two)) and all(map(same, one.values(), two.values()))
    if hasattr(one, "index") and not hasattr(one, "encode"):
        return all(map(same, one, two))
    if hasattr(one, "hex") and hasattr(one, "is_integer"):
        return math.copysign(1, one) == math.copysign(1, two)
    return True


@given(plain())
def test_a_plain_value_comes_back_equal_with_exact_types(value: Any) -> None:
    back = decode(values.encode(value))
    assert same(back, value)
    if hasattr(value, "default_factory"):
        assert back.default_factory is value.default_factory
    if hasattr(value, "maxlen"):
        assert back.maxlen == value.maxlen


@settings(max_examples=2000, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_one_error(data: Any) -> None:
    with contextlib.suppress(values.BadValue):
        decode(data)


@given(plain(), st.data())
def test_damaged_bytes_decode_or_raise_one_error(value: Any, data: Any) -> None:
    good = bytearray(values.encode(value))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    for hostile in (good, good[:cut]):
        with contextlib.suppress(values.BadValue):
            decode(hostile)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(plain())
def test_thousands_of_plain_values_come_back(value: Any) -> None:
    assert same(decode(values.encode(value)), value)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(plain(), st.data())
def test_thousands_of_damaged_values_raise_one_error(value: Any, data: Any) -> None:
    good = bytearray(values.encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(values.BadValue):
        decode(good)


class Sly(int):
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Loose(list[Any]):
    """A list that is not exactly a list."""


@pytest.mark.parametrize(
    "value",
    [
        Sly(3),
        Loose(),
        [Loose()],
        {Sly(1): 2},
        object(),
        memoryview(b""),
        bytearray(b"x"),
        lambda: 0,
        Sly,
        (n for n in [1]),
        math,
        1 << values.BITS,
        Fraction(1, 1 << values.RATIO_BITS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_plain_value_is_refused(value: Any) -> None:
    with pytest.raises(values.NotPlain):
        values.encode(value)


def test_a_slice_survives() -> None:
    assert decode(values.encode(slice(1, None, -1))) == slice(1, None, -1)


def test_nan_and_the_infinities_survive() -> None:
    assert math.isnan(decode(values.encode(math.nan)))
    assert decode(values.encode([math.inf, -math.inf])) == [math.inf, -math.inf]
    assert decode(values.encode(Decimal("NaN"))).is_nan()


def test_a_cycle_is_refused_by_depth() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(values.NotPlain, match="deeper"):
        values.encode(loop)


def test_depth_is_bounded_on_both_sides() -> None:
    deep: list[Any] = []
    for _ in range(values.DEPTH):
        deep = [deep]
    assert decode(values.encode(deep)) == deep
    with pytest.raises(values.NotPlain):
        values.encode([deep])
    with pytest.raises(values.BadValue):
        decode(b"l\x01\x00\x00\x00" + values.encode(deep))


def test_a_value_that_doubles_at_each_level_is_refused_soon() -> None:
    double: list[Any] = ["x" * 1000]
    for _ in range(90):
        double = [double, double]
    with pytest.raises(values.NotPlain):
        values.encode(double)


def test_a_value_larger_than_asked_for_is_refused() -> None:
    assert values.encode("x" * 10, size=15)
    with pytest.raises(values.NotPlain, match="smaller"):
        values.encode("x" * 11, size=15)


def test_a_count_that_lies_is_refused() -> None:
    for tag in b"sblStzdCOim":
        with pytest.raises(values.BadValue):
            decode(bytes([tag]) + b"\xff\xff\xff\xff")


def test_too_many_nodes_are_refused() -> None:
    data = b"l" + struct.pack("<I", 1000) + b"N" * 1000
    assert len(decode(data)) == 1000
    with pytest.raises(values.BadValue):
        decode(data, nodes=1000)


@given(st.lists(st.integers(-(1 << 64), 1 << 64) | st.booleans(), max_size=9) | st.lists(NUMBERS))
def test_rows_of_numbers_keep_every_type(items: list[Any]) -> None:
    for value in (items, tuple(items), [tuple(items)]):
        assert same(decode(values.encode(value)), value)


def test_rows_of_one_machine_type_are_one_piece() -> None:
    for items in ([1, -2, (1 << 63) - 1, -(1 << 63)], [0.5, -0.0, math.inf, 1e300]):
        assert len(values.encode(items)) == 7 + 8 * len(items)
        assert same(decode(values.encode(items)), items)
        assert same(decode(values.encode(tuple(items))), tuple(items))
    assert same(decode(values.encode([1, 2, 3, 1 << 63])), [1, 2, 3, 1 << 63])
    assert same(decode(values.encode([1, 2, 3, True])), [1, 2, 3, True])
    assert math.isnan(decode(values.encode([math.nan] * 4))[3])


@pytest.mark.parametrize(
    "data",
    [
        b"alj\xff\xff\xff\xff",
        b"alj\x02\x00\x00\x00" + bytes(15),
        b"alj\x02\x00\x00\x00" + bytes(17),
        b"aSj\x01\x00\x00\x00" + bytes(8),
        b"alq\x01\x00\x00\x00" + bytes(8),
        b"al",
    ],
    ids=["endless", "short", "long", "set", "kind", "cut"],
)
def test_a_row_of_numbers_that_lies_is_refused(data: bytes) -> None:
    with pytest.raises(values.BadValue):
        decode(data)


def test_numbers_in_a_row_count_as_parts() -> None:
    data = values.encode([7] * 1000)
    assert len(decode(data)) == 1000
    with pytest.raises(values.BadValue, match="array"):
        decode(data, nodes=1000)
    with pytest.raises(values.NotPlain):
        values.encode([7] * (values.NODES + 1))


def test_a_reader_goes_on_where_it_stopped() -> None:
    data = values.encode(1) + values.encode([2, 3])
    reader = values.Reader(data, None, 4)
    assert (reader.value(), reader.value(), reader.at, reader.nodes) == (1, [2, 3], len(data), 0)
    with pytest.raises(values.BadValue):
        reader.value()


def test_bytes_after_the_value_are_refused() -> None:
    with pytest.raises(values.BadValue, match="follow"):
        decode(values.encode(1) + b"N")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        b"S\x01\x00\x00\x00l\x00\x00\x00\x00",
        b"d\x01\x00\x00\x00d\x00\x00\x00\x00N",
        b"r" + values.encode(1) + values.encode(0),
        b"r" + values.encode(1.0) + values.encode(2.0),
        b"m\x03\x00\x00\x00abc",
        b"i\x02\x00\x00\x00zz",
        b"s\x01\x00\x00\x00\xff",
        b"e\x04\x00\x00\x00exec",
        b"q" + values.encode(-1) + b"\x00\x00\x00\x00",
        b"y" + values.encode("date") + values.encode((1, 2)),
        b"y" + values.encode("os.system") + values.encode(("true",)),
        b"D" + values.encode(1) + b"\x00\x00\x00\x00",
        b"h" + bytes(8),
    ],
)
def test_a_wrong_value_is_refused(data: Any) -> None:
    with pytest.raises(values.BadValue):
        decode(data)


def test_a_defaultdict_with_a_factory_of_its_own_keeps_what_it_equals() -> None:
    back = decode(values.encode(defaultdict(lambda: 3, {"a": 1})))
    assert type(back) is defaultdict
    assert back == {"a": 1}
    assert back.default_factory is None
    empty = defaultdict[str, int](lambda: 3)
    with pytest.raises(values.NotPlain, match="factory"):
        values.encode(empty, whole=True)
    for factory in (int, None):
        empty.default_factory = factory
        assert decode(values.encode(empty, whole=True)).default_factory is factory


def test_handles_stand_for_what_has_no_plain_form() -> None:
    things: list[object] = []

    def lend(value: object) -> int:
        things.append(value)
        return len(things) - 1

    strange = object()
    data = values.encode([1, strange, {"k": strange}], handle=lend)
    back = decode(data, handle=things.__getitem__)
    assert back[1] is strange
    assert back[2]["k"] is strange
    with pytest.raises(values.BadValue, match="handle"):
        decode(data)


def test_dates_with_fold_and_zone_survive() -> None:
    moment = datetime(2024, 10, 27, 1, 30, tzinfo=timezone(timedelta(hours=1), "X"), fold=1)
    back = decode(values.encode([moment, time(1, fold=1), date(1, 1, 1)]))
    assert back == [moment, time(1, fold=1), date(1, 1, 1)]
    assert back[0].fold == 1
    assert back[0].tzname() == "X"


def no_handle(_: object) -> None:
    """Handles are agreed on, but nothing here has one."""


def shared(value: object) -> Any:
    """There and back again, where both sides agree on handles."""
    return decode(values.encode(value, handle=no_handle), handle=no_handle)


def test_a_container_that_comes_twice_comes_back_as_one_where_handles_are_agreed_on() -> None:
    inner, other, moves = [1], {"k": [2]}, deque([3])
    rows: Any = (
        [1],
        [5, 6, 7, 8],
        {1},
        Counter("aab"),
        OrderedDict(a=1),
        defaultdict(int, a=1),
    )
    for row in rows:
        one, two = shared([row, row])
        assert one is two
        assert (one, type(one)) == (row, type(row))
    found = shared((inner, other, [inner, other["k"]], moves, {"m": moves}))
    assert found == (inner, other, [inner, other["k"]], moves, {"m": moves})
    assert found[2][0] is found[0]
    assert found[2][1] is found[1]["k"]
    assert found[4]["m"] is found[3]
    assert found[0] is not shared([1])


@given(plain())
def test_references_change_no_value(value: Any) -> None:
    with contextlib.suppress(values.NotPlain):
        data = values.encode(value)
        assert decode(data) == shared(value) or value != value or "nan" in repr(value).lower()


def test_a_reference_means_nothing_without_handles_or_to_nothing() -> None:
    data = values.encode(([1], [2]))
    twice = values.encode([[1]] * 2, handle=no_handle)
    assert b"k" not in data
    with pytest.raises(values.BadValue, match="a reference has no meaning here"):
        decode(twice)
    with pytest.raises(values.BadValue):
        decode(twice.replace(b"k\0", b"k\7"), handle=no_handle)


def test_a_reference_counts_with_all_its_parts() -> None:
    value: Any = [1]
    for _ in range(60):
        value = [value, value]
    with pytest.raises(values.NotPlain):
        values.encode(value, handle=no_handle)
    data, place = b"l\1\0\0\0N", 0
    for _ in range(60):  # the same by hand: each list holds the one before twice
        data, place = b"l\2\0\0\0" + data + b"k" + struct.pack("<I", place), place + 1
    with pytest.raises(values.BadValue):
        decode(data, handle=no_handle)
