"""`Script`: the tests run in another cell than the candidate, and only they decide."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from palaestra.tool_sandbox import BadRequest, Limits, Report, Sandbox, Script
from palaestra.tool_sandbox.script import free_names

TWICE = "def f(x): return x + x"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", limits=Limits(wall=20.0), workers=1) as found:
        yield found


def outcome(report: Report) -> list[str]:
    return [verdict.outcome for verdict in report.verdicts]


def passes(sandbox: Sandbox, candidate: str, source: str, **more: Any) -> bool:
    return sandbox.grade(candidate, Script(source, **more)).passed


# --- what tests may say --------------------------------------------------------------------------


def test_asserts_decide(sandbox: Sandbox) -> None:
    assert passes(sandbox, TWICE, "assert f(2) == 4\nassert f('a') == 'aa'")
    report = sandbox.grade(TWICE, Script("assert f(2) == 4\nassert f(3) == 5"))
    assert outcome(report) == ["wrong"]
    assert report.verdicts[0].detail == "an assertion of the tests failed (line 2 of the tests)"
    assert report.score == 0.0
    assert report.integrity == "separate"


def test_a_check_function_gets_the_candidate_and_the_prelude_helps(sandbox: Sandbox) -> None:
    prompt = "def helper(x): return x + 1\ndef f(x):\n    '''Doubles.'''\n"
    source = "def check(candidate):\n    assert candidate(helper(1)) == 4\n    assert f(1) == 2\n"
    candidate = prompt + "    return x + x\n"
    assert passes(sandbox, candidate, source, prelude=prompt, call="f")
    assert not passes(sandbox, prompt + "    return x", source, prelude=prompt, call="f")


@pytest.mark.parametrize("names", [None, ("Solution",)])
def test_what_a_check_function_gets_may_be_an_expression(
    sandbox: Sandbox, names: tuple[str, ...] | None
) -> None:
    source = "def check(candidate): assert candidate(2) == 4"
    method = "class Solution:\n    def f(self, x): return x "
    for call in ("Solution().f", "lambda x: Solution().f(x)", "Solution().f # it"):
        assert passes(sandbox, method + "* 2", source, call=call, names=names)
        assert not passes(sandbox, method + "* 3", source, call=call, names=names)


@pytest.mark.parametrize("call", ["", "a b", "f) #", "f = 1", "f\0", "-" * 100_000 + "f"])
def test_what_is_no_expression_is_refused(sandbox: Sandbox, call: str) -> None:
    before = sandbox.stats.executions
    with pytest.raises(BadRequest, match=r"Script\.call is .*; give a name or an expression"):
        sandbox.grade(TWICE, Script("def check(f): assert f(1) == 2", call=call))
    assert sandbox.stats.executions == before


def test_a_standard_module_that_the_candidate_imported_is_the_judges_own(sandbox: Sandbox) -> None:
    candidate = "import math, sys\nmath.isclose = lambda *a: True\ndef f(x): return 5.0"
    assert not passes(sandbox, candidate, "assert math.isclose(f(1), 4.0)")
    assert passes(sandbox, candidate, "assert math.isclose(f(1), 5.0)")


CASES = """
import unittest
from accounts import Account, AccountError, double, LIMIT

class AccountTest(unittest.TestCase):
    def setUp(self):
        self.account = Account(10)

    def test_balance(self):
        self.account.deposit(5)
        self.assertEqual(self.account.balance, 15)

    def test_refusal(self):
        with self.assertRaises(AccountError) as caught:
            self.account.deposit(-1)
        self.assertEqual(caught.exception.args[0], "no negative sums")

    def test_builtin_refusal(self):
        with self.assertRaisesRegex(ValueError, "not a number"):
            double("x")

    def test_constant(self):
        self.assertEqual(LIMIT, 100)

    def test_sub(self):
        for n in range(3):
            with self.subTest(n=n):
                self.assertEqual(double(n), 2 * n)

    @unittest.skip("for later")
    def test_skipped(self):
        self.fail()
"""
ACCOUNTS = """
LIMIT = 100
class AccountError(Exception): pass
class Account:
    def __init__(self, balance): self.balance = balance
    def deposit(self, n):
        if n < 0: raise AccountError("no negative sums")
        self.balance += n
def double(n):
    if isinstance(n, str): raise ValueError("not a number")
    return 2 * n
"""


def test_the_mark_of_a_file_is_no_part_of_it(sandbox: Sandbox) -> None:
    assert passes(sandbox, "\ufeff" + TWICE, "\ufeffassert f(2) == 4")


def test_each_test_method_has_its_verdict(sandbox: Sandbox) -> None:
    report = sandbox.grade(ACCOUNTS, Script(CASES, module="accounts"))
    assert report.passed
    assert sorted(verdict.name for verdict in report.verdicts) == [
        "AccountTest.test_balance",
        "AccountTest.test_builtin_refusal",
        "AccountTest.test_constant",
        "AccountTest.test_refusal",
        "AccountTest.test_sub",
    ]
    worse = ACCOUNTS.replace("LIMIT = 100", "LIMIT = 99").replace("2 * n", "3 * n")
    report = sandbox.grade(worse, Script(CASES, module="accounts"))
    assert report.score == pytest.approx(3 / 5)
    assert {v.name: v.outcome for v in report.verdicts}["AccountTest.test_constant"] == "wrong"


def test_a_file_in_which_nothing_ran_has_not_passed(sandbox: Sandbox) -> None:
    nothing = "import unittest\nclass T(unittest.TestCase):\n    @unittest.skip('x')\n"
    report = sandbox.grade(TWICE, Script(nothing + "    def test_a(self): pass\n"))
    assert not report.passed
    assert outcome(report) == ["malformed"]


def test_a_test_that_skips_itself_while_it_runs_has_not_passed(sandbox: Sandbox) -> None:
    source = (
        "import unittest, solution\nclass T(unittest.TestCase):\n    def test_a(self):\n"
        "        if not hasattr(solution, 'g'): self.skipTest('none')\n        solution.g()\n"
    )
    assert not passes(sandbox, TWICE, source)


def test_arguments_changed_in_place_come_back(sandbox: Sandbox) -> None:
    candidate = (
        "def f(items, table):\n    items.append(9)\n    items[0][0] = 'new'\n    table['k'] = 1\n"
    )
    source = (
        "inner = [0]\nitems, table = [inner, 1], {}\nf(items, table)\n"
        "assert items == [['new'], 1, 9] and table == {'k': 1}\n"
        "same = [inner, 1]\nf2 = f\nitems = [inner]\n"
    )
    assert passes(sandbox, candidate, source)
    assert passes(
        sandbox,
        "def f(items): items[0].append(1)",
        "inner = []\nouter = [inner]\nf(outer)\nassert inner == [1]",
    )


def test_objects_of_the_candidate_are_used_through_handles(sandbox: Sandbox) -> None:
    candidate = """
class Node:
    def __init__(self, value, below=None): self.value, self.below = value, below
    def __add__(self, other): return Node(self.value + getattr(other, "value", other))
    def __radd__(self, other): return self + other
    def __eq__(self, other): return isinstance(other, Node) and self.value == other.value
    def __hash__(self): return self.value
    def __lt__(self, other): return self.value < other.value
    def __len__(self): return self.value
    def __getitem__(self, k): return list(range(self.value))[k]
    def __setitem__(self, k, v): self.value = v
    def __contains__(self, x): return x < self.value
    def __iter__(self): return iter(range(self.value))
    def __str__(self): return f"node {self.value}"
    def __enter__(self): return self
    def __exit__(self, *a): self.value = 0
def depth(node): return 0 if node is None else 1 + depth(node.below)
"""
    source = """
a, b = Node(1), Node(2, Node(3))
assert depth(b) == 2
assert b.below.value == 3
b.below = None
assert depth(b) == 1
assert a + a == b and a + 1 == b and 1 + a == b and a != b
assert a < b and sorted([b, a])[0] == a
assert len(b) == 2 and b[1] == 1 and b[0:2] == [0, 1] and list(b) == [0, 1] and 1 in b
assert str(b) == 'node 2' and isinstance(b, Node) and not isinstance(3, Node)
assert b.below is None and hash(a) == hash(a) and {a: 1}[a] == 1
with b as c:
    assert c is b
assert b.value == 0
b[0] = 7
assert b.value == 7
assert type(a) is type(b)
"""
    report = sandbox.grade(candidate, Script(source))
    assert report.passed, report
    assert "candidate's word" in report.verdicts[0].detail


def test_generators_are_walked_over_the_wire(sandbox: Sandbox) -> None:
    candidate = "def f(n):\n    for k in range(n): yield k\n    raise KeyError('end')"
    source = (
        "walk = f(2)\nassert next(walk) == 0\nassert next(walk) == 1\n"
        "try:\n    next(walk)\nexcept KeyError as e:\n    assert e.args == ('end',)\n"
        "else:\n    assert False\nassert list(f(0)) == [] if False else True\n"
    )
    assert passes(sandbox, candidate, source)
    assert passes(sandbox, "def f(n): yield from range(n)", "assert list(f(3)) == [0, 1, 2]")


def test_helpers_before_the_candidate_are_named(sandbox: Sandbox) -> None:
    node = "class Node:\n    def __init__(self, v, n=None): self.v, self.n = v, n\n"
    candidate = node + "def f(a):\n    return a.v if a.n is None else f(a.n)"
    assert passes(sandbox, candidate, "assert f(Node(1, Node(2))) == 2", names=("Node", "f"))


def test_star_imports_and_module_imports_work(sandbox: Sandbox) -> None:
    assert passes(sandbox, TWICE, "from solution import *\nassert f(1) == 2")
    assert passes(sandbox, TWICE, "import solution as s\nassert s.f(1) == 2")


# --- what cannot be said -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "assert f(lambda: 1) == 2",
        "try:\n    f(lambda: 1)\nexcept Exception:\n    pass",
        "import solution\nsolution.f = 3",
        "class Mine(A): pass",
        "import copy\ncopy.deepcopy(A())",
        "f(object())",
        "f([print])",
    ],
)
def test_what_no_wire_carries_is_malformed(sandbox: Sandbox, source: str) -> None:
    candidate = TWICE + "\nclass A: pass"
    report = sandbox.grade(candidate, Script(source, names=("f", "A")))
    assert outcome(report) == ["malformed"]
    assert not report.passed


def test_a_script_that_does_not_parse_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(BadRequest, match="source does not parse"):
        sandbox.grade(TWICE, Script("assert ("))
    with pytest.raises(BadRequest, match="prelude does not parse"):
        sandbox.grade(TWICE, Script("assert 1", prelude="def ("))


def test_a_shared_script_works_says_so_and_warns_once(sandbox: Sandbox) -> None:
    from palaestra.tool_sandbox import script

    script._warned.clear()  # pyright: ignore[reportPrivateUsage]
    tests = Script("assert f(lambda: 1)() == 1", share=True)
    with pytest.warns(UserWarning, match="own process"):
        report = sandbox.grade("def f(g): return g", tests)
    assert report.passed
    assert report.integrity == "shared"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not sandbox.grade("def f(g): return 1", tests).passed


def test_shared_rows_forged_by_the_candidate_raise_nothing(sandbox: Sandbox) -> None:
    from palaestra.tool_sandbox import script

    script._warned.add("share")  # pyright: ignore[reportPrivateUsage]
    forge = (
        "import sys\nframe = sys._getframe()\nwhile 'nonce' not in frame.f_locals:\n"
        "    frame = frame.f_back\nboard = frame.f_locals['board']\n"
        "rows = ('row', -1, 'pass', ''), ('row', 0, 7, 7), ('plan', 3), (3,), ('end', 'x')\n"
        "for row in rows:\n"
        "    board._put(*row)\nimport os\nos._exit(0)"
    )
    assert not sandbox.grade(forge, Script("assert f(1) == 2", share=True)).passed


# --- pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "prelude", "names"),
    [
        ("assert f(1) == g(2)", "", ("f", "g")),
        ("assert f(1) == g(2)", "def g(x): pass", ("f",)),
        ("x = 1\nassert f(x) == len([x])", "", ("f",)),
        ("def check(c):\n    y = 1\n    assert c(y) == other(y)", "", ("other",)),
        ("class T:\n    def t(self):\n        return f(self, __name__)", "", ("f",)),
        ("def t():\n    global z\n    z = f()\nassert z", "", ("f",)),
        ("assert [f(i) for i in range(3)] == [j for j in g()]", "", ("f", "g")),
        ("from solution import f\nassert f(1)", "", ()),
        ("try:\n    f()\nexcept Error as e:\n    assert e.args", "", ("Error", "f")),
        ("assert (lambda q: f(q))(1)", "", ("f",)),
    ],
)
def test_free_names_are_what_nobody_else_defines(
    source: str,
    prelude: str,
    names: tuple[str, ...],
) -> None:
    assert free_names(source, prelude) == names


def test_stop_iteration_ends_no_map_of_the_tests(sandbox: Sandbox) -> None:
    source = "assert all(map(lambda pair: f(pair[0]) == pair[1], [(1, 2), (2, 4)]))"
    assert passes(sandbox, TWICE, source)
    assert outcome(sandbox.grade("def f(x): raise StopIteration", Script(source))) == ["malformed"]
    assert passes(sandbox, "def f(x): return iter([x])", "assert list(f(3)) == [3]")


def test_a_check_of_what_is_not_there_is_missing(sandbox: Sandbox) -> None:
    tests = Script("def check(g): assert g(1) == 2", call="f")
    assert outcome(sandbox.grade("g = 1", tests)) == ["missing"]


def test_what_is_no_text_is_a_bad_request(sandbox: Sandbox) -> None:
    for candidate, tests in ((5, Script("pass")), (TWICE, Script(5))):  # type: ignore[arg-type]
        with pytest.raises(BadRequest):
            sandbox.grade(candidate, tests)  # type: ignore[arg-type]


NOBODY = {
    "a check": "def check(candidate): assert candidate(2) == 5",
    "a test class": "class TestF:\n    def test_f(self): assert f(2) == 5",
    "a coroutine": "async def test_f(): assert f(2) == 5",
}


@pytest.mark.parametrize("source", NOBODY.values(), ids=NOBODY)
def test_what_nobody_runs_is_no_pass(sandbox: Sandbox, source: str) -> None:
    report = sandbox.grade(TWICE, Script(source))
    assert outcome(report) == ["malformed"]
    assert "nothing runs it" in report.verdicts[0].detail


@pytest.mark.parametrize("code", [TWICE, ""])
def test_a_script_that_asks_nothing_is_no_pass(sandbox: Sandbox, code: str) -> None:
    source = "def main(): assert f(2) == 5\n"
    assert outcome(sandbox.grade(code, Script(source))) == ["malformed"]
    assert passes(sandbox, "LIMIT = 5", "assert LIMIT == 5")


def test_test_functions_that_nobody_calls_are_run(sandbox: Sandbox) -> None:
    source = "def test_a(): assert f(2) == 4\ndef test_b(): assert f(2) == 5\n"
    report = sandbox.grade(TWICE, Script(source))
    assert [(v.name, v.outcome) for v in report.verdicts] == [
        ("test_a", "pass"),
        ("test_b", "wrong"),
    ]
    called = "log = []\ndef test_a(): log.append(f(2))\ntest_a()\nassert log == [4]\n"
    assert outcome(sandbox.grade(TWICE, Script(called))) == ["pass"]


def test_odd_scripts_are_refused_by_name(sandbox: Sandbox) -> None:
    odd: list[dict[str, Any]] = [
        {"names": "f"},
        {"names": 5},
        {"names": (1,)},
        {"module": None},
        {"call": 5},
    ]
    for more in odd:
        with pytest.raises(BadRequest, match=next(iter(more))):
            sandbox.grade(TWICE, Script("assert f(1) == 2", **more))
    with pytest.raises(BadRequest, match="empty"):
        sandbox.grade(TWICE, Script(" \n"))
