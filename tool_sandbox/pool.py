"""The workers of a sandbox: who is idle, who waits, who is replaced."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from .cell import Cell, StartFailed
from .errors import BackendFailed, SandboxClosed
from .limits import Limits
from .spread import no_thread
from .stats import Counters

LIFE = 20_000  # executions of one cell
_TRIES = 3

Shape = tuple[int, int, int, int, int]


def shape(limits: Limits) -> Shape:
    """The limits that are a cell's own: it must be made with them."""
    return limits.memory, limits.processes, limits.file_size, limits.disk, limits.inodes


class Pool:
    """Cells for one sandbox: `workers` may be busy at once, as many idle ones are kept."""

    def __init__(
        self,
        begin: Callable[[Limits], Cell],
        inspect: Callable[[Cell], None],
        limits: Limits,
        workers: int,
        counters: Counters,
        *,
        ahead: bool = True,
    ) -> None:
        """Starts nothing yet.

        Args:
            begin: Makes a starting cell.
            inspect: Looks at a ready cell; raises if it is weaker than allowed.
            limits: The sandbox' own; cells of this shape are made ahead.
            workers: How many may be busy at once.
            counters: Where starts and ends are counted.
            ahead: Whether the first use starts all workers at once.
        """
        self._begin = begin
        self._inspect = inspect
        self._limits = limits
        self._workers = workers
        self._counters = counters
        # Again and again: collecting garbage may close the pool while its thread is in here.
        self._lock = threading.RLock()
        self._idle: list[Cell] = []  # most recently used last
        self._busy: set[Cell] = set()
        self._waiting: deque[Future[None]] = deque()
        self._free = workers
        self._started = not ahead
        self._closed = False
        # Of our own: those of an event loop may all wait for the very place that the caller holds.
        self._starting = ThreadPoolExecutor(workers, "palaestra-sandbox-start")

    def permit(self) -> Future[None] | None:
        """A place among the busy: None if it is there at once, else what to wait for."""
        with self._lock:
            if self._closed:
                raise SandboxClosed("this sandbox is closed; make a new one")
            if self._free > 0:
                self._free -= 1
                return None
            future: Future[None] = Future()
            self._waiting.append(future)
            return future

    def acquire(self, limits: Limits) -> Cell:
        """Waits for a place, then takes a ready cell of this shape.

        Raises:
            SandboxClosed: Closed meanwhile.
            BackendFailed: No cell comes up.
            StartFailed: The first one does not.
        """
        future = self.permit()
        if future is not None:
            before = time.monotonic()
            try:
                future.result()
            except BaseException:
                self._leave(future)
                raise
            self._counters.waited(time.monotonic() - before)
        return self.take(limits)

    def _leave(self, future: Future[None]) -> None:
        """A caller stops waiting: interrupted, or cancelled; a place that is his goes back."""
        if not future.cancel() and future.exception() is None:
            self._give_back()

    async def aacquire(self, limits: Limits) -> Cell:
        """As `acquire`, without holding up the event loop."""
        import asyncio

        future = self.permit()
        if future is not None:
            before = time.monotonic()
            try:
                await asyncio.wrap_future(future)
            except BaseException:  # cancelled, or thrown away with its event loop
                self._leave(future)
                raise
            self._counters.waited(time.monotonic() - before)
        cell = self._pop(limits) if self._started else None  # the first use starts workers: slow
        if cell is not None and cell.ready is not None:
            try:
                return self._checked(cell)
            except BaseException:
                cell.close()
                self._give_back()
                raise
        try:
            taken = self._starting.submit(self.take, limits, cell)
        except RuntimeError as problem:
            if cell is not None:
                cell.close()
            self._give_back()
            raise no_thread(problem, closed=self._closed) from None
        try:
            return await asyncio.shield(asyncio.wrap_future(taken))
        except BaseException:
            taken.add_done_callback(self._unwanted)  # it goes on, and nobody waits for it
            raise

    def _unwanted(self, taken: Future[Cell]) -> None:
        if not taken.cancelled() and taken.exception() is None:
            self.release(taken.result())

    def take(self, limits: Limits, cell: Cell | None = None) -> Cell:
        """A ready cell, for a caller who holds a place; gives the place back on failure."""
        failure: StartFailed | None = None
        try:
            for _ in range(_TRIES):
                cell = cell or self._pop(limits) or self._make(limits)
                try:
                    cell.wait_ready()
                    return self._checked(cell)
                except StartFailed as problem:
                    failure = problem
                    self._end(cell)
                    cell = None
        except BaseException:
            if cell is not None:  # an interrupt: it is neither idle nor busy, so nobody else would
                cell.close()
            self._give_back()
            raise
        self._give_back()
        assert failure is not None
        raise failure

    def _checked(self, cell: Cell) -> Cell:
        if cell.executions == 0:  # what was observed of it does not change
            self._inspect(cell)
        with self._lock:
            if not self._closed:
                self._busy.add(cell)
                return cell
        cell.close()  # `close` came between, and did not see this one
        raise SandboxClosed("the sandbox was closed while waiting")

    def _make(self, limits: Limits) -> Cell:
        self._counters.note("cells_started")
        return self._begin(limits)

    def _pop(self, limits: Limits) -> Cell | None:
        wanted = shape(limits)
        while True:
            with self._lock:
                first, self._started = not self._started, True
                found = next((c for c in reversed(self._idle) if shape(c.limits) == wanted), None)
                if found is not None:
                    self._idle.remove(found)
            if first and shape(self._limits) == wanted:
                self._ahead(self._workers - 1)
            if found is None or not found.dead():
                return found
            self._end(found)

    def _ahead(self, count: int) -> None:
        """Starts cells in the background: nobody waits for them here."""
        try:
            for _ in range(count):
                cell = self._make(self._limits)
                with self._lock:
                    if not self._closed:
                        self._idle.insert(0, cell)
                        continue
                cell.close()
        except (StartFailed, BackendFailed, SandboxClosed):
            return  # whoever needs the cell meets the failure, and says it

    def release(self, cell: Cell) -> None:
        """Gives cell and place back; a cell that cannot go on is replaced.

        Nothing in here may be skipped where the caller is interrupted: without the place, the next
        caller of a pool of one would wait for ever.
        """
        with contextlib.ExitStack() as steps:  # the last first, each whatever became of the others
            steps.callback(self._give_back)
            if cell.asked:  # interrupted between asking and reading: the next would read it
                cell.abandon()
            keep = cell.alive and not cell.retired and cell.executions < LIFE
            spare: list[Cell] = []
            with self._lock:
                self._busy.discard(cell)
                if keep and not self._closed:
                    self._idle.append(cell)
                    while len(self._idle) > self._workers:
                        spare.append(self._idle.pop(0))
                else:
                    spare.append(cell)
                lost = not keep and not self._closed
            if lost and shape(cell.limits) == shape(self._limits):
                steps.callback(self._ahead, 1)
            for one in spare:
                steps.callback(self._end, one)

    def _end(self, cell: Cell) -> None:
        self._counters.retired(cell.fault or ("old" if cell.executions >= LIFE else "idle"))
        cell.close()

    def _give_back(self) -> None:
        with self._lock:
            while self._waiting:
                if self._waiting[0].set_running_or_notify_cancel():
                    self._waiting.popleft().set_result(None)
                    return
                self._waiting.popleft()
            self._free += 1

    def close(self) -> None:
        """Ends every cell, busy ones too; whoever waits gets `SandboxClosed`."""
        with self._lock:
            self._closed = True
            cells = [*self._idle, *self._busy]
            waiting = list(self._waiting)
            self._idle.clear()
            self._waiting.clear()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(SandboxClosed("the sandbox was closed while waiting"))
        for cell in cells:
            if cell in self._busy:
                cell.kill()  # its caller reads an end of file, and a result
            else:
                cell.hang_up()
        for cell in cells:
            cell.close()
        self._starting.shutdown(wait=False)

    def forget(self) -> list[Cell]:
        """In a forked copy of the trainer: the cells, which are not ours."""
        cells = [*self._idle, *self._busy]
        self._idle.clear()
        self._busy.clear()
        return cells
