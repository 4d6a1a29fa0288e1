"""The sandbox's properties on thousands of examples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from palaestra.tool_sandbox import Calls, Case, KiB, Limits, Sandbox, wire
from palaestra.tool_sandbox.limits import MiB

pytestmark = [pytest.mark.slow, pytest.mark.linux]

thousands = settings(
    max_examples=2_000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SMALL = Limits(wall=2, memory=256 * MiB)
LINES = (
    "print(sorted({'b', 'a', 'c'}), {1, 'x'})",
    "import random; print(random.random())",
    "import time; print(time.tzname)",
    "import os; print(sorted(os.environ), os.getcwd())",
    "print(hash('palaestra'))",
    "open('f', 'a').write('x'); print(open('f').read())",
    "raise ValueError('no')",
)


@thousands
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_as_code_gives_a_result(cells: Sandbox, code: str) -> None:
    result = cells.execute(code, limits=SMALL)
    assert result.reason in ("ok", "error", "timeout", "cpu", "memory", "output", "killed")


@thousands
@given(st.integers(0, 100_000), st.integers(0, 20_000))
def test_output_is_counted_and_its_head_is_kept(cells: Sandbox, size: int, cap: int) -> None:
    limits = Limits(memory=256 * MiB, output=max(1, cap))
    result = cells.execute(f"print('ab' * {size // 2}, end='')", limits=limits)
    written = size // 2 * 2
    assert result.stdout_bytes == written
    assert result.stdout == ("ab" * (size // 2))[: max(1, cap)]


@thousands
@given(st.lists(st.sampled_from(LINES), max_size=4), st.integers(0, 9))
def test_the_same_program_and_seed_print_the_same(
    cells: Sandbox, lines: list[str], seed: int
) -> None:
    code = "\n".join(lines)
    first, second = (cells.execute(code, limits=SMALL, seed=seed) for _ in range(2))
    assert (first.stdout, first.exit_code) == (second.stdout, second.exit_code)


@thousands
@given(st.integers(1, 64), st.integers(1, 8), st.integers(8, 60))
def test_limits_of_a_call_are_seen_inside(
    cells: Sandbox, size: int, output: int, files: int
) -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    limits = Limits(memory=256 * MiB, open_files=files, output=output * KiB, wall=1 + size / 64)
    result = cells.execute(code, limits=limits)
    assert int(result.stdout) <= files


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@thousands
@given(PLAIN, st.booleans())
def test_grading_agrees_with_python(cells: Sandbox, value: Any, right: bool) -> None:
    expected = [value, value] if right else [value, value, None]
    report = cells.grade(
        "def f(x):\n    return [x, x]", Calls("f", (Case((value,), expected=expected),))
    )
    assert report.passed is right


@thousands
@given(st.binary(max_size=300))
def test_any_bytes_from_a_worker_parse_or_are_malformed(data: bytes) -> None:
    pieces = wire.Assembler()
    read: tuple[Callable[[], object], ...] = (
        lambda: wire.unpack_ending(data, wire.Order(b"")),
        lambda: wire.unpack_json(data),
        lambda: pieces.feed(data),
    )
    for parse in read:
        with contextlib.suppress(wire.Malformed):
            parse()
    assert len(data) <= 300
