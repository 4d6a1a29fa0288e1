"""Candidates that cheat, answers that cannot be, tests that nobody could pass."""

import math
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from palaestra.tool_sandbox import (
    BadRequest,
    Calls,
    Case,
    Limits,
    Sandbox,
    Script,
    Streams,
)
from palaestra.tool_sandbox.showing import DETAIL

from .test_grading import outcomes


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", limits=Limits(wall=30.0), workers=1) as found:
        yield found


def _any(value: Any) -> Any:
    """What the type checker would not let through."""
    return value


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


def test_no_detail_holds_half_a_character(sandbox: Sandbox) -> None:
    code = "def f(x): raise ValueError(chr(0xD800))"
    for tests in (Calls("f", (Case((0,)),)), Script("f(0)")):
        (verdict,) = sandbox.grade(code, tests).verdicts
        assert verdict.detail.startswith("ValueError: \\ud800")


def test_an_answer_that_cannot_be_compared_is_a_wrong_one(sandbox: Sandbox) -> None:
    code = "from decimal import Decimal\ndef f(): return Decimal('sNaN')"
    for by in ("equality", "identity"):
        tests = Calls("f", (Case((), expected=Decimal(1), by=_any(by)),))
        assert outcomes(sandbox.grade(code, tests)) == ["wrong"]


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


# --- what takes long to compare ----------------------------------------------------------------

LONG = 1 << (1 << 20) - 1  # with a Decimal compared in a second, in which no thread goes on
SLOW = {
    "an int for a Decimal": ("def f(): return LONG", Decimal(3)),
    "a Fraction for a Decimal": (
        "from fractions import Fraction\ndef f(): return Fraction(1, 1 << 16000)",
        Decimal(3),
    ),
    "a Decimal for an int": ("from decimal import Decimal\ndef f(): return Decimal(3)", LONG),
    "both in a set": (
        "from decimal import Decimal\ndef f(): return {LONG, *map(Decimal, range(3))}",
        Decimal(3),
    ),
    "keys of one hash": (
        "import os, sys\nfrom decimal import Decimal\n"
        "values, rows = (\n"
        "    next(m for n, m in sys.modules.items() if n.endswith(name))\n"
        "    for name in ('sandbox.values', 'guest.rows')\n)\n"
        "keys = LONG, *(Decimal(hash(LONG) + ((1 << 61) - 1) * n) for n in (1, 2, 3))\n"
        "pairs = b''.join(values.encode(key) + b'N' for key in keys)\n"
        "rows.put(5, rows.row(0, 0, b'd' + (4).to_bytes(4, 'little') + pairs))\nos._exit(0)",
        1,
    ),
}


@pytest.mark.parametrize(("code", "expected"), SLOW.values(), ids=SLOW)
def test_what_takes_long_to_compare_is_not_compared(
    sandbox: Sandbox, code: str, expected: object
) -> None:
    code = code.replace("LONG", "(1 << (1 << 20) - 1)")
    (verdict,) = sandbox.grade(code, Calls("f", (Case(expected=expected),))).verdicts
    assert verdict.outcome == "malformed"
    assert "slow" in verdict.detail or "too long" in verdict.detail


def test_long_ints_and_decimals_are_answers_where_they_do_not_meet(sandbox: Sandbox) -> None:
    code = "def f(x): return x"
    near = {(x, y, z): Decimal(x) for x in (-1, -2) for y in (-1, -2) for z in (-1, -2)}
    held = (LONG, [Decimal("0.1")], {LONG: 1}, {Decimal(-1), -2}, near)  # -1 and -2 share a hash
    cases = tuple(Case((value,), expected=value) for value in held)
    assert sandbox.grade(code, Calls("f", cases)).passed
    both = Case(([LONG, Decimal(1)],), expected=[LONG, Decimal(1)])
    with pytest.raises(BadRequest, match="takes too long"):
        sandbox.grade(code, Calls("f", (both,)))
    asked = Case(([LONG, Decimal(1)],), expected=True, by="truth")
    assert sandbox.grade(code, Calls("f", (asked,))).passed


# --- tests that nobody could pass --------------------------------------------------------------


@pytest.mark.parametrize(
    "expected",
    [{math.nan}, {math.nan: 1}, [{(1, math.nan)}], Decimal("sNaN"), frozenset({Decimal("NaN")})],
    ids=repr,
)
def test_an_expected_value_that_equals_nothing_is_refused(
    sandbox: Sandbox, expected: object
) -> None:
    with pytest.raises(BadRequest, match="no answer equals"):
        sandbox.grade("def f(): pass", Calls("f", (Case(expected=expected),)))
    fine = Case(expected=expected, by="truth"), Case(expected=expected, raises="KeyError")
    assert outcomes(sandbox.grade("def f(): {}[1]", Calls("f", fine))) == ["raised", "pass"]


def test_expected_values_that_nobody_could_bring_back_together_are_refused(
    sandbox: Sandbox,
) -> None:
    cases = (Case(expected=[True] * 900_000),) * 3
    with pytest.raises(BadRequest, match="together"):
        sandbox.grade("def f(): return [True] * 900_000", Calls("f", cases))
    assert sandbox.grade("def f(): return [True] * 900_000", Calls("f", cases[:2])).passed


def test_a_factory_that_stays_behind_is_refused_in_arguments_only(sandbox: Sandbox) -> None:
    counts = defaultdict[str, int](lambda: 0, a=1)
    for case in (Case((counts,)), Case(kwargs={"x": [counts]})):
        with pytest.raises(BadRequest, match="factory"):
            sandbox.grade("def f(x): return x", Calls("f", (case,)))
    code = "from collections import defaultdict\ndef f(x):\n    x['b']\n    return "
    case = Case((defaultdict[str, int](int),), expected=counts)
    assert sandbox.grade(code + "defaultdict(lambda: 3, a=1)", Calls("f", (case,))).passed


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError('\\x1b[2J\\r\\n\\0\\u202e' + 'x' * 999)",
        "raise type('\\x1b[2J', (Exception,), {})",
        "return type('\\x1b[2J' + 'x' * 999, (), {})()",
        "return '\\x1b[2J' * 999",
        "x = 'y' * 70\n    for _ in range(6): x = [x] * 6\n    return x",
        "return {10**5000: 1}, range(10**4900), object",
    ],
)
def test_a_detail_is_one_short_line_that_no_terminal_obeys(sandbox: Sandbox, body: str) -> None:
    cases = Case(raises="E"), Case(expected=1)
    for verdict in sandbox.grade(f"def f():\n    {body}", Calls("f", cases)).verdicts:
        assert verdict.outcome in ("wrong", "raised", "malformed")
        assert 0 < len(verdict.detail) <= DETAIL
        assert verdict.detail.isprintable()
        assert "0x" not in verdict.detail


def test_no_terminal_obeys_what_a_script_tells(sandbox: Sandbox) -> None:
    code = "def f(): raise ValueError('\\x1b[2J')"
    (verdict,) = sandbox.grade(code, Script("f()")).verdicts
    assert verdict.detail.isprintable()
    assert "\\x1b[2J" in verdict.detail


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("any(iter(int, 1))", "its processor time was used up"),
        ("os.kill(os.getpid(), 9)", "killed, as where the memory is used up"),
        ("os.kill(os.getpid(), 15)", "by signal 15"),
        ("os._exit(3)", "exit code 3"),
    ],
)
def test_the_death_of_a_case_of_its_own_is_told(sandbox: Sandbox, body: str, told: str) -> None:
    code = f"import os\ndef f(n):\n    if n == 1: {body}\n    return n"
    cases = tuple(Case((n,), expected=n) for n in range(3))
    limits = Limits(wall=100.0, cpu=1.0)
    report = sandbox.grade(code, Calls("f", cases, "case"), limits=limits)
    assert outcomes(report) == ["pass", "missing", "pass"]
    assert report.verdicts[1].detail == f"the program ended in this case, {told}"


def test_a_candidate_can_read_its_own_source(sandbox: Sandbox) -> None:
    code = "import inspect\ndef g(): return 1\r\ndef f(): return inspect.getsource(g)"
    tests = Calls("f", (Case(expected="def g(): return 1\n"),))
    assert sandbox.grade(code, tests).passed
    assert sandbox.grade(code, Script("assert f() == 'def g(): return 1\\n'")).passed
    rehearsed = "import linecache\nprint([name for name in linecache.cache if 'solution' in name])"
    assert sandbox.execute(rehearsed).stdout == "[]\n"
