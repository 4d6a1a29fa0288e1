"""A program that goes on between calls, and can branch."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, cast, get_args

from . import wire
from .cell import Cell
from .errors import BadRequest, FileProblem, MissingFile, SandboxError, SessionDead
from .guest import turns
from .limits import FileInfo, Kind, Limits, MiB, Reason, Result, show
from .network import Broker
from .outcome import judge
from .requests import check_code, check_path, encode, encode_input
from .stats import Counters

_WRITE_MOST = 15 * MiB  # bytes that fit into one frame with what surrounds them
_NO_LIMIT = float("inf")
_FILE_WALL = 30.0  # seconds for reading, writing, listing, branching


class Shared:
    """What all branches of a session have in common: the cell, and who still needs it."""

    def __init__(
        self,
        cell: Cell,
        limits: Limits,
        counters: Counters,
        done: Callable[[], None],
        broker: Broker | None = None,
    ) -> None:
        self.cell = cell
        self.limits = limits
        self.counters = counters
        self.lock = threading.Lock()
        self._leaving: deque[int] = deque()  # branches of whose end the cell does not know yet
        self.branches: set[int] = {1}
        self.end_reason = ""
        self._done = done
        self.broker = broker

    def ask(self, head: dict[str, object], *blobs: bytes) -> wire.Frame:
        """One call about files or branches; raises as `send`."""
        return self.send(wire.CALL, wire.pack_json(head, *blobs), _FILE_WALL)

    def send(self, kind: int, body: bytes, wall: float, fds: Sequence[int] = ()) -> wire.Frame:
        """One call, while no other is under way.

        Raises:
            ConnectionError: The cell is lost.
        """
        try:
            with self.lock:
                return self._call(kind, body, wall, fds)
        finally:
            self._part()

    def _call(self, kind: int, body: bytes, wall: float, fds: Sequence[int] = ()) -> wire.Frame:
        if not self.cell.alive:
            raise ConnectionError(self.end_reason or "lost")
        try:
            return self.cell.call(kind, body, wall=wall, fds=fds)
        except ConnectionError as problem:
            self.end_reason = str(problem)
            raise

    def _part(self) -> None:
        """Tells the cell which branches are gone; whoever is in a call does it at its end.

        Never waits: a branch may be collected as garbage while its own thread is in a call.
        """
        while self._leaving and self.lock.acquire(blocking=False):
            try:
                branch = self._leaving.popleft()
                head = {"op": "drop", "branch": branch}
                self._call(wire.CALL, wire.pack_json(head), _FILE_WALL)
            except (ConnectionError, IndexError):
                self._leaving.clear()  # all of them are gone already
            finally:
                self.lock.release()

    def send_with_window(self, body: bytes, wall: float) -> wire.Frame:
        """As `send`, with a line to the host's broker that ends with the call.

        Raises:
            ConnectionError: The cell is lost.
            SandboxError: No descriptor can be passed to this worker.
        """
        assert self.broker is not None
        if self.cell.apart:
            raise SandboxError(f"{self.cell.apart}: Fetch needs one; use a local engine")
        with self.broker.lend() as fd:
            return self.send(turns.TURN, body, wall, (fd,))

    def add(self, branch: int) -> None:
        """A branch more."""
        self.branches.add(branch)
        self.counters.note("branches")

    def drop(self, branch: int) -> None:
        """A branch less; with the last one the cell goes."""
        if branch not in self.branches:
            return
        self.branches.discard(branch)
        if self.branches:
            self.counters.note("branches", -1)
            self._leaving.append(branch)
            self._part()
        else:
            self._done()


class Snapshot:
    """A branch nobody runs; lives as long as its session's cell."""

    def __init__(self, shared: Shared, branch: int, owner: object = None) -> None:
        self._shared = shared
        self._branch = branch
        self._owner = owner  # as in `Session`
        self._finalizer = weakref.finalize(self, shared.drop, branch)

    @property
    def alive(self) -> bool:
        """Whether it can still be restored."""
        return self._shared.cell.alive and self._branch in self._shared.branches

    def close(self) -> None:
        """Drops it; idempotent."""
        self._finalizer()
        self._owner = None


class Session:
    """One conversation with an interpreter in a cell of its own. Not thread-safe."""

    def __init__(self, shared: Shared, branch: int, owner: object = None) -> None:
        self._shared = shared
        self._branch = branch
        # The sandbox: one that nobody else holds would be collected, and end the session. Held
        # here and not by `Shared`, which the finalizer keeps alive for as long as the session.
        self._owner = owner
        self._alive, self._closed = True, False
        self._finalizer = weakref.finalize(self, shared.drop, branch)

    def execute(self, code: str, *, stdin: str | bytes = b"", wall: float | None = None) -> Result:
        """Runs a program in the session's `__main__`; the last expression is printed.

        Args:
            code: Python.
            stdin: What it may read.
            wall: Seconds; None means the session's limit.

        Raises:
            SessionDead: The interpreter has ended before.
            BadRequest: `wall` is out of range.
        """
        return self._run(turns.EXECUTE, code, stdin, wall)

    def shell(self, command: str, *, wall: float | None = None) -> Result:
        """Runs a shell command; where it ends is where the session goes on.

        Raises:
            SessionDead: The interpreter has ended before.
            BadRequest: `wall` is out of range.
        """
        return self._run(turns.SHELL, command, b"", wall)

    def _run(self, operation: int, text: str, stdin: str | bytes, wall: float | None) -> Result:
        limits = self._shared.limits
        seconds = limits.wall if wall is None else Limits(wall=wall).wall
        blobs = encode(check_code(text, "code")), encode_input(stdin, "stdin")
        size = len(blobs[0]) + len(blobs[1])
        if size > _WRITE_MOST:
            raise BadRequest(f"the call has over {_WRITE_MOST} bytes; put them into files")
        self._check_alive()
        keep = limits.output
        ask = turns.Question(operation, self._branch, seconds, keep, limits.output_stop, *blobs)
        body = turns.pack(ask)
        started = time.monotonic()
        try:
            if operation == turns.EXECUTE and self._shared.broker is not None:
                frame = self._shared.send_with_window(body, seconds + 2.0)
            else:
                frame = self._shared.send(turns.TURN, body, seconds + 2.0)
        except ConnectionError as problem:
            return self._lost(str(problem), time.monotonic() - started, size)
        ending = self._ending(frame.body, wire.Order(b"", output=keep))
        if ending is None:
            return self._lost("malformed", time.monotonic() - started, size)
        shell = operation == turns.SHELL
        result = judge(ending, False, (), {}, _NO_LIMIT, shell=shell).result
        if result.reason == "memory":
            self._shared.cell.recount()
        self._shared.counters.executed(result, 0.0, ending.wall, size)
        return result

    def _lost(self, fault: str, seconds: float, size: int) -> Result:
        """What a call comes to whose worker is gone."""
        self._alive = False
        reason = cast("Reason", fault) if fault in ("memory", "timeout") else "lost"
        result = Result(reason, wall=seconds)
        self._shared.counters.executed(result, 0.0, seconds, size)
        return result

    def _ending(self, body: bytes, order: wire.Order) -> wire.Ending | None:
        """How the call ended; None if the cell spoke nonsense, and is dead now."""
        try:
            if body[:1] == bytes((turns.REFUSED,)):
                self._complain(wire.unpack_json(body[1:])[0])
            ending = wire.unpack_ending(body[1:], order)
        except wire.Malformed:
            self._shared.cell.kill("malformed")
            self._shared.counters.note("malformed")
            return None
        self._alive = body[0] == turns.ALIVE
        return ending

    def _check_alive(self) -> None:
        if not self.alive:
            raise SessionDead(
                "the session's interpreter has ended; restore a snapshot or open a new session"
            )

    def _ask(self, head: dict[str, object], *blobs: bytes) -> tuple[dict[str, Any], list[bytes]]:
        self._check_alive()
        frame = self._shared.ask({**head, "branch": self._branch}, *blobs)
        try:
            data, parts = wire.unpack_json(frame.body)
        except wire.Malformed:
            self._shared.cell.kill("malformed")
            raise ConnectionError("malformed") from None
        self._complain(data)
        return data, parts

    def _complain(self, data: dict[str, Any]) -> None:
        kind, text = data.get("error"), str(data.get("text", ""))
        if kind is None:
            return
        if kind == "dead":
            self._alive = False
            raise SessionDead(text)
        raise {"missing": MissingFile, "file": FileProblem}.get(str(kind), SandboxError)(text)

    def _file(self, head: dict[str, object], *blobs: bytes) -> tuple[dict[str, Any], list[bytes]]:
        try:
            return self._ask(head, *blobs)
        except ConnectionError:
            self._alive = False
            raise SessionDead("the session's worker was lost; open a new session") from None

    def read(self, path: str, *, limit: int = MiB) -> bytes:
        """The first `limit` bytes of a file in the work directory.

        Raises:
            MissingFile: It does not exist.
            FileProblem: It is no regular file, or a symlink is on the way.
            BadRequest: The path leaves the work directory.
            SessionDead: The interpreter has ended.
        """
        if type(cast("object", limit)) is not int:
            raise BadRequest(f"limit is {limit!r}; give a whole number of bytes")
        if not 0 < limit <= _WRITE_MOST:
            raise BadRequest(f"limit is {show(limit)}; give 1 to {_WRITE_MOST} bytes")
        _, parts = self._file({"op": "read", "path": check_path(path), "limit": limit})
        return parts[0][:limit] if parts else b""

    def write(self, path: str, data: bytes | str) -> None:
        """Replaces a file of the work directory, making missing folders on the way.

        Raises:
            FileProblem: No room, or the path is no regular file.
            BadRequest: The path leaves the work directory, or the data is too long.
            SessionDead: The interpreter has ended.
        """
        content = encode_input(data, "data")
        if len(content) > _WRITE_MOST:
            raise BadRequest(f"the file has {len(content)} bytes; at most {_WRITE_MOST} at once")
        self._file({"op": "write", "path": check_path(path)}, content)

    def list(self, path: str = ".") -> tuple[FileInfo, ...]:
        """What a folder of the work directory holds, in the order of names.

        Raises:
            MissingFile: It does not exist.
            FileProblem: It is no folder.
            BadRequest: The path leaves the work directory.
            SessionDead: The interpreter has ended.
        """
        place = "." if path in (".", "") else check_path(path)
        data, _ = self._file({"op": "list", "path": place})
        return _infos(data.get("entries"))

    def fork(self) -> Session:
        """A second session with a copy of memory and files; both go on, independently.

        Raises:
            SandboxError: Threads are running, or there is no room for a branch.
            SessionDead: The interpreter has ended.
        """
        return Session(self._shared, self._new_branch(), self._owner)

    def snapshot(self) -> Snapshot:
        """A branch nobody runs, for `restore`.

        Raises:
            SandboxError: As `fork`.
            SessionDead: The interpreter has ended.
        """
        return Snapshot(self._shared, self._new_branch(), self._owner)

    def _new_branch(self) -> int:
        apart = self._shared.cell.apart
        if apart:
            raise SandboxError(f"{apart}: Session.fork needs one; use a local engine")
        data, _ = self._file({"op": "fork"})
        branch = data.get("branch")
        if not isinstance(branch, int):
            self._shared.cell.kill("malformed")
            raise SessionDead("the session's worker was lost; open a new session")
        self._shared.add(branch)
        return branch

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot, also after the interpreter has ended.

        What is left behind is ended first where it holds all the disk or processes there are; if no
        branch can be made even then, the session is dead until a restore succeeds.

        Raises:
            BadRequest: The snapshot is another session's.
            SandboxError: As `fork`.
            SessionDead: The snapshot is gone.
        """
        if self._closed:
            raise SessionDead("the session was closed; open a new one")
        if not isinstance(cast("object", snapshot), Snapshot):
            raise BadRequest(
                f"snapshot is {type(snapshot).__name__}; give what snapshot() returned"
            )
        if snapshot._shared is not self._shared:  # pyright: ignore[reportPrivateUsage]
            raise BadRequest("the snapshot belongs to another session")
        old = self._finalizer
        source = Session.__new__(Session)
        source._shared, source._alive = self._shared, True
        source._branch = snapshot._branch  # pyright: ignore[reportPrivateUsage]
        try:
            branch = source._new_branch()
        except SessionDead:
            raise
        except SandboxError:
            if self._shared.cell.apart:
                raise
            self._alive = False  # what is left behind may hold what the new branch needs
            old()
            branch = source._new_branch()
        old()
        self._branch, self._alive = branch, True
        self._finalizer = weakref.finalize(self, self._shared.drop, branch)

    @property
    def alive(self) -> bool:
        """Whether the interpreter takes further calls."""
        return self._alive and self._shared.cell.alive and self._branch in self._shared.branches

    def close(self) -> None:
        """Ends this branch, and with the last branch the cell; idempotent."""
        self._alive, self._closed = False, True
        self._finalizer()
        self._owner = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _infos(entries: object) -> tuple[FileInfo, ...]:
    """The listing, of which every part is the guest's choice."""
    found: list[FileInfo] = []
    rows = cast("list[object]", entries) if isinstance(entries, list) else []
    for row in rows:
        match row:
            case [str(path), str(kind), int(size)] if kind in get_args(Kind):
                found.append(FileInfo(path, cast("Kind", kind), size))
            case _:
                continue
    return tuple(found)
