"""Task files in every shape become solutions with the tests that they must pass."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from palaestra.envs.references import Reference, references
from palaestra.envs.rows import MissingFieldError, TaskError
from palaestra.tool_sandbox import Calls, Script

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
OWN = {
    "id": "add",
    "prompt": "Add.",
    "entry_point": "add",
    "tests": [{"code": "assert add(1, 2) == 3", "hidden": True}],
    "solution": "def add(a, b):\n    return a + b\n",
}
HUMANEVAL = {
    "task_id": "HumanEval/x",
    "prompt": "def add(a, b):\n",
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
MBPP = {
    "task_id": 7,
    "text": "Add.",
    "code": "def add(a, b):\r\n    return a + b\r\n",
    "test_list": ["assert add(1, 2) == 3"],
    "test_setup_code": "",
}
QUIXBUGS: dict[str, Any] = {
    "name": "add",
    "entry_point": "add",
    "fixed": "def add(a, b):\n    return a + b\n",
    "tests": [{"args": [1, 2], "expected": 3}, {"args": [9, 9], "expected": 18}],
    "compare": "eq",
    "slow_tests": [1],
    "test_file": "",
}


CRUXEVAL = {"id": "s", "code": "def f(a):\n    return a + 1\n", "input": "2", "output": "3"}
EXERCISM: dict[str, Any] = {
    "slug": "two-fer",
    "stub": {"two_fer.py": "def two_fer(name):\n    pass\n"},
    "example": {"example.py": "def two_fer(name):\n    return name\n"},
    "tests": {
        "two_fer_test.py": "import unittest\nfrom data import NAME\nfrom two_fer import two_fer\n",
        "data.py": "NAME = 'x'\n",
    },
    "extra": {},
    "tests_pass_on_stub": False,
}


def one(folder: Path, row: dict[str, Any]) -> Reference:
    path = folder / "tasks.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (found,) = references(path)
    return found


@pytest.mark.parametrize(
    ("row", "name"),
    [(OWN, "add"), (HUMANEVAL, "HumanEval/x"), (MBPP, "MBPP/7"), (QUIXBUGS, "add")],
)
def test_plain_assertions_of_every_shape_become_calls(
    tmp_path: Path, row: dict[str, Any], name: str
) -> None:
    found = one(tmp_path, row)
    assert found.id == name
    assert isinstance(found.tests, Calls)
    assert [(case.args, case.expected) for case in found.tests.cases] == [((1, 2), 3)]
    space: dict[str, Any] = {}
    exec(found.graded()[0], space)
    assert space["add"](2, 2) == 4


def test_other_tests_become_a_script(tmp_path: Path) -> None:
    found = one(tmp_path, {**MBPP, "test_list": ["assert len(str(add(1, 2))) == 1"]})
    assert isinstance(found.tests, Script)
    assert found.tests.names == ("add",)
    source = (
        "def check(candidate):\n    for n in range(3):\n        assert candidate(n, n) == 2 * n\n"
    )
    found = one(tmp_path, {**HUMANEVAL, "test": source})
    assert isinstance(found.tests, Script)
    assert (found.tests.prelude, found.tests.call) == (HUMANEVAL["prompt"], "add")


def test_what_the_environment_puts_before_an_answer_is_before_any_candidate(tmp_path: Path) -> None:
    found = one(tmp_path, {**OWN, "setup": "import math"})
    assert found.graded()[0].startswith("import math\ndef add")
    assert found.graded("x = 1\n")[0] == "import math\nx = 1\n"


def test_graph_programs_get_the_helpers_that_lie_beside_their_file(tmp_path: Path) -> None:
    row = {
        **QUIXBUGS,
        "compare": "pytest",
        "test_file": "import pytest\nfrom node import Node\n\n"
        "if pytest.use_correct:\n    from a import add\nelse:\n    from b import add\n\n"
        "def test1():\n    assert add(Node(), 1)\n",
    }

    with gzip.open(tmp_path / "helpers.jsonl.gz", "wt") as file:
        file.write(json.dumps({"node.py": "class Node: pass"}))
    found = one(tmp_path, row)
    assert isinstance(found.tests, Script)
    assert found.before == "class Node: pass\n"
    assert found.tests.names == ("Node", "add")
    assert "import" not in found.tests.source
    assert found.tests.source.rstrip().endswith("test1()")


@pytest.mark.parametrize(
    ("row", "error", "told"),
    [
        ({**OWN, "solution": ""}, TaskError, "no solution"),
        ({"prompt": "a", "entry_point": "f", "test": ""}, MissingFieldError, "canonical_solution"),
    ],
)
def test_a_row_that_cannot_be_graded_is_refused(
    tmp_path: Path, row: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        one(tmp_path, row)


def test_the_same_tests_are_there_as_code_and_as_the_end_of_a_plain_program(tmp_path: Path) -> None:
    for row in (HUMANEVAL, MBPP):
        found = one(tmp_path, row)
        assert found.script is not None
        exec(found.before + found.candidate + found.plain, {})
        with pytest.raises(AssertionError):
            exec(found.before + found.candidate.replace("+", "-") + found.plain, {})
    assert one(tmp_path, HUMANEVAL).entry == "add"
    assert one(tmp_path, MBPP).entry == ""


def test_a_wrong_program_of_the_file_comes_along(tmp_path: Path) -> None:
    assert one(tmp_path, {**QUIXBUGS, "buggy": "def add(a, b): return a"}).wrong.endswith("a")
    assert one(tmp_path, EXERCISM).wrong == EXERCISM["stub"]["two_fer.py"]
    assert one(tmp_path, {**EXERCISM, "tests_pass_on_stub": True}).wrong == ""


def test_an_input_that_is_no_plain_data_becomes_part_of_the_program(tmp_path: Path) -> None:
    found = one(tmp_path, CRUXEVAL)
    assert isinstance(found.tests, Calls)
    assert (found.tests.entry, found.tests.cases[0].args) == ("f", (2,))
    found = one(tmp_path, {**CRUXEVAL, "input": "len('ab')"})
    assert isinstance(found.tests, Calls)
    assert (found.tests.entry, found.tests.cases[0].expected) == ("answer", 3)
    space: dict[str, Any] = {}
    exec(found.candidate, space)
    assert space["answer"]() == 3


def test_helpers_of_a_test_file_are_its_prelude(tmp_path: Path) -> None:
    found = one(tmp_path, EXERCISM)
    assert isinstance(found.tests, Script)
    assert (found.tests.module, found.tests.prelude) == ("two_fer", "NAME = 'x'\n")
    assert found.tests.source == "import unittest\nfrom two_fer import two_fer\n"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("humaneval", 100),
        ("mbpp", 724),
        ("quixbugs", 30),
        ("cruxeval", 600),
        ("exercism_python", 116),
    ],
)
def test_every_row_of_a_public_file_is_read(name: str, count: int) -> None:
    path = DATA / name / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no data: {path.name}")
    found = references(path)
    assert len({one.id for one in found}) == len(found) == count
