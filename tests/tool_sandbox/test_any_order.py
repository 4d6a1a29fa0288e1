"""Any order of work, kills, forks and closes ends well, and leaves nothing."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from palaestra.testing.victims import children_of, descendants_of, descriptors, gone, until, zygotes
from palaestra.tool_sandbox import (
    BackendFailed,
    Calls,
    Case,
    Limits,
    MiB,
    Sandbox,
    SandboxClosed,
    SandboxError,
    Script,
    Session,
    SessionDead,
    owners,
)

pytestmark = pytest.mark.linux
PRELOAD = ("json",)
QUICK = Limits(wall=60.0, memory=128 * MiB)
REASONS = {"ok", "lost", "killed"}  # of a program that does nothing wrong while others are killed
TESTS = Calls("f", (Case((1,), expected=1),))


def new_sandbox(workers: int = 1) -> Sandbox:
    return Sandbox("cell", workers=workers, preload=PRELOAD, limits=QUICK)


class Stage:
    """One sandbox and its sessions, with everything that may happen to them."""

    def __init__(self) -> None:
        gc.collect()
        self.others = zygotes()  # of fixtures, while another test waits
        self.before = descriptors(), children_of(os.getpid())
        self.sandbox = new_sandbox()
        self.sessions: list[Session] = []
        self.threads: list[threading.Thread] = []
        self.problems: list[str] = []
        self.seen: set[tuple[int, str]] = set()  # numbers come again: each with its start

    def act(self, action: str) -> None:
        """One action; what it answers must be documented."""
        self.remember()
        try:
            getattr(self, action)()
        except SandboxClosed:
            if not self.closed:
                self.problems.append(f"{action}: SandboxClosed, yet nobody closed it")
        except (SandboxError, BackendFailed) as problem:
            # Lost while it opened, dead, no further process: an answer, where somebody was killed.
            if not isinstance(problem, SessionDead) and "lost" not in str(problem):
                self.problems.append(f"{action}: {problem!r}")
        self.remember()

    def alive(self) -> list[int]:
        """Zygote, launchers, workers and guests."""
        row = zygotes(self.others)
        return row + [pid for zygote in row for pid in descendants_of(zygote)]

    def remember(self) -> None:
        """Whoever lives now must end, once all is closed."""
        self.seen |= {(pid, owners.start_time(pid)) for pid in self.alive()}

    @property
    def closed(self) -> bool:
        return self.sandbox._engine.closed  # pyright: ignore[reportPrivateUsage]

    def _check(self, reason: str, *wanted: str) -> None:
        if reason not in REASONS | set(wanted):
            self.problems.append(f"the reason is {reason}")

    def execute(self) -> None:
        result = self.sandbox.execute("print(1)")
        self._check(result.reason)
        if result.ok and result.stdout != "1\n":
            self.problems.append(f"it printed {result.stdout!r}")

    def leave_a_tree(self) -> None:
        self._check(self.sandbox.execute("import os; os.makedirs('a/b')").reason)

    def leave_a_stray(self) -> None:
        code = "import os, time\nif not os.fork():\n os.setsid()\n time.sleep(60)"
        self._check(self.sandbox.execute(code).reason)

    def hang(self) -> None:
        limits = Limits(wall=0.02, memory=128 * MiB)
        self._check(self.sandbox.execute("while True: pass", limits=limits).reason, "timeout")

    def spread(self) -> None:
        for result in self.sandbox.map(["print(1)", "1 / 0"]):
            self._check(result.reason, "error")

    def grade(self) -> None:
        report = self.sandbox.grade("def f(x): return x", TESTS)
        if not report.passed:
            self._check(report.result.reason)

    def judge(self) -> None:
        report = self.sandbox.grade("def f(x): return x", Script("assert f(1) == 1"))
        if not report.passed:
            self._check(report.result.reason)

    def open_a_session(self) -> None:
        self.sessions.append(self.sandbox.session())

    def call(self) -> None:
        for session in self.sessions[-1:]:
            self._check(session.execute("1").reason)

    def branch(self) -> None:
        for session in self.sessions[-1:]:
            self.sessions.append(session.fork())

    def drop(self) -> None:
        if self.sessions:
            self.sessions.pop(0).close()

    def fork_and_leave(self) -> None:
        child = os.fork()
        if not child:
            self.sandbox.close()
            os._exit(0)
        os.waitpid(child, 0)

    def fork_and_work(self) -> None:
        child = os.fork()
        if not child:
            status = 1
            try:
                status = int(self.sandbox.execute("print(2)").stdout != "2\n")
                self.sandbox.close()
            finally:
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            self.problems.append("the forked copy did not work")

    def _kill(self, depth: int) -> None:
        row = zygotes(self.others)
        for _ in range(depth):
            row = [pid for parent in row for pid in children_of(parent)]
        for pid in row:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if depth == 3:  # else "it did not fork" is as true an answer as "it is dead"
            assert until(lambda: all(map(gone, row)))

    def kill_the_zygote(self) -> None:
        self._kill(0)

    def kill_the_launchers(self) -> None:
        self._kill(1)

    def kill_every_pid_1(self) -> None:
        self._kill(2)

    def kill_the_armed(self) -> None:
        self._kill(3)

    def work_elsewhere(self) -> None:
        """In a thread that goes on beside whatever follows."""

        def work() -> None:
            with contextlib.suppress(SandboxError):
                self._check(self.sandbox.execute("import time; time.sleep(0.02)").reason)

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()

    def close_elsewhere(self) -> None:
        self.threads.append(threading.Thread(target=self.sandbox.close))
        self.threads[-1].start()

    def close(self) -> None:
        self.sandbox.close()

    def settle(self) -> None:
        """The end of an example: what was answered, and who lives on in a sandbox still open."""
        for thread in self.threads:
            thread.join(120.0)
            assert not thread.is_alive(), "it hangs"
        self.threads.clear()
        for session in self.sessions:
            session.close()
        self.sessions.clear()
        problems, self.problems = self.problems, []
        assert problems == []
        if not self.closed:  # a zygote; launcher, pid 1 and the next execution of worker and judge
            assert until(lambda: len(self.alive()) <= 7)

    def end(self) -> None:
        """Close, and look at what is left."""
        self.sandbox.close()
        assert until(
            lambda: all(gone(pid) or owners.start_time(pid) != at for pid, at in self.seen)
        )
        gc.collect()
        assert until(lambda: (descriptors(), children_of(os.getpid())) == self.before)


WORK = (
    *("execute", "leave_a_tree", "leave_a_stray", "hang", "spread", "grade", "judge"),
    *("open_a_session", "call", "branch", "drop", "work_elsewhere"),
)
TROUBLE = (
    *("kill_the_zygote", "kill_the_launchers", "kill_every_pid_1", "kill_the_armed"),
    *("fork_and_leave", "fork_and_work", "close_elsewhere", "close"),
)
ACTIONS = st.lists(st.sampled_from(WORK + WORK + TROUBLE), min_size=1, max_size=5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_any_order_of_work_and_kills_leaves_nothing() -> None:
    stages: list[Stage] = []

    @settings(max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(ACTIONS)
    def run(actions: list[str]) -> None:
        # An open sandbox serves the next example, too: most of the time goes into starting one.
        stage = stages.pop() if stages else Stage()
        try:
            for action in actions:
                stage.act(action)
            stage.settle()
        except BaseException:
            stage.sandbox.close()
            raise
        if stage.closed:
            stage.end()
        else:
            stages.append(stage)

    run()
    for stage in stages:
        stage.end()
