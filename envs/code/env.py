"""Code-v0: write a function in a sandbox, test it there, submit it to hidden tests."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from hashlib import blake2b
from typing import Any, Final

from ...tool_sandbox import BadRequest, FileProblem, Report, Result
from ..core import Env, Limits, Pending, Reply
from ..messages import Credit, Message, ToolCall, ToolResult
from ..parsing import Parser, hermes, named, render
from ..rewards import Cost, Event, Outcome, Penalty, Progress, Rewards
from ..rows import TaskError
from ..tasks import Task, TaskSet
from ..tools import GradeCall, SessionCall, ToolError, tool
from . import tasks as reading
from .answers import Submitting
from .desk import Moves, plain, refused, shown
from .tasks import BUILT_IN, FILE, calls, candidate, statement

Work = SessionCall | GradeCall
Tool = Generator[Work, Any, str]  # asks for work, is given what it brings, ends with a text

# short, because a policy of bytes with a small context must have room left to answer
SYSTEM: Final = """\
Write Python in a sandbox; your answer is the file solution.py. Tools: write(path, text), \
read(path), edit(path, old, new), run(code, stdin), test(names), submit(). A call: {call}
A message without a call submits its last fenced block."""


class Code(Env):
    """Write a function; tools write, read, edit, run, test and submit it in a sandbox session."""

    tasks = BUILT_IN
    limits = Limits(turns=12)
    rewards = Rewards(
        success=Outcome(1.0),
        tests=Progress(0.4),
        exec_ok=Event(0.05, cap=0.1),
        efficiency=Outcome(0.0),
        style=Outcome(0.0),
        readability=Outcome(0.0),
        format=Penalty(-0.05, cap=0.2),
        step=Penalty(0.0, cap=0.1),
        escape=Cost(),
        resource=Cost(),
    )

    def __init__(
        self,
        *,
        visible: int = 1,
        budget_runs: int | None = None,
        parser: Parser | str | None = None,
        **common: Any,
    ) -> None:
        """Makes the environment.

        Args:
            visible: Tests of a task that the agent sees, where the task's format does not say.
            budget_runs: Calls of `run` and `test` after which the work is graded as it stands;
                None: no such budget.
            parser: How calls are written; a message without one is an answer in every form.
            common: What every environment takes (`Env`).
        """
        self.visible = visible
        self.budget_runs = budget_runs
        inner = named(parser) if isinstance(parser, str) else parser or hermes
        super().__init__(parser=Submitting(inner), **common)
        self.system = SYSTEM.replace("{call}", render([ToolCall("", "test", {}, (0, 0))], inner))

    def read_tasks(self, source: TaskSet | Any, split: str | None) -> TaskSet:
        """Reads code tasks of any known format; those that cannot be graded are left out."""
        return reading.read(source, visible=self.visible, split=split)

    def begin(self, task: Task) -> str:
        """States the task; the session opens at the first call."""
        self.state = {
            "best": 0,  # visible tests passed at once, at most
            "seen": [],  # hashes of programs that ran cleanly
            "runs": 0,
            "graded": None,  # whether all hidden tests passed, once graded
            "costs": {},  # of this message
        }
        self.open_session(limits=reading.limits(task), files=task.get("files") or {})
        return statement(task)

    def propose(self, action: str | Message) -> Pending:
        """Reads a message; one that comes without calls is an answer, however it comes."""
        if isinstance(action, Message) and not action.calls:
            action = action._replace(calls=self.parser(action.content).calls)
        return super().propose(action)

    @tool(resource="sandbox")
    def write(self, path: str, text: str) -> Tool:
        """Write a file.

        Args:
            path: where, relative to the work directory
            text: the whole content
        """
        yield from self._ask("write", path=path, data=text)
        return f"{path} written ({len(text):,} characters)."

    @tool(resource="sandbox", read_only=True)
    def read(self, path: str) -> Tool:
        """Read a file.

        Args:
            path: which, relative to the work directory
        """
        return (yield from self._text(path))

    @tool(resource="sandbox")
    def edit(self, path: str, old: str, new: str) -> Tool:
        """Replace a piece of a file that occurs in it once.

        Args:
            path: which file
            old: the piece as it is
            new: the piece as it shall be
        """
        yield from self._ask("edit", path=path, old=old, new=new)
        return f"{path} edited."

    @tool(resource="sandbox")
    def run(self, code: str = "", stdin: str = "") -> Tool:
        """Run Python in the work directory; variables stay until the next run.

        Args:
            code: the program; empty: solution.py
            stdin: what it reads from standard input
        """
        if code:
            result: Result = yield from self._ask("execute", code=code, stdin=stdin)
        else:
            code, result = yield from self._ask("run_file", stdin=stdin)
        self._note(code, result)
        yield from self._spend()
        return shown(result)

    @tool(resource="sandbox")
    def test(self, names: list[str] = []) -> Tool:  # noqa: B006  # a tool's schema shows it
        """Run visible tests on solution.py.

        Args:
            names: numbers of the tests, such as "1"; empty: all
        """
        source = yield from self._text(FILE)
        codes = reading.tests(self.task, hidden=False)
        chosen = [i for i in range(len(codes)) if not names or str(i + 1) in names]
        if not chosen:
            raise ToolError(f"no such test; there are {len(codes)}, named by their numbers")
        report = yield from self._grade(source, [codes[i] for i in chosen])
        passed = [verdict.outcome == "pass" for verdict in report.verdicts]
        self.state["best"] = max(self.state["best"], sum(passed))
        yield from self._spend()
        rows = zip(chosen, report.verdicts, strict=True)
        lines = [f"[{i + 1}] {v.outcome}{': ' * bool(v.detail)}{v.detail}" for i, v in rows]
        return "\n".join([f"{sum(passed)} of {len(passed)} tests pass.", *map(plain, lines)])

    @tool(name="submit", resource="sandbox")
    def hand_in(self) -> Tool:
        """Hand in solution.py; this ends the work."""
        yield from self._finish()
        return "Submitted."

    def _ask(self, method: str, **arguments: Any) -> Generator[Work, Any, Any]:
        """Calls a method of the session; what it raises is the tool's answer."""
        try:
            return (yield Moves(self.open_session(), method, arguments))
        except (FileProblem, BadRequest) as error:
            raise ToolError(str(error)) from None

    def _text(self, path: str) -> Tool:
        data: bytes = yield from self._ask("read", path=path)
        return data.decode("utf-8", "replace")

    def _grade(self, source: str, codes: list[str]) -> Generator[Work, Any, Report]:
        """Judges a source in cells of its own, where nothing of the session is."""
        work = candidate(self.task, source), calls(self.task, codes)
        return (yield GradeCall(*work, limits=reading.limits(self.task)))

    def _note(self, code: str, result: Result) -> None:
        """Books what a run earned and cost."""
        costs = self.state["costs"]
        if result.reason in ("cpu", "memory", "output", "timeout"):
            costs["resource"] = 1.0
        if refused(result):
            costs["escape"] = 1.0
        mark = blake2b(code.encode("utf-8", "replace"), digest_size=8).hexdigest()
        if result.ok and mark not in self.state["seen"]:
            self.state["seen"].append(mark)
            self.credit("exec_ok")

    def _spend(self) -> Generator[Work, Any, None]:
        """Counts a run; the last one of the budget hands in what there is."""
        self.state["runs"] += 1
        if self.budget_runs is not None and self.state["runs"] >= self.budget_runs:
            yield from self._finish()

    def _finish(self) -> Generator[Work, Any, None]:
        """Grades solution.py by all tests, once."""
        try:
            source = yield from self._text(FILE)
        except ToolError:  # nothing was written
            source = ""
        if self.state["graded"] is not None:
            return
        visible = reading.tests(self.task, hidden=False)
        hidden = reading.tests(self.task, hidden=True)
        report = yield from self._grade(source, visible + hidden)
        passed = [verdict.outcome == "pass" for verdict in report.verdicts]
        passed += [False] * (len(visible) + len(hidden) - len(passed))
        self.state["best"] = max(self.state["best"], sum(passed[: len(visible)]))
        self.state["graded"] = all(passed[len(visible) :] if hidden else passed)

    def after(self, results: Sequence[ToolResult]) -> Reply | None:
        """Ends once the work has been graded."""
        costs, self.state["costs"] = self.state["costs"], {}
        graded = self.state["graded"]
        if graded is None:
            return Reply(costs=costs) if costs else None
        spent = self.budget_runs is not None and self.state["runs"] >= self.budget_runs
        credits = (Credit("success", float(graded)),)
        return Reply((), credits, costs, end="budget" if spent else "submitted", success=graded)

    def respond(self, message: Message) -> Reply:
        """Ends with nothing: only a message without a character has no call."""
        return Reply(credits=(Credit("success", 0.0),), end="answered", success=False)

    def potentials(self) -> dict[str, float]:
        """Share of the visible tests passed at once, the best so far."""
        visible = len(reading.tests(self.task, hidden=False))
        return {"tests": self.state["best"] / visible if visible else 0.0}

    def solution(self, task: Task) -> list[str]:
        """The reference: written, tested, submitted."""
        source = task.get("solution")
        if not source:
            raise TaskError(f"task {task.id} has no field 'solution'; there is no reference")
        write = ToolCall("", "write", {"path": FILE, "text": source}, (0, 0))
        shown = reading.tests(task, hidden=False)
        test = [ToolCall("", "test", {}, (0, 0))] if shown else []
        done = ToolCall("", "submit", {}, (0, 0))
        return [render([call], self.parser) for call in (write, *test, done)]
