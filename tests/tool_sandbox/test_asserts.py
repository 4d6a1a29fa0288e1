"""Assert statements of public task files, read as `Calls`."""

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from palaestra.tool_sandbox import (
    Limits,
    Result,
    Sandbox,
    grading,
    values,
)
from palaestra.tool_sandbox.comparing import equal
from palaestra.tool_sandbox.grading import calls_from_assert, calls_from_asserts, calls_from_check
from palaestra.tool_sandbox.guest import rows as guest_rows

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", limits=Limits(wall=20.0), workers=1) as found:
        yield found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("assert f(1) == -2", -2),
        ("assert f([1, (2,)], x={'a': None}) == set()", set[Any]()),
        ("assert 'x' == f(1)", "x"),
        ("assert f(1) is True", True),
        ("assert f(1)", True),
        ("assert not f(1)", False),
        ("assert f(3 * 19 ** 2) == [3, 19, 19], 'why'", [3, 19, 19]),
        ("assert f(1) == 2 + 1j", 2 + 1j),
        ("assert f(int) == {'a': (1, 2)}", {"a": (1, 2)}),
        ("assert f(1) == float('inf')", math.inf),
        ("assert f(1) == frozenset([1])", frozenset({1})),
    ],
)
def test_an_assertion_of_literals_becomes_a_case(source: str, expected: Any) -> None:
    case = calls_from_assert(source, "f")
    assert case is not None
    assert case.expected == expected
    assert case.tolerance is None
    assert calls_from_assert(source, "g") is None


ASKED: list[tuple[str, list[Any], list[Any]]] = [
    ("assert f(1) == True", [True, 1, 1.0], [2, None, [1]]),
    ("assert f(1)", [True, 1, 2, "no", [0]], [False, 0, None, "", []]),
    ("assert not f(1)", [False, 0, None, "", {}], [True, -1, "0", (0,)]),
    ("assert f(1) is True", [True], [1, 1.0, "True", None]),
    ("assert f(1) is None", [None], [False, 0, ""]),
]


@pytest.mark.parametrize(("source", "passing", "failing"), ASKED)
def test_a_case_asks_for_what_the_assertion_asks(
    source: str, passing: list[Any], failing: list[Any]
) -> None:
    case = calls_from_assert(source)
    assert case is not None
    for value in (*passing, *failing):

        def f(_: int, value: object = value) -> object:
            return value

        told = bool(eval(source.removeprefix("assert "), {"f": f}))
        assert told == any(value is one for one in passing)
        data = guest_rows.row(0, guest_rows.VALUE, values.encode(value))
        (verdict,), _ = grading.verdicts_of((case,), data, Result("ok", 0))
        assert (verdict.outcome == "pass") == told


@pytest.mark.parametrize(
    ("source", "inside", "outside"),
    [
        ("assert abs(f(1) - 0.5) < 1e-3", 0.5009, 0.502),
        ("assert abs(100.0 - f(1)) <= 1e-3", 100.0009, 100.002),
        ("assert math.isclose(f(1), 1000.0, rel_tol=1e-3)", 1000.9, 1002.0),
        ("assert math.isclose(f(1), 0.001, rel_tol=1e-3)", 0.0010009, 0.001002),
        ("assert math.isclose(f(1), 5.0, abs_tol=0.1)", 5.09, 5.2),
    ],
)
def test_a_distance_becomes_a_tolerance_that_means_the_same(
    source: str,
    inside: float,
    outside: float,
) -> None:
    case = calls_from_assert(source)
    assert case is not None
    assert equal(inside, case.expected, case.tolerance)
    assert not equal(outside, case.expected, case.tolerance)


@pytest.mark.parametrize(
    "source",
    [
        "assert len(f(1)) == 2",
        "assert f(x) == 2",
        "assert f(1) == g(1)",
        "assert f(1) != 2",
        "assert f(1) == 1 and f(2) == 2",
        "assert f(*[1]) == 2",
        "assert f(**{'a': 1}) == 2",
        "assert f(1)[0] == 2",
        "assert f(lambda: 1) == 2",
        "assert f(1) == 9 ** 9 ** 9",
        "assert f('a' * 10 ** 9) == 2",
        "assert f([0] * 10 ** 6 * 100) == 2",
        "assert f({[]: 1}) == 2",
        "assert a.f(1) == 2",
        "f(1) == 2",
        "assert f(1) == 2; print(3)",
        "assert f(",
        "",
        "assert " + "(" * 300 + "f(1)" + ")" * 300,
        "assert f(" + "[" * 150 + "]" * 150 + ") == 1",
    ],
)
def test_an_assertion_of_anything_else_is_left_alone(source: str) -> None:
    assert calls_from_assert(source) is None


def test_assertions_of_two_functions_are_no_calls() -> None:
    assert calls_from_asserts(["assert f(1) == 1", "assert g(1) == 1"]) is None
    assert calls_from_asserts([]) is None
    calls = calls_from_asserts(["assert f(1) == 1", "assert f(2) == 1"])
    assert calls is not None
    assert (calls.entry, len(calls.cases)) == ("f", 2)


def test_a_check_function_becomes_calls_of_the_entry() -> None:
    source = "METADATA = {}\n\ndef check(g):\n    assert g(1) == 2, 'text'\n    assert True, 'on'\n"
    calls = calls_from_check(source, "twice")
    assert calls is not None
    assert calls.entry == "twice"
    assert [case.expected for case in calls.cases] == [2]
    assert calls_from_check(source.replace("assert True", "assert False"), "twice") is None
    assert calls_from_check(source + "import os\n", "twice") is None
    assert calls_from_check("def check(g):\n    for x in [1]:\n        assert g(x)\n", "f") is None


def rows_of(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the public task files are not here: {path}")
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def test_the_public_files_become_calls_but_for_these() -> None:
    mbpp = rows_of("mbpp/mbpp.jsonl.gz")
    left = {r["task_id"] for r in mbpp if calls_from_asserts(r["test_list"]) is None}
    assert left == {596, 601, 912, 927}
    human = rows_of("humaneval/humaneval.jsonl.gz")
    left = {r["task_id"] for r in human if calls_from_check(r["test"], r["entry_point"]) is None}
    assert left == {f"HumanEval/{n}" for n in (32, 33, 37, 38, 44, 50, 53)}


@pytest.mark.slow
def test_every_public_reference_passes_its_calls(sandbox: Sandbox) -> None:
    pairs: list[tuple[str, Any]] = []
    for task in rows_of("mbpp/mbpp.jsonl.gz"):
        pairs.append((task["code"], calls_from_asserts(task["test_list"])))
    for task in rows_of("humaneval/humaneval.jsonl.gz"):
        calls = calls_from_check(task["test"], task["entry_point"])
        pairs.append((task["prompt"] + task["canonical_solution"], calls))
    pairs = [(code, calls) for code, calls in pairs if calls is not None]
    for (code, calls), report in zip(
        pairs, sandbox.grade_many(pairs, limits=Limits(wall=30.0)), strict=True
    ):
        assert report.passed, (calls.entry, report.verdicts, code)
