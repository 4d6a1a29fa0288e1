"""Environments that several tests of this room use."""

from collections.abc import Generator
from typing import Any

import pytest
from palaestra.envs.core import Env, Limits, Reply
from palaestra.envs.rewards import Cost, Event, Outcome, Penalty, Progress, Rewards
from palaestra.envs.tasks import TaskSet
from palaestra.envs.tools import Job, ToolError, tool
from palaestra.tool_sandbox import Result


def result(**changes: Any) -> Result:
    """A clean execution."""
    values: dict[str, Any] = {
        "reason": "ok",
        "exit_code": 0,
        "stdout": "",
        "stderr": "",
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "wall": 0.0,
        "cpu": 0.0,
        "memory_peak": None,
        "files": {},
        "value": None,
    }
    return Result(**{**values, **changes})


class FakeSandbox:
    """Answers jobs with their code in capitals, and notes how they came."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.sessions = 0
        self.lose = False

    def map(self, jobs: Any) -> Any:
        jobs = list(jobs)
        self.batches.append([job.code for job in jobs])
        reason = "lost" if self.lose else "ok"
        return iter([result(reason=reason, stdout=job.code.upper()) for job in jobs])

    def grade_many(self, pairs: Any, **options: Any) -> Any:
        from types import SimpleNamespace

        return iter([SimpleNamespace(score=1.0, result=result()) for _ in pairs])

    def session(self, **options: Any) -> Any:
        self.sessions += 1
        return FakeSession()


class FakeSession:
    """Files in a dict."""

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}
        self.closed = False

    def write(self, path: str, data: Any) -> None:
        self.files[path] = data

    def read(self, path: str) -> Any:
        if path not in self.files:
            from palaestra.tool_sandbox import MissingFile

            raise MissingFile(path)
        return self.files[path]

    def close(self) -> None:
        self.closed = True


class Echo(Env):
    """Repeat after me, then say done."""

    tasks = TaskSet.load([{"id": "a", "word": "alpha"}, {"id": "b", "word": "beta"}])
    rewards = Rewards(
        success=Outcome(1.0),
        said=Progress(0.4),
        clap=Event(0.1, cap=0.25),
        format=Penalty(-0.05, cap=0.2),
        noise=Cost((0.0, 5.0)),
    )
    limits = Limits(turns=6)

    def begin(self, task: Any) -> str:
        self.state = {"said": 0, "marks": []}
        return f"Say {task['word']}."

    @tool
    def echo(self, text: str) -> str:
        """Say it again.

        Args:
            text: what to say
        """
        self.state["said"] = min(4, self.state["said"] + 1)
        return text

    @tool
    def dice(self, sides: int = 6) -> int:
        """Throw a die."""
        return int(self.stream("dice").integers(1, sides + 1))

    @tool
    def clap(self) -> str:
        """Clap."""
        self.credit("clap")
        return "clap"

    @tool
    def fail(self, how: str) -> str:
        """Fail in a certain way."""
        if how == "tool":
            raise ToolError("The tool is busy.", "Wait.")
        raise ZeroDivisionError("division by zero")

    @tool(resource="sandbox")
    def run(self, code: str) -> Generator[Any, Any, str]:
        """Run code."""
        first = yield Job(code)
        if code == "twice":
            first = yield Job(f"{code} again")
        self.state["marks"].append(code)
        return first.stdout

    def potentials(self) -> dict[str, float]:
        return {"said": self.state["said"] / 4}

    def score(self, answer: str) -> float:
        return float(answer == "done")

    def menu(self) -> Any:
        return ["done", "never"]


class Silent(Env):
    """Rules that never end."""

    limits = Limits(turns=3)

    def begin(self, task: Any) -> str:
        self.state = {"heard": []}
        return "Speak."

    def respond(self, message: Any) -> Reply:
        self.state["heard"].append((message.content, message.reasoning))
        return Reply()


@pytest.fixture(scope="session")
def echo() -> type[Echo]:
    """The class of the echo environment."""
    return Echo


@pytest.fixture(scope="session")
def silent() -> type[Silent]:
    """The class of an environment that never ends."""
    return Silent


@pytest.fixture
def sandbox() -> FakeSandbox:
    """A sandbox that only pretends."""
    return FakeSandbox()


def call_text(name: str, arguments: str = "{}") -> str:
    """The text of a call."""
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


@pytest.fixture(scope="session")
def say() -> Any:
    """Writes the text of a call."""
    return call_text
