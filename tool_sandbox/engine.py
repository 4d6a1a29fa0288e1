"""What a sandbox holds while it lives: backend, workers, sessions, counters."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from . import wire
from .advice import explain
from .backends import Backend, Wish, choose, isolation_of
from .cell import START, Cell, Request, StartFailed
from .errors import BackendFailed, BadRequest, SandboxClosed, SandboxError
from .guest import turns
from .limits import LEVELS, Isolation, Limits, MiB
from .network import Broker
from .outcome import Outcome
from .pool import Pool
from .requests import check_machine
from .session import Session, Shared
from .stats import Counters

if TYPE_CHECKING:
    from .script import Door

_TRIES = 3
_MALFORMED = 2  # in a row from fresh cells: the backend is broken or under attack
_SESSION_SHARE = 8 * MiB


class Engine:
    """The living part of a `Sandbox`; it does not outlive its process."""

    def __init__(self, wish: Wish, limits: Limits, workers: int) -> None:
        self.pid = os.getpid()
        self.limits = limits
        self.counters = Counters()
        self.closed = False
        self._wish = wish
        self._workers = workers
        self._lock = threading.RLock()
        self._backend: Backend | None = None
        self._isolation: Isolation | None = None
        self._first: Cell | None = None
        self._malformed = 0
        self._cells: set[Cell] = set()  # of sessions
        make = self._begin, self._inspect, limits, workers, self.counters
        self.pool = Pool(*make)
        self.judges = Pool(*make, ahead=False)
        # Not those of the event loop: they would wait for places that its coroutines hold.
        self.graders = ThreadPoolExecutor(workers, "palaestra-sandbox")
        self._broker = None if wish.network is None else Broker(wish.network)
        _living.add(self)

    @property
    def isolation(self) -> Isolation:
        """What the first worker's self-test observed; starts it if need be.

        Raises:
            SandboxUnavailable: No backend reaches the minimum.
        """
        with self._lock:
            if self._isolation is None:
                self._open()
            assert self._isolation is not None
            return self._isolation

    def _open(self) -> None:
        if self.closed:
            raise SandboxClosed("this sandbox is closed; make a new one")
        self._backend, self._first, self._isolation = choose(self._wish, self.limits)

    def _begin(self, limits: Limits) -> Cell:
        with self._lock:
            if self._backend is None:
                self._open()
            assert self._backend is not None
            first, self._first = self._first, None
            if first is not None:
                if limits == first.limits:
                    return first
                self._first = first
        return self._backend.begin(limits)

    def _inspect(self, cell: Cell) -> None:
        backend, first = self._backend, self._isolation
        assert backend is not None
        assert first is not None
        seen = isolation_of(cell, backend)
        weaker = set(first.layers) - set(seen.layers)
        if LEVELS.index(seen.level) < LEVELS.index(first.level) or weaker:
            cell.kill()
            raise BackendFailed(f"a new worker is weaker than the first; it lacks {weaker}")

    @contextlib.contextmanager
    def borrow(self, limits: Limits | None = None) -> Generator[Cell]:
        """A worker for a while."""
        with self._lent(self.pool, limits) as cell:
            yield cell

    @contextlib.contextmanager
    def judge(self, limits: Limits | None = None) -> Generator[Cell]:
        """The judge beside the worker that the caller holds already.

        At most as many callers hold a worker as there are judges, so nobody waits here.
        """
        with self._lent(self.judges, limits) as cell:
            yield cell

    @contextlib.contextmanager
    def _lent(self, pool: Pool, limits: Limits | None) -> Generator[Cell]:
        wanted = limits or self.limits
        check_machine(wanted)
        try:
            cell = pool.acquire(wanted)
        except StartFailed as problem:
            raise BackendFailed(f"no worker comes up: {explain(problem)}") from None
        try:
            yield cell
        finally:
            pool.release(cell)

    def run(self, request: Request, door: Door | None = None) -> Outcome:
        """Executes on a worker of the pool; what the guest does is never raised.

        Args:
            request: What to execute.
            door: The way to the worker, where that is not straight.
        """
        asked = time.monotonic()
        way = door or self
        for _ in range(_TRIES):
            with way.borrow(request.limits) as cell:
                started = time.monotonic()
                try:
                    outcome = cell.execute(self._connected(request))
                except BrokenPipeError:
                    continue  # it had died while idle; nothing ran
            way.count(cell, request, outcome, started - asked, time.monotonic() - started)
            return outcome
        raise BackendFailed("workers die as soon as they are asked")

    async def arun(self, request: Request) -> Outcome:
        """As `run`, for coroutines."""
        asked = time.monotonic()
        check_machine(request.limits)
        for _ in range(_TRIES):
            try:
                cell = await self.pool.aacquire(request.limits)
            except StartFailed as problem:
                raise BackendFailed(f"no worker comes up: {explain(problem)}") from None
            started = time.monotonic()
            try:
                outcome = await cell.aexecute(self._connected(request))
            except BrokenPipeError:
                continue
            finally:
                self.pool.release(cell)
            self.count(cell, request, outcome, started - asked, time.monotonic() - started)
            return outcome
        raise BackendFailed("workers die as soon as they are asked")

    def count(
        self, cell: Cell, request: Request, outcome: Outcome, dispatch: float, total: float
    ) -> None:
        """Counts an execution, its seconds from asking to handing over and from there to its end.

        Raises:
            BackendFailed: Fresh workers answer in frames that do not parse.
        """
        size = len(request.code) + len(request.stdin) + len(request.payload)
        size += sum(map(len, request.files.values()))
        self.counters.executed(outcome.result, dispatch, total, size)
        if cell.fault != "malformed":
            self._malformed = 0
            return
        self.counters.note("malformed")
        self._malformed += 1 if cell.executions == 0 else 0
        if self._malformed >= _MALFORMED:
            raise BackendFailed("two fresh workers in a row sent malformed frames")

    def _connected(self, request: Request) -> Request:
        """The request with a line to the broker, where there is one and a program may use it."""
        if self._broker is None or request.mode != "run" or request.language != "python":
            return request
        return replace(request, broker=self._broker.open())

    def note(self, name: str) -> None:
        """Counts an event of a grading, by its name in `Stats`."""
        self.counters.note(name)

    def session(
        self, limits: Limits | None, files: dict[str, bytes], owner: object = None
    ) -> Session:
        """A session on a cell of its own.

        Args:
            limits: None means the sandbox' own.
            files: Put into the work directory at the start.
            owner: What ends this engine when it is collected; the session holds it.

        Raises:
            BadRequest: The machine has no memory for one more.
        """
        wanted = limits or self.limits
        check_machine(wanted)
        most = _available() // 2 // _SESSION_SHARE
        if len(self._cells) >= most:
            raise BadRequest(f"{len(self._cells)} sessions are open; this machine bears {most}")
        opening = turns.pack(turns.Question(turns.OPEN, text=_session_order(wanted, files)))
        cell = self._ready(wanted)
        with self._lock:
            self._cells.add(cell)
            late = self.closed
        self.counters.note("sessions_open")
        if late:  # `close` came between, and did not see this one
            self.end_session(cell)
            raise SandboxClosed("this sandbox was closed while the session opened")
        shared = Shared(cell, wanted, self.counters, _Ending(self, cell), self._broker)
        try:
            shared.send(turns.TURN, opening, START)
        except BaseException as problem:
            shared.drop(1)
            if not isinstance(problem, ConnectionError):
                raise  # an interrupt
            raise SandboxError("the session's worker was lost while it opened") from None
        return Session(shared, 1, owner)

    def _ready(self, limits: Limits) -> Cell:
        """A cell of its own for a session; tried again where the zygote died while it was asked."""
        failure: StartFailed | None = None
        for _ in range(_TRIES):
            cell = None
            try:
                cell = self._begin(limits)
                self.counters.note("cells_started")
                cell.wait_ready()
                self._inspect(cell)
                return cell
            except BaseException as problem:
                if cell is not None:
                    cell.close()
                if not isinstance(problem, StartFailed):
                    raise
                failure = problem
        assert failure is not None
        raise BackendFailed(f"no worker comes up: {explain(failure)}")

    def end_session(self, cell: Cell) -> None:
        """The last branch of a session is gone; so is its cell."""
        with self._lock:
            if cell not in self._cells:
                return
            self._cells.discard(cell)
        self.counters.note("sessions_open", -1)
        self.counters.retired(cell.fault or "session")
        cell.close()

    def close(self) -> None:
        """Ends all; idempotent, and without effect in a forked copy."""
        if os.getpid() != self.pid:
            return
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self.graders.shutdown(wait=False)
        self.pool.close()
        self.judges.close()
        cells = list(self._cells)
        for cell in cells:
            cell.hang_up()
        for cell in cells:
            self.end_session(cell)
        if self._first is not None:
            self._first.close()
        if self._backend is not None:
            self._backend.close()
        _living.discard(self)

    def forget(self) -> None:
        """In a forked copy of the trainer: lets go of what is the parent's."""
        first = [] if self._first is None else [self._first]
        for cell in (*self.pool.forget(), *self.judges.forget(), *self._cells, *first):
            cell.forget()
        self._cells.clear()
        self.counters.renew()
        if self._backend is not None:
            self._backend.forget()


class _Ending:
    """Ends a session's cell; holds the engine weakly, since sessions are finalised late."""

    def __init__(self, engine: Engine, cell: Cell) -> None:
        self._engine = weakref.ref(engine)
        self._cell = cell

    def __call__(self) -> None:
        engine = self._engine()
        if engine is not None and engine.pid == os.getpid():
            engine.end_session(self._cell)
        else:
            self._cell.forget()


def _session_order(limits: Limits, files: dict[str, bytes]) -> bytes:
    # Calls are bounded by their wall; processor time only if the caller said so, for it adds up.
    seconds = limits.processor_seconds if limits.cpu is not None else (1 << 31)
    order = wire.Order(
        b"",
        cpu=seconds,
        open_files=limits.open_files,
        mode=wire.MODES.index("session"),
        files=tuple(files.items()),
    )
    return wire.pack_order(order)


def _available() -> int:
    """Bytes of memory the machine could still give."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 1 << 40


_living: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_living):
        engine.forget()
    _living.clear()


os.register_at_fork(after_in_child=_after_fork)
