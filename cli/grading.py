"""Grade a task file's own solutions, or a candidate, as the environments do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from . import inside, terminal

if TYPE_CHECKING:
    from ..envs.references import Reference
    from ..tool_sandbox import Report

WORD = "candidate's word"  # in the detail of a verdict that rests on the candidate's own `==`


class Finding(NamedTuple):
    """What became of one candidate; plain values, for eyes and scripts.

    Attributes:
        outcome: Of the first test that did not pass; "pass" when all did.
        detail: What the grader says of it; never an expected value.
        word: Whether it rests on comparisons that the candidate's own classes answer.
    """

    id: str
    passed: bool
    score: float
    outcome: str
    detail: str
    word: bool


def grade(
    context: typer.Context,
    tasks: Annotated[
        str,
        typer.Argument(
            metavar="TASKS",
            help="A file of code tasks: our own, HumanEval, MBPP, CRUXEval, QuixBugs or Exercism.",
        ),
    ],
    reference: Annotated[
        bool, typer.Option("--reference", help="Grade the solutions that the file brings along.")
    ] = False,
    candidate: Annotated[
        str | None, typer.Option(metavar="FILE", help="Grade this program instead.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this task; needed with --candidate.")
    ] = None,
    wall: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="Time a candidate has.")
    ] = 10.0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="At the same time; by default one a core.")
    ] = None,
    backend: inside.Backend = inside.Backends.auto,
    as_json: terminal.AsJson = False,
) -> None:
    """Grade a task file's own solutions: all must pass before the tasks are used.

    What did not pass is listed by id, and apart from it what cannot be expressed between grader
    and candidate (malformed) and what rests on comparisons by the candidate's own classes.

    Exit codes: 0 every one passed, 1 not, 2 wrong use.
    """
    terminal.refuse_overrides(context)
    if reference == (candidate is not None):
        raise terminal.Mistake("grade what? Give --reference, or --candidate FILE.")
    chosen = _chosen(tasks, task, alone=candidate is not None)
    text = None if candidate is None else inside.read_text(candidate, "a Python program")
    found = _findings(chosen, text, wall, workers, backend)
    failed = [one for one in found if not one.passed]
    if as_json:
        terminal.say_json(_facts(tasks, found))
    else:
        for line in lines(found, "reference solutions" if reference else "candidates"):
            terminal.say(line)
    if failed:
        raise typer.Exit(terminal.FAILED)


def _chosen(tasks: str, task: str | None, *, alone: bool) -> list[Reference]:
    from ..envs.problems import nearest
    from ..envs.references import references

    found = references(tasks)
    if task is not None:
        names = [one.id for one in found]
        if task not in names:
            near = nearest(task, names)
            hint = f"did you mean {near}?" if near else f"the first is {names[0]}."
            raise terminal.Mistake(f"--task {task}: no such task in {tasks}; {hint}")
        return [one for one in found if one.id == task]
    if alone and len(found) > 1:
        raise terminal.Mistake(f"{tasks} has {len(found)} tasks; say which by --task ID.")
    return found


def _findings(
    chosen: Sequence[Reference],
    text: str | None,
    wall: float,
    workers: int | None,
    backend: inside.Backends,
) -> list[Finding]:
    from ..tool_sandbox import Limits, Sandbox

    minimum = "none" if backend is inside.Backends.process else "full"
    with Sandbox(
        backend.value, limits=Limits(wall=wall), workers=workers, minimum=minimum
    ) as sandbox:
        reports = sandbox.grade_many(one.graded(text) for one in chosen)
        return [finding(one.id, report) for one, report in zip(chosen, reports, strict=True)]


def finding(name: str, report: Report) -> Finding:
    """What a report says of one candidate."""
    first = next((one for one in report.verdicts if one.outcome != "pass"), None)
    outcome, detail = "pass" if report.passed else "missing", "no test ran"
    if first is not None:
        outcome, detail = first.outcome, f"{first.name}: {first.detail}"
    word = any(WORD in one.detail for one in report.verdicts)
    return Finding(
        name, report.passed, report.score, outcome, "" if report.passed else detail, word
    )


def lines(found: Sequence[Finding], noun: str) -> list[str]:
    """The findings for people.

    >>> one = Finding("a", False, 0.5, "wrong", "case 1: returned 3", False)
    >>> lines([one], "candidates")
    ['a: wrong: case 1: returned 3', '0 of 1 candidates pass']
    """
    failed = [one for one in found if not one.passed]
    shown = [f"{one.id}: {one.outcome}: {inside.visible(one.detail)}" for one in failed]
    malformed = [one.id for one in failed if one.outcome == "malformed"]
    if malformed:
        shown.append(f"malformed (no wire carries them): {', '.join(malformed)}")
    word = [one.id for one in found if one.word]
    if word:
        shown.append(f"rest on comparisons by the candidate's own classes: {', '.join(word)}")
    return [*shown, f"{len(found) - len(failed)} of {len(found)} {noun} pass"]


def _facts(tasks: str, found: Sequence[Finding]) -> dict[str, Any]:
    return {
        "tasks": tasks,
        "passed": sum(one.passed for one in found),
        "total": len(found),
        "failed": [one._asdict() for one in found if not one.passed],
        "malformed": [one.id for one in found if one.outcome == "malformed"],
        "candidates_word": [one.id for one in found if one.word],
    }
