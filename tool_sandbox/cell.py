"""Host half of one worker: hands it executions, watches it, takes its word for nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from . import wire
from .errors import SandboxError
from .guest import turns
from .keeper import Keeper
from .limits import Limits, Reason, Result
from .orders import Request
from .outcome import Outcome, judge
from .pieces import Collector
from .waiting import areadable, foreign, readable

Fault = Literal["", "lost", "timeout", "malformed", "memory", "unclean", "killed"]
GRACE = 2.0  # seconds the cell has, after the wall limit, to reply
START = 60.0  # seconds a cell has to come up
_LATE = 1.0  # seconds for each piece of an answer that we come late to: we were held up, not it


class StartFailed(Exception):
    """A worker did not come up: the step that failed, its errno, the words, and what mends it."""

    def __init__(self, step: str, code: int, text: str, advice: str = "") -> None:
        self.step = step
        self.code = code
        self.advice = advice  # empty: the step tells
        super().__init__(f"{step}: {text}")


class Cell:
    """One worker. One execution at a time: `begin`, then `finish`; `execute` is both in a row."""

    def __init__(self, control: socket.socket, limits: Limits, keeper: Keeper) -> None:
        self.limits = limits  # the five of them that are the cell's own count
        self.keeper = keeper
        self.alive = True
        self.retired = False
        self.fault: Fault = ""
        self.executions = 0
        self.ready: Mapping[str, Any] | None = None
        self._control = control
        self._ids = itertools.count(1)
        self._request: Request | None = None
        self._order = wire.Order(b"")
        self._id = 0
        self._started = 0.0
        self._oom = 0
        self._door = threading.Lock()
        self._asked = False  # somebody waits for an answer

    @property
    def asked(self) -> bool:
        """Whether there is a request whose answer nobody has taken: the next would find it."""
        return self._asked

    @property
    def apart(self) -> str:
        """Why no descriptor can be passed to this worker; empty where one can."""
        return ""

    def fileno(self) -> int:
        """Readable when `finish` will not wait long (for select)."""
        return self._control.fileno()

    def wait_ready(self) -> Mapping[str, Any]:
        """What the self-test saw.

        Raises:
            StartFailed: The cell could not be made.
        """
        if self.ready is not None:
            return self.ready
        self._control.settimeout(START)
        deadline = time.monotonic() + START
        try:
            while True:
                frame, fds = wire.read_frame_fds(self._control, 4)
                data, _ = wire.unpack_json(frame.body)
                if frame.kind == wire.HANDLES:
                    self.keeper.take(data, fds)
                elif frame.kind == wire.READY:
                    self.ready = data
                    self.keeper.settle()
                    return data
                elif frame.kind == wire.FAILED:
                    raise StartFailed(str(data["step"]), int(data["code"]), str(data["text"]))
        except (wire.Malformed, wire.Hangup, OSError, KeyError, ValueError) as problem:
            if foreign(problem, deadline):
                raise
            raise StartFailed("start", 0, f"{type(problem).__name__} {problem}") from None
        finally:
            if self.ready is None:
                self.kill("lost")

    def execute(self, request: Request) -> Outcome:
        """Runs one program; never raises for what the guest does."""
        self.begin(request)
        return self.finish()

    def begin(self, request: Request) -> None:
        """Hands a request over.

        Raises:
            BrokenPipeError: The cell was dead already; nothing ran.
            SandboxError: It cannot be given the descriptors of this request; nothing ran.
        """
        self.wait_ready()
        passed = (*(() if request.broker < 0 else (request.broker,)), *request.fds)
        if passed and self.apart:
            for fd in passed:
                os.close(fd)
            raise SandboxError(f"{self.apart}: Script and Fetch need one; use a local engine")
        self._request, self._order = request, request.order()
        self._asked = True
        self._id = next(self._ids) & 0xFFFFFFFF
        frame = wire.pack(wire.RUN, self._id, wire.pack_order(self._order))
        self._started = time.monotonic()
        try:
            self._control.settimeout(GRACE + START)  # fails where another thread closed the cell
            wire.send_fds(self._control, frame, passed)
        except OSError as problem:
            self._answered()
            self.kill("lost")
            if foreign(problem, self._started + GRACE + START):
                raise
            raise BrokenPipeError("the cell was dead before it was asked") from None
        finally:
            for fd in passed:
                os.close(fd)

    def finish(self) -> Outcome:
        """The outcome of the execution that `begin` started."""
        files = self._collector()
        deadline = self._started + self._order.wall + GRACE
        try:
            while True:
                self._control.settimeout(max(_LATE, deadline - time.monotonic()))
                outcome = self._take(wire.read_frame(self._control), files)
                if outcome is not None:
                    return outcome
        except (wire.Malformed, wire.Hangup, OSError) as problem:
            if foreign(problem, deadline):
                self.kill("killed")
                raise
            return self._lost(problem)
        except BaseException:  # the caller was interrupted: its answer must not reach the next
            self.kill("killed")
            raise
        finally:
            self._answered()

    async def aexecute(self, request: Request) -> Outcome:
        """As `execute`, without holding up the event loop; cancelling kills the execution."""
        import asyncio

        if self.ready is None:
            await asyncio.to_thread(self.wait_ready)
        self.begin(request)
        self._control.setblocking(False)
        files, pieces = self._collector(), wire.Assembler()
        deadline, late = self._started + self._order.wall + GRACE, False
        try:
            while True:
                # What came while the event loop was held up is found, however late we look.
                await areadable(self._control.fileno(), deadline - time.monotonic())
                try:
                    data = self._control.recv(1 << 18)
                except BlockingIOError:
                    if time.monotonic() < deadline:
                        continue  # awake for nothing
                    raise TimeoutError from None
                if not late and time.monotonic() > deadline:  # and so is the rest of it
                    late, deadline = True, time.monotonic() + GRACE
                if not data:
                    raise wire.Hangup
                for frame in pieces.feed(data):
                    outcome = self._take(frame, files)
                    if outcome is not None:
                        return outcome
        except (wire.Malformed, wire.Hangup, OSError) as problem:
            if foreign(problem, deadline):
                self.kill("killed")
                raise
            return self._lost(problem)
        except BaseException:
            self.kill("killed")
            raise
        finally:
            self._answered()

    def _collector(self) -> Collector:
        return Collector(len(self._order.fetch), self.limits.disk + 4096)

    def _take(self, frame: wire.Frame, files: Collector) -> Outcome | None:
        """One frame of a reply; the outcome, if it was the last."""
        if frame.id != self._id:
            raise wire.Malformed("an answer to another request")
        if frame.kind == wire.FILE:
            files.take(frame.body)
            return None
        if frame.kind != wire.RESULT:
            raise wire.Malformed("an unexpected kind")
        ending = wire.unpack_ending(frame.body, self._order)
        request = self._request
        assert request is not None
        self.executions += 1
        if ending.retired:
            self.retired, self.fault = True, "unclean"
        if wire.CAUSES[ending.cause] == "memory":
            self._oom = self.keeper.oom_kills()  # blamed on this execution, not on a later one
        shell = request.language == "shell"
        return judge(
            ending, request.want_value, request.fetch, files.files, self._order.cpu, shell=shell
        )

    def _lost(self, problem: Exception) -> Outcome:
        fault = self._fault(problem)
        self.kill(fault)
        reason: Reason = fault if fault in ("memory", "timeout") else "lost"
        wall = time.monotonic() - self._started
        return Outcome(Result(reason, wall=wall))

    def _fault(self, problem: Exception) -> Fault:
        """Whose doing it is that no answer came."""
        if self.keeper.oom_kills() > self._oom:
            return "memory"  # the kernel may have chosen pid 1 as its victim: its own count says so
        if not isinstance(problem, TimeoutError):
            return "malformed" if isinstance(problem, wire.Malformed) else "lost"
        # It lives, and a guest keeps it busy; or it stands still, which only outsiders can do.
        return "lost" if self.keeper.stands_still() else "timeout"

    def hurry(self, seconds: float) -> None:
        """Ends the running execution at most `seconds` from now; its reason is then "killed"."""
        frame = wire.pack(wire.HURRY, self._id, wire.SECONDS.pack(max(0.0, seconds)))
        try:
            self._control.sendall(frame, wire.NO_SIGNAL)
        except TimeoutError:
            raise  # of a handler: a few bytes always have room
        except OSError:
            return  # it is dead: `finish` will say so

    def recount(self) -> None:
        """Forgets the kills for want of memory so far: the calls to come are not to blame."""
        self._oom = self.keeper.oom_kills()

    def call(self, kind: int, body: bytes, *, wall: float, fds: Sequence[int] = ()) -> wire.Frame:
        """One call of a session: its answer as a frame.

        Args:
            kind: Of the frame.
            body: Of the frame.
            wall: Seconds the call itself may take.
            fds: Descriptors that travel with it; the caller keeps his.

        Raises:
            ConnectionError: The cell is lost, for the fault it says; it has been killed.
        """
        self._id = next(self._ids) & 0xFFFFFFFF
        self._asked = True
        deadline = time.monotonic() + wall + GRACE
        try:
            if self._control.gettimeout() != wall + GRACE:
                self._control.settimeout(wall + GRACE)
            wire.send_fds(self._control, wire.pack(kind, self._id, body), fds)
            frame = turns.read(self._control)
            if frame.kind != wire.ANSWER or frame.id != self._id:
                raise wire.Malformed("an unexpected answer")
            return frame
        except (wire.Malformed, wire.Hangup, OSError) as problem:
            if foreign(problem, deadline):
                self.kill("killed")
                raise
            self.kill(self._fault(problem))
            raise ConnectionError(self.fault) from None
        except BaseException:
            self.kill("killed")
            raise
        finally:
            self._answered()

    def dead(self) -> bool:
        """Whether an idle cell has hung up."""
        if self.ready is None or not self.alive:
            return not self.alive
        try:
            return bool(readable([self._control.fileno()], 0))
        except (OSError, ValueError):
            return True

    def kill(self, fault: Fault = "killed") -> None:
        """Kills the cell at once; idempotent."""
        if self.alive:
            self.alive = False
            self.fault = fault
            self.keeper.kill()
            self._hang()

    def abandon(self) -> None:
        """Kills a cell whose answer nobody will take: its caller was interrupted."""
        self.kill("killed")
        self._answered()

    def hang_up(self) -> None:
        """Asks the cell to end; idle cells do so at once. `close` waits for it."""
        self.alive = False
        self._hang()

    def _hang(self) -> None:
        # Who waits in another thread or an event loop is woken by the shutdown, and by no close;
        # the descriptor is theirs until they have seen it.
        with self._door:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
            if not self._asked:
                self._control.close()

    def _answered(self) -> None:
        with self._door:
            self._asked = False
            if not self.alive:
                self._control.close()

    def close(self) -> None:
        """Ends the cell and frees what it held; idempotent."""
        self.hang_up()
        self.keeper.release()

    def forget(self) -> None:
        """In a forked copy of the trainer: the cell is the parent's."""
        self.alive = False
        self._control.close()
        self.keeper.forget()
