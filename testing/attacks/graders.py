"""Attacks on the grader: candidates that do everything but solve the task."""

from __future__ import annotations

from ...tool_sandbox import Calls, Case, Sandbox, Script
from .attack import SMALL, Attack, Outside, wall

_CASES = tuple(Case((n,), expected=3 * n + 1) for n in (1, 2, 3))
_RIGHT = "def f(n): return 3 * n + 1"
_SCRIPT = "assert f(1) == 4\nassert f(2) == 7\nassert f(3) == 10\n"
_UNITS = """
import unittest
class Tests(unittest.TestCase):
    def test_one(self): self.assertEqual(f(1), 4)
    def test_two(self): self.assertEqual(f(2), 7)
"""
_SLY = """
class Sly:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __hash__(self): return hash(4)
    def __sub__(self, other): return 0
    __rsub__ = __abs__ = lambda self, *a: 0
    @property
    def __class__(self): return int
"""

CHEATS: dict[str, str] = {
    "exit 0 in the function": "def f(n): raise SystemExit(0)",
    "exit 0 at import": "raise SystemExit(0)",
    "os._exit(0) in the function": "import os\ndef f(n): os._exit(0)",
    "os._exit(0) at import": "import os\nos._exit(0)",
    "markers": "print('OK', '3 passed', 'score: 1.0')\ndef f(n): print('[pass]')",
    "always-equal": _SLY + "def f(n): return Sly()",
    "an int that is always equal": (
        "class Sly(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def f(n): return Sly()"
    ),
    "patched builtins": (
        "import builtins, operator, unittest\n"
        "builtins.all = builtins.any = builtins.isinstance = operator.eq = lambda *a: True\n"
        "unittest.TestCase.assertEqual = unittest.TestCase.run = lambda *a, **k: None\n"
        "def f(n): return None"
    ),
    "frames": (
        "import sys\ndef f(n):\n    frame = sys._getframe(1)\n    while frame:\n"
        "        for thing in list(frame.f_locals.values()):\n"
        "            found = getattr(thing, 'expected', None)\n"
        "            if found is not None: return found\n        frame = frame.f_back\n"
    ),
    "source scan": (
        "import gc, glob\ndef f(n):\n    for thing in gc.get_objects():\n"
        "        if isinstance(thing, str) and 'assertEqual(f' in thing: return 3 * n + 1\n"
        "    for path in glob.glob('/proc/*/cmdline') + glob.glob('./*'):\n"
        "        try: text = open(path, 'rb').read()\n        except OSError: continue\n"
        "        if b'assert f(3) == 10' in text: return 3 * n + 1\n"
    ),
    "excepthook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef f(n): 1 / 0",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(n): 1 / 0",
    "trace": (
        "import sys\ndef jump(frame, event, arg):\n    frame.f_trace_lines = False\n"
        "sys.settrace(jump)\ndef f(n): return None"
    ),
    "skip": "import unittest\ndef f(n): raise unittest.SkipTest('later')",
    "interrupt": "def f(n): raise KeyboardInterrupt",
    "rows of its own": (
        "import os, struct\nfor fd in (5, 6, 7):\n    for k in range(3):\n"
        "        try: os.write(fd, struct.pack('<I', 1) + b'T')\n        except OSError: break\n"
        "def f(n): return None"
    ),
    "rows out of order": (
        "import sys\nv = next(m for n, m in sys.modules.items() if n.endswith('sandbox.values'))\n"
        "r = next(m for n, m in sys.modules.items() if n.endswith('guest.rows'))\n"
        "for k in (2, 1, 0): r.put(5, r.row(k, r.VALUE, v.encode(3 * k + 4)))\n"
        "def f(n): return None"
    ),
    "extra rows": (
        "import sys\nv = next(m for n, m in sys.modules.items() if n.endswith('sandbox.values'))\n"
        "r = next(m for n, m in sys.modules.items() if n.endswith('guest.rows'))\n"
        "def f(n):\n    r.put(5, r.row(n - 1, r.VALUE, v.encode(3 * n + 1)))\n"
    ),
    "a row that swallows the next": (
        "import sys\nv = next(m for n, m in sys.modules.items() if n.endswith('sandbox.values'))\n"
        "r = next(m for n, m in sys.modules.items() if n.endswith('guest.rows'))\n"
        "a = [r.row(k, r.VALUE, v.encode(3 * k + 4)) for k in range(3)]\n"
        "r.put(5, r.LENGTH.pack(len(a[0]) + len(a[1]) - 4) + a[0][4:] + a[1] + a[2])\n"
        "def f(n): return None"
    ),
    "an array without an end": (
        "import sys\nr = next(m for n, m in sys.modules.items() if n.endswith('guest.rows'))\n"
        "r.put(5, r.row(0, r.VALUE, b'alj' + bytes([255] * 4)))\ndef f(n): return None"
    ),
    "answers ahead of the questions": (
        "import os, struct, sys\n"
        "v = next(m for n, m in sys.modules.items() if n.endswith('sandbox.values'))\n"
        "told = [(0, 'ready'), (1, 0, ('value', '', 5), {}), (2, 0, 4, {}), (3, 0, 7, {})]\n"
        "data = b''.join(struct.pack('<I', len(d)) + d for d in map(v.encode, told))\n"
        "try: os.write(6, data)\nexcept OSError: pass\ndef f(n): return None"
    ),
    "NaN": "def f(n): return float('nan')",
    "tuple for list": "def f(n): return (3 * n + 1,)",
    "a generator": "def f(n): yield 3 * n + 1",
    "argument mutation": "def f(n):\n    n += 2 * n + 1\n",
    "a flood of the judge's socket": (
        "import os\nos.set_blocking(6, True) if os.path.exists('/proc/self/fd/6') else None\n"
        "for _ in range(10000):\n    try: os.write(6, bytes(65536))\n    except OSError: break\n"
        "def f(n): return None"
    ),
    "a hang": "def f(n):\n    while True: pass",
}


def _cheat(name: str, code: str) -> Attack:
    def run(sandbox: Sandbox, targets: Outside) -> None:
        limits = wall(0.6)
        for tests in _all_tests(sandbox):
            report = sandbox.grade(code, tests, limits=limits)
            if report.passed or report.score > 0:
                raise AssertionError(f"{type(tests).__name__}: score {report.score}")
        if not sandbox.grade(_RIGHT, Script(_SCRIPT), limits=SMALL).passed:
            raise AssertionError("the next candidate suffers")

    return Attack(name, "grading", run)


def _all_tests(sandbox: Sandbox) -> list[Calls | Script]:
    return [Calls("f", _CASES), Calls("f", _CASES, "case"), Script(_SCRIPT), Script(_UNITS)]


def _partial(sandbox: Sandbox, targets: Outside) -> None:
    """A hang or an exit in case k costs what stands behind it, and nothing else."""
    for end in ("while True: pass", "import os; os._exit(0)"):
        code = f"def f(n):\n    if n == 2:\n        {end}\n    return 3 * n + 1"
        limits = wall(3.0)  # of which what is right takes a few thousandths
        marks = [v.outcome for v in sandbox.grade(code, Calls("f", _CASES), limits=limits).verdicts]
        if marks[0] != "pass" or "pass" in marks[1:]:
            raise AssertionError(f"batch: {marks}")
        calls = Calls("f", _CASES, "case")
        marks = [v.outcome for v in sandbox.grade(code, calls, limits=limits).verdicts]
        if [mark == "pass" for mark in marks] != [True, False, True]:
            raise AssertionError(f"case: {marks}")


def _handles(sandbox: Sandbox, targets: Outside) -> None:
    """An object of the candidate never stands for a plain value."""
    for test in ("f(1) == 4", "4 == f(1)", "not f(1) != 4", "f(1) in [4]", "4 in f(1)",
                 "abs(f(1) - 4) < 1", "f(1) < 5", "isinstance(f(1), int)", "{4: 1}.get(f(1))",
                 "max(f(1), 4) == 4 and f(1) <= 4"):  # fmt: skip
        if sandbox.grade(
            _SLY + "def f(n): return Sly()", Script(f"assert {test}"), limits=SMALL
        ).passed:
            raise AssertionError(f"{test} was passed by a handle")


_LIKE_MATH = "class math:\n    isclose = fabs = staticmethod(lambda *a: True)\ndef f(n): return 0"
_OWN = _SLY + "    __mod__ = __round__ = __sub__\n    startswith = issubset = __eq__\n"
_METHOD = "class Solution(Sly):\n    def f(self, n): return "
_GONE = "import os\ndef f(n): os._exit(0)"
_ONE = "import unittest\nclass T(unittest.TestCase):\n    def test(self): "
_WORDS: tuple[tuple[str, str], ...] = (
    (_OWN + _METHOD + "Sly()", "assert abs(Solution().f(1) - 4) < 1"),
    (_OWN + _METHOD + "self", "assert Solution().f(1) % 4 == 0"),
    (_OWN + _METHOD + "self", "assert 4 in Solution().f(1)"),
    (_OWN + _METHOD + "Sly()", _ONE + "self.assertAlmostEqual(Solution().f(1), 4)"),
    (_OWN + "def f(n): return Sly()", "assert f(1).startswith('4') or f(1).issubset({4})"),
    (_LIKE_MATH, "assert math.isclose(f(1), 4.0)"),
    (
        "abs = set = lambda *a: 0\ndef f(n): return 0",
        "from solution import *\nassert abs(f(1) - 4) < 1",
    ),
    (_GONE, "try:\n    f(1)\nexcept BaseException:\n    pass"),
    (_GONE, _ONE.replace("    def", "    @unittest.expectedFailure\n    def") + "self.fail(f(1))"),
    ("", "def check(candidate): assert candidate(1) == 4"),
    ("", "def test_f(): assert f(1) == 4"),
    ("", "class TestF:\n    def test_f(self): assert f(1) == 4"),
)


def _words(sandbox: Sandbox, targets: Outside) -> None:
    """What decides is a value, and it comes from a test that ran."""
    for code, source in _WORDS:
        if sandbox.grade(code, Script(source), limits=SMALL).passed:
            raise AssertionError(f"{source!r} was passed on the candidate's word")


ATTACKS: tuple[Attack, ...] = (
    *(_cheat(name, code) for name, code in CHEATS.items()),
    Attack("a hang or an exit in case k", "grading", _partial),
    Attack("handle methods", "grading", _handles),
    Attack("the candidate's word", "grading", _words),
)
