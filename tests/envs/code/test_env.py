"""Code-v0: tools over one session, grading apart from it, rewards, ends, hostile programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from palaestra.envs.code import env as module
from palaestra.envs.code.desk import plain, shown
from palaestra.envs.code.env import Code
from palaestra.envs.core import Step
from palaestra.envs.messages import Message
from palaestra.envs.tasks import Task, TaskSet
from palaestra.testing.fakes import FakeSandbox
from palaestra.tool_sandbox import Calls, Report, Result, Verdict

pytestmark = pytest.mark.linux
DATA = Path(__file__).parents[4] / "shared" / "data"

ADD = TaskSet.load(
    [
        {
            "id": "add",
            "prompt": "Return the sum of a and b.",
            "entry_point": "add",
            "tests": [
                {"code": "assert add(1, 2) == 3", "hidden": False},
                {"code": "assert add(-1, 1) == 0", "hidden": False},
                {"code": "assert add(20, 22) == 42", "hidden": True},
                {"code": "assert add(0, 7) == 7", "hidden": True},
            ],
            "solution": "def add(a, b):\n    return a + b\n",
        }
    ]
)
GOOD: str = ADD[0]["solution"]


def call(tool: str, **arguments: Any) -> str:
    content = json.dumps({"name": tool, "arguments": arguments})
    return f"<tool_call>{content}</tool_call>"


def write(text: str, path: str = "solution.py") -> str:
    return call("write", path=path, text=text)


def said(step: Step) -> str:
    return "\n".join(message.content for message in step.messages)


def code(**options: Any) -> Code:
    env = Code(tasks=ADD, **options)
    env.start(0)
    return env


def fenced(text: str) -> str:
    return f"Here it is:\n```python\n{text}\n```"


# the road


def test_the_reference_writes_tests_submits_and_succeeds() -> None:
    env = code()
    steps = [env.advance(message) for message in env.solution(env.task)]
    assert [step.terms for step in steps] == [{}, {"tests": 0.4}, {"success": 1.0}]
    assert (steps[-1].terminated, steps[-1].reason, steps[-1].success) == (True, "submitted", True)
    assert "2 of 2 tests pass." in said(steps[1])


def test_the_reference_succeeds_on_every_template() -> None:
    env = Code()
    for number in range(24):
        env.start(1, {"task": number})
        assert [env.advance(m) for m in env.solution(env.task)][-1].success


def test_a_message_without_a_call_submits_its_last_block() -> None:
    env = code()
    step = env.advance("First:\n```python\nx = 1\n```\n" + fenced(GOOD))
    assert (step.success, step.reason) == (True, "submitted")
    assert math.isclose(step.reward, 1.4)


def test_a_bare_program_is_an_answer_too() -> None:
    assert code().advance(GOOD).success


@pytest.mark.parametrize("text", ["", "I do not know.", "```python\n```", "```\nx = 1\n```"])
def test_an_answer_without_the_function_ends_with_nothing(text: str) -> None:
    step = code().advance(text)
    assert (step.terminated, step.success, step.reward) == (True, False, 0.0)


def test_an_answer_of_the_tool_view_is_read_like_text() -> None:
    step = code().advance(Message("assistant", fenced(GOOD)))
    assert step.success


def test_files_can_be_written_read_and_edited() -> None:
    env = code()
    step = env.advance(
        write("def add(a, b):\n    return a - b\n")
        + call("edit", path="solution.py", old="a - b", new="a + b")
        + call("read", path="solution.py")
    )
    assert said(step).endswith("def add(a, b):\n    return a + b\n")
    assert env.advance(call("submit")).success


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (call("edit", path="solution.py", old="x", new="y"), "solution.py"),
        (write("aa") + call("edit", path="solution.py", old="a", new="b"), "occurs 2 times"),
        (write("aa") + call("edit", path="solution.py", old="", new="b"), "occurs 0 times"),
        (call("read", path="../../etc/passwd"), ".."),
        (write("x", path="/etc/passwd"), "/etc/passwd"),
        (call("read", path="nothing.txt"), "nothing.txt"),
        (write("x = 1") + call("test", names=["9"]), "there are 2"),
    ],
)
def test_what_a_tool_cannot_do_is_said_to_the_agent(text: str, words: str) -> None:
    env = code()
    step = env.advance(text)
    assert words in said(step)
    assert step.info["problems"] == {"failed": 1}
    assert not step.ended


def test_variables_stay_between_runs_and_stdin_is_read() -> None:
    env = code()
    env.advance(call("run", code="x = 41"))
    step = env.advance(call("run", code="print(x + int(input()))", stdin="1\n"))
    assert said(step) == "42"


def test_run_without_code_runs_the_solution() -> None:
    env = code()
    step = env.advance(write("print('hi')") + call("run"))
    assert said(step).endswith("hi")


def test_an_error_is_shown_with_the_agents_own_line() -> None:
    step = code().advance(call("run", code="def f():\n    return 1 / 0\nf()"))
    assert "ZeroDivisionError" in said(step)
    assert "/tmp/" not in said(step)


# rewards and costs


def test_only_new_programs_that_run_cleanly_pay() -> None:
    env = code()
    first = env.advance(call("run", code="print(1)"))
    assert first.terms == {"exec_ok": 0.05}
    assert first.credits[0].call_id == "c0"
    assert env.advance(call("run", code="print(1)")).terms == {}
    assert env.advance(call("run", code="1 / 0")).terms == {}
    totals = [env.advance(call("run", code=f"print({n})")).reward for n in range(2, 6)]
    assert math.isclose(sum(totals), 0.05)  # the cap


def test_visible_tests_pay_for_the_best_so_far() -> None:
    env = code()
    half = "def add(a, b):\n    return 3\n"
    step = env.advance(write(half) + call("test"))
    assert step.terms == {"tests": 0.2}
    assert [credit.call_id for credit in step.credits] == ["c1"]
    assert "[1] pass" in said(step)
    assert env.advance(write("def add(a, b): return None") + call("test")).reward == 0.0
    assert env.advance(write(half) + call("test", names=["1"])).reward == 0.0


def test_a_bad_call_is_penalised_and_a_long_run_costs() -> None:
    env = code()
    assert env.advance(call("rum", code="1")).terms == {"format": -0.05}
    env = Code(tasks=TaskSet.load([ADD[0].replace(limits={"wall": 0.5})]))
    env.start(0)
    step = env.advance(call("run", code="while True: pass"))
    assert step.costs == {"resource": 1.0}
    assert "took too long" in said(step)
    assert step.reward == 0.0


def test_a_refusal_of_the_jail_is_a_cost_and_no_penalty() -> None:
    step = code().advance(call("run", code="import os\nos.chroot('/')"))
    assert step.costs == {"escape": 1.0}
    assert step.reward == 0.0


def test_quality_terms_are_declared_and_silent() -> None:
    for name in ("efficiency", "style", "readability"):
        assert Code.rewards[name].weight == 0.0  # pyright: ignore[reportAttributeAccessIssue]


# ends


def test_the_budget_of_runs_hands_in_what_there_is() -> None:
    env = code(budget_runs=2)
    env.advance(write(GOOD) + call("run"))
    step = env.advance(call("test"))
    assert (step.terminated, step.reason, step.success) == (True, "budget", True)


def test_twelve_messages_are_the_limit() -> None:
    env = code()
    steps = [env.advance(call("read", path="x")) for _ in range(12)]
    assert (steps[-1].truncated, steps[-1].reason) == (True, "turns")


def test_calls_after_submit_change_nothing() -> None:
    env = code()
    step = env.advance(write(GOOD) + call("submit") + write("") + call("submit"))
    assert step.success


def test_the_session_is_closed_at_the_end() -> None:
    env = code()
    env.advance(call("run", code="print(1)"))
    assert env.session is not None
    env.advance(call("submit"))
    assert env.session is None


# grading


WRONG = (
    "def add(a, b):\n    return {(1, 2): 3, (-1, 1): 0}.get((a, b))\n",
    "def add(a, b):\n    return str(a + b)\n",
    "def add(a, b):\n    return float(a + b) + 0.5\n",
    "import sys\nsys.exit(0)\n",
    "import os\nos._exit(0)\n",
    "class Yes:\n    def __eq__(self, other): return True\ndef add(a, b):\n    return Yes()\n",
    "class N(int):\n    def __eq__(self, other): return True\ndef add(a, b):\n    return N(0)\n",
    "import builtins\nbuiltins.AssertionError = Warning\ndef add(a, b): return 0\n",
    "def add(a, b):\n    raise SystemExit\n",
)


@pytest.mark.parametrize("source", WRONG)
def test_no_trick_passes_for_the_right_answer(source: str) -> None:
    step = code().advance(fenced(source))
    assert (step.terminated, step.success) == (True, False)
    assert "success" not in step.terms


def test_the_session_does_not_reach_the_judge() -> None:
    env = code()
    env.advance(write("def add(a, b): return 42 if a == 20 else 7", path="helper.py"))
    env.advance(call("run", code="import builtins; builtins.add = lambda a, b: a + b"))
    step = env.advance(write("from helper import add") + call("submit"))
    assert step.success is False


def test_hidden_tests_are_nowhere_in_the_session_or_the_transcript() -> None:
    env = code()
    look = (
        "import os, gc\n"
        "for folder, _, files in os.walk('.'):\n"
        "    for name in files: print(open(os.path.join(folder, name)).read())\n"
        "print([o for o in gc.get_objects() if '22' in repr(o)[:0]], os.environ)"
    )
    step = env.advance(write("def add(a, b): return 0") + call("test") + call("run", code=look))
    last = env.advance(call("submit"))
    text = "\n".join(message.content for message in env.messages)
    assert "20, 22" not in text
    assert "42" not in said(step) + said(last)


def test_the_verdicts_come_from_grade_calls_in_order() -> None:
    asked: list[Calls] = []

    def judge(candidate: str, tests: Any) -> Report:
        asked.append(tests)
        verdicts = tuple(Verdict(str(i), "pass") for i in range(len(tests.cases)))
        return Report(True, 1.0, verdicts, Result("ok", 0))

    env = Code(tasks=ADD, sandbox=FakeSandbox(judge=judge))
    env.start(0)
    for message in env.solution(env.task):
        env.advance(message)
    assert [[case.expected for case in tests.cases] for tests in asked] == [[3, 0], [3, 0, 42, 7]]


@pytest.mark.parametrize("name", ["mbpp", "humaneval"])
def test_public_references_succeed_and_empty_answers_do_not(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"the data set {name} is not on this machine")
    env = Code(tasks=str(DATA / name))
    for number in range(0, len(env.tasks), 29):
        env.start(0, {"task": number})
        assert [env.advance(m) for m in env.solution(env.task)][-1].success, env.task.id
        env.start(0, {"task": number})
        assert env.advance("").success is False


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mbpp", "humaneval"])
def test_all_public_references_succeed(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"the data set {name} is not on this machine")
    env = Code(tasks=str(DATA / name))
    failed: list[str] = []
    for number in range(len(env.tasks)):
        env.start(0, {"task": number})
        if not [env.advance(m) for m in env.solution(env.task)][-1].success:
            failed.append(env.task.id)
    assert failed == []


# texts


def test_what_differs_between_two_runs_is_left_out() -> None:
    text = "<f at 0x7f1234567890> in /tmp/abc/x.py\nRan 3 tests in 0.012s"
    assert plain(text) == "<f at 0x...> in /tmp/...\nRan 3 tests in ... s"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (Result("ok", 0), "(no output)"),
        (Result("ok", 0, stdout="a\n", stderr="b\n"), "a\nb"),
        (Result("error", 3), "(exit code 3)"),
        (Result("memory", -9, stdout="x"), "x\n(stopped: it used too much memory)"),
    ],
)
def test_a_run_is_told_in_words(result: Result, text: str) -> None:
    assert shown(result) == text


def test_the_system_text_shows_a_call_in_the_parsers_own_form() -> None:
    env = Code(parser="react")
    assert "Action: test" in env.system
    assert "{call}" not in env.system
    assert len(module.SYSTEM) < 400


def test_a_task_without_a_reference_says_so() -> None:
    task = Task({k: v for k, v in ADD[0].items() if k != "solution"})
    with pytest.raises(ValueError, match="has no field 'solution'"):
        Code(tasks=ADD).solution(task)
