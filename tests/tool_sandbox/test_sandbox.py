from __future__ import annotations

import asyncio
import math
import pickle
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from palaestra.tool_sandbox import (
    BadRequest,
    Calls,
    Case,
    Job,
    Limits,
    MiB,
    Report,
    Sandbox,
    SandboxClosed,
    SandboxUnavailable,
    Script,
)
from palaestra.tool_sandbox import backends as choices
from palaestra.tool_sandbox.limits import Isolation
from palaestra.tool_sandbox.stats import Counters, Latency

pytestmark = pytest.mark.linux
PRELOAD = ("json", "re")


def test_what_was_observed_is_what_is_said(cells: Sandbox) -> None:
    seen = cells.isolation
    assert isinstance(seen, Isolation)
    assert (seen.backend, seen.level) == ("cell", "full")
    assert {"mount", "pid", "net", "ipc", "uts", "seccomp"} <= set(seen.layers)


def test_results_come_in_the_order_of_the_programs(cells: Sandbox) -> None:
    results = list(cells.map(f"print({i})" for i in range(12)))
    assert [r.stdout for r in results] == [f"{i}\n" for i in range(12)]


def test_unordered_results_are_all_there(cells: Sandbox) -> None:
    results = cells.map([f"print({i})" for i in range(8)], ordered=False)
    assert sorted(r.stdout for r in results) == sorted(f"{i}\n" for i in range(8))


def test_map_reads_at_most_two_programs_a_worker_ahead(cells: Sandbox) -> None:
    taken: list[int] = []

    def programs() -> Iterator[str]:
        for index in range(50):
            taken.append(index)
            yield "pass"

    results = cells.map(programs())
    assert taken == []
    next(results)
    assert len(taken) <= 2 * cells.workers + 1
    results.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def test_jobs_keep_their_own_wishes_in_a_map(cells: Sandbox) -> None:
    jobs = [
        Job("print(open('f').read())", files={"f": "a"}),
        "import sys; print(sys.stdin.read())",
        Job("echo hi", language="shell"),
        Job("1 + 1", want_value=True),
    ]
    results = list(cells.map(jobs, stdin="in"))
    assert [r.stdout for r in results] == ["a\n", "in\n", "hi\n", ""]
    assert results[3].value == 2


def test_coroutines_run_side_by_side(cells: Sandbox) -> None:
    async def main() -> list[str]:
        results = await asyncio.gather(*(cells.aexecute(f"print({i})") for i in range(6)))
        return [r.stdout for r in results]

    assert asyncio.run(main()) == [f"{i}\n" for i in range(6)]


def test_an_asynchronous_map_takes_both_kinds_of_iterables(cells: Sandbox) -> None:
    async def programs() -> AsyncIterator[str]:
        for index in range(5):
            yield f"print({index})"

    async def main() -> list[str]:
        first = [r.stdout async for r in cells.amap(programs())]
        second = [r.stdout async for r in cells.amap(["print(9)"], ordered=False)]
        return first + second

    assert asyncio.run(main()) == ["0\n", "1\n", "2\n", "3\n", "4\n", "9\n"]


def test_cancelling_kills_the_execution_and_frees_the_worker(cells: Sandbox, marked: str) -> None:
    async def main() -> str:
        code = f"import os; os.execv('/bin/sh', ['sh', '-c', 'sleep 60; : {marked}'])"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await cells.aexecute(code, limits=Limits(wall=60, memory=256 * MiB))
        return (await cells.aexecute("print(1)")).stdout

    assert asyncio.run(main()) == "1\n"


@pytest.mark.parametrize(
    "tests",
    [Calls("f", (Case((1,), expected=1),)), Script("assert f(1) == 1")],
    ids=["calls", "script"],
)
def test_cancelling_kills_the_grading_and_frees_the_worker(
    cells: Sandbox, marked: str, tests: Calls | Script
) -> None:
    code = f"import subprocess; subprocess.run(['sh', '-c', 'sleep 60; : {marked}'])"
    long = Limits(wall=60, memory=256 * MiB)

    async def one() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await cells.agrade(code, tests, limits=long)

    async def all_of(reports: AsyncIterator[Report]) -> list[Report]:
        return [report async for report in reports]

    async def many() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await all_of(cells.agrade_many([(code, tests)] * 9, limits=long))

    lost, graded = cells.stats.lost, cells.stats.graded
    asyncio.run(one())
    asyncio.run(many())
    right = "def f(x): return x"
    assert [cells.grade(right, tests).passed for _ in range(4)] == [True] * 4
    assert (cells.stats.lost, cells.stats.graded) == (lost, graded + 4)  # no alarm, no verdict


def test_threads_share_the_workers(cells: Sandbox) -> None:
    found: list[str] = []

    def run(number: int) -> None:
        found.append(cells.execute(f"print({number})").stdout)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"{i}\n" for i in range(8)]


def test_other_limits_get_cells_of_their_own(cells: Sandbox) -> None:
    code = "import os; s = os.statvfs('.'); print(s.f_blocks * s.f_frsize)"
    for disk in (1 * MiB, 2 * MiB, 1 * MiB):
        result = cells.execute(code, limits=Limits(disk=disk, memory=256 * MiB))
        assert int(result.stdout) == disk


def test_coroutines_grade_many(cells: Sandbox) -> None:
    tests = Calls(entry="f", cases=(Case(args=(2,), expected=4),))
    programs = ["f = lambda x: 2 * x", "f = abs", "f = lambda x: x + 2"]

    async def main() -> list[bool]:
        one = await cells.agrade(programs[0], tests)
        pairs = [(program, tests) for program in programs]
        return [one.passed] + [report.passed async for report in cells.agrade_many(pairs)]

    assert asyncio.run(main()) == [True, True, False, True]


def test_calls_are_graded(cells: Sandbox) -> None:
    tests = Calls(entry="f", cases=(Case(args=(2,), expected=4), Case(args=(3,), expected=9)))
    assert cells.grade("def f(x): return x * x", tests).passed
    reports = list(cells.grade_many([("def f(x): return x * x", tests), ("f = 1", tests)]))
    assert [report.passed for report in reports] == [True, False]


@pytest.mark.parametrize(
    "arguments",
    [
        {"backend": "cells"},
        {"minimum": "some"},
        {"workers": 0},
        {"workers": -1},
        {"workers": "2"},
        {"workers": True},
        {"workers": 1.5},
        {"workers": math.nan},
        {"workers": 10**9},
        {"limits": 5},
        {"preload": "json"},
        {"preload": [5]},
        {"preload": ["a\0b"]},
        {"preload": 5},
        {"python": 5},
        {"python": ""},
        {"readable": "/etc"},
        {"readable": ["/nonexistent"]},
        {"readable": [5]},
        {"readable": ["/a\0"]},
        {"network": "docs.python.org"},
        {"image": 5},
        {"backend": None},
        {"minimum": None},
        {"backend": "process"},
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        Sandbox(**arguments)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "options",
    [
        {"language": "ruby"},
        {"seed": "1"},
        {"seed": 1 << 5000},
        {"fetch": "path"},
        {"fetch": ["x"] * 65},
        {"files": {str(i): b"" for i in range(65)}},
        {"files": {"x": 5}},
        {"stdin": 5},
        {"limits": 3},
        {"nonsense": 1},
        {"limits": Limits(memory=1 << 45)},
    ],
)
def test_requests_that_cannot_be_are_refused_before_anything_runs(
    cells: Sandbox, options: dict[str, object]
) -> None:
    before = cells.stats.executions
    with pytest.raises(BadRequest):
        cells.execute("1", **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert cells.stats.executions == before


def test_code_that_is_no_text_is_refused(cells: Sandbox) -> None:
    with pytest.raises(BadRequest, match="code is bytes"):
        cells.execute(b"1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_closed_sandbox_says_so() -> None:
    sandbox = Sandbox("cell", workers=1, preload=PRELOAD)
    sandbox.execute("1")
    sandbox.close()
    sandbox.close()
    for use in (
        lambda: sandbox.execute("1"),
        sandbox.session,
        lambda: sandbox.isolation,
        lambda: list(sandbox.map(["1"])),
    ):
        with pytest.raises(SandboxClosed):
            use()
    assert sandbox.stats.executions == 1


def test_a_sandbox_that_was_never_used_closes_in_silence() -> None:
    Sandbox("cell", workers=1).close()


def test_closing_from_another_thread_ends_what_runs() -> None:
    sandbox = Sandbox("cell", workers=1, preload=PRELOAD, limits=Limits(wall=60))
    sandbox.execute("1")
    found: list[str] = []

    def spin() -> None:
        try:
            found.append(sandbox.execute("while True: pass").reason)
        except SandboxClosed:  # closed between taking the worker and handing over
            found.append("lost")

    thread = threading.Thread(target=spin)
    thread.start()
    while not sandbox._engine.pool._busy:  # pyright: ignore[reportPrivateUsage]
        pass
    sandbox.close()
    thread.join()
    assert found == ["lost"]


def test_a_pickled_sandbox_carries_its_arguments_only() -> None:
    with Sandbox("cell", workers=1, preload=PRELOAD, limits=Limits(wall=60)) as sandbox:
        sandbox.execute("1")
        with pickle.loads(pickle.dumps(sandbox)) as copy:
            assert copy.limits == sandbox.limits
            assert copy.execute("print(1)").ok
            assert copy.stats.executions == 1


def test_workers_that_idle_beyond_their_number_are_retired() -> None:
    with Sandbox("cell", workers=1, preload=PRELOAD) as sandbox:
        for disk in (1, 2, 3):
            assert sandbox.execute("1", limits=Limits(disk=disk * MiB)).ok
        assert len(sandbox._engine.pool._idle) == 1  # pyright: ignore[reportPrivateUsage]


def test_a_cell_retires_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palaestra.tool_sandbox.pool.LIFE", 3)
    with Sandbox("cell", workers=1, preload=PRELOAD) as sandbox:
        assert all(sandbox.execute("1").ok for _ in range(7))
        assert sandbox.stats.cells_retired == {"old": 2}


def test_stats_count_what_happened() -> None:
    with Sandbox("cell", workers=1, preload=PRELOAD, limits=Limits(wall=60)) as sandbox:
        sandbox.execute("print('abc')")
        sandbox.execute("1 / 0")
        sandbox.execute("while True: pass", limits=Limits(wall=0.1))
        sandbox.execute("import os; os.makedirs('a/b')")
        stats = sandbox.stats
    assert stats.executions == 4
    assert (stats.reasons["ok"], stats.reasons["error"], stats.reasons["timeout"]) == (2, 1, 1)
    assert stats.unclean == 1
    assert stats.bytes_out >= 4
    assert stats.run.count == 4
    assert stats.memory_peak


def test_a_quantile_is_the_bound_of_its_class() -> None:
    counters = Counters()
    assert Latency().quantile(0.5) == 0
    for seconds in (0.001, 0.002, 0.1):
        counters._histograms[0].add(seconds)  # pyright: ignore[reportPrivateUsage]
    latency = counters._histograms[0].freeze()  # pyright: ignore[reportPrivateUsage]
    assert 0.002 <= latency.quantile(0.5) < 0.004
    assert 0.1 <= latency.quantile(0.99) < 0.2


def test_an_interpreter_that_does_not_exist_is_unavailable() -> None:
    with pytest.raises(SandboxUnavailable, match="zygote"):
        Sandbox("cell", python="/nowhere/python").execute("1")


def test_a_preload_that_starts_threads_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Sandbox("cell", workers=1, preload=("json", "no_such_module")) as sandbox:
        assert sandbox.execute("print(1)").ok


def test_auto_never_holds_the_process_backend() -> None:
    wish = choices.Wish("auto", "none", None, (), (), None)
    assert len(choices.candidates(wish)) == 2


def test_a_guest_inherits_no_future_of_ours(cells: Sandbox) -> None:
    assert cells.execute("def f(x: nowhere): pass").reason == "error"
    result = cells.execute("def f(x: int): pass\nf.__annotations__['x'] is int", want_value=True)
    assert result.value is True
    with cells.session() as session:
        session.execute("def f(x: int): pass")
        assert session.execute("f.__annotations__['x'] is int").stdout == "True\n"


def test_a_guest_can_start_its_own_interpreter(cells: Sandbox) -> None:
    code = "import subprocess, sys; print(subprocess.call([sys.executable, '-c', 'pass']))"
    assert cells.execute(code, limits=Limits(wall=20.0, memory=256 * MiB)).stdout == "0\n"


def test_odd_requests_are_refused_by_name(cells: Sandbox) -> None:
    odd: tuple[tuple[str, object], ...] = (
        *(("files", value) for value in (["a"], 5, {5: b""})),
        *(("fetch", value) for value in (5, "a", [5])),
        *(("limits", value) for value in (0, "x")),
    )
    for name, value in odd:
        with pytest.raises(BadRequest):
            cells.execute("1", **{name: value})  # type: ignore[arg-type]
    with pytest.raises(BadRequest):
        cells.session(limits=0)  # type: ignore[arg-type]
