"""Sessions as pid 1 sees them: branches of an interpreter, of which at most one runs at a time."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, NoReturn

from .. import wire
from . import collect, folders, trees, turns
from .line import Branch, Look, newborn
from .park import Park
from .turns import Question
from .watch import TICK, Bounds, Stream, Watch

if TYPE_CHECKING:
    from .serve import Server

_INTERRUPTS = 0.5, 0.5  # seconds after each; one that comes before the program begins is lost
_STILL = 20.0  # seconds after which no process can still be ending
_BORN = 5.0  # seconds a new branch has to report
_WORDS_MOST = 4096  # bytes of what an interpreter that does not start may say
_EXIT, _TIMEOUT, _OUTPUT, _MEMORY = range(4)  # causes
_HEARD = -1  # no cause: the question was taken
_TOO_MUCH = "it held more than its memory limit while no call watched it"
_DEAD = "the session's interpreter has ended"


class Refused(Exception):
    """The call cannot be done; the session goes on."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


class Session:
    """All branches of one cell."""

    def __init__(self, server: Server, body: bytes) -> None:
        """Makes the armed execution the first branch.

        Args:
            server: Of this cell.
            body: The order that starts the interpreter.
        """
        self._server = server
        self._control = server.setting.control
        self._proc, self._crowd = server.proc, server.crowd
        self._lifelines = list(server.events())
        self._over = server.over_memory()
        self._oom = collect.control(server.setting.oom)
        self._children = self._proc.open_children()
        self._park = Park()
        armed = server.enlist(body)
        fds = armed.pidfd, armed.out, armed.err
        root = Branch(1, armed.pid, fds, armed.line, self._lifelines)
        if not root.wait(_BORN):
            words = Stream(armed.err, _WORDS_MOST)
            words.drain()
            server.fail(f"the interpreter did not start: {words.take().decode(errors='replace')}")
        root.used()
        server.memory.keep(root.pid)
        self._branches = {1: root}
        self._active = 1
        self._count = 1
        self._listed = b""  # our children, as the kernel lists them, when they were all branches

    def serve(self) -> NoReturn:
        """Answers calls for the rest of the cell's life."""
        poller = select.poll()
        for fd in self._lifelines:
            poller.register(fd, select.POLLIN)
        while True:
            frame, fds = self._next_call(poller)
            try:
                if frame.kind == turns.TURN:
                    answer = self._turn(frame.body, fds)
                else:
                    answer = self._operation(*wire.unpack_json(frame.body))
            except Refused as problem:
                answer = wire.pack_json({"error": problem.kind, "text": str(problem)})
                if frame.kind == turns.TURN:
                    answer = bytes((turns.REFUSED,)) + answer
            for fd in fds:
                os.close(fd)
            self._server.reply(wire.ANSWER, frame.id, answer)

    def _next_call(self, poller: select.poll) -> tuple[wire.Frame, list[int]]:
        """Late words are passed over, a hang-up is the end."""
        pause = TICK
        while True:
            ready = poller.poll(pause * 1000 if pause < _STILL else None)
            if not ready:
                pause = _STILL if self._stand_still() else 2 * pause
                continue
            for fd, _ in ready:
                if fd != self._lifelines[0]:
                    self._server.end()
            try:
                frame, fds = turns.read_with_descriptors(self._control)
            except (wire.Hangup, wire.Malformed, OSError):
                self._server.end()
            if frame.kind in (turns.TURN, wire.CALL):
                return frame, fds
            if frame.kind != wire.HURRY:
                self._server.end()

    def _stand_still(self) -> bool:
        """Stops whom the end of another has woken since the call; True if nobody can be any more.

        The kernel does so: a process that takes its time to end may tell others of it by a signal.
        """
        states = {self._proc.state(pid) for pid in self._proc.family(os.getpid())[1:]}
        self._crowd.signal(signal.SIGSTOP)
        # The host is not heard here: what it says now is the next call, and no interruption.
        if states & set("RSD") and self._swollen(time.monotonic() + TICK):
            for one in self._branches.values():
                if one.alive:
                    self._bury(one)
        return states <= {"T"}

    def _operation(self, head: dict[str, Any], blobs: list[bytes]) -> bytes:
        operation, name = str(head["op"]), int(head["branch"])
        if operation == "drop":
            self._drop(name)
            return wire.pack_json({})
        branch = self._activate(name)
        if operation == "fork":
            return wire.pack_json({"branch": self._fork(branch)})
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

    def _activate(self, name: int) -> Branch:
        """A living branch, with its folders under their usual names; a dead one is refused."""
        branch = self._branches.get(name)
        if branch is None or not branch.alive:
            raise Refused("dead", _DEAD)
        if self._active == name:
            return branch
        # None of its processes ran meanwhile; whatever became of them was done to them.
        now = self._look_at(branch)
        meddled = any(now[pid].meddled(branch.left.get(pid)) for pid in now)
        if branch.ended or meddled or now.keys() != branch.left.keys():
            self._bury(branch)
            raise Refused("dead", f"{_DEAD}: a program of another branch killed it, or meddled")
        branch.empty()
        try:
            if self._active:  # 0: the active branch was dropped, and its folders with it
                last = self._branches[self._active]
                last.left = self._look_at(last) if last.alive else {}
                self._park.put(self._active)
            self._active = 0
            self._park.fetch(name)
        except OSError as problem:
            self._server.fail(f"folders of a branch: {problem}")
        self._active = name
        return branch

    def _look_at(self, branch: Branch) -> dict[int, Look]:
        """The processes of a branch, once they stand still."""
        return {
            pid: Look(self._proc.settings(pid), trees.processor_clock(pid))
            for pid in self._proc.still(branch.pid)
        }

    def _ask(self, branch: Branch, question: bytes, end: float, fds: list[int]) -> int:
        """Puts a question and lets the branch run.

        Returns:
            `_HEARD`, or why it does not take the question: a cause.
        """
        rest = branch.begin(question, fds)  # before it wakes: it then finds what it waits for
        if len(self._branches) == 1:
            self._crowd.signal(signal.SIGCONT)
        else:
            for pid in self._proc.family(branch.pid):
                trees.send(pid, signal.SIGCONT)
        while rest:  # longer than the line: programs run while it is taken, so somebody must look
            rest = branch.go_on(rest, TICK)
            if (cause := self._look(end)) is not None:
                return cause
        return _EXIT if rest is None else _HEARD

    def _look(self, end: float) -> int | None:
        """Why programs that run and are not watched must be ended; None if they need not be."""
        events = self._server.events()
        for fd in select.select(events, [], [], 0)[0]:
            events[fd]()
        if time.monotonic() >= end:
            return _TIMEOUT
        return _MEMORY if self._swollen(end) else None

    def _swollen(self, until: float) -> bool:
        """Whether they hold too much memory, as far as a look until then shows."""
        self._server.memory.until = until
        return self._over is not None and self._over()

    def _turn(self, body: bytes, fds: list[int]) -> bytes:
        started = time.monotonic()
        question = turns.unpack(body)
        branch, end = self._activate(question.branch), started + question.wall
        streams = branch.streams(question.output)
        cause = self._ask(branch, body, end, fds)
        if cause == _HEARD:
            cause, stop = _EXIT, question.output_stop
            prompt = end if self._over is None else min(end, started + TICK)
            if not branch.prompt(streams, prompt, stop):
                cause = self._watch(branch, streams, Bounds(end, stop))
                for seconds in _INTERRUPTS if cause == _TIMEOUT and branch.status is None else ():
                    trees.send(branch.pid, signal.SIGINT)
                    bounds = Bounds(time.monotonic() + seconds, stop)
                    if self._watch(branch, streams, bounds) != _TIMEOUT:
                        break
        cpu = branch.used()
        status = self._settle(branch, streams)
        if cause == _EXIT and sum(stream.total for stream in streams) > question.output_stop:
            cause = _OUTPUT  # a flood is one however early its writer left
        ending = wire.Ending(
            _MEMORY if self._killed_for_memory() else cause,
            status,
            stdout_bytes=streams[0].total,
            stderr_bytes=streams[1].total,
            stdout=streams[0].take(),
            stderr=streams[1].take(),
            wall=time.monotonic() - started,
            cpu=cpu,
        )
        state = turns.ALIVE if branch.alive else turns.DEAD
        return bytes((state,)) + wire.pack_ending(ending)

    def _killed_for_memory(self) -> bool:
        """Whether the kernel has killed somebody since the last call."""
        before, self._oom = self._oom, collect.control(self._server.setting.oom)
        return before != self._oom and collect.kills(before) < collect.kills(self._oom)

    def _watch(self, branch: Branch, streams: tuple[Stream, Stream], bounds: Bounds) -> int:
        events = self._server.events()
        self._server.memory.until = bounds.deadline
        watch = Watch(branch.pidfd, streams, None, bounds, events, self._over)

        def heard() -> None:
            if branch.hear():
                watch.stop()

        events[branch.line.fileno()] = heard
        watch.run()
        return watch.cause

    def _settle(self, branch: Branch, streams: tuple[Stream, Stream]) -> int:
        """Stops everybody; buries the branch unless it answered. Its status."""
        self._crowd.signal(signal.SIGSTOP)
        self._kill_strays()
        ready = branch.ready()
        status = branch.status
        if len(self._branches) > 1 and self._park.touched():
            for one in self._branches.values():
                if one.alive and one is not branch:
                    self._bury(one)  # nobody can tell any more whose files these are
            status = None
        if status is None or branch.pidfd in ready:
            status = self._bury(branch)
            ready |= {stream.fd for stream in streams}
        for stream in streams:
            if stream.fd in ready:
                stream.empty()
        if branch.line.fileno() in ready:
            branch.hush()
        return status

    def _bury(self, branch: Branch) -> int:
        for pid in self._proc.tree(branch.pid):
            trees.send(pid, signal.SIGKILL)
        branch.alive = False
        self._listed = b""
        try:
            _, status = os.waitpid(branch.pid, 0)
        except ChildProcessError:
            return -signal.SIGKILL  # not our child: a forged birth
        self._kill_strays()
        return os.waitstatus_to_exitcode(status)

    def _kill_strays(self) -> None:
        """Ends what left its branch and came to us: it belongs to nobody."""
        if self._listed and self._listed == self._list():
            return  # the kernel's own list of our children: branches and nobody else
        own = {one.pid for one in self._branches.values() if one.alive}
        for stray in self._proc.strays(own):
            for pid in self._proc.tree(stray):
                trees.send(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(stray, 0)
        listed = self._list()
        self._listed = listed if own == {int(word) for word in listed.split()} else b""

    def _list(self) -> bytes:
        return os.pread(self._children, 4096, 0) if self._children >= 0 else b""

    def _fork(self, branch: Branch) -> int:
        if not self._server.setting.branches:
            raise Refused("fork", "the process backend cannot branch; use cell or docker")
        name = self._count + 1
        try:
            self._park.copy(name)
        except OSError as problem:
            raise Refused("fork", f"the files cannot be copied: {problem}") from None
        out, out_child = os.pipe()
        err, err_child = os.pipe()
        line, line_child = socket.socketpair()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        fds = [line_child.fileno(), out_child, err_child]
        end = time.monotonic() + _BORN
        cause = self._ask(branch, turns.pack(Question(turns.FORK)), end, fds)
        line_child.close()
        os.close(out_child)
        os.close(err_child)
        if cause == _HEARD:
            memory = self._server.memory
            memory.spare = memory.resident(str(branch.pid))  # a child that hides shows it again
            cause = self._await_birth(branch, line, end)
            memory.spare = 0
        pid, shown = newborn(line) if cause == _HEARD else (0, [])
        branch.used()
        self._crowd.signal(signal.SIGSTOP)
        pidfd = trees.open_process(pid)
        for fd in shown:
            self._server.memory.show(pid, fd)
        if pidfd < 0:
            self._server.memory.hide(pid)
            line.close()
            os.close(out)
            os.close(err)
            self._park.remove(name)
            if branch.ended or cause == _MEMORY:  # or killed from outside, between two calls
                self._bury(branch)
                raise Refused("dead", _DEAD if cause != _MEMORY else f"{_DEAD}: {_TOO_MUCH}")
            raise Refused("fork", branch.words or "the interpreter did not fork")
        for fd in (out, err):
            os.set_blocking(fd, False)
        new = Branch(name, pid, (pidfd, out, err), line, self._lifelines)
        new.left = self._look_at(new)
        self._branches[name] = new
        self._count = name
        return name

    def _await_birth(self, branch: Branch, line: socket.socket, end: float) -> int:
        """Waits until a branch has forked and its child has spoken; as `_ask`."""
        answered = False
        while (cause := self._look(end)) is None:
            ends = [line if answered else branch.line, branch.pidfd]
            heard = select.select(ends, [], [], TICK)[0]
            if branch.pidfd in heard:
                return _EXIT
            if answered and heard:
                return _HEARD
            if heard and branch.hear():
                if branch.status is None or branch.words:
                    return _EXIT
                answered = True
        return cause

    def _drop(self, name: int) -> None:
        branch = self._branches.get(name)
        if branch is None:
            return
        if branch.alive:
            self._bury(branch)
        branch.close()
        self._server.memory.hide(branch.pid)
        del self._branches[name]
        if not self._branches:
            self._server.end()
        self._kill_strays()
        with contextlib.suppress(OSError):  # the quota is the session's own
            if self._active == name:
                self._active = 0
                self._park.put(name)
            self._park.remove(name)


def converse(server: Server, frame: wire.Frame) -> NoReturn:
    """Turns a cell into a session's, from the call that opens it."""
    question = turns.unpack(frame.body)
    assert question.operation == turns.OPEN
    session = Session(server, question.text)
    server.reply(wire.ANSWER, frame.id, wire.pack_json({"branch": 1}))
    session.serve()
