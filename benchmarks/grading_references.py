"""Grades every reference solution of the public task files, buggy programs and mutants beside them.

    python benchmarks/grading_references.py [--data ../shared/data] [--write]

A reference must pass, a buggy program must fail, and a mutant must get the verdict that the plain
tests give it in a bare interpreter. `--write` keeps the table as results/grading_references.md.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from palaestra.tool_sandbox import Calls, Case, Limits, Report, Sandbox, Script
from palaestra.tool_sandbox.grading import calls_from_assert, calls_from_asserts, calls_from_check
from palaestra.tool_sandbox.script import free_names

ROOT = Path(__file__).resolve().parent.parent
WALL = 10.0  # seconds for one candidate


class Row(NamedTuple):
    """One candidate with its tests."""

    group: str
    name: str
    kind: str  # reference, buggy
    candidate: str
    tests: Calls | Script
    bare: str = ""  # a whole program that fails where the candidate is wrong


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def humaneval(data: Path) -> Iterator[Row]:
    for row in read(data / "humaneval/humaneval.jsonl.gz"):
        entry, candidate = row["entry_point"], row["prompt"] + row["canonical_solution"]
        bare = "{}\n" + _bare(row["test"]) + f"\ncheck({entry})\n"
        calls = calls_from_check(row["test"], entry)
        if calls is not None:
            yield Row("HumanEval, Calls", row["task_id"], "reference", candidate, calls, bare)
        script = Script(row["test"], prelude=row["prompt"], call=entry)
        yield Row("HumanEval, Script", row["task_id"], "reference", candidate, script, bare)


def mbpp(data: Path) -> Iterator[Row]:
    for row in read(data / "mbpp/mbpp.jsonl.gz"):
        name, candidate = str(row["task_id"]), row["code"]
        source = "\n".join([row["test_setup_code"], *row["test_list"]])
        calls = None if row["test_setup_code"] else calls_from_asserts(row["test_list"])
        if calls is not None:
            yield Row("MBPP, Calls", name, "reference", candidate, calls, "{}\n" + _bare(source))
        script = Script(source, names=_names(source, candidate))
        yield Row("MBPP, Script", name, "reference", candidate, script, "{}\n" + _bare(source))


def _names(source: str, reference: str) -> tuple[str, ...]:
    """The tests' free names, and the builtin ones that the reference defines anew (task 126)."""
    made = {node.name for node in ast.parse(reference).body if isinstance(node, ast.FunctionDef)}
    asked = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    return (*free_names(source), *sorted(made & asked - set(free_names(source))))


def _bare(source: str) -> str:
    return source.replace("{", "{{").replace("}", "}}")


def cruxeval(data: Path) -> Iterator[Row]:
    for row in read(data / "cruxeval/cruxeval.jsonl.gz"):
        code, case = row["code"], calls_from_assert(f"assert f({row['input']}) == {row['output']}")
        if case is not None:
            yield Row("CRUXEval", row["id"], "reference", code, Calls("f", (case,)))
            continue
        # An input that is no plain data is part of the program; the output stays here.
        code += f"\n\ndef answer():\n    return f({row['input']})\n"
        expected = Case(expected=ast.literal_eval(row["output"]))
        yield Row("CRUXEval", row["id"], "reference", code, Calls("answer", (expected,)))


def quixbugs(data: Path) -> Iterator[Row]:
    (helpers,) = read(data / "quixbugs/helpers.jsonl.gz")
    for row in read(data / "quixbugs/quixbugs.jsonl.gz"):
        tests = _quixbugs_tests(row)
        before = helpers["node.py"] + "\n" if row["compare"] == "pytest" else ""
        for kind, code in (("reference", row["fixed"]), ("buggy", row["buggy"])):
            yield Row("QuixBugs", row["name"], kind, before + code, tests)


def _quixbugs_tests(row: dict[str, Any]) -> Calls | Script:
    entry = row["entry_point"]
    if row["compare"] == "pytest":
        text = re.sub(r"^(import pytest|from node import.*)\n", "", row["test_file"], flags=re.M)
        text = re.sub(r"^if pytest\.use_correct:\n.*\nelse:\n.*\n", "", text, flags=re.M)
        ends = re.search(r'^if __name__ == "__main__"', text, flags=re.M)
        text = text[: ends.start()] if ends else text
        called = "\n".join(f"{name}()" for name in re.findall(r"^def (test\w*)\(\)", text, re.M))
        return Script(f"{text}\n{called}\n", names=("Node", entry))
    kept = [test for k, test in enumerate(row["tests"]) if k not in row["slow_tests"]]
    if row["compare"] == "list" or row["name"] == "hanoi":  # a generator; pairs read from JSON
        lines = [
            f"assert json.loads(json.dumps(list({entry}(*{test['args']!r})))) == "
            f"{test['expected']!r}"
            for test in kept
        ]
        return Script("\n".join(["import json", *lines]))
    cases = tuple(
        Case(
            tuple(test["args"]),
            expected=test["expected"],
            tolerance=_allowed(test) if row["compare"] == "approx" else None,
        )
        for test in kept
    )
    return Calls(entry, cases)


def _allowed(test: dict[str, Any]) -> float:
    return float(test["args"][-1]) / max(1.0, abs(test["expected"]))


def exercism(data: Path) -> Iterator[Row]:
    for row in read(data / "exercism_python/exercism_python.jsonl.gz"):
        if row["tests_pass_on_stub"]:
            continue
        (stub_name, stub), *_ = row["stub"].items()
        main, *_ = (name for name in row["tests"] if name.endswith("_test.py"))
        helpers = {n: t for n, t in (row["tests"] | row["extra"]).items() if n != main}
        source = row["tests"][main]
        for name in helpers:  # the prelude holds them, so the tests need not import them
            module = re.escape(name.removesuffix(".py"))
            source = re.sub(rf"^from {module} import .*\n", "", source, flags=re.M)
        module = stub_name.removesuffix(".py")
        tests = Script(source, prelude="\n".join(helpers.values()), module=module)
        (example,) = row["example"].values()
        yield Row("Exercism", row["slug"], "reference", example, tests)
        yield Row("Exercism", row["slug"], "buggy", stub, tests)


SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def mutant(code: str, name: str) -> str | None:
    """The code with one operator or number changed, drawn by the task's name."""
    tree = ast.parse(code)
    places: list[tuple[Any, str, Any]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
            places.append((node, "op", SWAPS[type(node.op)]()))
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            places.append((node, "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]))
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            places.append((node, "value", node.value + 1))
    if not places:
        return None
    node, field, value = random.Random(name).choice(places)
    setattr(node, field, value)
    return ast.unparse(tree)


def bare_passes(program: str) -> bool:
    """Whether the tests pass with the candidate in a plain interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", program],
                cwd=folder,
                timeout=WALL,
                capture_output=True,
                env={"PYTHONHASHSEED": "0"},
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


class Tally:
    """What became of one group."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.words: list[str] = []
        self.unsaid: list[Row] = []
        self.listed: list[str] = []

    def take(self, row: Row, report: Report) -> None:
        right = report.passed == (row.kind == "reference")
        self.counts[f"{row.kind} {'right' if right else 'wrong'}"] += 1
        malformed = [v for v in report.verdicts if v.outcome == "malformed"]
        if malformed and row.kind == "reference":
            self.unsaid.append(row)
        rests = any("candidate's word" in verdict.detail for verdict in report.verdicts)
        if rests and row.kind == "reference":
            self.words.append(row.name)
        if not right:
            bad = next((v for v in report.verdicts if v.outcome != "pass"), None)
            said = f"{bad.outcome}: {bad.name}: {bad.detail}" if bad else "passed"
            self.listed.append(f"{row.kind} `{row.name}` ({said})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--write", action="store_true", help="keep the table")
    parser.add_argument("--only", default="", help="groups whose name holds this text")
    parser.add_argument("--mutants", type=int, default=150, help="mutants a group")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    loaders = (humaneval, mbpp, cruxeval, quixbugs, exercism)
    rows = [row for load in loaders for row in load(options.data)]
    rows = [row for row in rows if options.only.lower() in row.group.lower()]
    with Sandbox("cell", limits=Limits(wall=WALL), workers=options.workers) as sandbox:
        text = table(sandbox, rows, options.mutants)
    print(text)
    if options.write:
        (ROOT / "benchmarks/results/grading_references.md").write_text(text)


def table(sandbox: Sandbox, rows: list[Row], mutants: int) -> str:
    tallies: dict[str, Tally] = {}
    started = time.monotonic()
    pairs = [(row.candidate, row.tests) for row in rows]
    for row, report in zip(rows, sandbox.grade_many(pairs), strict=True):
        tallies.setdefault(row.group, Tally()).take(row, report)
    lines = [
        "# Reference solutions under the grader",
        "",
        "Made by `python benchmarks/grading_references.py --write`.",
        "",
        "| tasks | references pass | of | buggy programs fail | of | malformed |"
        " rest on the candidate's word | mutants judged as by bare tests | of |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for group, tally in tallies.items():
        agreed, drawn, listed = agreement(
            sandbox, [row for row in rows if row.group == group and row.bare], mutants
        )
        tally.listed += listed
        count = tally.counts
        lines.append(
            f"| {group} | {count['reference right']} "
            f"| {count['reference right'] + count['reference wrong']} "
            f"| {count['buggy right']} | {count['buggy right'] + count['buggy wrong']} "
            f"| {len(tally.unsaid)} | {len(tally.words)} | {agreed} | {drawn} |"
        )
    lines += ["", f"{len(rows)} gradings; {time.monotonic() - started:.0f} s with mutants."]
    exceptions = [f"- {group}: {text}" for group, t in tallies.items() for text in t.listed]
    lines += ["", "## Exceptions", "", *(exceptions or ["None."])]
    lines += ["", "## What no wire carries, with the tests in the candidate's own process", ""]
    for group, tally in tallies.items():
        for row in tally.unsaid:
            lines.append(f"- {group}: `{row.name}` {shared(sandbox, row)} with `share=True`")
    lines += ["", "## Rest on the candidate's word (it compares objects of its own class)", ""]
    lines += [f"- {group}: {', '.join(t.words)}" for group, t in tallies.items() if t.words]
    return "\n".join(lines) + "\n"


def shared(sandbox: Sandbox, row: Row) -> str:
    """Whether a reference passes where the tests run beside it."""
    assert isinstance(row.tests, Script)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        report = sandbox.grade(row.candidate, replace(row.tests, share=True))
    return "passes" if report.passed else f"fails ({report.score:.2f})"


def agreement(sandbox: Sandbox, rows: list[Row], most: int) -> tuple[int, int, list[str]]:
    """How often a mutant's verdict is that of the same tests in a bare interpreter."""
    rows = rows if most else []
    drawn = [
        (row, code) for row in rows[:: max(1, len(rows) // max(1, most))] if (code := _drawn(row))
    ]
    reports = sandbox.grade_many([(code, row.tests) for row, code in drawn])
    agreed, listed = 0, []
    for (row, code), report in zip(drawn, reports, strict=True):
        bare = bare_passes(row.bare.format(code))
        agreed += bare == report.passed
        if bare != report.passed:
            listed.append(f"mutant of `{row.name}` (bare tests say {bare})")
    return agreed, len(drawn), listed


def _drawn(row: Row) -> str | None:
    return mutant(row.candidate, row.name)


if __name__ == "__main__":
    main()
