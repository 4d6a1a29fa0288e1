"""`Script` beside one interpreter for tests and candidate: right ones pass, wrong ones do not.

Each pair of candidates is first told apart by the tests under plain CPython, in this process, where
nobody cheats; then the two cells must come to the same verdicts.
"""

from __future__ import annotations

import contextlib
import io
import sys
import types
import unittest
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from palaestra.tool_sandbox import Limits, Report, Sandbox, Script
from palaestra.tool_sandbox.script import free_names


class Pair(NamedTuple):
    """Tests, a candidate that they let through, and one that they do not."""

    tests: str
    right: str
    wrong: str


DOUBLE, MINUS = "def f(x): return 2 * x", "def f(x): return -1"
GRID = "def grid(n): return [[0] * n for _ in range(n)]"
BOX = "class Box:\n    def __init__(self, full): self.full = full\n"
PAIRS = {
    "tests behind a guard": Pair(
        "from solution import f\ndef test_a(): assert f(2) == 4\n"
        "if __name__ == '__main__':\n    test_a()\n",
        DOUBLE,
        MINUS,
    ),
    "an exit at the end": Pair(
        "import sys\nfrom solution import f\ndef main():\n    assert f(2) == 4\n    return 0\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n",
        DOUBLE,
        MINUS,
    ),
    "test classes behind a guard": Pair(
        "import unittest\nfrom solution import f\nif __name__ == '__main__':\n"
        "    class T(unittest.TestCase):\n        def test_a(self): self.assertEqual(f(2), 4)\n"
        "    unittest.main()\n",
        DOUBLE,
        MINUS,
    ),
    "a test function in a list": Pair(
        "def test_a(): assert f(2) == 4\ndef test_b(): f(1)\nTESTS = [test_a]\n", DOUBLE, MINUS
    ),
    "a call that never comes": Pair(
        "def test_a(): assert f(2) == 4\nif False: test_a()\nf(1)\n", DOUBLE, MINUS
    ),
    "a loose test beside a class": Pair(
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): f(1)\n"
        "def test_b(): assert f(2) == 4\n",
        DOUBLE,
        MINUS,
    ),
    "a class with one test": Pair(
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def runTest(self): self.assertEqual(f(2), 4)\n",
        DOUBLE,
        MINUS,
    ),
    "tests for pytest": Pair(
        "from solution import f\ndef test_a(): assert f(2) == 4\n"
        "if __name__ == '__main__':\n    import pytest\n    pytest.main()\n",
        DOUBLE,
        MINUS,
    ),
    "rows of their own": Pair(
        "g = grid(2)\ng[0][0] = 1\nassert g[1][0] == 0", GRID, "def grid(n): return [[0] * n] * n"
    ),
    "a copy": Pair(
        "x = [1]\ny = copied(x)\nassert y == [1] and y is not x",
        "def copied(x): return list(x)",
        "def copied(x): return x",
    ),
    "in place": Pair(
        "x = [2, 1]\nassert ordered(x) is x and x == [1, 2]",
        "def ordered(x):\n    x.sort()\n    return x",
        "def ordered(x):\n    x.sort()\n    return list(x)",
    ),
    "the same list twice": Pair(
        "x = []\nassert f(x, x) == 2",
        "def f(a, b):\n    a.append(1)\n    b.append(1)\n    return len(a)",
        "def f(a, b):\n    a = a + [1]\n    b.append(1)\n    return len(a)",
    ),
    "a class as a type": Pair(
        "assert type(make('c')) is type(C())",
        "class C: pass\nclass D: pass\ndef make(name): return {'c': C, 'd': D}[name]()",
        "class C: pass\nclass D: pass\ndef make(name): return D()",
    ),
    "a name of a class": Pair(
        "assert make().__class__.__name__ == 'C'",
        "class C: pass\ndef make(): return C()",
        "class D: pass\ndef make(): return D()",
    ),
    "callable": Pair(
        "assert callable(make(3))",
        "def make(n): return lambda: n",
        "class C: pass\ndef make(n): return C()",
    ),
    "an iterator": Pair(
        "assert hasattr(make(), '__iter__')",
        "def make(): return (k for k in 'ab')",
        "class C: pass\ndef make(): return C()",
    ),
    "truth": Pair(
        "assert Box(1)\nassert not Box(0)",
        BOX + "    def __bool__(self): return bool(self.full)",
        BOX,
    ),
    "members of a set": Pair(
        "assert len({Box(1), Box(1)}) == 1",
        BOX + "    def __eq__(self, other): return True\n    def __hash__(self): return 1",
        BOX,
    ),
    "what cannot be a member": Pair(
        "try:\n    {Box(1)}\nexcept TypeError:\n    pass\nelse:\n    raise AssertionError",
        BOX + "    __hash__ = None",
        BOX,
    ),
    "in-place operators": Pair(
        "b = c = Box(1)\nb += 2\nassert b is c and b.full == 3",
        BOX + "    def __iadd__(self, n):\n        self.full += n\n        return self",
        BOX + "    def __iadd__(self, n): return Box(self.full + n)",
    ),
    "what is printed": Pair(
        "import contextlib, io\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n"
        "    hello('you')\nassert out.getvalue() == 'hello you\\n'",
        "def hello(name): print('hello', name)",
        "def hello(name): print('hi', name)",
    ),
    "what is not printed": Pair(
        "import contextlib, io\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n"
        "    f(1)\nassert out.getvalue() == ''",
        DOUBLE,
        "def f(x):\n    print(x)\n    return 2 * x",
    ),
    "exceptions of the standard library": Pair(
        "import json\ntry:\n    read('{')\nexcept json.JSONDecodeError:\n    pass\n"
        "else:\n    raise AssertionError",
        "import json\ndef read(text): return json.loads(text)",
        "def read(text): raise KeyError(text)",
    ),
    "a class named as a builtin": Pair(
        "try:\n    f()\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError",
        "def f(): raise ValueError(1)",
        "class ValueError(Exception): pass\ndef f(): raise ValueError(1)",
    ),
    "attributes of an exception's class": Pair(
        "try:\n    f()\nexcept Exception as e:\n    assert e.code == 3",
        "class E(Exception): code = 3\ndef f(): raise E",
        "class E(Exception): code = 4\ndef f(): raise E",
    ),
    "deep recursion": Pair(
        "assert f(900) == 900",
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)",
        "def f(n): return 0 if n == 0 else f(n - 1)",
    ),
}
# What no wire carries: the tests must not decide it by what happens in their own process.
ELSEWHERE = {
    "input": "import builtins\nbuiltins.input = lambda: '3'\nassert f(1) == 2",
    "standard input": "import io, sys\nsys.stdin = io.StringIO('3')\nassert f(1) == 2",
    "a mock of a module": "from unittest import mock\nwith mock.patch('time.time'): f(1)",
    "warnings": (
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test_a(self):\n        with self.assertWarns(UserWarning): f(1)\n"
    ),
    "a coroutine": "import asyncio\nasyncio.run(g(2))",
    "an abstract class": "from collections.abc import Iterable\nassert isinstance(o(), Iterable)",
    "fields of a data class": "import dataclasses\nassert dataclasses.fields(o())",
    "tests that are all skipped": (
        "import unittest\nclass T(unittest.TestCase):\n"
        "    @unittest.skip('')\n    def test_a(self): f(1)\n"
    ),
}
CANDIDATE = DOUBLE + "\nasync def g(x): return x\nclass O: pass\ndef o(): return O()"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", limits=Limits(wall=20.0), workers=1) as found:
        yield found


def passes_here(candidate: str, tests: str) -> bool:
    """Whether the tests pass in this interpreter, those of `unittest` and loose ones included."""
    held = {name: sys.modules.get(name) for name in ("solution", "__main__")}
    solution, main = types.ModuleType("solution"), types.ModuleType("__main__")
    sys.modules.update({"solution": solution, "__main__": main})
    pytest_main, unittest_main = pytest.main, unittest.main
    space = vars(main)
    try:
        setattr(unittest, "main", lambda: None)  # noqa: B010
        setattr(pytest, "main", lambda: None)  # noqa: B010
        exec(compile(candidate, "solution.py", "exec", dont_inherit=True), vars(solution))
        names = [name for name in free_names(tests) if hasattr(solution, name)]
        space.update({name: getattr(solution, name) for name in names})
        with contextlib.suppress(SystemExit):
            exec(compile(tests, "tests.py", "exec", dont_inherit=True), space)
        _run_the_rest(space)
    except Exception:
        return False
    finally:
        setattr(unittest, "main", unittest_main)  # noqa: B010
        setattr(pytest, "main", pytest_main)  # noqa: B010
        for name, module in held.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
    return True


def _run_the_rest(space: dict[str, Any]) -> None:
    for name, thing in list(space.items()):
        if isinstance(thing, type) and issubclass(thing, unittest.TestCase):
            suite = unittest.defaultTestLoader.loadTestsFromTestCase(thing)
            assert unittest.TextTestRunner(io.StringIO()).run(suite).wasSuccessful()
        elif isinstance(thing, types.FunctionType) and name.startswith("test"):
            thing()


def judged_alike(sandbox: Sandbox, pair: Pair) -> None:
    """Asserts that the two cells let through and refuse what one interpreter does."""
    tests, right, wrong = pair
    assert [passes_here(right, tests), passes_here(wrong, tests)] == [True, False]
    report = sandbox.grade(right, Script(tests))
    assert report.passed, report
    report = sandbox.grade(wrong, Script(tests))
    assert not report.passed
    assert "malformed" not in outcomes(report)


def outcomes(report: Report) -> set[str]:
    return {verdict.outcome for verdict in report.verdicts}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_two_cells_judge_as_one_interpreter(sandbox: Sandbox, pair: Pair) -> None:
    judged_alike(sandbox, pair)


@pytest.mark.parametrize("tests", ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_cannot_be_judged_from_outside_is_malformed(sandbox: Sandbox, tests: str) -> None:
    report = sandbox.grade(CANDIDATE, Script(tests))
    assert outcomes(report) == {"malformed"}, report


def test_a_mock_of_the_tests_own_is_theirs(sandbox: Sandbox) -> None:
    tests = "from unittest import mock\nm = mock.Mock(return_value=2)\nassert f(m()) == 4\n"
    assert sandbox.grade(DOUBLE, Script(tests)).passed


def test_a_reference_counts_with_all_its_parts(sandbox: Sandbox) -> None:
    """A few bytes that stand for 2^60 lists must not be looked at one by one."""
    candidate = "def f():\n    a = []\n    for _ in range(60): a = [a, a]\n    return a\n"
    report = sandbox.grade(candidate, Script("assert f() == 1"))
    assert outcomes(report) == {"malformed"}


def test_a_keyboard_interrupt_of_the_candidate_is_its_own(sandbox: Sandbox) -> None:
    before = sandbox.stats.judge_failed
    tests = "def test_a(): f()\ndef test_b(): f()\n"
    report = sandbox.grade("def f(): raise KeyboardInterrupt", Script(tests))
    assert not report.passed
    assert sandbox.stats.judge_failed == before
