"""The cell's pid 1: arms executions, watches them, proves that nothing is left, replies."""

from __future__ import annotations

import _socket
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from .. import wire
from . import clean, collect, execution, passing, scratch, trees, turns
from .clone import Cloner
from .syscalls import plain_prctl
from .watch import Bounds, Stream, Watch

_EXIT, _MEMORY = 0, 3  # causes
_SET_DUMPABLE = 4
_DESCRIPTORS = 1 << 20  # more than a process can have open
NO_MARK = -2  # there is a group, and its mark cannot be reset for each call


class Setting(NamedTuple):
    """What the server needs to know about its cell."""

    control: socket.socket
    launcher: int = -1  # pidfd; -1 where the control socket is the only lifeline
    prefix: str = "/usr"  # the interpreter's folder as seen from inside
    memory: int = 512 << 20
    disk: int = 1 << 62  # bytes; less where the disk is not the guest's alone
    polling: int = -1  # a proc that hides nobody, where memory is polled
    peak: int = -1  # the group's high-water mark, open for reading and resetting, or NO_MARK
    oom: int = -1  # the group's count of kills for memory
    group: bool = False
    hidden: bool = True  # not dumpable: guests cannot look at it
    alone: bool = True  # in a pid namespace of its own
    branches: bool = True  # whether sessions may fork
    cleaner: clean.Cleaner | None = None
    again: Callable[[], None] | None = None  # what each execution does to itself once more


class Armed(NamedTuple):
    """An execution that waits for its request."""

    pid: int
    pidfd: int
    out: int
    err: int
    line: wire.Socket


class Server:
    """The loop of pid 1. It runs no guest code and keeps no descriptor a guest could reach."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.cleaner = setting.cleaner or clean.Cleaner()
        self.proc = trees.Proc(setting.polling)
        self.memory = collect.Memory(self.proc, setting.memory)
        self.crowd = trees.Namespace() if setting.alone else trees.Descendants(self.proc)
        self._clone = Cloner()
        self._prctl = plain_prctl()
        self._scratch = scratch.Scratch()
        self._armed: Armed | None = None

    def arm(self) -> Armed:
        """Forks the next execution ahead of its request."""
        out, out_child = os.pipe()
        err, err_child = os.pipe()
        line, line_child = _socket.socketpair()  # the plain kind: no enum, no class of ours
        kept = line_child.fileno()
        pid, pidfd = self._clone()
        if not pid:
            if self.setting.hidden:
                self._prctl(_SET_DUMPABLE, 1, 0, 0, 0)  # its own /proc entries are a program's
            os.dup2(out_child, 1)
            os.dup2(err_child, 2)
            os.closerange(execution.REQUEST, kept)
            os.closerange(kept + 1, _DESCRIPTORS)
            execution.main(line_child, self.setting.prefix, self.setting.again)
        os.close(out_child)
        os.close(err_child)
        line_child.close()
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        return Armed(pid, pidfd, out, err, line)

    def loop(self) -> NoReturn:
        """Serves until the host hangs up."""
        control = self.setting.control
        lifelines = [control.fileno()]
        if self.setting.launcher >= 0:
            lifelines.append(self.setting.launcher)
        poller = select.poll()
        for fd in lifelines:
            poller.register(fd, select.POLLIN)
        while True:
            if self._armed is None:
                self._armed = self.arm()
            for fd, _ in poller.poll():
                if fd != control.fileno():
                    self.end()
            self._answer()

    def _answer(self) -> None:
        """The next request; no view of it outlives this."""
        self._scratch.begin()
        try:
            frame = passing.read_arrival(self.setting.control, 8, self._scratch.room)
        except (wire.Hangup, wire.Malformed, OSError):
            self.end()
        if frame.kind == wire.RUN:
            self.execute(frame)
        elif frame.kind == turns.TURN:
            from . import branch

            branch.converse(self, wire.Frame(frame.kind, frame.id, bytes(frame.body)))
        elif frame.kind != wire.HURRY:  # one that came too late is no mistake
            self.end()

    def execute(self, frame: passing.Arrival) -> None:
        """One request, from its frame to its reply."""
        order = passing.bounds(frame.body)
        started = time.monotonic()
        oom = collect.control(self.setting.oom)
        self._reset_peak()
        rows = self._hand_over(frame, order.flags)
        armed = self._armed
        assert armed is not None
        self._armed = None
        room = self._scratch.room
        streams = (Stream(armed.out, order.output, room), Stream(armed.err, order.output, room))
        bounds = Bounds(started + order.wall, order.output_stop)
        self.memory.until = bounds.deadline
        watch = Watch(armed.pidfd, streams, rows, bounds, self.events(), self._over(oom))
        watch.run()
        status, cpu, peak = self.bury(armed.pid)
        wall = time.monotonic() - started
        for stream in (*streams, *(() if rows is None else (rows,))):
            stream.drain()
            os.close(stream.fd)
        os.close(armed.pidfd)
        watch.settle()
        cause = _MEMORY if self._killed_since(oom) else watch.cause
        if order.fetch:
            disk = self.setting.disk
            collect.send_files(self.setting.control, frame.id, order.fetch, disk, room)
        ending = wire.Ending(
            cause,
            status,
            stdout_bytes=streams[0].total,
            stderr_bytes=streams[1].total,
            wall=wall,
            cpu=cpu,
            memory_peak=self._peak(peak),
            retired=0 if self.cleaner.clean() else 1,
        )
        blobs = (*(stream.view() for stream in streams), b"" if rows is None else rows.view())
        self._report(frame.id, ending, *blobs)

    def _report(self, request_id: int, ending: wire.Ending, *blobs: bytes | memoryview) -> None:
        sizes = [len(blob) for blob in blobs]
        numbers = wire.pack_numbers(ending, *sizes)
        head = wire.pack_head(wire.RESULT, request_id, len(numbers) + sum(sizes))
        self._send(self._scratch.join(head, numbers, *blobs))

    def _hand_over(self, frame: passing.Arrival, flags: int) -> Stream | None:
        """Sends the request to the armed execution; the result pipe's end, if it has one."""
        rows = None
        fds = frame.fds
        if flags & (wire.ROWS | wire.WANT_VALUE):
            read, write = os.pipe()
            os.set_blocking(read, False)
            rows = Stream(read, execution_rows())
            fds = [write, *fds]
        data = self._scratch.join(len(frame.body).to_bytes(4, "little"), frame.body)
        while True:
            armed = self._armed = self._armed or self.arm()
            try:
                wire.send_fds(armed.line, data, fds)
                break
            except OSError:  # killed while it waited: it ran nothing, so make another
                self.bury(armed.pid)
                for fd in (armed.pidfd, armed.out, armed.err):
                    os.close(fd)
                self._armed = None
            finally:
                armed.line.close()
        for fd in fds:
            os.close(fd)
        return rows

    def events(self) -> dict[int, Callable[[], float | None]]:
        """Descriptors that matter while a program runs."""
        events: dict[int, Callable[[], float | None]] = {
            self.setting.control.fileno(): self._interrupted
        }
        if self.setting.launcher >= 0:
            events[self.setting.launcher] = self.end
        return events

    def over_memory(self) -> Callable[[], bool] | None:
        """Whether memory must be looked at, and how."""
        return None if self.setting.group else self.memory.over

    def _over(self, oom: bytes) -> Callable[[], bool] | None:
        """As `over_memory`; where the kernel counts, whether it has killed somebody since.

        The interpreter of a session outlives that: its calls are not asked.
        """
        if not self.setting.group:
            return self.memory.over
        return None if self.setting.oom < 0 else lambda: self._killed_since(oom)

    def enlist(self, body: bytes) -> Armed:
        """Makes the armed execution the interpreter of a session."""
        armed = self._armed or self.arm()
        self._armed = None
        armed.line.sendall(len(body).to_bytes(4, "little") + body)
        return armed

    def fail(self, text: str) -> NoReturn:
        """Ends a cell that is in no state to go on."""
        self.reply(wire.FAILED, 0, wire.pack_json({"step": "session", "code": 0, "text": text}))
        self.end()

    def end(self) -> NoReturn:
        """The worker's end: with pid 1 the kernel kills everybody in the namespace."""
        if not self.setting.alone:
            self.crowd.signal(signal.SIGKILL)
        os._exit(0)

    def _interrupted(self) -> float | None:
        try:
            frame = wire.read_frame(self.setting.control)
        except (wire.Hangup, wire.Malformed, OSError):
            self.end()
        if frame.kind != wire.HURRY or len(frame.body) != 8:
            self.end()
        return time.monotonic() + wire.SECONDS.unpack(frame.body)[0]

    def bury(self, pid: int) -> tuple[int, float, int]:
        """Kills and reaps everybody; (status, cpu seconds, resident peak) of the main process."""
        self.crowd.signal(signal.SIGKILL)
        main = (-signal.SIGKILL, 0.0, -1)
        while True:
            try:
                found, status, usage = os.wait4(-1, 0)
            except ChildProcessError:
                return main  # the proof that nobody is left
            if found == pid:
                main = (
                    os.waitstatus_to_exitcode(status),
                    usage.ru_utime + usage.ru_stime,
                    usage.ru_maxrss * 1024,
                )

    def reply(self, kind: int, request_id: int, body: bytes) -> None:
        """Sends a frame; a host that is gone ends the cell."""
        self._send(wire.pack(kind, request_id, body))

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self.setting.control.sendall(data)
        except OSError:
            self.end()

    def _killed_since(self, before: bytes) -> bool:
        now = collect.control(self.setting.oom)
        return now != before and collect.kills(now) > collect.kills(before)

    def _reset_peak(self) -> None:
        if self.setting.peak >= 0:
            try:  # noqa: SIM105 -- a context manager touches more pages
                os.pwrite(self.setting.peak, b"0", 0)
            except OSError:
                pass  # an older kernel keeps the mark of all calls

    def _peak(self, resident: int) -> int:
        if self.setting.peak == NO_MARK:
            return -1
        if self.setting.peak < 0:
            return resident
        return int(os.pread(self.setting.peak, 32, 0))


def execution_rows() -> int:
    """Bytes kept of a result pipe."""
    from .watch import ROWS_MOST

    return ROWS_MOST


def reset_signals() -> None:
    """Default handlers and an empty mask, for us and all guests.

    Signals that a guest sends to pid 1 are then dropped; and what the trainer ignores or blocks is
    inherited through every exec and fork: a guest's own `alarm` or `abort` would do nothing.
    """
    # Two that nobody can set, and two that Python itself ignores.
    kept = {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}
    for number in signal.valid_signals() - kept:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.getrlimit(resource.RLIMIT_CPU)
