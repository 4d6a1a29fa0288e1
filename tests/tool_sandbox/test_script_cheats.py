"""`Script` and candidates that cheat, leave, hang or answer nonsense: none passes by it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from palaestra.testing.victims import until
from palaestra.tool_sandbox import Limits, Report, Sandbox, Script, values

from .test_script import TWICE, outcome


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", limits=Limits(wall=20.0), workers=1) as found:
        yield found


SLY = """
class Sly:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __hash__(self): return hash(4)
    def __bool__(self): return True
    def __len__(self): return 0
    def __sub__(self, other): return 0.0
    __rsub__ = __mod__ = __rmod__ = __xor__ = __and__ = __mul__ = __sub__
    def __abs__(self): return 0.0
    def __iter__(self): return iter([])
    @property
    def __class__(self): return int
"""
CHEATS = {
    "always equal": (SLY + "def f(x): return Sly()", "assert f(2) == 4"),
    "always equal, reversed": (SLY + "def f(x): return Sly()", "assert 4 == f(2)"),
    "never unequal": (SLY + "def f(x): return Sly()", "assert not f(2) != 4"),
    "in a list": (SLY + "def f(x): return [Sly()]", "assert f(2) == [4]"),
    "member of a list": (SLY + "def f(x): return Sly()", "assert f(2) in [1, 4]"),
    "holds everything": (SLY + "def f(x): return Sly()", "assert 4 in f(2)"),
    "close to everything": (SLY + "def f(x): return Sly()", "assert abs(f(2) - 4) < 1e-6"),
    "close from the other side": (SLY + "def f(x): return Sly()", "assert abs(4 - f(2)) < 1e-6"),
    "below everything": (SLY + "def f(x): return Sly()", "assert f(2) < 4"),
    "between": (SLY + "def f(x): return Sly()", "assert 3 < f(2) < 5"),
    "a false class": (SLY + "def f(x): return Sly()", "assert isinstance(f(2), int)"),
    "a false key": (SLY + "def f(x): return Sly()", "assert {4: True}[f(2)]"),
    "exit while loading": ("raise SystemExit(0)", "assert f(2) == 4"),
    "os._exit while loading": ("import os\nos._exit(0)", "assert f(2) == 4"),
    "exit in the function": ("def f(x): raise SystemExit(0)", "assert f(2) == 4"),
    "os._exit in the function": ("import os\ndef f(x): os._exit(0)", "assert f(2) == 4"),
    "interrupt": ("def f(x): raise KeyboardInterrupt", "assert f(2) == 4"),
    "generator exit": ("def f(x): raise GeneratorExit", "assert f(2) == 4"),
    "stop iteration": ("def f(x): raise StopIteration", "assert f(2) == 4"),
    "skip": (
        "import unittest\ndef f(x): raise unittest.SkipTest('later')",
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test_f(self): self.assertEqual(f(2), 4)",
    ),
    "interrupted cases": (
        "def f(x): raise KeyboardInterrupt",
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test_f(self): self.assertEqual(f(2), 4)\n"
        "    def test_g(self): pass",
    ),
    "patched tools": (
        "import builtins, unittest\nbuiltins.isinstance = builtins.all = lambda *a: True\n"
        "unittest.TestCase.assertEqual = lambda *a: None\n"
        "unittest.TestCase.run = lambda *a: None\ndef f(x): return 0",
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test_f(self): self.assertEqual(f(2), 4)",
    ),
    "rows on descriptor 5": (
        "import os, struct\nos.write(5, struct.pack('<I', 1) + b'T')\ndef f(x): return 0",
        "assert f(2) == 4",
    ),
    "noise on the socket": (
        "import os\nos.write(6, bytes(1000))\ndef f(x): return 0",
        "assert f(2) == 4",
    ),
    "a flood on the socket": (
        "import socket\ns = socket.socket(fileno=6)\nwhile True: s.sendall(bytes(1 << 16))",
        "assert f(2) == 4",
    ),
    "a frame without end": (
        "import os, time\nos.write(6, b'\\xff\\xff\\xff\\x00' * 2)\ntime.sleep(60)",
        "assert f(2) == 4",
    ),
    "source scan": (
        "import gc, os, glob\ndef f(x):\n"
        "    for path in glob.glob('/proc/*/cmdline') + glob.glob('/mnt/**', recursive=True):\n"
        "        try: text = open(path, 'rb').read()\n"
        "        except OSError: continue\n"
        "        if b'assert f(2)' in text: return 4\n"
        "    for thing in gc.get_objects():\n"
        "        if isinstance(thing, str) and 'assert f(2)' in thing: return 4\n    return 0",
        "assert f(2) == 4",
    ),
    "a handle of another's number": (
        "import sys\ntalk = next(m for n, m in sys.modules.items() if n.endswith('guest.talk'))\n"
        "def f(x): return 0\n",
        "assert f(2) == 4",
    ),
    "nothing": ("", "assert f(2) == 4"),
    "no code": ("def f(:", "assert f(2) == 4"),
}


@pytest.mark.parametrize(("code", "source"), CHEATS.values(), ids=CHEATS)
def test_a_cheating_candidate_fails(sandbox: Sandbox, code: str, source: str) -> None:
    report = sandbox.grade(code, Script(source), limits=Limits(wall=0.7))
    assert not report.passed
    assert report.score < 1.0
    after = sandbox.grade(TWICE, Script("assert f(2) == 4"))
    assert after.passed  # nothing of one grading reaches the next


def test_no_detail_quotes_the_tests(sandbox: Sandbox) -> None:
    source = "secret = 'TREASURE'\nassert f(2) == secret, secret\n"
    for code in (TWICE, "def f(x): raise ValueError(1)", "def f(x): return None", "import os"):
        report = sandbox.grade(code, Script(source))
        assert "TREASURE" not in repr(report)


def test_a_candidates_exit_ends_the_grading_at_once(sandbox: Sandbox) -> None:
    source = "assert f(1) == 2\nassert f(2) == 4\nassert f(3) == 6\n"
    code = "import os\ndef f(x):\n    if x == 2: os._exit(0)\n    return 2 * x"
    sandbox.grade(TWICE, Script(source))
    before = time.monotonic()
    report = sandbox.grade(code, Script(source), limits=Limits(wall=60.0))
    assert time.monotonic() - before < 30  # it does not wait for its wall
    assert outcome(report) == ["missing"]


def test_a_hang_keeps_the_rows_before_it(sandbox: Sandbox) -> None:
    source = (
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test_a(self): self.assertEqual(f(1), 2)\n"
        "    def test_b(self): self.assertEqual(f(2), 4)\n"
        "    def test_c(self): self.assertEqual(f(3), 6)\n"
    )
    code = "def f(x):\n    while x == 2: pass\n    return 2 * x"
    report = sandbox.grade(code, Script(source), limits=Limits(wall=4.0))
    assert outcome(report) == ["pass", "timeout", "timeout"]
    assert report.score == pytest.approx(1 / 3)


def test_a_judge_that_fails_by_itself_is_counted(sandbox: Sandbox) -> None:
    before = sandbox.stats.judge_failed
    assert not sandbox.grade(TWICE, Script("import os\nos._exit(0)")).passed
    assert sandbox.stats.judge_failed == before + 1

    def counted() -> bool:
        assert not sandbox.grade(TWICE, Script("while True: pass"), limits=Limits(wall=1.0)).passed
        return sandbox.stats.judge_failed == before + 2

    assert until(counted)  # a judge that got hardly any processor looks like one that waits


def test_a_hang_of_the_candidate_is_not_the_judges_failure(sandbox: Sandbox) -> None:
    before = sandbox.stats.judge_failed
    report = sandbox.grade(
        "import time\ndef f(x): time.sleep(60)", Script("f(1)"), limits=Limits(wall=2.0)
    )
    assert outcome(report) == ["timeout"]
    assert sandbox.stats.judge_failed == before


@pytest.mark.slow
def test_questions_are_bounded(sandbox: Sandbox) -> None:
    source = "for _ in range(100_001): f(1)"
    report = sandbox.grade(TWICE, Script(source), limits=Limits(wall=60.0))
    assert outcome(report) == ["malformed"]
    assert "100000" in report.verdicts[0].detail


def test_as_many_threads_as_workers_grade_by_script() -> None:
    reports: list[Report] = []
    with Sandbox("cell", workers=2) as sandbox:

        def work() -> None:
            for _ in range(5):
                reports.append(sandbox.grade(TWICE, Script("assert f(2) == 4")))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(reports) == 20
    assert all(report.passed for report in reports)


def test_hostile_answers_end_a_question_with_one_error() -> None:
    import socket

    from palaestra.tool_sandbox.guest import proxies, talk

    shapes: list[object] = [
        (1,),
        (1, talk.PLAIN),
        (1, talk.PLAIN, 1, 2),
        (1, talk.PLAIN, 1, {}, 3),
        (2, talk.PLAIN, 1, {}),
        (1, talk.RAISED),
        (1, talk.RAISED, (), "", ()),
        (1, talk.RAISED, ("X",) * 50, "", ()),
        (1, talk.RAISED, ("int",), "", ()),
        (1, talk.RAISED, ("ExceptionGroup",), "", ()),
        (1, talk.REFUSED, 5),
        (1, 99, 1, 1),
        "text",
        (),
    ]
    for shape in shapes:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            body = values.encode(shape)
            theirs.sendall(len(body).to_bytes(4, "little") + body)
            link = proxies.Link(ours.fileno())
            with pytest.raises((talk.Gone, proxies.Inexpressible, Exception)):
                link.ask(link.root(), "get", "x")


def test_a_candidate_that_spoke_nonsense_is_asked_no_more(sandbox: Sandbox) -> None:
    source = (
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test_a(self): self.assertEqual(f(1), 2)\n"
        "    def test_b(self): self.assertEqual(f(2), 4)\n"
    )
    forged = "import os\ndef f(x): os.write(6, b'\\5\\0\\0\\0N'); return 2 * x"
    report = sandbox.grade(forged, Script(source))
    assert outcome(report) == ["missing", "missing"]
    assert report.result.reason != "timeout"


# --- a candidate's word where the tests ask for a value ------------------------------------------

SLIER = (
    SLY.replace("class Sly:", "class Sly:\n    def __init__(self, *a): pass")
    + "    def __getattr__(self, name): return lambda *a: True\n"
    + "    def __round__(self, *a): return 0\n"
    + "    __float__ = __int__ = __index__ = __neg__ = __len__\n"
)
OWN = SLIER + "class Solution(Sly):\n    same = Sly()\n    def f(self, x): return "
UNIT = "import unittest\nclass T(unittest.TestCase):\n    def test_f(self): "
WORDS = {
    "a method's object": (OWN + "Sly()", "assert abs(Solution().f(2) - 4) < 1e-6"),
    "a method's own object": (OWN + "self", "assert abs(4 - Solution().f(2)) < 1e-6"),
    "a method's class": (OWN + "Solution", "assert 4 in Solution().f(2)"),
    "an item": (OWN + "[Sly()]", "assert Solution().f(2)[0] % 4 == 0"),
    "an attribute": (OWN + "0", "assert Solution.same - 4 == 0"),
    "nearly": (OWN + "Sly()", UNIT + "self.assertAlmostEqual(Solution().f(2), 4.0)"),
    "a constant": (SLIER + "PI = Sly()", "assert abs(PI - 3.14) < 0.01"),
    "a function in capitals": (
        SLIER + "def Find_It(x): return Sly()",
        "assert Find_It(2) - 4 == 0",
    ),
    "a number": (SLIER + "def f(x): return Sly()", "assert int(f(2)) == float(f(2)) == -f(2) == 0"),
    "starts with all": (SLIER + "def f(x): return Sly()", "assert f(2).startswith('four')"),
    "a subset of all": (SLIER + "def f(x): return Sly()", "assert f(2).issubset({1, 4})"),
    "a set that was told": (
        "class Told:\n    def difference(self, other):\n        self.seen = other\n"
        "        return set()\n    def __iter__(self): return iter(self.seen)\n"
        "def f(x): return Told()",
        UNIT + "self.assertSetEqual(f(2), {1, 4})",
    ),
    "a module of its own": (
        "class math:\n    isclose = staticmethod(lambda *a: True)\ndef f(x): return 0",
        "assert math.isclose(f(2), 4.0)",
    ),
    "builtins by a star": (
        "set = sorted = abs = lambda *a: 0\ndef f(x): return 0",
        "from solution import *\nassert abs(f(2) - 4) == 0 and set(f(2)) == set([4])",
    ),
    "the tests' own name by a star": (
        "__all__ = ['f', '__name__']\ndef f(x): return 0",
        "from solution import *\n" + UNIT + "self.assertEqual(f(2), 4)",
    ),
    "helpers by a star": (
        "def near(*a): return True\nmath = near\ndef f(x): return 0",
        "import math\ndef near(a, b): return math.isclose(a, b)\n"
        "from solution import *\nassert near(f(2), 4)",
    ),
    "an exit that is swallowed": (
        "import os\ndef f(x): os._exit(0)",
        "try:\n    f(2)\nexcept BaseException:\n    pass",
    ),
    "an exit where a failure is expected": (
        "import os\ndef f(x): os._exit(0)",
        UNIT.replace("    def", "    @unittest.expectedFailure\n    def") + "self.assertTrue(f(2))",
    ),
    "a property named next": (
        "class N:\n    @property\n    def next(self): raise StopIteration\ndef f(x): return N()",
        "assert all(map(lambda n: f(n).next == 4, [1, 2]))",
    ),
    "after the last test": (
        "def f(x): return 4 if x == 2 else 1 / 0",
        UNIT + "self.assertEqual(f(2), 4)\n    @classmethod\n"
        "    def tearDownClass(cls): assert f(3) == 6",
    ),
}


@pytest.mark.parametrize(("code", "source"), WORDS.values(), ids=WORDS)
def test_a_candidates_word_stands_for_no_value(sandbox: Sandbox, code: str, source: str) -> None:
    assert not sandbox.grade(code, Script(source)).passed
