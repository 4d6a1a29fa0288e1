"""A program with one mistake gets the verdict that its tests give it in a plain interpreter."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from palaestra.envs.references import Reference, references
from palaestra.testing.mutants import mutants, plainly_passes
from palaestra.tool_sandbox import Limits, Sandbox, Tests

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
WALL = 3.0  # seconds: many a mutant never ends
PARTS = 5  # of a file, so that each test stays within the suite's own time-out


class Drawn(NamedTuple):
    """A mutant, with one form of its task's tests."""

    task: Reference
    code: str
    tests: Tests


def drawn(name: str, part: int, each: int) -> list[Drawn]:
    path = DATA / name / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"the public task files are not here: {path.name}")
    found: list[Drawn] = []
    for task in references(path)[part::PARTS]:
        for code in mutants(task.candidate, task.id, each, task.entry):
            found.append(Drawn(task, code, task.tests))
            if task.script is not None:
                found.append(Drawn(task, code, task.script))
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(("name", "each", "wrong"), [("humaneval", 4, 60), ("mbpp", 1, 100)])
def test_a_mutant_gets_the_verdict_of_the_plain_tests(
    cells: Sandbox, name: str, each: int, wrong: int, part: int
) -> None:
    found = drawn(name, part, each)
    pairs = ((mutant.task.before + mutant.code, mutant.tests) for mutant in found)
    reports = list(cells.grade_many(pairs, limits=Limits(wall=WALL)))
    programs = {m.code: m.task.before + m.code + m.task.plain for m in found}
    with ThreadPoolExecutor(2) as threads:
        said = threads.map(plainly_passes, programs.values(), [WALL] * len(programs))
        plain = dict(zip(programs, said, strict=True))
    for mutant, report in zip(found, reports, strict=True):
        if report.passed != plain[mutant.code]:  # whose time was up first is no verdict: once more
            report = cells.grade(
                mutant.task.before + mutant.code, mutant.tests, limits=Limits(wall=10 * WALL)
            )
            passes = plainly_passes(programs[mutant.code], 10 * WALL)
            assert report.passed == passes, (mutant.task.id, mutant.code, report.verdicts)
    assert sum(not passes for passes in plain.values()) >= wrong  # the mutants are mistakes indeed


def test_mutants_are_programs_that_differ_in_one_place() -> None:
    code = 'def f(x):\n    "Doc 1."\n    if x > 2 and True:\n        return [x + 1, "a"]\n'
    found = mutants(code, "seed", 99)
    assert found == mutants(code, "seed", 99)
    assert len(found) == len(set(found)) >= 8
    original = ast.unparse(ast.parse(code)).split("\n")
    for text in found:
        changed = ast.unparse(ast.parse(text)).split("\n")
        assert sum(a != b for a, b in zip(original, changed, strict=True)) == 1
        assert "Doc 1." in text


def test_the_plain_interpreter_tells_right_from_wrong() -> None:
    assert plainly_passes("assert 1 + 1 == 2", 10.0)
    assert not plainly_passes("assert 1 + 1 == 3", 10.0)
    assert not plainly_passes("while True: pass", 0.5)
    assert not plainly_passes("x = bytes(1 << 33)", 10.0)
