"""What tests ask about objects and exceptions of the candidate, wherever in their text they ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from palaestra.tool_sandbox import Limits, Sandbox, Script

from .test_script import TWICE
from .test_script_peer import Pair, judged_alike, outcomes

UNIT = "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        "
POINT = (
    "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass P:\n    x: int\n"
    "    y: int = 0\n"
)
EMPTY = "class C: pass\ndef f(x): return C()"
CHAIN = "def f():\n    try: {}[1]\n    except KeyError as e: raise ValueError"
PAIRS = {
    "a class that was asked for": Pair(
        "assert type(B(1)) is B and B(1) and not B(0)",
        "class B:\n    def __init__(self, n): self.n = n\n    def __len__(self): return self.n",
        "class B:\n    def __init__(self, n): self.n = n",
    ),
    "callable, by map": Pair(
        "assert all(map(callable, [f(2)]))", "def f(x): return lambda: x", EMPTY
    ),
    "types, by map": Pair(
        "assert len(set(map(type, [A(), B()]))) == 2",
        "class A: pass\nclass B: pass",
        "class A: pass\nB = A",
    ),
    "types, beside a parameter of that name": Pair(
        "def g(type): return type\nassert type(A()) is type(B())",
        "class A: pass\nB = A",
        "class A: pass\nclass B: pass",
    ),
    "types as a key": Pair(
        "import itertools\nassert len(list(itertools.groupby([A(), B()], key=type))) == 2",
        "class A: pass\nclass B: pass",
        "class A: pass\nB = A",
    ),
    "a special method by getattr": Pair(
        "assert getattr(f(2), '__iter__', None)", "def f(x): yield x", EMPTY
    ),
    "type itself": Pair(
        UNIT + "self.assertIsInstance(int, type)\n        self.assertIs(f('3', type), str)",
        "def f(x, kind): return kind(x)",
        "def f(x, kind): return kind",
    ),
    "values told from objects": Pair(
        "def each(x): return [each(y) for y in x] if isinstance(x, (list, tuple)) else x\n"
        "assert each(f()) == [P(1), P(2)]",
        POINT + "def f(): return P(1), P(2)",
        POINT + "def f(): return P(1), P(3)",
    ),
    "one of several classes": Pair(
        "assert isinstance(P(1), (int, P)) and not isinstance(P(1), (int, str)) and P(1).x == 1",
        POINT,
        POINT.replace("(frozen=True)", "") + "    def __post_init__(self): self.x = 2",
    ),
    "objects that a function gave, in a set": Pair(
        "assert set(f(P(0))) == {P(1), P(2)}",
        POINT + "def f(p): return [P(p.x + 1), P(p.x + 2)]",
        POINT + "def f(p): return [P(p.x + 1), P(p.x + 3)]",
    ),
    "a set of objects": Pair(
        "assert f() == {P(1), P(2)}",
        POINT + "def f(): return {P(2), P(1)}",
        POINT + "def f(): return {P(2), P(3)}",
    ),
    "a dict keyed by objects": Pair(
        "assert f()[P(1)] == 2",
        POINT + "def f(): return {P(1): 2}",
        POINT + "def f(): return {P(2): 2}",
    ),
    "objects counted": Pair(
        "from collections import Counter\nassert f() == Counter([P(1), P(1)])",
        "from collections import Counter\n" + POINT + "def f(): return Counter([P(1)] * 2)",
        "from collections import Counter\n" + POINT + "def f(): return Counter([P(1)])",
    ),
    "one member for equal objects": Pair(
        "assert len({f(1), f(1)}) == 1",
        POINT + "def f(x): return P(x)",
        "class P: pass\ndef f(x): return P()",
    ),
    "what a function gave and cannot be a key": Pair(
        "try:\n    {f(1): 1}\nexcept TypeError:\n    pass\nelse:\n    raise AssertionError",
        "class C: __hash__ = None\ndef f(x): return C()",
        EMPTY,
    ),
    "truth of what a function gave": Pair("assert f(2)", EMPTY, "def f(x): return []"),
    "long lists of objects that differ": Pair(
        UNIT + "self.assertEqual(f(), [P(n) for n in range(30)])",
        POINT + "def f(): return [P(n) for n in range(30)]",
        POINT + "def f(): return [P(n) for n in range(31)]",
    ),
    "no cause": Pair(
        "try:\n    f()\nexcept ValueError as e:\n    assert e.__cause__ is None",
        CHAIN,
        CHAIN + " from e",
    ),
    "a cause": Pair(
        "try:\n    f()\nexcept ValueError as e:\n    assert type(e.__cause__) is KeyError\n"
        "    assert e.__cause__ is e.__context__ and e.__cause__.args == (1,)",
        CHAIN + " from e",
        CHAIN,
    ),
    "a context that is hidden": Pair(
        "try:\n    f()\nexcept ValueError as e:\n    assert e.__suppress_context__",
        CHAIN + " from None",
        CHAIN,
    ),
    "an exception class within a class": Pair(
        "try:\n    S().pop()\nexcept S.Empty:\n    pass\nelse:\n    raise AssertionError",
        "class S:\n    class Empty(Exception): pass\n    def pop(self): raise S.Empty",
        "class S:\n    class Empty(Exception): pass\n    def pop(self): raise IndexError",
    ),
    "what is printed before an exception": Pair(
        "import contextlib, io\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n"
        "    try:\n        f()\n    except ValueError:\n        pass\n"
        "assert out.getvalue() == 'a\\n'",
        "def f():\n    print('a')\n    raise ValueError",
        "def f():\n    print('b')\n    raise ValueError",
    ),
    "a power with a modulus": Pair(
        "assert pow(A(), 2, 5) == 1",
        "class A:\n    def __pow__(self, n, m=None): return m - 4",
        "class A:\n    def __pow__(self, n, m=None): return m",
    ),
    "division of a plain number": Pair(
        "assert divmod(3, A()) == 1",
        "class A:\n    def __rdivmod__(self, n): return n - 2",
        "class A:\n    def __rdivmod__(self, n): return n",
    ),
    "whole numbers": Pair(
        "import math\nassert [math.floor(A()), math.ceil(A()), math.trunc(A())] == [1, 2, 3]",
        "class A:\n    def __floor__(self): return 1\n    def __ceil__(self): return 2\n"
        "    def __trunc__(self): return 3",
        "class A:\n    def __floor__(self): return 1\n    __ceil__ = __trunc__ = __floor__",
    ),
    "bytes and a path": Pair(
        "import os\nassert bytes(A()) == b'x' and os.fspath(A()) == 'y'",
        "class A:\n    def __bytes__(self): return b'x'\n    def __fspath__(self): return 'y'",
        "class A:\n    def __bytes__(self): return b'x'\n    def __fspath__(self): return 'z'",
    ),
    "a weak reference": Pair(
        "import weakref\na = A()\nassert weakref.ref(a)() is a and a.x == 1",
        "class A: x = 1",
        "class A: x = 2",
    ),
    "words about the module": Pair(
        "import solution\nassert (solution.__doc__, solution.__version__) == ('Text.', '1')",
        "'''Text.'''\n__version__ = '1'",
        "__version__ = '1'",
    ),
}
# Neither yes nor no would be a fair answer: the tests ask of a proxy what only the object knows.
UNKNOWN = {
    "an iterator, asked by unittest": (
        "from collections.abc import Iterator\n" + UNIT + "self.assertIsInstance(f(2), Iterator)"
    ),
    "whether it can be hashed": (
        "from collections.abc import Hashable\n" + UNIT + "self.assertIsInstance(f(2), Hashable)"
    ),
    "a generator": "import inspect\nassert not inspect.isgenerator(f(2))",
    "a data class": "from dataclasses import is_dataclass\nassert not is_dataclass(f(2))",
    "a subclass of a builtin": "assert isinstance(g(), list)",
    "names of an object": "assert 'x' in dir(f(2))",
    "names of the module": "import solution\nassert 'f' in dir(solution)",
    "the module as a dict": "import solution\nsolution.__dict__['K'] = 5",
    "doctests": "import doctest, solution\nassert doctest.testmod(solution).failed == 0",
    "a false object that a function gave": "assert not g()",
    "arithmetic of what a function gave": (UNIT + "with self.assertRaises(TypeError): f(1) + 1"),
    "order of what a function gave": UNIT + "with self.assertRaises(TypeError): f(1) < 1",
    "a pattern of a class": "match C():\n    case C(x=1): pass\n    case _: pass",
    "an attribute of an exception class": "assert E.code == 3",
    "an attribute of an exception that the tests make": "assert E(3).code == 3",
    "an exception that cannot be made anew": (
        "try:\n    group()\nexcept RuntimeError:\n    pass\nexcept Exception:\n    pass"
    ),
    "the end of an iteration outside of one": UNIT + "with self.assertRaises(StopIteration): end()",
    "an import that no cell has": "import numpy_of_nowhere\nassert f(2)",
    "a question that a handler breaks off": (
        "import signal\ndef late(*_): raise TimeoutError\nsignal.signal(signal.SIGALRM, late)\n"
        "signal.setitimer(signal.ITIMER_REAL, 1)\ntry:\n    wait()\nexcept TimeoutError:\n"
        "    pass\n"
    ),
    "a question within a question": (
        "import signal\ndef late(*_): f(2)\nsignal.signal(signal.SIGALRM, late)\n"
        "signal.setitimer(signal.ITIMER_REAL, 1)\nwait()\n"
    ),
}
CANDIDATE = (
    EMPTY + "\nclass L(list): pass\ndef g(): return L()\nclass E(Exception): code = 3\n"
    "def group(): raise ExceptionGroup('x', [ValueError(1)])\n"
    "def end(): raise StopIteration\n"
    "def wait():\n    import time\n    time.sleep(60)\n"
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", limits=Limits(wall=20.0), workers=1) as found:
        yield found


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_question_is_answered_as_in_one_interpreter(sandbox: Sandbox, pair: Pair) -> None:
    judged_alike(sandbox, pair)


@pytest.mark.parametrize("tests", UNKNOWN.values(), ids=UNKNOWN)
def test_what_only_the_object_knows_is_malformed(sandbox: Sandbox, tests: str) -> None:
    report = sandbox.grade(CANDIDATE, Script(tests))
    assert outcomes(report) == {"malformed"}, report


def test_tests_after_a_broken_question_are_malformed_too(sandbox: Sandbox) -> None:
    tests = (
        "import signal, unittest\ndef late(*_): raise TimeoutError\n"
        "class T(unittest.TestCase):\n    def test_a(self):\n"
        "        signal.signal(signal.SIGALRM, late)\n"
        "        signal.setitimer(signal.ITIMER_REAL, 1)\n        wait()\n"
        "    def test_b(self): self.assertTrue(f(2))\n"
    )
    report = sandbox.grade(CANDIDATE, Script(tests))
    assert [verdict.outcome for verdict in report.verdicts] == ["malformed", "malformed"]


@pytest.mark.parametrize(
    "hashes",
    [
        "raise ValueError",
        "return 'x'",
        "return {C()}",
        "import os; os._exit(0)",
    ],
)
def test_a_key_that_cannot_be_hashed_passes_nothing(sandbox: Sandbox, hashes: str) -> None:
    forge = (
        f"class C:\n    tame = True\n    def __hash__(self):\n        if C.tame: return 1\n"
        f"        {hashes}\n"
        "def f():\n    found = {C()}\n    C.tame = False\n    return found\n"
    )
    report = sandbox.grade(forge, Script("try:\n    assert f() == 4\nexcept Exception:\n    f()"))
    assert not report.passed
    assert sandbox.grade("def f(): return 4", Script("assert f() == 4")).passed


HONEST = {
    "attributes of an error": (
        "class Low(Exception):\n    def __init__(self, need):\n        self.need = need\n"
        "    def __str__(self): return f'need {self.need}'\ndef f(x): raise Low(x)",
        "try:\n    f(5)\nexcept Exception as e:\n    assert e.need == 5 and str(e) == 'need 5'\n"
        "else:\n    assert False",
    ),
    "an error with two bases": (
        "class A(Exception): pass\nclass B(A, ValueError): pass\ndef f(x): raise B(x)",
        "from solution import A, f\ntry:\n    f(1)\nexcept ValueError as e:\n"
        "    assert isinstance(e, A)\nelse:\n    assert False",
    ),
    "a standard module nobody imported": (
        "def f(x): return x / 3",
        "assert math.isclose(f(1), 0.333333, rel_tol=1e-5)",
    ),
    "an object named as a module": (
        "class Q:\n    def enqueue(self, x): self.last = x\nqueue = Q()",
        "queue.enqueue(3)\nassert queue.last == 3",
    ),
    "arithmetic of its own class": (
        "class V:\n    def __init__(self, x): self.x = x\n"
        "    def __add__(self, k): return V(self.x + getattr(k, 'x', k))\n"
        "    def __abs__(self): return abs(self.x)\n    def __contains__(self, x): return x == 1\n"
        "    def startswith(self, x): return True",
        "assert abs(V(1) + 2 + V(-5)) == 2 and 1 in V(3) and V(0).startswith('a')",
    ),
    "words about itself": (
        "def f(x: int):\n    'Text.'\nclass P:\n    def __format__(self, how): return 'P' + how",
        "assert f.__doc__ == 'Text.' and f.__annotations__ == {'x': int} and f'{P():z}' == 'Pz'",
    ),
    "a last line that runs the tests": (
        TWICE,
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test_a(self): self.assertEqual(f(2), 4)\nunittest.main()\n",
    ),
    "a byte order mark": ("\ufeffdef f(x): return x", "assert f(1) == 1"),
    "a star beside a builtin": (
        "def sum(x): return 0\ndef f(x): return x",
        "from solution import *\nassert f(1) == 1",
    ),
}


@pytest.mark.parametrize(("code", "source"), HONEST.values(), ids=HONEST)
def test_an_honest_candidate_passes(sandbox: Sandbox, code: str, source: str) -> None:
    report = sandbox.grade(code, Script(source))
    assert report.passed, report.verdicts
