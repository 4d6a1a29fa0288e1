"""CodeDrill: name a function in words, write it as an expression of a list, see it run."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ...tool_sandbox import Job, Result
from ..core import Env, Reply
from ..messages import Credit, Message, Problem, ProblemCode, ToolCall, ToolResult
from ..rewards import Outcome, Potential, Progress, Rewards
from ..tasks import Task, TaskSet
from ..tools import tool
from .expressions import (
    AMBIGUOUS,
    CONFINED,
    FREE,
    LEVELS,
    NEXT,
    REFERENCE,
    Outcomes,
    Parts,
    Rows,
    draw,
    grammar,
    job,
    merge,
    rows,
    split,
    vocabulary,
)


def share_of_tests(state: dict[str, Any]) -> float:
    """Returns the mean over functions of the best share of tests passed."""
    return sum(state["share"]) / len(state["share"])


def raised(outcomes: Outcomes) -> bool:
    """Whether any test raised."""
    return any(isinstance(outcome, str) and outcome.startswith("!") for outcome in outcomes)


class CodeDrill(Env):
    """Write what is asked as an expression of the list `x`; hidden tests run it for real."""

    rewards = Rewards(
        tool_pass=Progress(1.0),
        outcome_fraction=Outcome(0.0),
        outcome_all=Outcome(0.0),
        tool_partial=Potential(0.0, fn=share_of_tests),
    )
    parser = Parts()

    def __init__(
        self,
        *,
        level: int = 2,
        tries: int | None = None,
        functions: int | None = None,
        parallel: int | None = None,
        readings: Sequence[float] = (0.5, 0.5),
        nt: int = 4,
        length: tuple[int, int] = (4, 6),
        digits: tuple[int, int] = (0, 9),
        flaky: float = 0.0,
        tasks: Any = None,
        **common: Any,
    ) -> None:
        """Makes the drill of one level.

        Args:
            level: Row of the table `LEVELS`, 0 to 5.
            tries: Attempts per function; the level's own number where None.
            functions: Functions per episode; the level's own number where None.
            parallel: Functions per message; the level's own number where None.
            readings: Weights of the two readings of an ambiguous word.
            nt: Hidden tests per function.
            length: Shortest and longest list of a test.
            digits: Smallest and largest item of a list.
            flaky: Chance that a run reports `error`, whatever it was given.
            tasks: Task set; drawn by `draw` where None.
            common: What every environment takes (`Env`).

        Raises:
            ValueError: There is no such level, or a number is out of its range.
        """
        if level not in range(len(LEVELS)):
            raise ValueError(f"level is {level!r}; give 0 to {len(LEVELS) - 1}")
        row = LEVELS[level]
        self.level = level
        self.tries = _positive("tries", row.tries if tries is None else tries)
        self.functions = _positive("functions", functions or row.functions)
        self.parallel = _positive("parallel", parallel or row.parallel)
        self.flaky = flaky
        self.tokenizer, self.codes = vocabulary(row.readings is AMBIGUOUS)
        self.grammar = grammar(level, self.parallel)
        if tasks is None:
            make = partial(
                draw,
                level=row,
                functions=self.functions,
                tests=nt,
                readings=readings,
                length=length,
                digits=digits,
            )
            tasks = TaskSet.generate(make, id=f"codedrill-{level}")
        common.setdefault("limits", {"turns": self.functions * max(self.tries, 4) + 1})
        super().__init__(tasks=tasks, **common)

    def begin(self, task: Task) -> str:
        """Asks for the first functions."""
        count = len(task["functions"])
        self.state = {
            "open": list(range(count)),
            "tries": [self.tries] * count,
            "share": [0.0] * count,  # best share of tests passed, by function
            "expected": None,  # outcomes of the references, from the first call on
            "slot": 0,  # calls of this message that have run
        }
        return self._ask()

    def _ask(self) -> str:
        functions = self.task["functions"]
        return NEXT.join(functions[i]["words"] for i in self.state["open"][: self.parallel])

    @tool(resource="sandbox", merge=merge, split=split)
    def run(self, code: str) -> Generator[Job, Result, ToolResult]:
        """Run an expression of the list x against the tests of the function that is asked for.

        Args:
            code: an expression of x
        """
        functions = self.task["functions"]
        window = self.state["open"][: self.parallel]
        # which function this call is for is known when the calls before it have run: try them all
        every = [x for function in window for x in functions[function]["inputs"]]
        result = yield job([(code, every)], CONFINED if code in self.codes else FREE)
        if self.state["expected"] is None:
            told = yield job([(f["code"], f["inputs"]) for f in functions], REFERENCE)
            self.state["expected"] = rows(told) or None
        slot = self.state["slot"]
        self.state["slot"] += 1
        if result.reason == "lost" or self.state["expected"] is None:
            return _said("error", "infrastructure")
        if slot >= len(window):
            return _said("error", "too_many_calls")
        if self.flaky and self.stream("tool").random() < self.flaky:
            return _said("error", "timeout")
        return self._judge(window, slot, rows(result))

    def mergeable(self, call: ToolCall) -> bool:
        """Only text that the grammar confines shares an execution with others."""
        return call.arguments["code"] in self.codes

    def _judge(self, window: Sequence[int], slot: int, got: Rows) -> ToolResult:
        """Compares the outcomes for function `window[slot]`, and marks what they earned."""
        if got and got[0] is None:
            return _said("error", "malformed")
        functions = self.task["functions"]
        start = sum(len(functions[function]["inputs"]) for function in window[:slot])
        expected: Outcomes = self.state["expected"][window[slot]]
        mine: Outcomes = (got[0] or [])[start : start + len(expected)] if got else []
        if len(mine) < len(expected):  # it ended before its last row: too slow, or too large
            mine = ["!"] * len(expected)
        passed = sum(type(a) is type(b) and a == b for a, b in zip(expected, mine, strict=True))
        share = self.state["share"]
        share[window[slot]] = max(share[window[slot]], passed / len(expected))
        if passed == len(expected):
            return _said("pass")
        return _said("error" if raised(mine) and not raised(expected) else "fail")

    def after(self, results: Sequence[ToolResult]) -> Reply:
        """Closes what passed or has no try left; asks for what is open, or ends."""
        self.state["slot"] = 0
        return self._next(min(len(results), self.parallel))

    def respond(self, message: Message) -> Reply:
        """A message that runs nothing is an error of the function that is asked for."""
        reply = self._next(1)
        return replace(reply, messages=(Message("user", "error"), *reply.messages))

    def _next(self, count: int) -> Reply:
        """Takes one try from each of the first `count` open functions; asks on, or ends."""
        state = self.state
        share, tries = state["share"], state["tries"]
        for function in state["open"][:count]:
            tries[function] -= 1
        state["open"] = [i for i in state["open"] if share[i] < 1.0 and tries[i] > 0]
        if state["open"]:
            return Reply(messages=(Message("user", self._ask()),))
        solved = self._solved()
        whole = solved == 1.0
        credits = (Credit("outcome_fraction", solved), Credit("outcome_all", float(whole)))
        return Reply(credits=credits, end="goal" if whole else "budget", success=whole)

    def _solved(self) -> float:
        share = self.state["share"]
        return sum(each == 1.0 for each in share) / len(share)

    def potentials(self) -> dict[str, float]:
        """Share of the functions solved."""
        return {"tool_pass": self._solved()}

    def menu(self) -> list[ToolCall | str]:
        """Every expression of the vocabulary; the grammar has those of the level's words."""
        return [ToolCall("", "run", {"code": code}, (0, 0)) for code in self.codes]

    def solution(self, task: Task) -> list[str]:
        """The references, as many to a message as the level asks for."""
        codes = [function["code"] for function in task["functions"]]
        starts = range(0, len(codes), self.parallel)
        return [NEXT.join(codes[start : start + self.parallel]) for start in starts]


def _said(word: str, code: ProblemCode | None = None) -> ToolResult:
    problem = Problem(code, word) if code else None
    return ToolResult("", word, word == "pass", problem, infrastructure=code == "infrastructure")


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}; give at least 1")
    return value
