"""What isolation costs: every backend beside its peers, in one run, on one pinned core.

    python benchmarks/sandbox.py [--quick] [--write]

Peers take turns with us, round by round; a ratio is the median over rounds of the ratio of medians.
Ratios travel between machines, milliseconds do not. Exits 1 where a floor is not held. The plain
interpreter is the one below any virtual environment, with all that its own site-packages load at
its start; with `-S` it loads nothing of that. A fork counts until the new process has spoken.
`--quick` takes a fifth of the samples. Only "two workers" needs two cores, and idle ones.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from _peers import PYTHON, SMALL, Engine, bare, bubblewrap, engine, pipe_repl
from _turns import Bench, Call, Row, milliseconds, ratio
from palaestra.tool_sandbox import COMMON, Calls, Case, Limits, Sandbox, Script, Session
from palaestra.tool_sandbox.embedded import Embedded

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "sandbox.md"
FORK = """
import os, statistics, sys, time
heap = b'x' * int(sys.argv[1])
times = []
for _ in range(int(sys.argv[2])):
    read, write = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if not child:
        os.write(write, b'.')
        os._exit(0)
    os.read(read, 1)
    times.append(time.perf_counter() - began)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
print(statistics.median(times))
"""


def executions(bench: Bench, sandbox: Sandbox) -> Iterator[Row]:
    """One small program, by everyone who can run it."""
    calls: dict[str, tuple[Call, int]] = {
        "cell": (lambda: sandbox.execute(SMALL), 60),
        "bare": (bare(SMALL), 8),
        "bare -S": (bare(SMALL, "-S"), 8),
    }
    if shutil.which("bwrap"):
        calls["bubblewrap"] = (bubblewrap(SMALL), 8)
    with engine() as peers:
        if isinstance(peers, Engine):
            calls["docker"] = (lambda: peers.backend.execute(SMALL), 60)
            calls["docker run"] = (peers.run, 2)
            calls["docker exec"] = (peers.exec, 4)
        found = bench.turns(calls)
    missing = peers if isinstance(peers, str) else ""
    bounds = (
        ("cell", "bare", 15, 28),
        ("cell", "bare -S", 4, 7),
        ("cell", "bubblewrap", 15, 32),
        ("cell", "docker run", 100, 200),
        ("docker", "docker run", 50, 100),
        ("docker", "docker exec", 10, 25),
    )
    for fast, slow, floor, aim in bounds:
        what = f"`{fast}` execute, against {slow}"
        if fast in found and slow in found:
            note = milliseconds(found, fast, slow)
            yield Row(what, ratio(found, slow, fast), "x", floor, aim, note)
        else:
            why = "no bubblewrap here (apt: bubblewrap)" if slow == "bubblewrap" else missing
            yield Row(what, None, "x", floor, aim, why)
    gaps = bench.turns({"cell": (lambda: sandbox.execute(SMALL), 60), "bare": calls["bare"]}, 0.005)
    note = milliseconds(gaps, "cell", "bare")
    yield Row(
        "the same with 5 ms gaps, against bare", ratio(gaps, "bare", "cell"), "x", None, 45, note
    )


def starts(bench: Bench) -> Iterator[Row]:
    """A new worker, by the zygote and with an interpreter of its own."""
    warm = Embedded(None, COMMON, ())
    made = []

    def fork() -> None:
        made.append(warm.begin(Limits()))
        made[-1].wait_ready()

    def whole() -> None:
        backend = Embedded(None, COMMON, ())
        cell = backend.begin(Limits())
        cell.wait_ready()
        made.append(cell)
        closing.append(backend)

    closing = [warm]
    try:
        found = bench.turns({"zygote": (fork, 5), "own": (whole, 2)})
    finally:
        for one in (*made, *closing):
            one.close()
    note = milliseconds(found, "zygote", "own")
    yield Row(
        "new cell, against an own interpreter", ratio(found, "own", "zygote"), "x", 3, 4, note
    )


def calls(bench: Bench, sandbox: Sandbox) -> Iterator[Row]:
    """A hundred cases of one function."""
    code = "def f(n):\n    return sum(range(n))\n"
    cases = tuple(Case((n,), expected=sum(range(n))) for n in range(100))
    each = [f"{code}\nprint(f({n}))" for n in range(100)]
    asserts = "".join(f"assert f({case.args[0]}) == {case.expected}\n" for case in cases)

    def batched() -> None:
        assert sandbox.grade(code, Calls("f", cases)).passed

    def one_by_one() -> None:
        for program in each:
            sandbox.execute(program)

    found = bench.turns(
        {"calls": (batched, 10), "each": (one_by_one, 1), "bare": (bare(code + asserts), 5)}
    )
    note = milliseconds(found, "calls", "each")
    yield Row(
        "100 cases by `Calls`, against one execution each",
        ratio(found, "each", "calls"),
        "x",
        20,
        50,
        note,
    )
    note = milliseconds(found, "calls", "bare")
    yield Row(
        "the same, against bare with the asserts inside",
        ratio(found, "bare", "calls"),
        "x",
        8,
        18,
        note,
    )


def humaneval(bench: Bench, sandbox: Sandbox, data: Path) -> Iterator[Row]:
    """Reference solutions by a judge in another cell, against tests in the candidate's process."""
    what = "HumanEval by `Script`, against bare with the tests inside"
    path = data / "humaneval" / "humaneval.jsonl.gz"
    if not path.is_file():
        yield Row(what, None, "x", 3, 5, "the data is not here")
        return
    with gzip.open(path, "rt") as file:
        tasks = [json.loads(line) for line in file]
    chunks = [tasks[k::4] for k in range(4)][: 1 if bench.rounds < 5 else 4]
    passed = total = 0
    found: dict[str, list[float]] = {"script": [], "bare": []}
    sandbox.grade("def f():\n    return 1\n", Script("assert f() == 1"))  # starts the judge
    for chunk in chunks:
        began = time.perf_counter()
        for task in chunk:
            tests = Script(task["test"], prelude=task["prompt"], call=task["entry_point"])
            report = sandbox.grade(task["prompt"] + task["canonical_solution"], tests)
            passed, total = passed + report.passed, total + 1
        halfway = time.perf_counter()
        for task in chunk:
            call = f"\n{task['test']}\ncheck({task['entry_point']})\n"
            bare(task["prompt"] + task["canonical_solution"] + call)()
        found["script"].append((halfway - began) / len(chunk))
        found["bare"].append((time.perf_counter() - halfway) / len(chunk))
    yield Row(
        what, ratio(found, "bare", "script"), "x", 3, 5, milliseconds(found, "script", "bare")
    )
    share = 100 * passed / total
    yield Row("HumanEval references that pass", share, "%", 100, 100, f"{passed} of {total}")


def sessions(bench: Bench, sandbox: Sandbox) -> Iterator[Row]:
    """Turns of a conversation, and its branches."""
    with sandbox.session() as session, pipe_repl() as turn:
        found = bench.turns(
            {"session": (lambda: session.execute("x = 1"), 200), "pipe": (turn, 200)}
        )
    note = milliseconds(found, "session", "pipe")
    yield Row(
        "session round trip, against a bare pipe",
        ratio(found, "session", "pipe"),
        "x",
        5,
        3,
        note,
        True,
    )
    for title, size in (("small", 0), ("100 MiB", 100 << 20)):
        with sandbox.session() as session:
            session.execute(f"heap = b'x' * {size}")
            found = {"session": [], "bare": []}
            for _ in range(bench.rounds):
                found["session"].append(forked(bench, session))
                words = [PYTHON, "-I", "-c", FORK, str(size), "10"]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                found["bare"].append(float(done.stdout))
        note = milliseconds(found, "session", "bare")
        what = f"session fork, {title} heap, against a bare os.fork"
        yield Row(what, ratio(found, "session", "bare"), "x", 10, 10, note, True)


def forked(bench: Bench, session: Session) -> float:
    times: list[float] = []
    for _ in range(max(2, int(8 * bench.share))):
        began = time.perf_counter()
        branch = session.fork()
        times.append(time.perf_counter() - began)
        branch.close()
    return statistics.median(times)


def memory(bench: Bench, sandbox: Sandbox) -> Iterator[Row]:
    """What one more idle session costs."""
    what, count = "memory of an idle session (PSS)", int(30 * bench.share)
    sandbox.execute(SMALL)
    before = proportional(os.getpid())
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(sandbox.session()).execute("x = 1")
        after = proportional(os.getpid())
    if after <= before:
        yield Row(what, None, "MiB", 8, 6, "not shown to this user", True)
        return
    note = f"{count} sessions, all their processes"
    yield Row(what, (after - before) / count / (1 << 20), "MiB", 8, 6, note, True)


def proportional(parent: int) -> int:
    """Bytes of all descendants, shared pages by share."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            text = Path(f"/proc/{int(name)}/stat").read_text()
            below.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(name))
    total, waiting = 0, list(below.get(parent, ()))
    while waiting:
        pid = waiting.pop()
        waiting += below.get(pid, ())
        with contextlib.suppress(OSError, ValueError, StopIteration):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += int(next(line for line in lines if line.startswith("Pss:")).split()[1]) << 10
    return total


def overshoot(bench: Bench, sandbox: Sandbox) -> Iterator[Row]:
    """How late a time-out is, seen by the caller."""
    limits, late = Limits(wall=0.04), list[float]()
    programs = ("while True: pass", "import time\ntime.sleep(9)")
    for k in range(int(200 * bench.share)):
        began = time.perf_counter()
        result = sandbox.execute(programs[k % 2], limits=limits)
        assert result.reason == "timeout", result
        late.append((time.perf_counter() - began - limits.wall) * 1000)
    worst = sorted(late)[int(0.99 * len(late))]
    note = f"median {statistics.median(late):.1f} ms, {len(late)} time-outs"
    yield Row("time-out overshoot, p99", worst, "ms", 50, None, note, True)


def two_workers(bench: Bench) -> Iterator[Row]:
    """Twice the workers on two cores."""
    what = "two workers, against one"
    if len(os.sched_getaffinity(0)) < 2:
        yield Row(what, None, "x", 1.7, 1.8, "one core only")
        return
    jobs = ["total = 0\nfor k in range(400_000):\n    total += k"] * int(40 * bench.share)
    with Sandbox("cell", workers=1) as one, Sandbox("cell", workers=2) as two:
        found = bench.turns(
            {"one": (lambda: list(one.map(jobs)), 1), "two": (lambda: list(two.map(jobs)), 1)}
        )
    load = os.getloadavg()[0]
    note = f"{milliseconds(found, 'two', 'one')}; load {load:.1f}"
    yield Row(what, ratio(found, "one", "two"), "x", 1.7, 1.8, note)


def measure(bench: Bench, data: Path) -> Iterator[Row]:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        with Sandbox("cell", workers=1) as sandbox:
            yield from executions(bench, sandbox)
            yield from starts(bench)
            yield from calls(bench, sandbox)
            yield from humaneval(bench, sandbox, data)
            yield from sessions(bench, sandbox)
            yield from memory(bench, sandbox)
            yield from overshoot(bench, sandbox)
    finally:
        os.sched_setaffinity(0, cores)
    yield from two_workers(bench)


def table(rows: list[Row], seconds: float) -> str:
    """The rows as Markdown."""
    head = ("what", "measured", "floor", "aim", "met", "ours / theirs, or how")
    lines = [
        "# What isolation costs",
        "",
        "Made by `python benchmarks/sandbox.py --write`, on one pinned core; peers took turns with "
        "us in the same run.",
        "",
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python "
        f"{platform.python_version()}, load {os.getloadavg()[1]:.1f}; {seconds:.0f} s.",
        "",
        f"| {' | '.join(head)} |",
        "|---|---:|---:|---:|---|---|",
        *(f"| {' | '.join(row.cells())} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the samples")
    parser.add_argument("--write", action="store_true", help="keep the table")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    options = parser.parse_args()
    began, rows = time.monotonic(), list[Row]()
    for row in measure(Bench(options.quick), options.data):
        print("  ".join(row.cells()), flush=True)
        rows.append(row)
    text = table(rows, time.monotonic() - began)
    print(f"\n{text}")
    if options.write:
        RESULTS.write_text(text)
    sys.exit(any(row.met == "NO" for row in rows))


if __name__ == "__main__":
    main()
