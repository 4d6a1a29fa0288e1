"""Public file formats of code tasks."""

from __future__ import annotations

import ast
import doctest
from pathlib import Path
from typing import Any

import pytest
from palaestra.envs import datasets
from palaestra.envs.datasets import code_tasks, shape_of
from palaestra.envs.tasks import MissingFieldError, TaskError, TaskSet
from palaestra.tool_sandbox.asserts import calls_from_assert

DATA = Path(__file__).parents[3] / "shared" / "data"
real = pytest.mark.skipif(not DATA.exists(), reason="the folder of real data is not here")

MBPP: dict[str, Any] = {
    "task_id": 3,
    "text": "Write a function to add.",
    "code": "def add(a, b):\r\n\treturn a + b",
    "test_setup_code": "",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
    "challenge_test_list": ["assert add(-1, 1) == 0"],
}
HUMANEVAL: dict[str, Any] = {
    "task_id": "HumanEval/9",
    "prompt": 'def add(a, b):\n    """Add.\n    >>> add(1, 2)\n    3\n    """\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": (
        "METADATA = {}\n\ndef check(candidate):\n    assert candidate(2, 2) == 4\n"
        '    assert candidate(-1, 1) == 0, "zero"\n    assert True, "done"\n'
    ),
}
CODE: dict[str, Any] = {
    "id": "own",
    "prompt": "Add.",
    "entry_point": "add",
    "tests": ["assert add(1, 1) == 2", {"code": "assert add(1, 2) == 3", "hidden": False}],
    "solution": "def add(a, b): return a + b",
    "limits": {"wall": 1.0},
}


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(datasets).failed == 0


def test_mbpp_becomes_a_code_task() -> None:
    assert dict(code_tasks([MBPP])[0]) == {
        "id": "MBPP/3",
        "prompt": "Write a function to add.",
        "entry_point": "add",
        "tests": [
            {"code": "assert add(1, 2) == 3", "hidden": False},
            {"code": "assert add(0, 0) == 0", "hidden": True},
            {"code": "assert add(-1, 1) == 0", "hidden": True},
        ],
        "files": {},
        "setup": "",
        "limits": {},
        "solution": "def add(a, b):\n\treturn a + b",
    }


def test_the_sanitized_form_of_mbpp_is_known() -> None:
    row: dict[str, Any] = {"prompt": "Add.", "test_imports": [], **MBPP}
    del row["text"]
    assert code_tasks([row])[0].prompt == "Add."
    row["test_imports"] = ["import math"]
    with pytest.raises(TaskError, match="none of the 1 rows has tests of the form"):
        code_tasks([row])


def test_humaneval_shows_the_examples_of_its_docstring() -> None:
    task = code_tasks([HUMANEVAL])[0]
    assert task.id == "HumanEval/9"
    assert task["entry_point"] == "add"
    assert task["tests"] == [
        {"code": "assert add(1, 2) == 3", "hidden": False},
        {"code": "assert add(2, 2) == 4", "hidden": True},
        {"code": "assert add(-1, 1) == 0", "hidden": True},
    ]
    assert ast.parse(task["solution"])


def test_a_docstring_without_examples_shows_the_first_test() -> None:
    for prompt in ("def add(a, b):\n", '"""\n  >>> add(1, 2)\n 3\n"""\ndef add(a, b):\n'):
        task = code_tasks([{**HUMANEVAL, "prompt": prompt}])[0]
        assert [test["hidden"] for test in task["tests"]] == [False, True]


def test_our_own_shape_passes_through() -> None:
    task = code_tasks([{**CODE, "split": "test", "difficulty": 2, "note": "dropped"}])[0]
    assert task["tests"] == [
        {"code": "assert add(1, 1) == 2", "hidden": True},
        {"code": "assert add(1, 2) == 3", "hidden": False},
    ]
    assert (task.split, task.difficulty, task["limits"]) == ("test", 2.0, {"wall": 1.0})
    assert "note" not in task


@pytest.mark.parametrize("visible", [0, 1, 2, 9])
def test_as_many_tests_are_visible_as_asked_and_one_is_hidden(visible: int) -> None:
    tests = code_tasks([MBPP], visible=visible)[0]["tests"]
    assert sum(not test["hidden"] for test in tests) == min(visible, 2)


def test_rows_that_need_a_script_are_left_out_and_named() -> None:
    loop = {**HUMANEVAL, "task_id": "HumanEval/1", "test": "def check(c):\n    for x in []: pass"}
    setup = {**MBPP, "task_id": 9, "test_setup_code": "root = Node(1)"}
    tasks = code_tasks([MBPP, loop, setup, HUMANEVAL, {**CODE, "tests": []}])
    assert [task.id for task in tasks] == ["MBPP/3", "HumanEval/9"]
    assert tasks.left_out == ("HumanEval/1", "MBPP/9", "own")
    assert tasks.take(1).left_out == tasks.left_out


def test_a_set_that_is_loaded_or_generated_is_converted_too() -> None:
    loaded = TaskSet.load([{**CODE, "id": "a", "split": "train"}, {**CODE, "split": "test"}])
    assert [task.id for task in code_tasks(loaded, split="test")] == ["own"]
    assert len(code_tasks(loaded, limit=1)) == 1
    endless = code_tasks(TaskSet.generate(lambda stream: {**CODE, "id": None}, id="gen"))
    assert endless.size is None
    assert endless[3]["entry_point"] == "add"


def test_a_format_that_is_not_known_is_told_the_nearest_field(tmp_path: Path) -> None:
    row = {key: value for key, value in MBPP.items() if key != "test_list"}
    with pytest.raises(MissingFieldError, match=r"row 1: field 'test_list' is missing \(the row"):
        code_tasks([row])
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a"}\n')
    with pytest.raises(TaskError, match=r"a\.jsonl:1: field .* is missing \(the row has: question"):
        code_tasks(path)
    with pytest.raises(TaskError, match="row 1: not a row of mbpp"):
        code_tasks([{**MBPP, "test_list": 4}])


def test_every_shape_is_recognised() -> None:
    names = [shape_of(row).name for row in (CODE, HUMANEVAL, MBPP)]
    assert names == ["code", "humaneval", "mbpp"]


@real
@pytest.mark.parametrize(
    ("name", "rows", "least"), [("mbpp", 724, 719), ("humaneval", 100, 82)], ids=lambda v: str(v)
)
def test_the_real_files_are_read_and_what_is_left_out_is_counted(
    name: str, rows: int, least: int
) -> None:
    tasks = code_tasks(DATA / name)
    assert len(tasks) >= least
    assert len(tasks) + len(tasks.left_out) == rows
    assert len({task.id for task in tasks}) == len(tasks)
    for task in tasks:
        assert task["entry_point"] in task["solution"]
        assert any(test["hidden"] for test in task["tests"])
        for test in task["tests"]:
            assert calls_from_assert(test["code"], task["entry_point"]) is not None
            assert not test["hidden"] or test["code"] not in task.prompt


def test_an_example_that_is_known_to_be_wrong_is_not_shown() -> None:
    text = '"""\n    >>> median([-10, 4, 6, 1000, 10, 20])\n    15.0\n    """'
    prompt = f"def median(l):\n    {text}\n"
    row = {**HUMANEVAL, "prompt": prompt, "entry_point": "median"}
    tests = code_tasks([row])[0]["tests"]
    assert [test["code"] for test in tests] == [
        "assert median(2, 2) == 4",
        "assert median(-1, 1) == 0",
    ]
