"""Places among the busy: whoever stops waiting gives his back, and nobody waits for himself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, cast

import pytest
from palaestra.testing.victims import until
from palaestra.tool_sandbox import (
    Calls,
    Case,
    Limits,
    MiB,
    Result,
    Sandbox,
    SandboxClosed,
)
from palaestra.tool_sandbox.cell import Cell
from palaestra.tool_sandbox.pool import Pool
from palaestra.tool_sandbox.stats import Counters

pytestmark = [pytest.mark.linux, pytest.mark.timeout(300)]
GUARD = 120.0  # seconds: it hangs
OTHER = Limits(memory=300 * MiB)
TESTS = Calls("f", (Case((-1,), expected=1),))


class Idle:
    """As much of a cell as a pool looks at."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.alive, self.retired, self.closed, self.asked = True, False, False, False
        self.executions, self.fault = 0, ""
        self.ready: object = None

    def wait_ready(self) -> None:
        self.ready = {}

    def dead(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    kill = hang_up = close


class Ground:
    """A pool, mostly of one place, and the cells that were begun for it."""

    def __init__(
        self,
        begin: Callable[[Limits], object] = lambda _: None,
        workers: int = 1,
        kind: type[Idle] = Idle,
    ) -> None:
        self.cells: list[Idle] = []

        def made(limits: Limits) -> Cell:
            begin(limits)
            self.cells.append(kind(limits))
            return cast("Cell", self.cells[-1])

        self.pool = Pool(made, lambda _: None, Limits(), workers, Counters())

    def has_place(self) -> bool:
        """Whether the place is free; takes and gives it."""
        future = self.pool.permit()
        if future is None:
            self.pool._give_back()  # pyright: ignore[reportPrivateUsage]
        else:
            future.cancel()
        return future is None


@pytest.fixture
def ground() -> Iterator[Ground]:
    found = Ground()
    yield found
    found.pool.close()


@pytest.fixture
def cold(cells: Sandbox) -> Iterator[Sandbox]:
    """A sandbox that has not started; skips where this machine cannot isolate."""
    with Sandbox("cell", workers=1, preload=("json",), limits=cells.limits) as sandbox:
        yield sandbox


def test_a_cancelled_start_gives_its_place_back(cold: Sandbox) -> None:
    async def main() -> Result:
        first = asyncio.create_task(cold.aexecute("print(1)"))
        await asyncio.sleep(0)  # it has the place now, and its worker starts
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await asyncio.wait_for(cold.aexecute("print(2)"), GUARD)

    assert asyncio.run(main()).stdout == "2\n"
    assert cold.stats.cells_started == 1


def test_a_coroutine_thrown_away_while_it_waits_gives_its_place_back(ground: Ground) -> None:
    async def main() -> None:
        held = await ground.pool.aacquire(Limits())
        waits = ground.pool.aacquire(Limits())
        waits.send(None)
        ground.pool.release(held)  # to him who waits, and will never know
        waits.close()
        assert ground.has_place()

    asyncio.run(main())


def test_a_coroutine_thrown_away_while_its_worker_starts_gives_its_place_back() -> None:
    go_on = threading.Event()
    ground = Ground(lambda _: go_on.wait(GUARD))

    async def main() -> None:
        waits = ground.pool.aacquire(Limits())
        waits.send(None)
        waits.close()
        go_on.set()
        assert await asyncio.wait_for(ground.pool.aacquire(Limits()), GUARD)

    asyncio.run(main())
    assert len(ground.cells) == 1
    ground.pool.close()
    assert ground.cells[0].closed


def test_a_place_given_to_one_just_cancelled_goes_on_to_the_next(ground: Ground) -> None:
    async def main() -> None:
        held = await ground.pool.aacquire(Limits())
        first = asyncio.create_task(ground.pool.aacquire(Limits()))
        second = asyncio.create_task(ground.pool.aacquire(Limits()))
        await asyncio.sleep(0)
        first.cancel()
        ground.pool.release(held)  # before the first has seen that it is cancelled
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await asyncio.wait_for(second, GUARD) is held

    asyncio.run(main())


def test_gradings_and_executions_do_not_wait_for_each_others_threads(cold: Sandbox) -> None:
    cold.execute("1")

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        everything = asyncio.gather(
            cold.aexecute("1"),
            cold.aexecute("2", limits=OTHER),  # needs a thread once it has the place
            *(cold.agrade("f = abs", TESTS) for _ in range(3)),  # need the place
        )
        found: list[Any] = await asyncio.wait_for(everything, GUARD)
        assert [one.reason for one in found[:2]] == ["ok", "ok"]
        assert all(report.passed for report in found[2:])

    asyncio.run(main())


def test_a_branch_that_is_garbage_may_be_collected_within_a_call(cells: Sandbox) -> None:
    gc.collect()  # of the tests before
    before = cells.stats.branches
    with cells.session() as session:
        cell: Any = session._shared.cell  # pyright: ignore[reportPrivateUsage]
        call, branch = cell.call, cast("Any", session.fork())
        branch.itself = branch
        del branch

        def collecting(*words: Any, **options: Any) -> Any:
            gc.collect()
            return call(*words, **options)

        cell.call = collecting
        assert session.execute("print(1)").stdout == "1\n"
        del cell.call
        assert session._shared.branches == {1}  # pyright: ignore[reportPrivateUsage]
        assert session.execute("print(2)").stdout == "2\n"
    assert cells.stats.branches == before


def test_a_session_that_is_garbage_may_be_collected_within_the_counters(cells: Sandbox) -> None:
    gc.collect()  # of the tests before
    session = cast("Any", cells.session())
    session.itself = session
    open_before = cells.stats.sessions_open
    del session

    class Collecting:
        stdout_bytes = stderr_bytes = 0
        wall, memory_peak = 0.0, None

        @property
        def reason(self) -> str:
            gc.collect()
            return "ok"

    counters = cells._engine.counters  # pyright: ignore[reportPrivateUsage]
    counters.executed(cast("Result", Collecting()), 0.0, 0.0, 0)
    assert cells.stats.sessions_open == open_before - 1


def test_a_sandbox_that_is_garbage_may_be_closed_within_its_pool(ground: Ground) -> None:
    class Closing(Idle):
        @property
        def limits(self) -> Limits:
            ground.pool.close()
            return OTHER

        @limits.setter
        def limits(self, _: Limits) -> None: ...

    ground.pool._idle.append(cast("Cell", Closing(OTHER)))  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(SandboxClosed):
        ground.pool.acquire(Limits())


class Bang(KeyboardInterrupt):
    """Ctrl-C, of this test alone."""


@contextlib.contextmanager
def interrupted_once(ready: Callable[[], bool]) -> Generator[None]:
    """Interrupts this thread as soon as it is ready."""

    def bang(number: int, frame: FrameType | None) -> None:
        raise Bang

    def watch() -> None:
        if until(ready):
            signal.pthread_kill(own, signal.SIGUSR1)

    own, before = threading.get_ident(), signal.signal(signal.SIGUSR1, bang)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(Bang):
            yield
    finally:
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


def test_an_interrupt_while_waiting_for_a_place_does_not_lose_it(ground: Ground) -> None:
    held = ground.pool.acquire(Limits())

    def waits() -> bool:
        """Whether somebody is asleep until the place is free, and not just on his way there."""
        waiting: Any = ground.pool._waiting  # pyright: ignore[reportPrivateUsage]
        return any(future._condition._waiters for future in tuple(waiting))

    with interrupted_once(waits):
        ground.pool.acquire(Limits())
    ground.pool.release(held)
    assert ground.has_place()


def test_an_interrupt_while_a_worker_starts_loses_neither() -> None:
    started, never = threading.Event(), threading.Event()

    class Slow(Idle):
        def wait_ready(self) -> None:
            started.set()
            never.wait(GUARD)

    ground = Ground(kind=Slow)
    with interrupted_once(started.is_set):
        ground.pool.acquire(Limits())
    assert ground.has_place()
    assert [cell.closed for cell in ground.cells] == [True]


def test_the_first_workers_start_beside_the_event_loop() -> None:
    threads: list[int] = []
    ground = Ground(lambda _: threads.append(threading.get_ident()), workers=3)

    async def main() -> None:
        ground.pool.release(await asyncio.wait_for(ground.pool.aacquire(Limits()), GUARD))
        assert threading.get_ident() not in threads
        assert len(threads) == 3

    asyncio.run(main())
    ground.pool.close()
    assert all(cell.closed for cell in ground.cells)


def test_whoever_waits_when_the_pool_closes_is_told_so(ground: Ground) -> None:
    told: list[BaseException] = []

    def wait() -> None:
        with pytest.raises(SandboxClosed) as problem:
            ground.pool.acquire(Limits())
        told.append(problem.value)

    async def main() -> None:
        held = await ground.pool.aacquire(Limits())
        threads = [threading.Thread(target=wait) for _ in range(2)]
        for thread in threads:
            thread.start()
        waits = asyncio.create_task(ground.pool.aacquire(Limits()))
        waiting = ground.pool._waiting  # pyright: ignore[reportPrivateUsage]
        assert await asyncio.to_thread(until, lambda: len(waiting) == 3)
        ground.pool.close()
        with pytest.raises(SandboxClosed):
            await asyncio.wait_for(waits, GUARD)
        for thread in threads:
            thread.join(GUARD)
        ground.pool.release(held)

    asyncio.run(main())
    assert len(told) == 2
    assert all(cell.closed for cell in ground.cells)


def test_a_pool_that_closes_while_a_coroutine_asks_leaves_no_worker() -> None:
    ground = Ground()
    starting = Idle(Limits())
    pool = ground.pool
    pool._started = True  # pyright: ignore[reportPrivateUsage]
    pool._idle.append(cast("Cell", starting))  # pyright: ignore[reportPrivateUsage]
    pop = pool._pop  # pyright: ignore[reportPrivateUsage]

    def closing(limits: Limits) -> Cell | None:
        found = pop(limits)
        pool.close()  # by another thread
        return found

    pool._pop = closing  # type: ignore[method-assign]  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(SandboxClosed):
        asyncio.run(pool.aacquire(Limits()))
    assert starting.closed


def test_no_thread_is_left_after_close(cells: Sandbox) -> None:
    before = {*threading.enumerate()}
    with Sandbox("cell", workers=2, preload=("json",), limits=cells.limits) as sandbox:

        async def main() -> None:
            await asyncio.gather(sandbox.aexecute("1"), sandbox.agrade("f = abs", TESTS))

        asyncio.run(main())
        new = {*threading.enumerate()} - before
        assert new
        assert all(thread.name.startswith("palaestra-sandbox") for thread in new)
    assert until(lambda: {*threading.enumerate()} <= before)


EXIT = """
import asyncio, contextlib, os
from palaestra.tool_sandbox import Calls, Case, Limits, Sandbox
tests = Calls("f", (Case((-1,), expected=1),))
sandbox = Sandbox("cell", workers=1, preload=("json",), limits=Limits(wall=120.0))
async def main():
    first = asyncio.create_task(sandbox.aexecute("1"))
    await asyncio.sleep(0)
    first.cancel()
    print((await sandbox.agrade("f = abs", tests)).passed, flush=True)
    for code in ("while True: pass",) * 3:
        asyncio.ensure_future(sandbox.aexecute(code))
        asyncio.ensure_future(sandbox.agrade(code, tests))
    await asyncio.sleep(0)
"""
PLAIN = EXIT + "asyncio.run(main())"
FORK = (
    EXIT
    + """
asyncio.run(main())
child = os.fork()
asyncio.run(main())
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
)


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize(("program", "said"), [(PLAIN, 1), (FORK, 3)])
def test_a_trainer_ends_whatever_it_has_not_awaited(program: str, said: int) -> None:
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * GUARD)
    assert (done.returncode, done.stdout) == (0, "True\n" * said), done.stderr
