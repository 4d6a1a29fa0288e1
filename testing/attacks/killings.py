"""Kills from outside while a sandbox is idle and while it is at work, and the trainer's own end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Literal

from ...tool_sandbox import (
    Calls,
    Case,
    Report,
    Result,
    Sandbox,
    Script,
    SessionDead,
)
from .. import victims
from .attack import Attack, Outside, must_run, sibling, wall

Came = Literal["went on", "lost"]
_PATIENT = wall(100.0)
_EMBEDDED = ("cell", "process")
# Runs a program that carries the mark, and waits for its end.
_STAY = (
    "import os, sys\n"
    "os.spawnv(os.P_WAIT, sys.executable, [sys.executable, '-S', '-c', "
    "'import time; time.sleep({seconds})', '{mark}'])\n"
)


# Leaves that program running, once it runs.
_STRAY = """
import os, sys, time
program = "open('up', 'w').close(); import time; time.sleep(60)"
os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-S", "-c", program, "{mark}"])
while not os.path.exists("up"): time.sleep(0.01)
"""


def _came(result: Result) -> Came:
    if result.reason not in ("ok", "lost"):
        raise AssertionError(f"ended with {result}")
    if (result.reason == "lost") != (result.exit_code is None):
        raise AssertionError(f"a lost execution has no exit code, and only it: {result}")
    return "went on" if result.ok else "lost"


def _execution(sandbox: Sandbox, stay: str) -> Came:
    return _came(sandbox.execute(stay, limits=_PATIENT))


def _awaited(sandbox: Sandbox, stay: str) -> Came:
    return _came(asyncio.run(sandbox.aexecute(stay, limits=_PATIENT)))


def _session(sandbox: Sandbox, stay: str) -> Came:
    """A lost session is dead, and says so to every call that follows."""
    with sandbox.session(limits=_PATIENT) as session:
        branch = session.fork() if sandbox.isolation.level != "none" else session
        came = _came(session.execute(stay))
        for one in (session, branch):
            if one.alive != (came == "went on"):
                raise AssertionError(f"{came}, yet alive is {one.alive}")
        if came == "went on":
            if branch.execute("1").stdout != "1\n":
                raise AssertionError("a branch did not go on")
            return came
        for call in (lambda: session.execute("1"), branch.list, session.snapshot):
            try:
                call()
            except SessionDead:
                continue
            raise AssertionError("a dead session answered")
        return came


def _graded(report: Report) -> Came:
    """A grading that lost a worker has not passed, and names the loss."""
    outcomes = {verdict.outcome for verdict in report.verdicts}
    if report.passed != (outcomes == {"pass"}):
        raise AssertionError(f"passed is {report.passed} with {outcomes}")
    if report.passed:
        return "went on"
    if report.score or "pass" in outcomes:
        raise AssertionError(f"points for what nobody ran: {report}")
    return "lost"


def _calls(sandbox: Sandbox, stay: str) -> Came:
    tests = Calls("f", (Case((1,), expected=1), Case((2,), expected=2)))
    report = sandbox.grade(f"def f(x):\n{_indented(stay)}    return x", tests, limits=_PATIENT)
    came = _graded(report)
    if came == "lost" and report.result.reason != "lost":
        raise AssertionError(f"the report does not say lost: {report.result}")
    return came


def _candidate(sandbox: Sandbox, stay: str) -> Came:
    code = f"def f(x):\n{_indented(stay)}    return x"
    report = sandbox.grade(code, Script("assert f(1) == 1"), limits=_PATIENT)
    came = _graded(report)
    if came == "lost" and report.result.reason != "lost":
        raise AssertionError(f"the report does not say lost: {report.result}")
    return came


def _judge(sandbox: Sandbox, stay: str) -> Came:
    """The candidate is not to blame, nor does it profit: the failure of the judge is counted."""
    before = sandbox.stats.judge_failed
    tests = Script(f"{stay}assert f(1) == 1")
    came = _graded(sandbox.grade("def f(x): return x", tests, limits=_PATIENT))
    if sandbox.stats.judge_failed - before != (came == "lost"):
        raise AssertionError(f"{came}, and {sandbox.stats.judge_failed} judges failed")
    return came


def _indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())


_WORKS: dict[str, Callable[[Sandbox, str], Came]] = {
    "an execution": _execution,
    "an awaited execution": _awaited,
    "a session's call": _session,
    "Calls": _calls,
    "a candidate of Script": _candidate,
    "a judge of Script": _judge,
}


def _strike(victim: str, sandbox: Sandbox, targets: Outside) -> list[int]:
    """Kill what a marked guest depends on; the processes that must end with it."""
    guests = targets.marked()
    if victim == "the sandbox":
        line = victims.line_to(guests[0]) if sandbox.isolation.backend in _EMBEDDED else []
        sandbox.close()
        return line
    if sandbox.isolation.backend in _EMBEDDED:
        line = victims.kill(victim, guests[0])
        return [] if victim == "zygote" else line
    victims.kill_container(targets.mark)
    return guests


def _busy(victim: str, work: Callable[[Sandbox, str], Came]) -> Callable[[Sandbox, Outside], None]:
    """Kills while the work is under way: at most this piece of it is lost, and the next goes on."""
    wanted: Came = "went on" if victim == "zygote" else "lost"

    def run(sandbox: Sandbox, targets: Outside) -> None:
        told: list[object] = []

        def do() -> None:
            try:
                told.append(work(other, _STAY.format(seconds=60, mark=targets.mark)))
            except Exception as problem:
                told.append(problem)

        with sibling(sandbox) as other:
            other.execute("pass", limits=_PATIENT)
            thread = threading.Thread(target=do)
            thread.start()
            started = victims.until(lambda: bool(told or targets.marked()))
            doomed = _strike(victim, other, targets) if started and not told else []
            if victim == "zygote":  # its death ends nobody
                victims.until(lambda: _let_go(targets) or bool(told))
            thread.join(60.0)
            if told != [wanted]:
                raise AssertionError(f"it came to {told}; wanted {wanted!r}")
            _must_end(doomed, targets)
            if victim != "the sandbox":
                must_run(other, f"after the {victim} was killed")

    return run


def _let_go(targets: Outside) -> None:
    """Ends what the guests wait for, and nothing else."""
    for pid in targets.marked():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _must_end(doomed: list[int], targets: Outside) -> None:
    if not victims.until(lambda: all(map(victims.gone, doomed)) and not targets.marked()):
        left = [pid for pid in doomed if not victims.gone(pid)]
        raise AssertionError(f"processes {left or targets.marked()} are left")


def _idle(victim: str) -> Callable[[Sandbox, Outside], None]:
    """Kills every worker while nothing runs: no execution is lost, and sessions say that they are.

    The zygote's death is noticed by nobody: workers live on, and a new one makes the next.
    """

    def run(sandbox: Sandbox, targets: Outside) -> None:
        embedded = sandbox.isolation.backend in _EMBEDDED
        before: set[str] = set() if embedded else set(victims.containers(os.getpid()))
        with sibling(sandbox) as other, other.session(limits=_PATIENT) as session:
            must_run(other, "before the kill")
            session.execute(_STRAY.format(mark=targets.mark))
            guests = targets.marked()
            if embedded:
                doomed = victims.kill_all(victim, guests[0])
            else:
                doomed = guests
                victims.kill_containers(set(victims.containers(os.getpid())) - before)
            if victim != "zygote":
                _must_end(doomed, targets)
            came = _came(session.execute("1"))
            if came != ("went on" if victim == "zygote" else "lost"):
                raise AssertionError(f"the session {came}")
            must_run(other, f"after the {victim} was killed")
            with other.session(limits=_PATIENT) as fresh:
                if fresh.execute("1").stdout != "1\n":
                    raise AssertionError("a fresh session does not answer")

    return run


_TRAINER = """
import base64, pickle, sys, threading
from palaestra.tool_sandbox import Calls, Case, Script, Limits
make, (wish, limits, _) = pickle.loads(base64.b64decode(sys.stdin.readline()))
mark, stay, stray, busy = pickle.loads(base64.b64decode(sys.stdin.readline()))
sandbox = make(wish, limits, 3)
long = Limits(wall=100.0, memory=limits.memory)
sandbox.execute("pass")
sessions = [sandbox.session(limits=long), sandbox.session(limits=long)]
sessions[0].execute(stray)
if sandbox.isolation.level != "none":
    sessions += [sessions[0].fork(), sessions[0].snapshot()]
inside = "def f(x):\\n    " + stay.replace("\\n", "\\n    ") + "\\n    return x"
works = (
    (sandbox.execute, stay),
    (sessions[1].execute, stay),
    (sandbox.grade, inside, Calls("f", (Case((1,), expected=1),))),
    (sandbox.grade, inside, Script("assert f(1) == 1")),
)
for work, *arguments in works * busy:
    options = {"limits": long} if work != sessions[1].execute else {}
    threading.Thread(target=work, args=arguments, kwargs=options, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


def _trainer(busy: bool) -> Callable[[Sandbox, Outside], None]:
    """A trainer killed by SIGKILL: its zygote, workers and guests end by themselves."""

    def run(sandbox: Sandbox, targets: Outside) -> None:
        stay = _STAY.format(seconds=60, mark=targets.mark)
        plan = targets.mark, stay, _STRAY.format(mark=targets.mark), busy
        told = [base64.b64encode(pickle.dumps(one)) for one in (sandbox.__reduce__(), plan)]
        with (
            tempfile.TemporaryDirectory(prefix="palaestra-trainer-") as folder,
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _TRAINER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "TMPDIR": folder},
            ) as trainer,
        ):
            try:
                assert trainer.stdin is not None
                assert trainer.stdout is not None
                trainer.stdin.write(b"\n".join((*told, b"")))
                trainer.stdin.flush()
                if trainer.stdout.readline() != b"ready\n":
                    raise AssertionError("the trainer does not come up")
                count = 5 if busy else 1
                if not victims.until(lambda: len(targets.marked()) >= count, 120.0):
                    raise AssertionError(f"{len(targets.marked())} guests run; wanted {count}")
                doomed = victims.descendants_of(trainer.pid)
            finally:
                trainer.kill()
            trainer.wait()
            _must_end(doomed, targets)
            _must_leave_nothing(trainer.pid, folder, sandbox)

    return run


def _must_leave_nothing(pid: int, folder: str, sandbox: Sandbox) -> None:
    """No folder, no container; doors of dead trainers go at the next start."""
    if sandbox.isolation.backend == "docker":
        if not victims.until(lambda: not victims.containers(pid), 120.0):
            raise AssertionError("its containers are left")
        return
    if not victims.until(lambda: not os.listdir(folder)):
        raise AssertionError(f"{os.listdir(folder)} are left in the temporary folder")


def _attack(name: str, run: Callable[[Sandbox, Outside], None], victim: str = "") -> Attack:
    only = _EMBEDDED if victim in victims.ORDER[:2] else ()
    return Attack(name, "lifecycle", run, only=only)


ATTACKS: tuple[Attack, ...] = (
    *(_attack(f"{victim} killed while idle", _idle(victim), victim) for victim in victims.ORDER),
    *(
        _attack(f"{victim} killed during {name}", _busy(victim, work), victim)
        for victim in victims.ORDER
        for name, work in _WORKS.items()
    ),
    *(
        _attack(f"closed from another thread during {name}", _busy("the sandbox", work))
        for name, work in _WORKS.items()
    ),
    _attack("trainer killed while idle", _trainer(busy=False)),
    _attack("trainer killed while busy", _trainer(busy=True)),
)
