"""Runs what environments cannot run themselves: the outside work of many sessions, together."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .exchange import EnvError, Need, Pending, Request
from .faults import timed_out
from .messages import JSON, Problem, ToolResult
from .work import GradeCall, SessionCall, refused

if TYPE_CHECKING:
    from ..tool_sandbox import Sandbox, Stats

__all__ = ["Workbench", "run", "shared_sandbox"]

THREADS = 32  # session and network calls that are under way at one time
_lock = threading.Lock()
_shared: list[Sandbox] = []
_pool: list[ThreadPoolExecutor] = []
_loop: list[asyncio.AbstractEventLoop] = []

Slot = tuple[int, int]  # (number of the pending, position of its request)


def shared_sandbox() -> Sandbox:
    """Returns the sandbox that this process shares, opened at first use."""
    with _lock:
        if not _shared:
            from ..tool_sandbox import Sandbox

            _shared.append(Sandbox())
            atexit.register(_shared[0].close)
        return _shared[0]


def sandbox_stats() -> Stats | None:
    """Returns what the shared sandbox has done so far; None where none was opened."""
    with _lock:
        return _shared[0].stats if _shared else None


def given(sandbox: Sandbox) -> Sandbox:
    """Returns the sandbox that an environment was given."""
    return sandbox


def pool() -> ThreadPoolExecutor:
    """Returns the threads that wait for sessions and the network, made at first use."""
    with _lock:
        if not _pool:
            _pool.append(ThreadPoolExecutor(THREADS, "palaestra-outside"))
        return _pool[0]


def loop() -> asyncio.AbstractEventLoop:
    """Returns the event loop of tools that are coroutines; it runs in a thread of its own."""
    with _lock:
        if not _loop:
            _loop.append(asyncio.new_event_loop())
            threading.Thread(
                target=_loop[0].run_forever, name="palaestra-loop", daemon=True
            ).start()
        return _loop[0]


class Workbench:
    """One sandbox session that is opened when first used, and remembers what changed it.

    A fork or a restored snapshot gets a workbench with the same journal, which is replayed in a new
    session when that one is first used.

    Attributes:
        journal: calls that changed the session, as (method, arguments).
        options: `limits` and `files` of the session.
    """

    def __init__(
        self,
        sandbox: Callable[[], Sandbox],
        *,
        journal: Sequence[tuple[str, Mapping[str, Any]]] = (),
        **options: Any,
    ) -> None:
        self._sandbox = sandbox
        self._session: Any = None
        self.options = options
        self.journal = list(journal)

    @property
    def exact(self) -> bool:
        """Whether a replay is known to give the same session: no code has run in it."""
        return all(method == "write" for method, _ in self.journal)

    def execute(self, code: str, **options: Any) -> Any:
        """Runs code; see `Session.execute`."""
        return self._changing("execute", {"code": code, **options})

    def shell(self, command: str, **options: Any) -> Any:
        """Runs a shell command; see `Session.shell`."""
        return self._changing("shell", {"command": command, **options})

    def write(self, path: str, data: bytes | str) -> None:
        """Writes a file; see `Session.write`."""
        self._changing("write", {"path": path, "data": data})

    def read(self, path: str, **options: Any) -> bytes:
        """Reads a file; see `Session.read`."""
        return self._call("read", {"path": path, **options})

    def list(self, path: str = ".") -> Any:
        """Lists a folder; see `Session.list`."""
        return self._call("list", {"path": path})

    def close(self) -> None:
        """Ends the session; its journal stays."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def copy(self) -> Workbench:
        """Returns a workbench that continues from here in a session of its own."""
        return Workbench(self._sandbox, journal=self.journal, **self.options)

    def _changing(self, method: str, arguments: dict[str, Any]) -> Any:
        result = self._call(method, arguments)
        self.journal.append((method, arguments))
        return result

    def _call(self, method: str, arguments: Mapping[str, Any]) -> Any:
        from ..tool_sandbox import SessionDead

        if self._session is None:
            self._open()
        try:
            return getattr(self._session, method)(**arguments)
        except SessionDead:
            # the agent ended its own interpreter: it gets a new one with the files of the start
            self.close()
            self.journal.clear()
            self._open()
            return getattr(self._session, method)(**arguments)

    def _open(self) -> None:
        self._session = self._sandbox().session(**self.options)
        for method, arguments in self.journal:
            getattr(self._session, method)(**arguments)


def run(
    pendings: Sequence[Pending],
    *,
    answer: Callable[[Need], JSON] | None = None,
    timing: dict[str, float] | None = None,
) -> list[list[ToolResult]]:
    """Runs the requests of many sessions, those of a kind in one batch.

    Args:
        pendings: what `propose` or `settle` returned.
        answer: says what a model answers to a `Need`.
        timing: wall seconds are added to its entry "outside".

    Returns:
        For each pending the answers to its requests, for `settle`.

    Raises:
        EnvError: a `Need`, and nobody to ask.
    """
    began = time.perf_counter()
    found: dict[Slot, ToolResult] = {}
    threads: list[tuple[list[tuple[Slot, Request]], Any]] = []
    for group in in_threads(pendings):
        threads.append((group, pool().submit(one_after_another, [r for _, r in group])))
    found.update(run_sandboxes(pendings))
    for slot, request in each(pendings):
        if request.kind == "need":
            found[slot] = ask(request, answer)
    for group, future in threads:
        for (slot, request), (value, error) in zip(group, future.result(), strict=True):
            found[slot] = answered(request, value) if error is None else broken(request, error)
    if timing is not None:
        timing["outside"] = timing.get("outside", 0.0) + time.perf_counter() - began
    return [[found[i, j] for j in range(len(p.requests))] for i, p in enumerate(pendings)]


def each(pendings: Sequence[Pending]) -> list[tuple[Slot, Request]]:
    """Returns every request and where it belongs."""
    return [((i, j), r) for i, p in enumerate(pendings) for j, r in enumerate(p.requests)]


def in_threads(pendings: Sequence[Pending]) -> list[list[tuple[Slot, Request]]]:
    """Groups the requests that wait in threads: calls of one session stay in their order."""
    groups: dict[Any, list[tuple[Slot, Request]]] = {}
    for slot, request in each(pendings):
        if isinstance(request.work, SessionCall):
            groups.setdefault(id(request.work.session), []).append((slot, request))
        elif request.kind == "network":
            groups[slot] = [(slot, request)]
    return list(groups.values())


def one_after_another(requests: Sequence[Request]) -> list[tuple[Any, Exception | None]]:
    """Runs session or network calls in order; returns (value, error) of each."""
    done: list[tuple[Any, Exception | None]] = []
    for request in requests:
        try:
            value = call(request)
        except Exception as error:
            done.append((None, error))
        else:
            done.append((value, None))
    return done


def call(request: Request) -> Any:
    """Runs one session or network call; a coroutine is given the time limit of its tool."""
    if isinstance(request.work, SessionCall):
        return request.work.run()
    value = request.work()
    if not inspect.isawaitable(value):
        return value
    limit = request.tool.timeout if request.tool else None
    future = asyncio.run_coroutine_threadsafe(waited(value), loop())
    try:
        return future.result(limit)
    except TimeoutError:
        future.cancel()
        name = request.tool.name if request.tool else "call"
        return refused(request.key, timed_out(name, limit or 0.0))


async def waited(value: Awaitable[Any]) -> Any:
    """Awaits anything that can be awaited: the loop takes coroutines only."""
    return await value


def run_sandboxes(pendings: Sequence[Pending]) -> dict[Slot, ToolResult]:
    """Runs jobs and judgements, those of one sandbox in one batch."""
    found: dict[Slot, ToolResult] = {}
    jobs: dict[int, list[tuple[Slot, Request]]] = {}
    grades: dict[int, list[tuple[Slot, Request]]] = {}
    sandboxes: dict[int, Sandbox] = {}
    for slot, request in each(pendings):
        if request.kind != "sandbox" or isinstance(request.work, SessionCall):
            continue
        source = pendings[slot[0]].sandbox
        assert source is not None
        sandbox = source()
        sandboxes[id(sandbox)] = sandbox
        kind = grades if isinstance(request.work, GradeCall) else jobs
        kind.setdefault(id(sandbox), []).append((slot, request))
    for key, group in jobs.items():
        found.update(guarded(run_jobs, sandboxes[key], group))
    for key, group in grades.items():
        found.update(guarded(run_grades, sandboxes[key], group))
    return found


def guarded(
    work: Callable[[Sandbox, Sequence[tuple[Slot, Request]]], dict[Slot, ToolResult]],
    sandbox: Sandbox,
    group: Sequence[tuple[Slot, Request]],
) -> dict[Slot, ToolResult]:
    """Runs a batch; where that raises, each by itself, so that one spoils nobody else's answer."""
    from ..tool_sandbox import BackendFailed, BadRequest

    try:
        return work(sandbox, group)
    except (BackendFailed, BadRequest) as error:
        if len(group) == 1:
            slot, request = group[0]
            return {slot: broken(request, error)}
    found: dict[Slot, ToolResult] = {}
    for member in group:
        found.update(guarded(work, sandbox, [member]))
    return found


def run_grades(sandbox: Sandbox, group: Sequence[tuple[Slot, Request]]) -> dict[Slot, ToolResult]:
    """Grades candidates, those of equal limits in one batch."""
    by_limits: dict[Any, list[tuple[Slot, Request]]] = {}
    for slot, request in group:
        by_limits.setdefault(request.work.limits, []).append((slot, request))
    found: dict[Slot, ToolResult] = {}
    for limits, members in by_limits.items():
        pairs = [(request.work.candidate, request.work.tests) for _, request in members]
        reports = sandbox.grade_many(pairs, limits=limits)
        for (slot, request), report in zip(members, reports, strict=True):
            found[slot] = answered(request, report)
    return found


def run_jobs(sandbox: Sandbox, group: Sequence[tuple[Slot, Request]]) -> dict[Slot, ToolResult]:
    """Runs jobs in one batch; those of a tool that merges share one execution."""
    shared: dict[Any, list[tuple[Slot, Request]]] = {}
    alone: list[tuple[Slot, Request]] = []
    for slot, request in group:
        if request.tool is None:  # it shares its execution with nobody
            alone.append((slot, request))
        else:
            key = id(request.tool.merge), request.work.seed, request.work.limits
            shared.setdefault(key, []).append((slot, request))
    alone += [members[0] for members in shared.values() if len(members) == 1]
    together = [members for members in shared.values() if len(members) > 1]
    merged = [merge(members) for members in together]
    results = list(sandbox.map([*merged, *(request.work for _, request in alone)]))
    found: dict[Slot, ToolResult] = {}
    for members, result in zip(together, results, strict=False):
        if not result.ok:  # one of them spoils it for all: each by itself, then
            alone += members
            results += sandbox.map([request.work for _, request in members])
            continue
        split = members[0][1].tool.split  # pyright: ignore[reportOptionalMemberAccess]
        assert split is not None
        for (slot, request), part in zip(members, split(result, len(members)), strict=True):
            found[slot] = answered(request, part)
    for (slot, request), result in zip(alone, results[len(merged) :], strict=True):
        found[slot] = answered(request, result)
    return found


def merge(members: Sequence[tuple[Slot, Request]]) -> Any:
    """Returns one job that does the work of many."""
    tool = members[0][1].tool
    assert tool is not None
    assert tool.merge is not None
    return tool.merge([request.work for _, request in members])


def ask(request: Request, answer: Callable[[Need], JSON] | None) -> ToolResult:
    """Answers a Need."""
    if answer is None:
        raise EnvError(
            f"this environment asks a model ({request.work.kind}, {request.key!r}); "
            "give run(..., answer=) a callable that answers a Need"
        )
    return answered(request, answer(request.work))


def answered(request: Request, value: Any) -> ToolResult:
    """Returns the answer that holds what the work brought; a lost worker is our failure."""
    if isinstance(value, ToolResult):  # a time-out
        return value._replace(call_id=request.key)
    result = getattr(value, "result", value)  # of a Report
    if getattr(result, "reason", None) == "lost":
        return lost(request.key, "The sandbox lost the worker that ran this call.")
    return ToolResult(request.key, "", True, None, value)


def broken(request: Request, error: Exception) -> ToolResult:
    """Returns the answer of a call that raised: our failure, or something its tool must answer."""
    from ..tool_sandbox import BackendFailed

    if isinstance(error, BackendFailed):
        return lost(request.key, f"{type(error).__name__}: {error}")
    return ToolResult(request.key, str(error), False, None, error)


def lost(key: str, detail: str) -> ToolResult:
    """Returns the answer to a request that broke on our side."""
    problem = Problem("infrastructure", detail)
    return ToolResult(key, detail, False, problem, infrastructure=True)
