"""Numbers that change with progress."""

from __future__ import annotations

import inspect

from hypothesis import given
from hypothesis import strategies as st
from palaestra.train import schedules
from palaestra.train.schedules import Constant, Linear, Warmup

numbers = st.floats(0, 10)
steps = st.integers(1, 1_000)


@given(numbers, numbers, steps, st.integers(0, 5_000))
def test_a_ramp_stays_between_its_ends_and_reaches_them(
    start: float, end: float, length: int, step: int
) -> None:
    ramp = Linear(start, end, length)
    assert ramp(0) == start
    assert ramp(length) == ramp(length + step) == end
    assert min(start, end) - 1e-12 <= ramp(step) <= max(start, end) + 1e-12


@given(numbers, steps, st.integers(0, 5_000))
def test_warm_up_never_falls_and_never_exceeds_its_value(
    value: float, length: int, step: int
) -> None:
    rate = Warmup(value, length)
    assert rate(step) <= rate(step + 1) <= value
    assert rate(length - 1) == value


def test_the_first_update_of_a_warm_up_is_not_lost() -> None:
    assert Warmup(1.0, 20)(0) == 0.05
    assert Warmup(1.0, 0)(0) == 1.0


def test_a_constant_is_constant() -> None:
    assert {Constant(0.3)(step) for step in range(5)} == {0.3}


def test_no_schedule_knows_how_long_the_run_is() -> None:
    for schedule in (Constant, Linear, Warmup):
        assert not {"iterations", "total"} & set(inspect.signature(schedule).parameters)
    assert schedules.__doc__ is not None
