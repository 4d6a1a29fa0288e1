"""The sandbox's properties on thousands of examples."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from palaestra.tool_sandbox import Calls, Case, Limits, Sandbox, wire
from palaestra.tool_sandbox.cell import Cell, Request
from palaestra.tool_sandbox.limits import REASONS, MiB

from .test_odd_workers import READY, Deaf

pytestmark = [pytest.mark.slow, pytest.mark.linux, pytest.mark.timeout(1800)]

thousands = settings(
    max_examples=2_000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SMALL = Limits(wall=20, memory=256 * MiB)
LINES = (
    "print(sorted({'b', 'a', 'c'}), {1, 'x'})",
    "import random; print(random.random())",
    "import time; print(time.tzname)",
    "import os; print(sorted(os.environ), os.getcwd())",
    "print(hash('palaestra'))",
    "open('f', 'a').write('x'); print(open('f').read())",
    "raise ValueError('no')",
)


@thousands
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_as_code_gives_a_result(cells: Sandbox, code: str) -> None:
    result = cells.execute(code, limits=SMALL)
    assert result.reason in ("ok", "error", "timeout", "cpu", "memory", "output", "killed")


@thousands
@given(st.integers(0, 100_000), st.integers(0, 20_000))
def test_output_is_counted_and_its_head_is_kept(cells: Sandbox, size: int, cap: int) -> None:
    limits = Limits(wall=20, memory=256 * MiB, output=max(1, cap))
    result = cells.execute(f"print('ab' * {size // 2}, end='')", limits=limits)
    written = size // 2 * 2
    assert result.stdout_bytes == written
    assert result.stdout == ("ab" * (size // 2))[: max(1, cap)]


@thousands
@given(st.lists(st.sampled_from(LINES), max_size=4), st.integers(0, 9))
def test_the_same_program_and_seed_print_the_same(
    cells: Sandbox, lines: list[str], seed: int
) -> None:
    code = "\n".join(lines)
    first, second = (cells.execute(code, limits=SMALL, seed=seed) for _ in range(2))
    assert (first.stdout, first.exit_code) == (second.stdout, second.exit_code)


SEEN_INSIDE = """
import os, resource as r
space = os.statvfs("/mnt")
kinds = r.RLIMIT_NOFILE, r.RLIMIT_FSIZE, r.RLIMIT_NPROC, r.RLIMIT_CPU
print(*(r.getrlimit(kind)[1] for kind in kinds))
print(space.f_blocks * space.f_frsize, space.f_files)
"""


@thousands
@given(
    st.integers(16, 200),
    st.integers(1, 30),
    st.integers(1, 16),
    st.integers(1, 24),
    st.integers(64, 900),
    st.integers(1, 40),
)
def test_limits_of_a_call_are_seen_inside(
    cells: Sandbox, files: int, size: int, processes: int, disk: int, inodes: int, cpu: int
) -> None:
    limits = Limits(
        wall=20,
        cpu=cpu,
        memory=256 * MiB,
        open_files=files,
        file_size=size * MiB,
        processes=processes,
        disk=disk * MiB,
        inodes=inodes,
    )
    seen = [int(word) for word in cells.execute(SEEN_INSIDE, limits=limits).stdout.split()]
    assert seen[:3] == [files, size * MiB, processes + 3]
    assert cpu <= seen[3] <= cpu + 1  # one second between the warning and the kill
    assert seen[4] == disk * MiB
    assert inodes <= seen[5] <= inodes + 8  # the folders that are there at the start


STEPS = (
    "time.sleep(0.005)",
    "time.sleep(60)",
    "spin(0.005)",
    "spin(60)",
    "os.fork() or spin(60)",
    "os.fork() or time.sleep(60)",
    "threading.Thread(target=spin, args=(60,)).start()",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "atexit.register(time.sleep, 60)",
)
MIX = """
import atexit, os, signal, threading, time
def spin(seconds):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends: pass
"""


@thousands
@given(st.lists(st.sampled_from(STEPS), max_size=4), st.integers(5, 40))
def test_no_mix_of_sleep_and_work_outlasts_its_wall(
    cells: Sandbox, steps: list[str], milliseconds: int
) -> None:
    limits = Limits(wall=milliseconds / 1000, memory=256 * MiB)
    result = cells.execute(MIX + "\n".join(steps), limits=limits)
    assert result.reason in ("ok", "timeout")
    if any("60" in step and "fork" not in step for step in steps):
        assert result.reason == "timeout"
    # The promise is 50 ms at the 99th percentile; this one is for a machine far beyond its limit.
    assert result.wall <= limits.wall + 20


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@thousands
@given(PLAIN, st.booleans())
def test_grading_agrees_with_python(cells: Sandbox, value: Any, right: bool) -> None:
    expected = [value, value] if right else [value, value, None]
    report = cells.grade(
        "def f(x):\n    return [x, x]", Calls("f", (Case((value,), expected=expected),))
    )
    assert report.passed is right


@thousands
@given(st.binary(max_size=300))
def test_any_bytes_from_a_worker_parse_or_are_malformed(data: bytes) -> None:
    pieces = wire.Assembler()
    read: tuple[Callable[[], object], ...] = (
        lambda: wire.unpack_ending(data, wire.Order(b"")),
        lambda: wire.unpack_json(data),
        lambda: pieces.feed(data),
    )
    for parse in read:
        with contextlib.suppress(wire.Malformed):
            parse()
    assert len(data) <= 300


def ending(status: int, out: bytes, cause: int) -> bytes:
    """The body of an answer, of which each part may be what none is."""
    return bytes((cause,)) + wire.pack_ending(wire.Ending(0, status, out))[1:]


def frame(kind: int, number: int, body: bytes, cut: int) -> bytes:
    """A frame that may lack its end."""
    data = wire.pack(kind, number, body)
    return data[: len(data) - cut]


ENDINGS = st.builds(ending, st.integers(-70, 300), st.binary(max_size=20), st.integers(0, 9))
BODIES = st.binary(max_size=200) | ENDINGS
KINDS = st.just(wire.RESULT) | st.integers(0, 255)
FRAMES = st.builds(frame, KINDS, st.integers(0, 2), BODIES, st.integers(0, 3))
ANSWERS = st.binary(max_size=300) | FRAMES


@thousands
@given(st.lists(ANSWERS, max_size=3))
def test_whatever_bytes_a_worker_answers_execute_returns(answers: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        cell = Cell(ours, Limits(), Deaf())
        theirs.sendall(READY)
        theirs.sendall(b"".join(answers))
        theirs.shutdown(socket.SHUT_WR)
        result = cell.execute(Request("1", limits=SMALL)).result
        assert result.reason in REASONS
        assert cell.alive == (result.reason != "lost")
        cell.close()
