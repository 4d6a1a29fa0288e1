"""Code tasks: templates, tests as cases, public files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from palaestra.envs.code import tasks as reading
from palaestra.envs.code.tasks import BUILT_IN
from palaestra.envs.code.templates import HIDDEN, TEMPLATES, VISIBLE, Template, compiled, fill
from palaestra.envs.rows import TaskError
from palaestra.envs.tasks import Task, TaskSet

DATA = Path(__file__).parents[4] / "shared" / "data"


def given(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the data set {name} is not on this machine")
    return path


def reference(task: Task) -> Callable[..., Any]:
    return compiled(task["solution"], task["entry_point"])


def test_there_are_at_least_a_dozen_templates_with_different_entries() -> None:
    entries = [template.entry for template in TEMPLATES]
    assert len(set(entries)) == len(entries) >= 12


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.entry)
def test_a_template_gives_visible_and_hidden_tests_that_its_reference_passes(
    template: Template,
) -> None:
    for seed in range(20):
        task = Task(fill(template, np.random.default_rng(seed)))
        assert len(reading.tests(task, hidden=False)) == VISIBLE
        hidden = reading.tests(task, hidden=True)
        assert len(set(hidden)) == HIDDEN
        cases = reading.calls(task, hidden).cases
        assert all(reference(task)(*case.args) == case.expected for case in cases)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.entry)
def test_no_constant_passes_the_hidden_tests_of_a_template(template: Template) -> None:
    for seed in range(20):
        task = Task(fill(template, np.random.default_rng(seed)))
        cases = reading.calls(task, reading.tests(task, hidden=True)).cases
        assert len({repr(case.expected) for case in cases}) > 1


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.entry)
def test_the_statement_names_its_knob_and_holds_no_placeholder(template: Template) -> None:
    task = fill(template, np.random.default_rng(0))
    assert "$" not in task["prompt"] + task["solution"]


def test_a_task_depends_on_its_number_only() -> None:
    assert BUILT_IN[5] == BUILT_IN[5]
    assert BUILT_IN.find("code-5") == BUILT_IN[5]
    assert len({BUILT_IN[i]["entry_point"] for i in range(200)}) == len(TEMPLATES)


def test_the_agent_reads_visible_tests_and_no_hidden_one() -> None:
    for i in range(50):
        text = reading.statement(BUILT_IN[i])
        assert all(code in text for code in reading.tests(BUILT_IN[i], hidden=False))
        assert not any(code in text for code in reading.tests(BUILT_IN[i], hidden=True))
        assert BUILT_IN[i]["solution"] not in text


def test_a_test_that_is_no_plain_assertion_is_refused_with_the_way_out() -> None:
    task = Task({"id": "t", "entry_point": "f", "tests": []})
    with pytest.raises(TaskError, match=r"task t: the test 'print\(1\)' is not of the form"):
        reading.calls(task, ["print(1)"])


def test_setup_comes_before_what_the_agent_wrote() -> None:
    task = Task({"setup": "import math"})
    assert reading.candidate(task, "x = 1") == "import math\nx = 1"
    assert reading.candidate(Task({}), "x = 1") == "x = 1"


def test_limits_of_a_task_go_over_the_usual_ones() -> None:
    limits = reading.limits(Task({"limits": {"wall": 1.5}}))
    assert limits.wall == 1.5
    assert limits.memory == reading.limits(Task({})).memory


def test_mbpp_rows_become_tasks_and_those_that_cannot_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = given("mbpp")
    reading._from_path.cache_clear()  # pyright: ignore[reportPrivateUsage]
    with caplog.at_level(logging.WARNING):
        tasks = reading.read(str(path))
        again = reading.read(str(path))
    assert again is tasks
    assert len(tasks) + len(tasks.left_out) == 724
    assert len(tasks) >= 719
    (record,) = caplog.records
    assert all(name in record.getMessage() for name in tasks.left_out)


def test_humaneval_rows_become_tasks() -> None:
    tasks = reading.read(given("humaneval"))
    assert len(tasks) + len(tasks.left_out) == 100
    assert len(tasks) >= 82


@pytest.mark.parametrize("name", ["mbpp", "humaneval"])
def test_each_public_task_can_be_stated_and_graded(name: str) -> None:
    for task in reading.read(given(name)):
        hidden = reading.tests(task, hidden=True)
        assert hidden
        assert reading.calls(task, hidden).entry == task["entry_point"]
        assert task["entry_point"] in reading.statement(task)


def test_a_task_set_is_converted_once() -> None:
    row = {"id": "a", "prompt": "p", "entry_point": "f", "tests": ["assert f(1) == 2"]}
    given = TaskSet.load([row])
    made = reading.read(given)
    assert reading.read(given) is made
    assert reading.read(made) is made
    assert made[0]["tests"] == [{"code": "assert f(1) == 2", "hidden": True}]
