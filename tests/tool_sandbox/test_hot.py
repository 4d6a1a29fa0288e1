"""Hot pages: found by practice, copied with a fork, and the same for all cells of a zygote."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable

import pytest
from palaestra.testing import plain_user
from palaestra.testing.victims import until
from palaestra.tool_sandbox import Sandbox
from palaestra.tool_sandbox.guest import hot

pytestmark = pytest.mark.linux

PAGE, COUNT = mmap.PAGESIZE, 200
FULL = "this user's processes, of other tests too, have locked all the memory they may"
FAULTS = "import resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
FEW = 150  # faults of a small program; without hot pages it has some 230, with them some 40
RINGS = """
import os
print([line for line in open("/proc/self/maps") if "uring" in line])
for fd in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{fd}"))
    except OSError:
        pass
"""
WITHOUT_LOCKED_MEMORY = f"""
import resource
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
from palaestra.tool_sandbox import Sandbox
with Sandbox("cell", workers=1) as sandbox:
    print(sandbox.execute({FAULTS!r}).stdout)
"""


@pytest.fixture
def ring() -> int:
    try:
        return hot.idle_ring()
    except OSError as problem:
        pytest.skip(f"this machine refuses io_uring: {problem}")


def pages(count: int) -> mmap.mmap:
    """Private pages that have been written to, none of them on a huge page."""
    area = mmap.mmap(-1, count * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    write(area, range(count))
    return area


def write(area: mmap.mmap, which: range) -> None:
    for k in which:
        area[k * PAGE] = 1


def in_a_fork(work: Callable[[], int]) -> int:
    """What a copy of this process returns, from 0 to 255."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(work())
        finally:  # it raised: no copy of this test may go on
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def faults_of(work: Callable[[], None]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return min(255, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def address(area: mmap.mmap) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def locked(ring: int, area: mmap.mmap, size: int) -> bool:
    """Pins pages; False where all that this user may lock is in use, by any of its processes."""
    try:
        hot.pin(ring, [hot.Run(address(area), size * PAGE)])
    except OSError as problem:
        if problem.errno != errno.ENOMEM:
            raise
        return False
    return True


def test_what_either_side_of_a_fork_wrote_is_found() -> None:
    area = pages(6)
    said, say = os.pipe()
    pid = os.fork()
    if not pid:
        write(area, range(3, 4))
        os.write(say, b".")
        signal.pause()
    try:
        write(area, range(1, 2))
        os.read(said, 1)
        found = hot.written(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(said)
        os.close(say)
    first = address(area)
    shown = {at for run in found for at in range(run.start, sum(run), PAGE)}
    assert [first + k * PAGE in shown for k in range(6)] == [False, True, False, True, False, False]


def test_pinned_pages_are_copied_by_the_fork_itself(ring: int) -> None:
    area = pages(COUNT)
    everything = range(COUNT)
    assert in_a_fork(lambda: faults_of(lambda: write(area, everything))) >= COUNT
    descriptors = len(os.listdir("/proc/self/fd"))
    if not until(lambda: locked(ring, area, COUNT)):
        pytest.skip(FULL)
    os.close(ring)
    assert in_a_fork(lambda: faults_of(lambda: write(area, everything))) < COUNT // 2
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1  # nothing but the ring went


def test_each_cell_of_a_zygote_has_its_hot_pages(ring: int) -> None:
    os.close(ring)
    most: list[int] = []

    def seen() -> bool:
        found: list[int] = []
        with Sandbox("cell", workers=1) as sandbox:
            for _ in range(3):  # the first cell finds them, the others are told
                found.append(int(sandbox.execute(FAULTS).stdout))
                sandbox.execute("import os\nos.makedirs('a/b')")  # which retires the cell
            assert sandbox.stats.cells_started == 4
        most.append(max(found))
        return most[-1] < FEW

    def room() -> bool:
        return in_a_fork(lambda: locked(hot.idle_ring(), pages(700), 700)) == 1

    if not until(lambda: room() and seen()):
        assert not room(), f"a program has {most} faults"
        pytest.skip(FULL)


def test_no_execution_has_the_ring(cells: Sandbox, ring: int) -> None:
    os.close(ring)
    found = cells.execute(RINGS)
    assert found.reason == "ok"
    assert "uring" not in found.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user, who may lock nothing")
def test_a_user_who_may_lock_no_memory_forks_as_before() -> None:
    done = plain_user.run([sys.executable, "-c", WITHOUT_LOCKED_MEMORY])
    assert int(done.stdout) > FEW, done.stderr
