"""Public file formats of tasks, read into the shape an environment asks for."""

from __future__ import annotations

import ast
import doctest
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

from ..tool_sandbox.asserts import calls_from_assert, calls_from_asserts, calls_from_check
from .messages import JSON
from .rows import MissingFieldError, Task, TaskError
from .tasks import TaskSet

__all__ = ["Shape", "code_tasks", "shape_of"]

Row = Mapping[str, JSON]


class Shape(NamedTuple):
    """A file format: its name and the fields by which it is known."""

    name: str
    fields: tuple[str, ...]


SHAPES = (
    Shape("code", ("prompt", "entry_point", "tests")),
    Shape("humaneval", ("prompt", "entry_point", "canonical_solution", "test")),
    Shape("mbpp", ("text", "code", "test_list")),
    Shape("mbpp-sanitized", ("prompt", "code", "test_list")),
)
# examples in public docstrings that the reference does not meet: here the median is 8.0
WRONG = frozenset({"assert median([-10, 4, 6, 1000, 10, 20]) == 15.0"})  # HumanEval/47


def shape_of(row: Row, origin: str = "row") -> Shape:
    """Recognise the format of a row of code tasks by its fields.

    Args:
        row: The fields.
        origin: `file:line`, for the message.

    Raises:
        TaskError: Where it is of no known format; the text names the field that is missing.

    >>> shape_of({"text": "Add.", "code": "def f(): ...", "test_list": []}).name
    'mbpp'
    """
    for shape in SHAPES:
        if all(name in row for name in shape.fields):
            return shape
    near = max(SHAPES, key=lambda s: sum(name in row for name in s.fields) / len(s.fields))
    lacks = [name for name in near.fields if name not in row]
    has = ", ".join(list(row)[:20]) or "nothing"
    known = "; ".join(f"{s.name}: {', '.join(s.fields)}" for s in SHAPES)
    raise MissingFieldError(
        f"{origin}: field {lacks[0]!r} is missing (the row has: {has}); "
        f"code tasks are one of {known}"
    )


def code_tasks(
    source: TaskSet | str | PathLike[str] | Sequence[Row],
    *,
    visible: int = 1,
    split: str | None = None,
    limit: int | None = None,
) -> TaskSet:
    """Read tasks for `Code-v0`, of any known format, into its shape.

    The shape is `{id, prompt, entry_point, tests: [{code, hidden}], files, setup, solution,
    limits}`. Every test is one `assert` of the form `f(literals) == literal`; a row with any other
    test is left out, and `left_out` of the result names it.

    Args:
        source: Rows, a path, or a set that is loaded already.
        visible: Number of a task's tests that the agent sees, where the format does not say; one
            at least stays hidden.
        split: Keep only rows of this split.
        limit: Read no more rows than this, before any is left out.

    Raises:
        TaskError: At a row of no known format, or when no row is left.
    """
    if isinstance(source, TaskSet):
        given = source if split is None else source.filter(lambda task: task.split == split)
        given = given if limit is None else given.take(limit)
    else:
        given = TaskSet.load(source, split=split, limit=limit)
    if given.size is None:
        return given.map(lambda task: _converted(task, visible) or task)
    tasks: list[Task] = []
    left_out = list(given.left_out)
    for task in given:
        made = _converted(task, visible)
        if made is None:
            left_out.append(_name(task))
        else:
            tasks.append(made)
    if not tasks and left_out:
        raise TaskError(
            f"{given.id}: none of the {len(left_out)} rows has tests of the form "
            "`assert f(literals) == literal` only; others cannot be graded yet"
        )
    return TaskSet(tasks, id=given.id, left_out=left_out)


def _converted(task: Task, visible: int) -> Task | None:
    """Return the task in the shape of `Code-v0`, or None where a test is no plain assertion."""
    shape = shape_of(task, task.origin or f"task {task.id}")
    readers = {"code": _from_code, "humaneval": _from_humaneval}
    try:
        with warnings.catch_warnings():  # a public file's odd escapes must not decide what is read
            warnings.simplefilter("ignore")
            fields = readers.get(shape.name, _from_mbpp)(task, visible)
    except (TypeError, AttributeError) as error:
        raise TaskError(f"{task.origin or task.id}: not a row of {shape.name}: {error}") from None
    if fields is None:
        return None
    kept = {name: task[name] for name in ("meta", "weight", "difficulty", "family") if name in task}
    if task.split:
        kept["split"] = task.split
    return Task({"files": {}, "setup": "", "limits": {}, **kept, **fields}, origin=task.origin)


def _from_code(task: Task, _: int) -> dict[str, JSON] | None:
    entry, tests = task["entry_point"], []
    for test in task["tests"]:
        row: Mapping[str, Any] = {"code": test} if isinstance(test, str) else test
        if calls_from_assert(row["code"], entry) is None:
            return None
        tests.append({"code": row["code"], "hidden": bool(row.get("hidden", True))})
    if not tests:
        return None
    extra = {name: task[name] for name in ("files", "setup", "limits", "solution") if name in task}
    return {"id": task.id, "prompt": task.prompt, "entry_point": entry, "tests": tests, **extra}


def _from_mbpp(task: Task, visible: int) -> dict[str, JSON] | None:
    setup = task.get("test_setup_code") or "\n".join(task.get("test_imports") or ())
    codes = [
        _plain(code) for code in (*task["test_list"], *(task.get("challenge_test_list") or ()))
    ]
    calls = calls_from_asserts(codes) if codes else None
    if setup or calls is None:  # a setup that runs behind the candidate needs the script judge
        return None
    return {
        "id": _name(task),
        "prompt": _plain(task.get("text", task.prompt)),
        "entry_point": calls.entry,
        "tests": _shown(codes, visible),
        "solution": _plain(task["code"]),
    }


def _from_humaneval(task: Task, visible: int) -> dict[str, JSON] | None:
    entry: str = task["entry_point"]
    source = _plain(task["test"])
    calls = calls_from_check(source, entry)
    if calls is None:
        return None
    codes = _assertions(source, entry)
    examples = [code for code in _examples(_plain(task.prompt), entry) if code not in codes]
    shown = [{"code": code, "hidden": False} for code in examples]
    hidden = [{"code": code, "hidden": True} for code in codes]
    return {
        "id": _name(task),
        "prompt": _plain(task.prompt),
        "entry_point": entry,
        "tests": [*shown, *hidden] if shown else _shown(codes, visible),
        "solution": _plain(task.prompt) + _plain(task["canonical_solution"]),
    }


def _shown(codes: Sequence[str], visible: int) -> list[dict[str, JSON]]:
    """Return the first tests as visible, and at least the last one as hidden."""
    return [
        {"code": code, "hidden": i >= min(visible, len(codes) - 1)} for i, code in enumerate(codes)
    ]


def _assertions(source: str, entry: str) -> list[str]:
    """Return the assertions of `check(candidate)`, as assertions about `entry`."""
    checks = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    parameter = checks[0].args.args[0].arg
    codes: list[str] = []
    for node in checks[0].body:
        if not isinstance(node, ast.Assert) or isinstance(node.test, ast.Constant):
            continue
        for part in ast.walk(node.test):
            if isinstance(part, ast.Name) and part.id == parameter:
                part.id = entry
        codes.append(ast.unparse(ast.Assert(node.test)))
    return codes


def _examples(prompt: str, entry: str) -> list[str]:
    """Return the examples of a function's docstring that are plain assertions about it."""
    try:
        body = ast.parse(f"{prompt.rstrip()}\n    pass\n").body
        found = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == entry]
        text = ast.get_docstring(found[0]) if found else None
        examples = doctest.DocTestParser().get_examples(text or "")
    except (SyntaxError, ValueError):  # no whole function, or not indented as doctest asks
        return []
    codes = [f"assert {e.source.strip()} == {e.want.strip()}" for e in examples if e.want.strip()]
    return [c for c in codes if calls_from_assert(c, entry) is not None and c not in WRONG]


def _name(task: Task) -> str:
    """Return the id under which a task is known; MBPP only numbers its tasks."""
    name = task.get("task_id", task.id)
    return f"MBPP/{name}" if isinstance(name, int) else str(name)


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n")
