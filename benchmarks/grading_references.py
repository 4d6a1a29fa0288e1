"""Grades every reference solution of the public task files, wrong programs and mutants beside them.

    python benchmarks/grading_references.py [--data ../shared/data] [--write]

A reference must pass, a wrong program must fail, and a mutant must get the verdict that the plain
tests give it in a bare interpreter. `--write` keeps the table as results/grading_references.md.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from palaestra.envs.references import Reference, references
from palaestra.testing.mutants import mutants, plainly_passes
from palaestra.tool_sandbox import Calls, Limits, Report, Sandbox, Script

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "grading_references.md"
WALL = 30.0  # seconds for a reference: MBPP/123 takes most of them on a busy machine
MUTANT = 5.0  # and for a mutant, many of which hang
FILES = {
    "HumanEval": "humaneval/humaneval.jsonl.gz",
    "MBPP": "mbpp/mbpp.jsonl.gz",
    "CRUXEval": "cruxeval/cruxeval.jsonl.gz",
    "QuixBugs": "quixbugs/quixbugs.jsonl.gz",
    "Exercism": "exercism_python/exercism_python.jsonl.gz",
}
COLUMNS = (
    *("tasks", "references pass", "of", "wrong programs fail", "of", "malformed"),
    *("rest on the candidate's word", "mutants judged as by bare tests", "of"),
)


class Row(NamedTuple):
    """One program with its tests."""

    group: str
    kind: str  # reference, wrong
    program: str | None  # None: the solution itself
    task: Reference


def rows(data: Path) -> Iterator[Row]:
    """All tasks; where tests can be read as `Calls`, once so and once as test code."""
    for name, file in FILES.items():
        for task in references(data / file):
            calls = isinstance(task.tests, Calls)
            both = task.plain != ""
            group = f"{name}, {'Calls' if calls else 'Script'}" if both else name
            yield Row(group, "reference", None, task)
            if task.script is not None:
                other = task._replace(tests=task.script)
                yield Row(f"{name}, Script", "reference", None, other)
            if task.wrong:
                yield Row(group, "wrong", task.wrong, task)


class Tally:
    """What became of one group."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.words: list[str] = []
        self.unsaid: list[Reference] = []
        self.listed: list[str] = []

    def take(self, row: Row, report: Report) -> None:
        right = report.passed == (row.kind == "reference")
        self.counts[f"{row.kind} {'right' if right else 'wrong'}"] += 1
        malformed = [v for v in report.verdicts if v.outcome == "malformed"]
        if malformed and row.kind == "reference":
            self.unsaid.append(row.task)
        rests = any("candidate's word" in verdict.detail for verdict in report.verdicts)
        if rests and row.kind == "reference":
            self.words.append(row.task.id)
        if not right:
            bad = next((v for v in report.verdicts if v.outcome != "pass"), None)
            said = f"{bad.outcome}: {bad.name}: {bad.detail}" if bad else "passed"
            self.listed.append(f"{row.kind} `{row.task.id}` ({said})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--write", action="store_true", help="keep the table")
    parser.add_argument("--only", default="", help="groups whose name holds this text")
    parser.add_argument("--mutants", type=int, default=150, help="mutants a group")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    found = [row for row in rows(options.data) if options.only.lower() in row.group.lower()]
    with Sandbox("cell", limits=Limits(wall=WALL), workers=options.workers) as sandbox:
        text = table(sandbox, found, options.mutants)
    print(text)
    if options.write:
        RESULTS.write_text(text)


def table(sandbox: Sandbox, found: list[Row], most: int) -> str:
    tallies: dict[str, Tally] = {}
    started = time.monotonic()
    pairs = (row.task.graded(row.program) for row in found)
    for row, report in zip(found, sandbox.grade_many(pairs), strict=True):
        tallies.setdefault(row.group, Tally()).take(row, report)
    lines = [
        "# Reference solutions under the grader",
        "",
        "Made by `python benchmarks/grading_references.py --write`.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for group, tally in sorted(tallies.items()):
        tasks = [row.task for row in found if row.group == group and row.task.plain]
        agreed, drawn, listed = agreement(sandbox, tasks, most)
        tally.listed += listed
        count = tally.counts
        passed, failed = count["reference right"], count["wrong right"]
        lines.append(
            f"| {group} | {passed} | {passed + count['reference wrong']} "
            f"| {failed} | {failed + count['wrong wrong']} "
            f"| {len(tally.unsaid)} | {len(tally.words)} | {agreed} | {drawn} |"
        )
    lines += ["", f"{len(found)} gradings; {time.monotonic() - started:.0f} s with mutants."]
    exceptions = [f"- {group}: {text}" for group, t in tallies.items() for text in t.listed]
    lines += ["", "## Exceptions", "", *(exceptions or ["None."])]
    lines += ["", "## What no wire carries, with the tests in the candidate's own process", ""]
    for group, tally in tallies.items():
        for task in tally.unsaid:
            lines.append(f"- {group}: `{task.id}` {shared(sandbox, task)} with `share=True`")
    lines += ["", "## Rest on the candidate's word (it compares objects of its own class)", ""]
    lines += [f"- {group}: {', '.join(t.words)}" for group, t in tallies.items() if t.words]
    return "\n".join(lines) + "\n"


def shared(sandbox: Sandbox, task: Reference) -> str:
    """Whether a reference passes where the tests run beside it."""
    assert isinstance(task.tests, Script)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        report = sandbox.grade(task.candidate, replace(task.tests, share=True))
    return "passes" if report.passed else f"fails ({report.score:.2f})"


def agreement(sandbox: Sandbox, tasks: list[Reference], most: int) -> tuple[int, int, list[str]]:
    """How often a mutant's verdict is that of the same tests in a bare interpreter."""
    chosen = tasks[:: max(1, len(tasks) // most)] if most else []
    drawn = [
        (task, code) for task in chosen for code in mutants(task.candidate, task.id, 1, task.entry)
    ]
    pairs = (task.graded(code) for task, code in drawn)
    reports = sandbox.grade_many(pairs, limits=Limits(wall=MUTANT))
    agreed, listed = 0, list[str]()
    for (task, code), report in zip(drawn, reports, strict=True):
        bare = plainly_passes(task.before + code + task.plain, MUTANT)
        agreed += bare == report.passed
        if bare != report.passed:
            listed.append(f"mutant of `{task.id}` (bare tests say {bare})")
    return agreed, len(drawn), listed


if __name__ == "__main__":
    main()
