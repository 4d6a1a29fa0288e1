"""What a code task asks, in the words of the agent and in those of the grader."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from ...tool_sandbox import Calls, Case, Limits
from ...tool_sandbox.grading import calls_from_assert
from .. import datasets
from ..rows import TaskError
from ..tasks import Task, TaskSet
from .templates import make

FILE: Final = "solution.py"  # where the agent's answer lies
BUILT_IN: Final = TaskSet.generate(make, id="code")

log = logging.getLogger(__name__)
_converted: WeakKeyDictionary[TaskSet, TaskSet] = WeakKeyDictionary()


def read(source: Any, *, visible: int = 1, split: str | None = None) -> TaskSet:
    """Reads tasks of any format that `datasets.code_tasks` knows, each source once a process.

    Args:
        source: a task set, a path, or rows.
        visible: tests of a task that the agent sees, where the format does not say.
        split: the part to use.
    """
    if source is BUILT_IN and split is None:
        return BUILT_IN
    if isinstance(source, str | Path):
        path = Path(source)
        stamp = path.stat().st_mtime_ns if path.is_file() else 0
        return _from_path(str(source), visible, split, stamp)
    if isinstance(source, TaskSet) and split is None:
        if source not in _converted:
            _converted[source] = told(datasets.code_tasks(source, visible=visible))
            _converted[_converted[source]] = _converted[source]
        return _converted[source]
    return told(datasets.code_tasks(source, visible=visible, split=split))


@lru_cache(maxsize=16)
def _from_path(source: str, visible: int, split: str | None, stamp: int) -> TaskSet:
    return told(datasets.code_tasks(source, visible=visible, split=split))


def told(tasks: TaskSet) -> TaskSet:
    """Says which rows were left out; returns the set."""
    if tasks.left_out:
        log.warning(
            "%s: %d rows are left out, their tests are not all `assert f(literals) == literal`: %s",
            tasks.id,
            len(tasks.left_out),
            ", ".join(tasks.left_out),
        )
    return tasks


def tests(task: Task, *, hidden: bool) -> list[str]:
    """Returns the hidden tests of a task, or the visible ones."""
    return [test["code"] for test in task["tests"] if bool(test["hidden"]) is hidden]


def calls(task: Task, codes: list[str]) -> Calls:
    """Returns tests as the cases of one grading, in their order.

    Raises:
        TaskError: a test is no plain assertion about the entry point.
    """
    entry: str = task["entry_point"]
    cases: list[Case] = []
    for code in codes:
        case = calls_from_assert(code, entry)
        if case is None:
            raise TaskError(
                f"task {task.id}: the test {code!r} is not of the form "
                f"`assert {entry}(literals) == literal`; write it so, or leave the task out"
            )
        cases.append(case)
    return Calls(entry, tuple(cases))


def statement(task: Task) -> str:
    """Returns what the agent reads first: the prompt, where to write, the visible tests."""
    shown = tests(task, hidden=False)
    lines = [str(task.prompt).rstrip(), ""]
    lines.append(f"Write the function {task['entry_point']} to {FILE}, then submit.")
    if shown:
        lines.append("It must pass, among other tests:")
        lines += [f"[{number}] {code}" for number, code in enumerate(shown, 1)]
    return "\n".join(lines)


def candidate(task: Task, source: str) -> str:
    """Returns the text that is graded: what the task gives, then what the agent wrote."""
    setup = task.get("setup") or ""
    return f"{setup}\n{source}" if setup else source


def limits(task: Task) -> Limits:
    """Returns what the agent's session may use: the task's own limits over the usual ones."""
    own: Mapping[str, Any] = task.get("limits") or {}
    return Limits(**own)
