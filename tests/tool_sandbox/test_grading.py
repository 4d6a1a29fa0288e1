"""`Calls`: values come out, the host compares, and each case has a verdict."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from palaestra.tool_sandbox import (
    Calls,
    Case,
    Limits,
    Report,
    Result,
    Sandbox,
    grading,
    values,
)
from palaestra.tool_sandbox.guest import rows as guest_rows

DOUBLE = tuple(Case((n,), expected=2 * n) for n in range(4))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", limits=Limits(wall=20.0), workers=1) as found:
        yield found


def outcomes(report: Report) -> list[str]:
    return [verdict.outcome for verdict in report.verdicts]


def pipe(*found: Any) -> bytes:
    return b"".join(guest_rows.row(k, what, values.encode(value)) for k, what, value in found)


def judged(
    data: Any,
    cases: tuple[Case, ...] = DOUBLE,
    reason: Any = "ok",
) -> tuple[list[str], bool]:
    verdicts, forged = grading.verdicts_of(cases, data, Result(reason, 0))
    return [verdict.outcome for verdict in verdicts], forged


def row(k: int, value: Any) -> tuple[object, ...]:
    return (k, guest_rows.VALUE, value)


def test_rows_in_order_are_judged_one_by_one() -> None:
    data = pipe(row(0, 0), row(1, 2), row(2, 5), row(3, 6))
    assert judged(data) == (["pass", "pass", "wrong", "pass"], False)


@pytest.mark.parametrize(
    "data",
    [
        pipe(row(1, 2), row(0, 0)),
        pipe(row(0, 0), row(0, 0)),
        pipe(row(0, 0), row(1, 2), row(2, 4), row(3, 6), row(4, 8)),
        pipe(row(0, 0), row(2, 4)),
        guest_rows.row(0, guest_rows.VALUE, b""),
        guest_rows.row(0, guest_rows.VALUE, values.encode(0) + b"N"),
        guest_rows.row(0, guest_rows.VALUE, values.encode("0")[:-1]) + pipe(row(1, 2)),
        b"\x00\x00\x00\x00",
        b"\x04\x00\x00\x00abcd",
        b"\x05\x00\x00\x00abcde",
    ],
    ids=["swapped", "twice", "extra", "gap", "empty", "two", "beyond", "bare", "short", "noise"],
)
def test_a_channel_that_carries_anything_else_fails_every_case(data: Any) -> None:
    found, forged = judged(data)
    assert forged
    assert "pass" not in found


def test_rows_before_a_time_out_count() -> None:
    found, _ = judged(pipe(row(0, 0), row(1, 2)), reason="timeout")
    assert found == ["pass", "pass", "timeout", "missing"]


def test_a_row_cut_off_by_the_end_is_no_row() -> None:
    data = pipe(row(0, 0), row(1, 2))
    assert judged(data[:-3], reason="timeout")[0] == ["pass", "timeout", "missing", "missing"]


@settings(max_examples=2000, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_in_the_channel_give_verdicts_and_never_a_pass_by_chance(data: Any) -> None:
    verdicts, _ = grading.verdicts_of((Case((1,), expected=[1, "x"]),), data, Result("ok", 0))
    assert len(verdicts) == 1
    assert verdicts[0].outcome != "pass"


@pytest.mark.parametrize(
    ("raises", "kind", "nearest", "passes"),
    [
        ("ValueError", "ValueError", "ValueError", True),
        ("LookupError", "KeyError", "KeyError", True),
        ("Exception", "BankError", "Exception", True),
        ("BankError", "BankError", "Exception", True),
        ("decimal.InvalidOperation", "InvalidOperation", "ZeroDivisionError", True),
        ("KeyError", "LookupError", "LookupError", False),
        ("ValueError", "ValueError", "Exception", False),  # a class that only has the name
        ("ValueError", "KeyError", "KeyError", False),
        ("NoSuchName", "Other", "Exception", False),
        ("BankError", "Overdrawn/BankError", "Exception", True),
        ("Other", "Overdrawn/BankError", "Exception", False),
        ("IOError", "FileNotFoundError", "FileNotFoundError", True),
    ],
)
def test_an_expected_exception_is_matched_by_our_own_hierarchy(
    raises: str,
    kind: str,
    nearest: str,
    passes: bool,
) -> None:
    data = pipe((0, guest_rows.RAISED, (kind, nearest, "text", "")))
    found, _ = judged(data, (Case(raises=raises),))
    assert found == ["pass" if passes else "raised"]


def test_an_exception_while_loading_is_no_expected_one() -> None:
    data = pipe((0, guest_rows.RAISED, ("ValueError", "ValueError", "", "while loading")))
    assert judged(data, (Case(raises="ValueError"),))[0] == ["raised"]


def test_a_right_candidate_passes(sandbox: Sandbox) -> None:
    report = sandbox.grade("def f(n):\n    print('hello')\n    return n + n", Calls("f", DOUBLE))
    assert report.passed
    assert report.score == 1.0
    assert report.integrity == "separate"
    assert report.result.stdout == "hello\n" * 4


def test_a_wrong_candidate_gets_its_share(sandbox: Sandbox) -> None:
    report = sandbox.grade("def f(n): return n * n", Calls("f", DOUBLE))
    assert not report.passed
    assert outcomes(report) == ["pass", "wrong", "pass", "wrong"]
    assert report.score == 0.5
    assert report.verdicts[3].detail == "returned 9"


def test_keywords_dots_and_names_reach_their_places(sandbox: Sandbox) -> None:
    code = "class A:\n    @staticmethod\n    def f(a, *, b): return a - b\n"
    case = Case((5,), {"b": 2}, expected=3, name="five less two")
    report = sandbox.grade(code, Calls("A.f", (case,)))
    assert report.passed
    assert report.verdicts[0].name == "five less two"


def test_exceptions_and_missing_functions_have_their_words(sandbox: Sandbox) -> None:
    report = sandbox.grade("def f(n): return 1 / n", Calls("f", (Case((0,)),)))
    assert outcomes(report) == ["raised"]
    assert report.verdicts[0].detail == "ZeroDivisionError: division by zero"
    report = sandbox.grade("def g(n): pass", Calls("f", (Case((0,)),)))
    assert outcomes(report) == ["missing"]
    report = sandbox.grade("def f(:", Calls("f", (Case((0,)),)))
    assert outcomes(report) == ["raised"]
    assert "SyntaxError" in report.verdicts[0].detail
    assert "SyntaxError" in report.result.stderr
    report = sandbox.grade("def g():\n    return 1 / 0\ng()", Calls("f", (Case((0,)),)))
    _, first, *_ = report.result.stderr.splitlines()
    assert first == '  File "solution.py", line 3, in <module>'  # and no file of ours


def test_only_the_truth_of_an_answer_is_asked_where_that_is_the_question(sandbox: Sandbox) -> None:
    code = "import re\ndef f(x): return re.match('a', x)"
    cases = Case(("a",), expected=True, by="truth"), Case(("b",), expected=False, by="truth")
    assert sandbox.grade(code, Calls("f", cases)).passed
    assert sandbox.grade(code, Calls("f", cases, isolate="case")).passed
    assert outcomes(sandbox.grade(code, Calls("f", (Case(("a",), expected=True),)))) == [
        "malformed"
    ]


def test_candidates_recurse_as_deep_as_in_a_file_of_their_own(sandbox: Sandbox) -> None:
    code = "import sys\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)"
    assert sandbox.grade(code, Calls("f", (Case((990,), expected=990),))).passed
    assert sandbox.execute("import sys; print(sys.getrecursionlimit())").stdout == "1000\n"


def test_no_cases_are_no_pass(sandbox: Sandbox) -> None:
    assert not sandbox.grade("def f(): pass", Calls("f", ())).passed


def test_tuple_for_list_fails_and_bool_for_int_is_equal(sandbox: Sandbox) -> None:
    code = "def f(x): return x"
    assert not sandbox.grade(code, Calls("f", (Case(((1, 2),), expected=[1, 2]),))).passed
    assert sandbox.grade(code, Calls("f", (Case((True,), expected=1),))).passed
    assert sandbox.grade(code, Calls("f", (Case((-0.0,), expected=0.0),))).passed
    assert sandbox.grade(code, Calls("f", (Case((math.nan,), expected=math.nan),))).passed


def test_a_changed_argument_changes_no_other_case(sandbox: Sandbox) -> None:
    items = [3, 1, 2]
    case = Case((items,), expected=[1, 2, 3])
    code = "def f(x):\n    x.sort()\n    out = list(x)\n    x.clear()\n    return out"
    assert sandbox.grade(code, Calls("f", (case, case, case))).passed
    assert items == [3, 1, 2]


def test_a_hang_in_a_batch_leaves_the_rows_before_it(sandbox: Sandbox) -> None:
    code = "def f(n):\n    while n == 2: pass\n    return 2 * n"
    report = sandbox.grade(code, Calls("f", DOUBLE), limits=Limits(wall=3.0))
    assert outcomes(report) == ["pass", "pass", "timeout", "missing"]
    assert report.score == 0.5
    assert report.result.reason == "timeout"


def test_a_hang_in_a_case_of_its_own_costs_that_case_only(sandbox: Sandbox) -> None:
    code = "def f(n):\n    while n == 2: pass\n    return 2 * n"
    report = sandbox.grade(code, Calls("f", DOUBLE, "case"), limits=Limits(wall=3.0))
    assert outcomes(report) == ["pass", "pass", "timeout", "pass"]


def test_a_hang_while_loading_does_not_use_up_the_walls_of_the_cases(sandbox: Sandbox) -> None:
    cases = tuple(Case((n,), expected=n) for n in range(50))
    code = "import time\ntime.sleep(600)\ndef f(n): return n"
    report = sandbox.grade(code, Calls("f", cases, "case"), limits=Limits(wall=0.5))
    assert outcomes(report) == ["timeout"] + ["missing"] * 49
    assert report.result.wall < 20


def test_an_exit_in_a_case_of_its_own_costs_that_case_only(sandbox: Sandbox) -> None:
    code = "import os\ndef f(n):\n    if n == 2: os._exit(0)\n    return 2 * n"
    report = sandbox.grade(code, Calls("f", DOUBLE, "case"))
    assert outcomes(report) == ["pass", "pass", "missing", "pass"]


def test_cases_of_their_own_see_nothing_of_each_other(sandbox: Sandbox) -> None:
    code = "seen = []\ndef f(n):\n    seen.append(n)\n    return list(seen)"
    cases = tuple(Case((n,), expected=[n]) for n in range(5))
    assert sandbox.grade(code, Calls("f", cases, "case")).passed
    assert not sandbox.grade(code, Calls("f", cases, "batch")).passed


def test_a_process_left_behind_in_a_case_does_not_hold_it_up(sandbox: Sandbox) -> None:
    code = "import os, time\ndef f(n):\n    if not os.fork(): time.sleep(60)\n    return 2 * n"
    report = sandbox.grade(code, Calls("f", DOUBLE, "case"), limits=Limits(wall=30.0))
    assert report.passed


def test_what_was_printed_before_a_fork_is_printed_once(sandbox: Sandbox) -> None:
    code = "print('loading', end='')\ndef f(n):\n    print(n, end='')\n    return 2 * n"
    report = sandbox.grade(code, Calls("f", DOUBLE, "case"))
    assert report.result.stdout == "loading0123"


def test_answers_larger_than_a_pipe_arrive_and_survive_a_hang(sandbox: Sandbox) -> None:
    sizes = (10, 300_000, 70_000, 1_000_000)
    cases = tuple(Case((size,), expected="x" * size) for size in sizes)
    assert sandbox.grade("def f(n): return 'x' * n", Calls("f", cases)).passed
    hangs = "def f(n):\n    while n == 1_000_000: pass\n    return 'x' * n"
    report = sandbox.grade(hangs, Calls("f", cases), limits=Limits(wall=3.0))
    assert [v.outcome for v in report.verdicts] == ["pass", "pass", "pass", "timeout"]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(-9, 9) | st.text(max_size=3) | st.floats(), max_size=4))
def test_grading_agrees_with_direct_evaluation(sandbox: Sandbox, items: list[Any]) -> None:
    cases = tuple(Case((item,), expected=[item, item]) for item in items)
    report = sandbox.grade("def f(x): return [x, x]", Calls("f", cases))
    assert report.score == (1.0 if items else 0.0)
