"""What a candidate changes in the arguments that the tests hand over: they hold what it did."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from palaestra.tool_sandbox import Limits, Sandbox, Script

from .test_script_peer import Pair, judged_alike, outcomes

POINT = (
    "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass P:\n    x: int\n"
    "    y: int = 0\n"
)
PAIRS = {
    "changed before an exception": Pair(
        "x = [1]\ntry:\n    f(x)\nexcept ValueError:\n    pass\nassert x == [1]",
        "def f(x): raise ValueError",
        "def f(x):\n    x.append(2)\n    raise ValueError",
    ),
    "a change that is wanted before an exception": Pair(
        "x = [1]\ntry:\n    f(x)\nexcept ValueError:\n    pass\nassert x == [1, 2]",
        "def f(x):\n    x.append(2)\n    raise ValueError",
        "def f(x): raise ValueError",
    ),
    "a Counter left alone": Pair(
        "from collections import Counter\nc = Counter('a')\nf(c)\nassert c == Counter('a')",
        "def f(c): return c['a']",
        "def f(c): c['b'] += 1",
    ),
    "a defaultdict filled": Pair(
        "from collections import defaultdict\nc = defaultdict(list)\nf(c)\nassert c == {'a': [1]}",
        "def f(c): c['a'].append(1)",
        "def f(c): c['a']",
    ),
    "an OrderedDict in a new order": Pair(
        "from collections import OrderedDict\nc = OrderedDict(a=1, b=2)\nf(c)\n"
        "assert list(c) == ['b', 'a']",
        "def f(c): c.move_to_end('a')",
        "def f(c): c['a'] = 1",
    ),
    "a deque with a bound": Pair(
        "from collections import deque\nx = deque([1], maxlen=2)\nf(x)\nassert list(x) == [2, 3]",
        "def f(x): x.extend([2, 3])",
        "def f(x): x.append(2)",
    ),
    "lists in a tuple": Pair(
        "t = ([3, 1],)\nf(t)\nassert t == ([3, 1],)",
        "def f(t): return sorted(t[0])",
        "def f(t): t[0].sort()",
    ),
    "a list in a tuple in a list": Pair(
        "i = [1]\no = [(i,)]\nf(o)\nassert i == [1, 2] and o[0][0] is i",
        "def f(o): o[0][0].append(2)",
        "def f(o): o[0] = ([1, 2],)",
    ),
    "a row that is held, beside a new one": Pair(
        "r = [1]\nm = [r]\nf(m)\nassert r == [1, 2] and len(m) == 2",
        "def f(m):\n    m[0].append(2)\n    m.append([3])",
        "def f(m): m.append([3])",
    ),
    "a list in a dict": Pair(
        "d = {'a': [1]}\na = d['a']\nf(d)\nassert a == [1]",
        "def f(d): d['a'] = d['a'] + [2]",
        "def f(d): d['a'].append(2)",
    ),
    "rows that change places": Pair(
        "m = [[1], [2]]\na, b = m\nf(m)\nassert m[0] is b and m[1] is a",
        "def f(m): m.reverse()",
        "def f(m): m[0][0], m[1][0] = 2, 1",
    ),
    "one argument in another": Pair(
        "a, b = [1], []\nf(a, b)\na.append(9)\nassert b == [[1, 9]]",
        "def f(a, b): b.append(a)",
        "def f(a, b): b.append(list(a))",
    ),
    "a copied row": Pair(
        "m = [[1]]\nassert f(m)[0] is not m[0]",
        "def f(m): return [list(r) for r in m]",
        "def f(m): return list(m)",
    ),
    "a copy that is deep enough": Pair(
        "m = [[1], [2]]\nf(m)[0].append(9)\nassert m == [[1], [2]]",
        "def f(m): return [list(r) for r in m]",
        "def f(m): return list(m)",
    ),
    "an argument within the answer": Pair(
        "a = [1]\nr = f(a)\na.append(2)\nassert r == {'k': [1, 2]}",
        "def f(a): return {'k': a}",
        "def f(a): return {'k': list(a)}",
    ),
    "a tuple that is returned": Pair(
        "t = (1, 2)\nassert f(t) is t", "def f(t): return t", "def f(t): return tuple(list(t))"
    ),
    "the operand of an operator": Pair(
        "x = [3, 1]\nS() + x\nassert x == [3, 1]",
        "class S:\n    def __add__(self, x): return sorted(x)",
        "class S:\n    def __add__(self, x): x.sort()",
    ),
    "what a constructor was given": Pair(
        "x = [3, 1]\nS(x)\nassert x == [3, 1]",
        "class S:\n    def __init__(self, x): self.x = sorted(x)",
        "class S:\n    def __init__(self, x): x.sort()",
    ),
    "objects in a list": Pair(
        "p = P(1)\nx = [p]\nassert f(x) is None and x == [p, P(2)] and x[0] is p",
        POINT + "def f(x): x.append(P(2))",
        POINT + "def f(x): x.append(P(3))",
    ),
    "objects in a set": Pair(
        "x = {P(1)}\nf(x)\nassert x == {P(1), P(2)}",
        POINT + "def f(x): x.add(P(2))",
        POINT + "def f(x): x.add(P(1))",
    ),
    "objects as keys": Pair(
        "x = {P(1): [1]}\nf(x)\nassert x[P(1)] == [1, 2]",
        POINT + "def f(x): x[P(1)].append(2)",
        POINT + "def f(x): x[P(2)] = 2",
    ),
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", limits=Limits(wall=20.0), workers=1) as found:
        yield found


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_arguments_are_what_they_would_be_in_one_interpreter(sandbox: Sandbox, pair: Pair) -> None:
    judged_alike(sandbox, pair)


def test_an_argument_that_no_wire_carries_back_is_malformed(sandbox: Sandbox) -> None:
    tests = "x = [1]\ntry:\n    f(x)\nexcept ValueError:\n    pass\nassert len(x) == 2"
    cyclic = "def f(x):\n    x.append(x)\n    raise ValueError"
    assert outcomes(sandbox.grade(cyclic, Script(tests))) == {"malformed"}


def test_a_dict_with_a_default_of_the_tests_own_is_malformed(sandbox: Sandbox) -> None:
    tests = "from collections import defaultdict\nassert f(defaultdict(lambda: 5)) == 5"
    report = sandbox.grade("def f(d): return d['x']", Script(tests))
    assert outcomes(report) == {"malformed"}


@pytest.mark.parametrize(
    "changes",
    [
        "{-2: []}",
        "{-2: [[1], [2]]}",
        "{-2: [{1: 2}]}",
        "{-2: 5}",
        "{-2: [5]}",
    ],
)
def test_changes_that_cannot_be_are_forged(sandbox: Sandbox, changes: str) -> None:
    forge = (
        "import sys\narguments = next(\n"
        "    m for n, m in sys.modules.items() if n.endswith('guest.arguments'))\n"
        f"arguments.Watched.changes = lambda *_: {changes}\ndef f(x): return 4\n"
    )
    report = sandbox.grade(forge, Script("assert f([2]) == 4"))
    assert outcomes(report) == {"missing"}
    assert sandbox.grade("def f(x): return 4", Script("assert f([2]) == 4")).passed


def test_a_forged_place_of_the_returned_argument_is_no_place(sandbox: Sandbox) -> None:
    forge = (
        "import sys\narguments = next(\n"
        "    m for n, m in sys.modules.items() if n.endswith('guest.arguments'))\n"
        "arguments.Watched.changes = lambda *_: {-1: 7, 'x': 1}\ndef f(x): return 5\n"
    )
    assert outcomes(sandbox.grade(forge, Script("assert f(4) == 4"))) == {"wrong"}
