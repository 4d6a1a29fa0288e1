"""`Calls` and `Streams`: values come out, the host compares, and nothing a candidate does helps."""

import gzip
import json
import math
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from palaestra.tool_sandbox import (
    BadRequest,
    Calls,
    Case,
    Limits,
    Report,
    Result,
    Sandbox,
    Script,
    Streams,
    grading,
    values,
)
from palaestra.tool_sandbox.grading import (
    calls_from_assert,
    calls_from_asserts,
    calls_from_check,
    equal,
)
from palaestra.tool_sandbox.guest import rows as guest_rows

DATA = Path(__file__).parents[3] / "shared" / "data"
DOUBLE = tuple(Case((n,), expected=2 * n) for n in range(4))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", limits=Limits(wall=2.0), workers=1) as found:
        yield found


def _any(value: Any) -> Any:
    """What the type checker would not let through."""
    return value


def outcomes(report: Report) -> list[str]:
    return [verdict.outcome for verdict in report.verdicts]


# --- comparison --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "expected", "tolerance", "same"),
    [
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
    ],
)
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


# --- rows --------------------------------------------------------------------------------------


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


def test_no_detail_quotes_what_was_expected(sandbox: Sandbox) -> None:
    cases = (
        Case((1,), expected="SECRET"),
        Case((2,), raises="SecretError"),
        Case(expected="SECRET"),
    )
    codes = ("def f(x): return x", "def f(x): 1 / 0", "while True: pass", "def g(): 1", "?")
    for code in codes:
        report = sandbox.grade(code, Calls("f", cases), limits=Limits(wall=0.2))
        assert "secret" not in repr(report.verdicts).lower()


# --- live --------------------------------------------------------------------------------------


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


def test_no_detail_holds_half_a_character(sandbox: Sandbox) -> None:
    code = "def f(x): raise ValueError(chr(0xD800))"
    for tests in (Calls("f", (Case((0,)),)), Script("f(0)")):
        (verdict,) = sandbox.grade(code, tests).verdicts
        assert verdict.detail.encode().startswith(b"ValueError: ?")


def test_an_answer_that_cannot_be_compared_is_a_wrong_one(sandbox: Sandbox) -> None:
    code = "from decimal import Decimal\ndef f(): return Decimal('sNaN')"
    for by in ("equality", "identity"):
        tests = Calls("f", (Case((), expected=Decimal(1), by=_any(by)),))
        assert outcomes(sandbox.grade(code, tests)) == ["wrong"]


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


CHEATS = {
    "exit in the function": "def f(n):\n    raise SystemExit(0)",
    "os._exit in the function": "import os\ndef f(n): os._exit(0)",
    "exit while loading": "import sys\nsys.exit(0)\ndef f(n): pass",
    "os._exit while loading": "import os\nos._exit(0)",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(n): return None",
    "excepthook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef f(n): 1 / 0",
    "markers on stdout": "def f(n):\n    print('1 passed', 'OK', '[pass]')",
    "always equal": (
        "class Sly:\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
        "def f(n): return Sly()"
    ),
    "an int that lies": (
        "class Sly(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def f(n): return Sly(1)"
    ),
    "a list that lies": (
        "class Sly(list):\n    def __eq__(self, other): return True\ndef f(n): return Sly()"
    ),
    "patched builtins": (
        "import builtins, operator\nbuiltins.all = builtins.any = builtins.isinstance = "
        "lambda *a: True\noperator.eq = lambda a, b: True\ndef f(n): return None"
    ),
    "frames": (
        "import sys\ndef f(n):\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in frame.f_locals.values():\n"
        "            if hasattr(value, 'expected'): return value.expected\n"
        "        frame = frame.f_back\n    return 'nothing found'"
    ),
    "the collector": (
        "import gc\ndef f(n):\n    for thing in gc.get_objects():\n"
        "        if type(thing).__name__ in ('Case', 'Calls'): return thing\n    return 'none'"
    ),
    "patched codec": (
        "import sys\nfor name, module in list(sys.modules.items()):\n"
        "    if name.endswith('values') and hasattr(module, 'encode'):\n"
        "        module.encode = lambda *a, **k: b'T'\ndef f(n): return None"
    ),
    "rows of its own, then exit": (
        "import os, struct\nfor k in range(4):\n    os.write(5, struct.pack('<I', 1) + b'T')\n"
        "os._exit(0)"
    ),
    "rows before the driver's": (
        "import sys\nvalues = next(m for n, m in sys.modules.items() if n.endswith('.values'))\n"
        "rows = next(m for n, m in sys.modules.items() if n.endswith('guest.rows'))\n"
        "for k in range(4): rows.put(5, rows.row(k, rows.VALUE, values.encode(2 * k)))\n"
        "def f(n): return None"
    ),
    "a closed channel": "import os\nos.close(5)\ndef f(n): return 2 * n",
    "a flooded channel": "import os\nwhile True: os.write(5, bytes(65536))",
    "trace function": "import sys\nsys.settrace(lambda *a: None)\ndef f(n): return None",
    "NaN": "def f(n): return float('nan')",
    "a huge number": "def f(n): return 1 << 10_000_000",
    "a deep list": "def f(n):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "a cycle": "def f(n):\n    x = []\n    x.append(x)\n    return x",
    "a generator": "def f(n):\n    yield 2 * n",
    "a type with a false name": "def f(n): return type('int', (), {})",
}


@pytest.mark.parametrize("code", CHEATS.values(), ids=CHEATS)
def test_a_cheating_candidate_fails_every_case(sandbox: Sandbox, code: str) -> None:
    cases = tuple(Case((n,), expected=2 * n) for n in (1, 2, 3, 4))
    for isolate in ("batch", "case"):
        report = sandbox.grade(code, Calls("f", cases, isolate), limits=Limits(wall=0.5))
        assert not report.passed
        assert report.score == 0.0
    assert sandbox.grade("def f(n): return 2 * n", Calls("f", cases)).passed


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
    report = sandbox.grade(code, Calls("f", DOUBLE), limits=Limits(wall=0.4))
    assert outcomes(report) == ["pass", "pass", "timeout", "missing"]
    assert report.score == 0.5
    assert report.result.reason == "timeout"


def test_a_hang_in_a_case_of_its_own_costs_that_case_only(sandbox: Sandbox) -> None:
    code = "def f(n):\n    while n == 2: pass\n    return 2 * n"
    report = sandbox.grade(code, Calls("f", DOUBLE, "case"), limits=Limits(wall=0.4))
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
    report = sandbox.grade(code, Calls("f", DOUBLE, "case"), limits=Limits(wall=1.0))
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
    report = sandbox.grade(hangs, Calls("f", cases), limits=Limits(wall=0.5))
    assert [v.outcome for v in report.verdicts] == ["pass", "pass", "pass", "timeout"]


def test_wrong_tests_are_refused_before_anything_runs(sandbox: Sandbox) -> None:
    before = sandbox.stats.executions
    for case in (Case((object(),)), Case(expected=object()), Case(tolerance=-1.0)):
        with pytest.raises(BadRequest):
            sandbox.grade("def f(): pass", Calls("f", (case,)))
    with pytest.raises(BadRequest):
        sandbox.grade("def f(): pass", Calls("", (Case(),)))
    with pytest.raises(BadRequest):
        sandbox.grade("def f(): pass", _any([1, 2]))
    with pytest.raises(BadRequest):
        sandbox.grade("", Streams(()))
    with pytest.raises(BadRequest):
        sandbox.grade("", Streams((("", ""),), _any("loosely")))
    assert sandbox.stats.executions == before


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(-9, 9) | st.text(max_size=3) | st.floats(), max_size=4))
def test_grading_agrees_with_direct_evaluation(sandbox: Sandbox, items: list[Any]) -> None:
    cases = tuple(Case((item,), expected=[item, item]) for item in items)
    report = sandbox.grade("def f(x): return [x, x]", Calls("f", cases))
    assert report.score == (1.0 if items else 0.0)


def test_streams_compare_what_was_printed(sandbox: Sandbox) -> None:
    code = "n = int(input())\nprint(n * 2, ' ')\n"
    assert sandbox.grade(code, Streams((("3\n", "6"), ("4", "8\n")))).passed
    report = sandbox.grade(code, Streams((("3\n", "6"), ("4", "9"), ("x", "0"))))
    assert outcomes(report) == ["pass", "wrong", "raised"]
    assert "9" not in report.verdicts[1].detail
    exact = Streams((("3", "6\n"),), "exact")
    assert not sandbox.grade(code, exact).passed
    assert sandbox.grade("print(int(input()) * 2)", exact).passed


def test_streams_need_a_program_that_ends_well(sandbox: Sandbox) -> None:
    asked = Streams((("", "6"),))
    for code in ("print(6)\nraise SystemExit(1)", "print(6, flush=True)\nwhile True: pass"):
        report = sandbox.grade(code, asked, limits=Limits(wall=0.3))
        assert not report.passed


def test_input_for_which_there_is_no_room_is_refused(sandbox: Sandbox) -> None:
    tests = Streams((("x" * 5000, "5000"),))
    code = "print(len(input()))"
    assert sandbox.grade(code, tests).passed
    with pytest.raises(BadRequest, match="file_size"):
        sandbox.grade(code, tests, limits=Limits(file_size=4096))


def test_only_what_was_written_to_stdout_counts(sandbox: Sandbox) -> None:
    noisy = "import sys\nprint('x' * 100_000, file=sys.stderr)\nprint(3)"
    assert sandbox.grade(noisy, Streams((("", "3"),))).passed
    assert sandbox.grade("\ufeffprint(3)", Streams((("", "3"),))).passed
    for match in ("exact", "tokens"):
        undecodable = "import sys\nsys.stdout.buffer.write(b'\\xff')"
        assert not sandbox.grade(undecodable, Streams((("", "\ufffd"),), _any(match))).passed


def test_a_stream_longer_than_the_output_limit_is_still_compared(sandbox: Sandbox) -> None:
    expected = "x" * 5000
    report = sandbox.grade(
        "print('x' * 5000)", Streams((("", expected),)), limits=Limits(output=10)
    )
    assert report.passed


# --- asserts of public files -------------------------------------------------------------------


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
        assert (judged(pipe(row(0, value)), (case,))[0] == ["pass"]) == told


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


def test_odd_tests_and_candidates_are_refused_by_name(cells: Sandbox) -> None:
    good = Calls("f", (Case((1,), expected=1),))
    odd: list[Calls] = [
        Calls("f", good.cases, isolate="each"),  # type: ignore[arg-type]
        Calls("f", (5,)),  # type: ignore[arg-type]
        Calls("f", (Case(args=5),)),  # type: ignore[arg-type]
        Calls("f", (Case(kwargs={1: 2}),)),  # type: ignore[arg-type]
        Calls("f", (Case(tolerance="x"),)),  # type: ignore[arg-type]
        Calls("f", (Case(raises=ValueError),)),  # type: ignore[arg-type]
        Calls("f", (Case(name=5),)),  # type: ignore[arg-type]
        Calls("f", (Case(by="is"),)),  # type: ignore[arg-type]
        Calls("f", good.cases[0]),  # type: ignore[arg-type]
        Calls("f", None),  # type: ignore[arg-type]
        Calls("Solution().f", good.cases),
        Calls("f", (Case(expected="x" * (1 << 20)),) * 8),
        Calls("f", (Case(expected="x" * (5 << 20)),)),
    ]
    for tests in odd:
        with pytest.raises(BadRequest):
            cells.grade("def f(x): return x", tests)
    for candidate in (5, None, "x" * (16 << 20)):
        with pytest.raises(BadRequest):
            cells.grade(candidate, good)  # type: ignore[arg-type]


def test_odd_streams_are_refused_by_name(cells: Sandbox) -> None:
    odd: list[Any] = [None, 5, (1,), "ab", (("a", "b", "c"),), ((b"a", b"b"),), ((None, "b"),)]
    odd += [(("a", "\ud800"),), (("\ud800", "a"),), iter([("a", "b")]), (("", "x" * (2 << 20)),)]
    for pairs in odd:
        with pytest.raises(BadRequest, match=r"Streams|stdout"):
            cells.grade("print(1)", Streams(pairs))
