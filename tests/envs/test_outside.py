"""The outside work of many sessions, together."""

import asyncio
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest
from palaestra.envs.core import Env, EnvError, Pending, Step, run
from palaestra.envs.outside import Workbench
from palaestra.envs.tools import GradeCall, Job, SessionCall, tool
from palaestra.testing.fakes import FakeSandbox
from palaestra.tool_sandbox import BackendFailed, MissingFile, Result, SessionDead

Work = Generator[Any, Any, str]


def started(kind: Any, sandbox: Any = None, **options: Any) -> Any:
    env = kind(sandbox=sandbox, **options)
    env.start(seed=1)
    return env


def finish(envs: list[Any], texts: list[str]) -> list[Step]:
    """Runs one message of each environment, their outside work in common rounds."""
    out: list[Any] = [env.propose(text) for env, text in zip(envs, texts, strict=True)]
    while waiting := [i for i, state in enumerate(out) if isinstance(state, Pending)]:
        answers = run([out[i] for i in waiting])
        for i, answer in zip(waiting, answers, strict=True):
            out[i] = envs[i].settle(out[i], answer)
    return out


def test_jobs_of_many_sessions_are_one_batch(echo: Any, say: Any, sandbox: Any) -> None:
    envs = [started(echo, sandbox) for _ in range(3)]
    steps = finish(envs, [say("run", f'{{"code": "{c}"}}') for c in "abc"])
    assert [step.messages[0].content for step in steps] == ["A", "B", "C"]
    assert sandbox.batches == [["a", "b", "c"]]


def merge(jobs: Any) -> Job:
    return Job("+".join(job.code for job in jobs))


def split(result: Any, n: int) -> Any:
    return [SimpleNamespace(reason="ok", stdout=part) for part in result.stdout.split("+")]


class Drill(Env):
    """Its jobs may share an execution."""

    def begin(self, task: Any) -> str:
        self.state = {}
        return "?"

    @tool(resource="sandbox", merge=merge, split=split)
    def run(self, code: str) -> Work:
        """Run."""
        result = yield Job(code)
        return result.stdout

    def mergeable(self, call: Any) -> bool:
        return call.arguments["code"] != "own"


def test_a_tool_that_merges_shares_one_execution(sandbox: Any, say: Any) -> None:
    envs = [started(Drill, sandbox) for _ in range(4)]
    steps = finish(envs, [say("run", f'{{"code": "{c}"}}') for c in ("a", "b", "own", "c")])
    assert [step.messages[0].content for step in steps] == ["A", "B", "OWN", "C"]
    assert sandbox.batches == [["a+b+c", "own"]]


def test_when_the_shared_execution_fails_each_runs_by_itself(sandbox: Any, say: Any) -> None:
    def spoiled(jobs: Any) -> Any:
        for job in jobs:
            sandbox.batches.append([job.code])
            good = "+" not in job.code
            yield SimpleNamespace(
                ok=good, reason="ok" if good else "error", stdout=job.code.upper()
            )

    sandbox.map = spoiled
    envs = [started(Drill, sandbox) for _ in range(2)]
    steps = finish(envs, [say("run", f'{{"code": "{c}"}}') for c in "ab"])
    assert [step.messages[0].content for step in steps] == ["A", "B"]
    assert sandbox.batches == [["a+b"], ["a"], ["b"]]


class Files(Env):
    """Keeps files in a session."""

    def begin(self, task: Any) -> str:
        self.state = {}
        return "?"

    @tool(resource="sandbox", raises=(MissingFile,))
    def write(self, path: str, text: str) -> Work:
        """Write."""
        yield SessionCall(self.open_session(), "write", {"path": path, "data": text})
        return "written"

    @tool(resource="sandbox", raises=(MissingFile,))
    def read(self, path: str) -> Work:
        """Read."""
        text = yield SessionCall(self.open_session(), "read", {"path": path})
        return text

    @tool(resource="sandbox")
    def grade(self) -> Work:
        """Grade."""
        report = yield GradeCall("code", None)
        return str(report.score)


def test_calls_of_one_session_keep_their_order(sandbox: Any, say: Any) -> None:
    envs = [started(Files, sandbox) for _ in range(3)]
    text = say("write", '{"path": "a", "text": "1"}') + say("read", '{"path": "a"}')
    steps = finish(envs, [text] * 3)
    assert [[m.content for m in step.messages] for step in steps] == [["written", "1"]] * 3
    assert sandbox.sessions == 3


def test_what_a_session_raises_reaches_the_tool(sandbox: Any, say: Any) -> None:
    [step] = finish([started(Files, sandbox)], [say("read", '{"path": "none"}')])
    assert step.messages[0].content == "read: MissingFile: none"
    assert step.info["problems"] == {"failed": 1}


def test_reports_come_by_the_batch(sandbox: Any, say: Any) -> None:
    [step] = finish([started(Files, sandbox)], [say("grade")])
    assert step.messages[0].content == "1.0"


class Net(Env):
    """Tools over the network."""

    def begin(self, task: Any) -> str:
        self.state = {}
        return "?"

    @tool(resource="network")
    def plain(self, text: str) -> str:
        """Fetch."""
        if text == "bug":
            raise ZeroDivisionError("oops")
        return text * 2

    @tool(resource="network", timeout=60)
    async def soon(self) -> str:
        """Fetch with others."""
        return "here"

    @tool(resource="network", timeout=0.01)
    async def never(self) -> str:
        """Wait."""
        await asyncio.Event().wait()
        return "never"


def test_network_tools_are_functions_or_coroutines(say: Any) -> None:
    envs = [started(Net) for _ in range(2)]
    steps = finish(envs, [say("plain", '{"text": "ab"}'), say("soon", "{}")])
    assert [step.messages[0].content for step in steps] == ["abab", "here"]


def test_a_coroutine_that_takes_too_long_is_a_time_out(say: Any) -> None:
    [step] = finish([started(Net)], [say("never", "{}")])
    assert step.messages[0].content == "never stopped after 0.01 s (limit 0.01 s)."
    assert step.info["problems"] == {"timeout": 1}


def test_a_bug_of_a_network_tool_is_the_environments(say: Any) -> None:
    with pytest.raises(EnvError, match="ZeroDivisionError"):
        finish([started(Net)], [say("plain", '{"text": "bug"}')])


def test_a_backend_that_fails_is_ours(sandbox: Any, say: Any) -> None:
    class Failing:
        def write(self, **arguments: Any) -> None:
            raise BackendFailed("gone")

        def close(self) -> None:
            """Nothing to close."""

    def session(**options: Any) -> Any:
        return Failing()

    sandbox.session = session
    [step] = finish([started(Files, sandbox)], [say("write", '{"path": "a", "text": "1"}')])
    assert (step.excluded, step.reason) == (True, "infrastructure")


def test_a_batch_that_fails_for_one_job_is_answered_for_the_others(echo: Any, say: Any) -> None:
    def answer(job: Job) -> Result:
        if job.code == "b":
            raise BackendFailed("gone")
        return Result("ok", 0, stdout=job.code)

    envs = [started(echo, FakeSandbox(answer)) for _ in "abc"]
    steps = finish(envs, [say("run", f'{{"code": "{c}"}}') for c in "abc"])
    assert [step.excluded for step in steps] == [False, True, False]
    assert [step.messages[0].content for step in (steps[0], steps[2])] == ["a", "c"]


def test_a_dead_session_is_replaced_by_one_with_the_files_of_the_start(sandbox: Any) -> None:
    class Dying:
        def __init__(self, dead: bool) -> None:
            self.dead = dead

        def execute(self, code: str) -> str:
            if self.dead:
                raise SessionDead("ended")
            return code

        def close(self) -> None:
            """Nothing to close."""

    made: list[Any] = []

    def session(**options: Any) -> Any:
        made.append(options)
        return Dying(dead=len(made) == 1)

    sandbox.session = session
    bench = Workbench(lambda: sandbox, files={"a": "1"})
    assert bench.execute("x") == "x"
    assert made == [{"files": {"a": "1"}}] * 2
    assert bench.journal == [("execute", {"code": "x"})]
    assert not bench.exact


def test_outside_time_is_counted_apart(echo: Any, say: Any, sandbox: Any) -> None:
    env = started(echo, sandbox)
    env.advance(say("run", '{"code": "a"}'))
    assert env.timing["outside"] > 0


def test_a_model_can_be_given_to_run() -> None:
    class Asking(Env):
        def begin(self, task: Any) -> str:
            self.state = {}
            return "?"

        def respond(self, message: Any) -> Any:
            from palaestra.envs.core import Need

            return Need("judge", (message,), "j")

        def resume(self, need: Any, answer: Any) -> Any:
            return self.submit(str(answer.value))

        def score(self, answer: str) -> float:
            return float(answer == "yes")

    env = started(Asking)
    pending = env.settle(env.propose("x"))
    [answers] = run([pending], answer=lambda need: "yes")
    assert env.settle(pending, answers).success
