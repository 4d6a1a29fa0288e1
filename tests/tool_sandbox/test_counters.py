"""Every counter of a sandbox moves with what it counts, and with nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from palaestra.testing.victims import carriers, until
from palaestra.tool_sandbox import Calls, Case, Limits, Report, Sandbox, Script, Session, Streams

LONG, SHORT = Limits(wall=60.0), Limits(wall=0.5)  # the short one for what never ends
TWICE = "def f(x): return x + x"
CALLS = Calls("f", (Case((1,), expected=2), Case((2,), expected=4)))
SCRIPT = Script("assert f(1) == 2")
HANG = "def f(x):\n    while True: pass"
FORGER = "import os\ndef f(x): os.write(6, b'\\5\\0\\0\\0N'); return 2 * x"
ROWS = "import os\nos.write(5, b'\\5\\0\\0\\0noise')\ndef f(x): return 2 * x"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", limits=LONG, workers=1, preload=("math",)) as found:
        yield found


def moved(sandbox: Sandbox, act: Callable[[], object]) -> dict[str, Any]:
    """The plain counters that an act moved, each by how much."""
    before = sandbox.stats
    act()
    after = sandbox.stats
    names = ("executions", "lost", "malformed", "unclean", "judge_failed", "sessions_open")
    names += ("branches", "bytes_in", "bytes_out", "graded", "graded_passed", "cells_started")
    found = {name: getattr(after, name) - getattr(before, name) for name in names}
    for reason, count in after.reasons.items():
        found[reason] = count - before.reasons[reason]
    for name in ("dispatch", "run", "clean_up"):
        found[name] = getattr(after, name).less(getattr(before, name)).count
    return {name: count for name, count in found.items() if count}


def only(counts: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: counts.get(name, 0) for name in names}


def ran(count: int, **more: int) -> dict[str, int]:
    """What `count` executions move, whatever they do."""
    found = dict.fromkeys(("executions", "dispatch", "run", "clean_up"), count)
    return {**found, **more}


def test_one_execution_is_one_of_everything(sandbox: Sandbox) -> None:
    sandbox.execute("1")
    counts = moved(sandbox, lambda: sandbox.execute("print('abc')", stdin=b"12", files={"a": b"3"}))
    assert counts == ran(1, ok=1, bytes_in=len("print('abc')") + 3, bytes_out=4)


@pytest.mark.parametrize(
    ("code", "reason", "limits"),
    [
        ("1 / 0", "error", LONG),
        ("while True: pass", "timeout", SHORT),
        ("raise MemoryError", "memory", LONG),
    ],
)
def test_executions_are_counted_by_reason(
    sandbox: Sandbox, code: str, reason: str, limits: Limits
) -> None:
    counts = moved(sandbox, lambda: sandbox.execute(code, limits=limits))
    assert only(counts, "executions", reason) == {"executions": 1, reason: 1}


def test_a_batch_of_calls_is_one_execution_and_one_grading(sandbox: Sandbox) -> None:
    counts = moved(sandbox, lambda: sandbox.grade(TWICE, CALLS))
    assert counts.pop("bytes_in") > len(TWICE)
    assert counts == ran(1, ok=1, graded=1, graded_passed=1)


def test_a_script_is_two_executions_and_one_grading(sandbox: Sandbox) -> None:
    sandbox.grade(TWICE, SCRIPT)
    counts = moved(sandbox, lambda: sandbox.grade(TWICE, SCRIPT))
    assert counts.pop("bytes_in") > len(TWICE)
    assert counts == ran(2, ok=2, graded=1, graded_passed=1)
    counts = moved(sandbox, lambda: sandbox.grade("def f(x): return 0", SCRIPT))
    assert only(counts, "executions", "graded", "graded_passed") == {
        "executions": 2,
        "graded": 1,
        "graded_passed": 0,
    }


def test_a_hanging_candidate_is_a_time_out_and_no_failure_of_the_judge(sandbox: Sandbox) -> None:
    counts = moved(sandbox, lambda: sandbox.grade(HANG, SCRIPT, limits=SHORT))
    assert counts["executions"] == 2
    assert counts["timeout"] >= 1
    assert "judge_failed" not in counts


def test_a_judge_that_hangs_by_itself_is_counted(sandbox: Sandbox) -> None:
    script = Script("while True: pass", names=("f",))
    counts = moved(sandbox, lambda: sandbox.grade(TWICE, script, limits=SHORT))
    assert only(counts, "judge_failed", "graded") == {"judge_failed": 1, "graded": 1}


def test_streams_are_an_execution_each_and_one_grading(sandbox: Sandbox) -> None:
    pairs = (("1", "1"), ("2", "2"), ("3", "3"))
    counts = moved(sandbox, lambda: sandbox.grade("print(input())", Streams(pairs)))
    assert only(counts, "executions", "graded", "graded_passed", "bytes_out") == {
        "executions": 3,
        "graded": 1,
        "graded_passed": 1,
        "bytes_out": 6,
    }


@pytest.mark.parametrize(
    ("candidate", "tests"),
    [
        (ROWS, CALLS),
        (FORGER, SCRIPT),
        (TWICE, Script("f(lambda: 0)")),
        (TWICE, Script("import solution\nsolution.f = 5", names=())),
    ],
    ids=["rows", "answers", "inexpressible", "monkeypatch"],
)
def test_forged_and_inexpressible_gradings_are_malformed(
    sandbox: Sandbox, candidate: str, tests: Any
) -> None:
    counts = moved(sandbox, lambda: sandbox.grade(candidate, tests))
    assert only(counts, "malformed", "graded", "graded_passed", "lost") == {
        "malformed": 1,
        "graded": 1,
        "graded_passed": 0,
        "lost": 0,
    }


def test_a_wrong_answer_is_not_malformed(sandbox: Sandbox) -> None:
    for code in ("def f(x): return object()", "def f(x): 1 / 0", "def g(x): pass", "?"):
        counts = moved(sandbox, lambda code=code: sandbox.grade(code, CALLS))
        assert only(counts, "malformed", "graded") == {"malformed": 0, "graded": 1}


def test_sessions_and_their_branches_are_counted_while_they_live(sandbox: Sandbox) -> None:
    opened: list[Session] = []
    counts = moved(sandbox, lambda: opened.append(sandbox.session()))
    assert only(counts, "sessions_open", "branches", "cells_started") == {
        "sessions_open": 1,
        "branches": 0,
        "cells_started": 1,
    }
    (session,) = opened
    counts = moved(sandbox, lambda: session.execute("print(1)"))
    assert only(counts, "executions", "ok", "bytes_out") == {
        "executions": 1,
        "ok": 1,
        "bytes_out": 2,
    }
    fork = session.fork()
    counts = moved(sandbox, fork.close)
    assert only(counts, "branches", "sessions_open") == {"branches": -1, "sessions_open": 0}
    counts = moved(sandbox, session.close)
    assert only(counts, "sessions_open") == {"sessions_open": -1}
    assert sandbox.stats.cells_retired["session"] == 1


def busy(pool: Any) -> Any:
    """The one cell of a pool that is lent."""
    assert until(lambda: bool(pool._busy))
    return next(iter(pool._busy))


def stay(mark: str) -> str:
    """Statements that hold a program up, and show outside that it runs."""
    words = f"'-S', '-c', 'import time; time.sleep(60)', '{mark}'"
    return f"import os, sys; os.spawnv(os.P_WAIT, sys.executable, [sys.executable, {words}])"


def killed(sandbox: Sandbox, pool: Any, mark: str, act: Callable[[], object]) -> dict[str, Any]:
    """What moves when the busy worker of a pool is killed while the act's program runs."""

    def both() -> None:
        with ThreadPoolExecutor(1) as threads:
            future = threads.submit(act)
            assert until(lambda: bool(carriers(mark)))
            os.kill(busy(pool).keeper.pids[0], signal.SIGKILL)
            future.result()

    return moved(sandbox, both)


def test_a_lost_worker_is_counted_and_replaced(marked: str) -> None:
    with Sandbox("cell", limits=Limits(wall=50.0), workers=1, preload=()) as sandbox:
        sandbox.execute("1")
        pool = sandbox._engine.pool  # pyright: ignore[reportPrivateUsage]
        counts = killed(sandbox, pool, marked, lambda: sandbox.execute(stay(marked)))
        assert only(counts, "executions", "lost", "cells_started") == {
            "executions": 1,
            "lost": 1,
            "cells_started": 1,
        }
        assert sandbox.stats.cells_retired == {"lost": 1}
        assert sandbox.execute("1").ok


def test_a_lost_judge_is_nobodys_failure_but_ours(marked: str) -> None:
    with Sandbox("cell", limits=Limits(wall=50.0), workers=1, preload=()) as sandbox:
        sandbox.grade(TWICE, SCRIPT)
        pool = sandbox._engine.judges  # pyright: ignore[reportPrivateUsage]
        reports: list[Report] = []
        candidate = f"def f(x): {stay(marked)}"
        act = lambda: reports.append(sandbox.grade(candidate, SCRIPT))  # noqa: E731
        counts = killed(sandbox, pool, marked, act)
        assert only(counts, "executions", "lost", "judge_failed", "graded") == {
            "executions": 2,
            "lost": 1,
            "judge_failed": 1,
            "graded": 1,
        }
        assert not reports[0].passed
        assert reports[0].result.reason == "lost"
        assert sandbox.grade(TWICE, SCRIPT).passed


def test_waiting_for_a_worker_is_counted(marked: str) -> None:
    with (
        Sandbox("cell", workers=1, limits=LONG, preload=()) as sandbox,
        ThreadPoolExecutor(2) as threads,
    ):
        sandbox.execute("1")
        assert sandbox.stats.queue_wait == 0.0
        pool = sandbox._engine.pool  # pyright: ignore[reportPrivateUsage]
        first = threads.submit(sandbox.execute, stay(marked))
        assert until(lambda: bool(carriers(marked)))
        second = threads.submit(sandbox.execute, "1")
        assert until(lambda: bool(pool._waiting))  # pyright: ignore[reportPrivateUsage]
        os.kill(carriers(marked)[0], signal.SIGKILL)  # what the first waits for
        assert first.result().ok
        assert second.result().ok
        assert sandbox.stats.queue_wait > 0.0


def test_the_highest_memory_is_kept(sandbox: Sandbox) -> None:
    sandbox.execute("x = bytearray(40 << 20)")
    before = sandbox.stats.memory_peak
    assert before is not None
    assert before > 40 << 20
    sandbox.execute("1")
    assert sandbox.stats.memory_peak == before


def test_what_was_refused_is_not_counted(sandbox: Sandbox) -> None:
    def refused() -> None:
        with pytest.raises(ValueError, match="plain"):
            sandbox.grade(TWICE, Calls("f", (Case((object(),)),)))

    assert moved(sandbox, refused) == {}


def test_the_copy_is_frozen(sandbox: Sandbox) -> None:
    before = sandbox.stats
    executions = before.executions
    sandbox.execute("1")
    assert before.executions == executions
    with pytest.raises(AttributeError):
        before.executions = 5  # type: ignore[misc]  # pyright: ignore
