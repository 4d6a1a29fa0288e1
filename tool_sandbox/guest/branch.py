"""Sessions as pid 1 sees them: branches of an interpreter, of which at most one runs at a time."""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, NoReturn

from .. import wire
from . import folders, repl, trees
from .watch import Bounds, Stream, Watch

if TYPE_CHECKING:
    from .serve import Server

_INTERRUPT = 0.5  # seconds an interrupted call has before it is killed
_BORN = 5.0  # seconds a new branch has to report
_ANSWER_MOST = 4096  # bytes; an interpreter that says more is broken or hostile
_TIMEOUT = 1


_ids = itertools.count(1)


class Refused(Exception):
    """The call cannot be done; the session goes on."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


class Branch:
    """One interpreter with its descriptors and its folder."""

    def __init__(self, name: int, pid: int, pidfd: int, out: int, err: int, line: socket.socket):
        self.name = name
        self.pid = pid
        self.pidfd = pidfd
        self.out = out
        self.err = err
        self.line = line
        self.alive = True

    def close(self) -> None:
        """Lets the descriptors go."""
        self.alive = False
        for fd in (self.pidfd, self.out, self.err):
            os.close(fd)
        self.line.close()


class Session:
    """All branches of one cell."""

    def __init__(self, server: Server, body: bytes) -> None:
        self._server = server
        self._control = server.setting.control
        self._proc, self._crowd = server.proc, server.crowd
        armed = server.enlist(body)
        root = Branch(1, armed.pid, armed.pidfd, armed.out, armed.err, armed.line)
        armed.line.setblocking(False)
        if not _Talk(armed.line).wait(_BORN):
            words = Stream(armed.err, _ANSWER_MOST)
            words.drain()
            server.fail(f"the interpreter did not start: {words.take().decode(errors='replace')}")
        self._branches = {1: root}
        self._active = 1
        self._count = 1

    def serve(self) -> NoReturn:
        """Answers calls for the rest of the cell's life."""
        while True:
            frame = self._server.next_call()
            try:
                head, blobs = wire.unpack_json(frame.body)
                answer = self._answer(head, blobs)
            except Refused as problem:
                answer = wire.pack_json({"error": problem.kind, "text": str(problem)})
            self._server.reply(wire.ANSWER, frame.id, answer)

    def _answer(self, head: dict[str, Any], blobs: list[bytes]) -> bytes:
        operation = str(head["op"])
        if operation == "drop":
            self._drop(int(head["branch"]))
            return wire.pack_json({})
        branch = self._branches.get(int(head["branch"]))
        if branch is None or not branch.alive:
            raise Refused("dead", "the session's interpreter has ended")
        self._activate(branch)
        if operation in ("execute", "shell"):
            return self._call(branch, head, blobs)
        if operation == "fork":
            return wire.pack_json({"branch": self._fork(branch)})
        return self._file(operation, head, blobs)

    def _file(self, operation: str, head: dict[str, Any], blobs: list[bytes]) -> bytes:
        try:
            if operation == "read":
                return wire.pack_json({}, folders.read(head["path"], int(head["limit"])))
            if operation == "write":
                folders.write(head["path"], blobs[0])
                return wire.pack_json({})
            return wire.pack_json({"entries": folders.entries(head["path"])})
        except OSError as problem:
            kind = "missing" if isinstance(problem, FileNotFoundError) else "file"
            words = os.strerror(problem.errno) if problem.errno else str(problem)
            raise Refused(kind, f"{head['path']}: {words}") from None

    def _activate(self, branch: Branch) -> None:
        """Gives the branch the folders under their usual names."""
        if self._active != branch.name:
            try:
                if self._active:  # 0: the active branch was dropped, and its folders with it
                    folders.park(self._active)
                folders.unpark(branch.name)
            except OSError as problem:
                self._server.fail(f"folders of a branch: {problem}")
            self._active = branch.name

    def _wake(self, branch: Branch) -> None:
        if len(self._branches) == 1:
            self._crowd.signal(signal.SIGCONT)
        else:
            for pid in self._proc.tree(branch.pid):
                trees.send(pid, signal.SIGCONT)

    def _call(self, branch: Branch, head: dict[str, Any], blobs: list[bytes]) -> bytes:
        started = time.monotonic()
        wall, keep = float(head["wall"]), int(head["output"])
        oom, clock = self._server.oom_kills(), repl.processor_clock(branch.pid)
        streams = (Stream(branch.out, keep), Stream(branch.err, keep))
        talk = _Talk(branch.line)
        self._wake(branch)
        cause = 0
        if talk.ask(head, blobs, wall):
            cause = self._watch(branch, streams, talk, head, started + wall)
        if cause == _TIMEOUT and talk.status is None:
            trees.send(branch.pid, signal.SIGINT)
            self._watch(branch, streams, talk, head, time.monotonic() + _INTERRUPT)
        cpu = max(0.0, repl.processor_clock(branch.pid) - clock)
        status = self._settle(branch, talk)
        if self._server.oom_kills() > oom:
            cause = wire.CAUSES.index("memory")
        return self._ending(branch, streams, cause, status, time.monotonic() - started, cpu)

    def _watch(
        self,
        branch: Branch,
        streams: tuple[Stream, Stream],
        talk: _Talk,
        head: dict[str, Any],
        deadline: float,
    ) -> int:
        events = self._server.events()
        over = self._server.over_memory()
        bounds = Bounds(deadline, int(head["output_stop"]))
        watch = Watch(branch.pidfd, streams, None, bounds, events, over)

        def heard() -> None:
            if talk.hear():
                watch.stop()

        events[branch.line.fileno()] = heard
        watch.run()
        return watch.cause

    def _settle(self, branch: Branch, talk: _Talk) -> int:
        """Stops everybody; buries the branch unless it answered. Its status."""
        self._crowd.signal(signal.SIGSTOP)
        self._kill_strays()
        if talk.status is not None and not _ended(branch.pidfd):
            return talk.status
        return self._bury(branch)

    def _bury(self, branch: Branch) -> int:
        for pid in self._proc.tree(branch.pid):
            trees.send(pid, signal.SIGKILL)
        branch.alive = False
        try:
            _, status = os.waitpid(branch.pid, 0)
        except ChildProcessError:
            return -signal.SIGKILL  # not our child: a forged birth
        self._kill_strays()
        return os.waitstatus_to_exitcode(status)

    def _kill_strays(self) -> None:
        """Ends what left its branch and came to us: it belongs to nobody."""
        own = {one.pid for one in self._branches.values() if one.alive}
        for stray in self._proc.strays(own):
            for pid in self._proc.tree(stray):
                trees.send(pid, signal.SIGKILL)
            try:
                os.waitpid(stray, 0)
            except ChildProcessError:
                continue

    def _ending(
        self,
        branch: Branch,
        streams: tuple[Stream, Stream],
        cause: int,
        status: int,
        wall: float,
        cpu: float,
    ) -> bytes:
        for stream in streams:
            stream.drain()
        totals = streams[0].total, streams[1].total
        kept = streams[0].take(), streams[1].take()
        ending = wire.Ending(cause, status, *kept, *totals, wall, cpu)
        return wire.pack_json({"alive": branch.alive}, wire.pack_ending(ending))

    def _fork(self, branch: Branch) -> int:
        if not self._server.setting.branches:
            raise Refused("fork", "the process backend cannot branch; use cell or docker")
        name = self._count + 1
        try:
            home = folders.copy(name)
        except OSError as problem:
            raise Refused("fork", f"the files cannot be copied: {problem}") from None
        out, out_child = os.pipe()
        err, err_child = os.pipe()
        line, line_child = socket.socketpair()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        talk = _Talk(branch.line)
        self._wake(branch)
        fds = [line_child.fileno(), out_child, err_child]
        asked = talk.ask({"op": "fork", "home": home}, [], _BORN, fds)
        line_child.close()
        os.close(out_child)
        os.close(err_child)
        pid = self._newborn(talk, line) if asked and talk.wait(_BORN) else 0
        self._crowd.signal(signal.SIGSTOP)
        pidfd = _open_process(pid)
        if pidfd < 0:
            line.close()
            os.close(out)
            os.close(err)
            folders.remove(name)
            raise Refused("fork", str(talk.answer.get("error") or "the interpreter did not fork"))
        for fd in (out, err):
            os.set_blocking(fd, False)
        self._branches[name] = Branch(name, pid, pidfd, out, err, line)
        self._count = name
        return name

    def _newborn(self, talk: _Talk, line: socket.socket) -> int:
        """The new branch's pid, from the kernel and not from its own mouth; 0 if there is none."""
        if "error" in talk.answer or not select.select([line], [], [], _BORN)[0]:
            return 0
        _, ancillary, _, _ = line.recvmsg(_ANSWER_MOST, 256)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                return struct.unpack("=iII", data[:12])[0]
        return 0

    def _drop(self, name: int) -> None:
        branch = self._branches.get(name)
        if branch is None:
            return
        if branch.alive:
            self._bury(branch)
        branch.close()
        del self._branches[name]
        if not self._branches:
            self._server.end()
        self._kill_strays()
        try:
            if self._active == name:
                folders.park(name)
                self._active = 0
            folders.remove(name)
        except OSError:
            return  # the quota is the session's own


class _Talk:
    """One question to an interpreter and its answer; the answer is the guest's word."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._pieces = wire.Assembler()
        self._heard = 0
        self._id = 0  # of the question; an interpreter's first word answers none
        self.answer: dict[str, Any] = {}
        self.status: int | None = None

    def ask(self, head: dict[str, Any], blobs: list[bytes], wall: float, fds: Any = ()) -> bool:
        """Sends the question; False if the interpreter does not take it in time."""
        self._discard()
        self._id = next(_ids) & 0xFFFFFFFF
        self._line.settimeout(max(0.01, wall))
        try:
            wire.send_fds(
                self._line, wire.pack(wire.CALL, self._id, wire.pack_json(head, *blobs)), fds
            )
        except OSError:
            return False
        self._line.setblocking(False)
        return True

    def _discard(self) -> None:
        # What was said without being asked belongs to no call.
        self._line.setblocking(False)
        try:
            while self._line.recv(1 << 16):
                pass
        except OSError:
            return

    def hear(self) -> bool:
        """Takes what was said; True when that was the answer or the end."""
        try:
            data = self._line.recv(_ANSWER_MOST)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._heard += len(data)
        if not data or self._heard > _ANSWER_MOST:
            return True
        try:
            for frame in self._pieces.feed(data):
                if frame.id != self._id:
                    continue  # late, to a question that a forged answer had ended
                self.answer, _ = wire.unpack_json(frame.body)
                status = self.answer.get("status", 0)
                if isinstance(status, int) and -64 <= status <= 255:
                    self.status = status
                return True
        except wire.Malformed:
            return True
        return False

    def wait(self, seconds: float) -> bool:
        """Waits for the answer alone."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._line], [], [], left)[0] and self.hear():
                return bool(self.answer)
        return False


def _open_process(pid: int) -> int:
    """A pidfd, or -1: whoever said to be born may have ended since."""
    try:
        return os.pidfd_open(pid) if pid > 1 else -1
    except OSError:
        return -1


def _ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def converse(server: Server, frame: wire.Frame) -> NoReturn:
    """Turns a cell into a session's, from the call that opens it."""
    head, blobs = wire.unpack_json(frame.body)
    assert head["op"] == "open"
    session = Session(server, blobs[0])
    server.reply(wire.ANSWER, frame.id, wire.pack_json({"branch": 1}))
    session.serve()
