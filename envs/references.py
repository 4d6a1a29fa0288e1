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
from ..tool_sandbox.asserts import calls_from_assert, calls_from_asserts, calls_from_check
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
        script: The same tests as test code, where `tests` are `Calls` that were read from it.
        plain: Text that behind a candidate makes a whole program, which fails if it is wrong.
        wrong: A program that the file says is wrong; empty where it has none.
    """

    id: str
    candidate: str
    tests: Tests
    before: str = ""
    script: Script | None = None
    plain: str = ""
    wrong: str = ""

    @property
    def entry(self) -> str:
        """The function that a prompt asked for; empty where the whole program was asked for."""
        script = self.script or self.tests
        return (script.call or "") if isinstance(script, Script) else ""

    def graded(self, candidate: str | None = None) -> tuple[str, Tests]:
        """What `Sandbox.grade_many` takes, for the solution or for another candidate."""
        return self.before + (self.candidate if candidate is None else candidate), self.tests


Reader = Callable[[Task, str], Reference]


def references(source: str | PathLike[str]) -> list[Reference]:
    """Reads a task file for grading its solutions.

    Tests that only say "this call gives this value" become `Calls`, as the environments grade
    them; all others a `Script`.

    Args:
        source: A file in the shape of `Code-v0`, HumanEval, MBPP, CRUXEval, QuixBugs or
            Exercism's Python track; or "palaestra:NAME".

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
    found = _asserts(task.id, _plain(task["solution"]), codes, task["entry_point"])
    return found._replace(before=f"{setup}\n" if setup else "")


def _humaneval(task: Task, _: str) -> Reference:
    entry, source, prompt = task["entry_point"], _plain(task["test"]), _plain(task["prompt"])
    calls = calls_from_check(source, entry)
    script = Script(source, prelude=prompt, call=entry)
    return Reference(
        str(task["task_id"]),
        prompt + _plain(task["canonical_solution"]),
        script if calls is None else calls,
        script=None if calls is None else script,
        plain=f"\n{source}\ncheck({entry})\n",
    )


def _mbpp(task: Task, _: str) -> Reference:
    setup = _plain(task.get("test_setup_code") or "\n".join(task.get("test_imports") or ()))
    codes = [
        _plain(code) for code in (*task["test_list"], *(task.get("challenge_test_list") or ()))
    ]
    name = f"MBPP/{task.get('task_id', task.id)}"
    return _asserts(name, _plain(task["code"]), codes, setup=setup)


def _asserts(
    name: str, solution: str, codes: Sequence[str], entry: str | None = None, setup: str = ""
) -> Reference:
    calls = None if setup else calls_from_asserts(codes, entry)
    source = "\n".join([setup, *codes])
    script = Script(source, names=_names(source, solution))
    return Reference(
        name,
        solution,
        script if calls is None else calls,
        script=None if calls is None else script,
        plain=f"\n{source}\n",
    )


def _names(source: str, solution: str) -> tuple[str, ...]:
    """The tests' free names, and the builtin ones that the solution defines anew (MBPP/126)."""
    made = {node.name for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef)}
    asked = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    free = free_names(source)
    return (*free, *sorted(made & asked - set(free)))


def _quixbugs(task: Task, helpers: str) -> Reference:
    graph = task["compare"] == "pytest"
    tests = _quixbugs_script(task) if graph else _quixbugs_calls(task)
    before = helpers if graph else ""
    return Reference(task["name"], task["fixed"], tests, before, wrong=task.get("buggy") or "")


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


def _cruxeval(task: Task, _: str) -> Reference:
    code = _plain(task["code"])
    case = calls_from_assert(f"assert f({task['input']}) == {task['output']}")
    if case is not None:
        return Reference(str(task["id"]), code, Calls("f", (case,)))
    # An input that is no plain data is part of the program; the output stays here.
    code += f"\n\ndef answer():\n    return f({task['input']})\n"
    expected = Case(expected=ast.literal_eval(task["output"]))
    return Reference(str(task["id"]), code, Calls("answer", (expected,)))


def _exercism(task: Task, _: str) -> Reference:
    """The track's test file; helpers of it are its prelude, so it need not import them."""
    ((file, stub),) = task["stub"].items()
    (example,) = task["example"].values()
    main = next(name for name in task["tests"] if name.endswith("_test.py"))
    helpers = {name: text for name, text in (task["tests"] | task["extra"]).items() if name != main}
    source = task["tests"][main]
    for name in helpers:
        module = re.escape(name.removesuffix(".py"))
        source = re.sub(rf"^from {module} import .*\n", "", source, flags=re.M)
    tests = Script(source, prelude="\n".join(helpers.values()), module=file.removesuffix(".py"))
    wrong = "" if task["tests_pass_on_stub"] else stub  # two begin with a program that works
    return Reference(task["slug"], example, tests, wrong=wrong)


def _plain(text: Any) -> str:
    return str(text).replace("\r\n", "\n")


_READERS: Mapping[tuple[str, ...], Reader] = {
    ("entry_point", "fixed", "compare", "test_file"): _quixbugs,
    ("prompt", "entry_point", "canonical_solution", "test"): _humaneval,
    ("text", "code", "test_list"): _mbpp,
    ("prompt", "code", "test_list"): _mbpp,
    ("prompt", "entry_point", "tests"): _own,
    ("code", "input", "output"): _cruxeval,
    ("slug", "stub", "example", "tests", "extra"): _exercism,
}
