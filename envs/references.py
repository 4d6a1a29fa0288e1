"""The solutions that task files bring along, each with the tests that it must pass."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

from ..tool_sandbox import Calls, Case, Script, Tests
from ..tool_sandbox.asserts import calls_from_asserts, calls_from_check
from ..tool_sandbox.script import free_names
from .rows import Task, TaskError, missing, read
from .tasks import TaskSet

__all__ = ["Reference", "references"]

HELPERS = "helpers.jsonl.gz"  # beside QuixBugs: what its graph programs and their tests share


class Reference(NamedTuple):
    """A task's own solution.

    Attributes:
        id: Of the task.
        candidate: The solution, as an agent would hand it in.
        tests: What it must pass.
        before: Text that is graded in front of any candidate.
    """

    id: str
    candidate: str
    tests: Tests
    before: str = ""

    def graded(self, candidate: str | None = None) -> tuple[str, Tests]:
        """What `Sandbox.grade_many` takes, for the solution or for another candidate."""
        return self.before + (self.candidate if candidate is None else candidate), self.tests


Reader = Callable[[Task, str], Reference]


def references(source: str | PathLike[str]) -> list[Reference]:
    """Reads a task file for grading its solutions.

    Tests that only say "this call gives this value" become `Calls`, as the environments grade
    them; all others a `Script`.

    Args:
        source: A file in the shape of `Code-v0`, HumanEval, MBPP or QuixBugs; or
            "palaestra:NAME".

    Raises:
        TaskError: A row is of no known shape, or has no solution.
    """
    helpers = _helpers(fspath(source))
    with warnings.catch_warnings():  # odd escapes in a public file's text are not our news
        warnings.simplefilter("ignore")
        found = [_reader(task)(task, helpers) for task in TaskSet.load(source)]
    if not found:
        raise TaskError(f"{source}: no tasks; give a file with at least one row")
    return found


def _helpers(source: str) -> str:
    beside = Path(source).parent / HELPERS
    if not beside.is_file():
        return ""
    return "\n".join(str(text) for _, row in read(beside) for text in row.values()) + "\n"


def _reader(task: Task) -> Reader:
    for fields, reader in _READERS.items():
        if all(name in task for name in fields):
            return reader
    near = max(_READERS, key=lambda fields: sum(name in task for name in fields) / len(fields))
    lacks = next(name for name in near if name not in task)
    raise missing(lacks, task, task.origin or f"task {task.id}")


def _own(task: Task, _: str) -> Reference:
    if not task.get("solution"):
        raise TaskError(f"{task.origin or task.id}: no solution; add the field `solution`")
    rows: Sequence[Any] = task["tests"]
    codes = [row if isinstance(row, str) else str(row["code"]) for row in rows]
    setup = str(task.get("setup") or "")
    tests = _asserts(codes, str(task["solution"]), task["entry_point"])
    return Reference(task.id, _plain(task["solution"]), tests, f"{setup}\n" if setup else "")


def _humaneval(task: Task, _: str) -> Reference:
    entry, source, prompt = task["entry_point"], _plain(task["test"]), _plain(task["prompt"])
    calls = calls_from_check(source, entry)
    tests = calls if calls is not None else Script(source, prelude=prompt, call=entry)
    return Reference(str(task["task_id"]), prompt + _plain(task["canonical_solution"]), tests)


def _mbpp(task: Task, _: str) -> Reference:
    setup = _plain(task.get("test_setup_code") or "\n".join(task.get("test_imports") or ()))
    codes = [
        _plain(code) for code in (*task["test_list"], *(task.get("challenge_test_list") or ()))
    ]
    solution = _plain(task["code"])
    name = task.get("task_id", task.id)
    tests = _asserts(codes, solution, setup=setup)
    return Reference(f"MBPP/{name}", solution, tests)


def _asserts(
    codes: Sequence[str], solution: str, entry: str | None = None, setup: str = ""
) -> Tests:
    calls = None if setup else calls_from_asserts(codes, entry)
    if calls is not None:
        return calls
    source = "\n".join([setup, *codes])
    return Script(source, names=_names(source, solution))


def _names(source: str, solution: str) -> tuple[str, ...]:
    """The tests' free names, and the builtin ones that the solution defines anew (MBPP/126)."""
    made = {node.name for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef)}
    asked = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    free = free_names(source)
    return (*free, *sorted(made & asked - set(free)))


def _quixbugs(task: Task, helpers: str) -> Reference:
    graph = task["compare"] == "pytest"
    tests = _quixbugs_script(task) if graph else _quixbugs_calls(task)
    return Reference(task["name"], task["fixed"], tests, helpers if graph else "")


def _quixbugs_script(task: Task) -> Script:
    """The upstream test file without its choice between the right and the wrong program."""
    text = re.sub(r"^(import pytest|from node import.*)\n", "", task["test_file"], flags=re.M)
    text = re.sub(r"^if pytest\.use_correct:\n.*\nelse:\n.*\n", "", text, flags=re.M)
    ends = re.search(r'^if __name__ == "__main__"', text, flags=re.M)
    text = text[: ends.start()] if ends else text
    called = "\n".join(f"{name}()" for name in re.findall(r"^def (test\w*)\(\)", text, re.M))
    return Script(f"{text}\n{called}\n", names=("Node", task["entry_point"]))


def _quixbugs_calls(task: Task) -> Tests:
    entry, slow = task["entry_point"], set(task["slow_tests"])
    kept: list[Mapping[str, Any]] = [t for k, t in enumerate(task["tests"]) if k not in slow]
    if task["compare"] == "list" or entry == "hanoi":  # generators; hanoi's pairs lie as lists
        lines = [
            f"assert json.loads(json.dumps(list({entry}(*{test['args']!r})))) == "
            f"{test['expected']!r}"
            for test in kept
        ]
        return Script("\n".join(["import json", *lines]))
    close = task["compare"] == "approx"  # the last argument is the error that is allowed
    return Calls(
        entry,
        tuple(
            Case(
                tuple(test["args"]),
                expected=test["expected"],
                tolerance=test["args"][-1] / max(1.0, abs(test["expected"])) if close else None,
            )
            for test in kept
        ),
    )


def _plain(text: Any) -> str:
    return str(text).replace("\r\n", "\n")


_READERS: Mapping[tuple[str, ...], Reader] = {
    ("entry_point", "fixed", "compare", "test_file"): _quixbugs,
    ("prompt", "entry_point", "canonical_solution", "test"): _humaneval,
    ("text", "code", "test_list"): _mbpp,
    ("prompt", "code", "test_list"): _mbpp,
    ("prompt", "entry_point", "tests"): _own,
}
