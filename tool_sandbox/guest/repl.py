"""The interpreter of a session: runs call after call in one `__main__`, and can branch."""

from __future__ import annotations

import builtins
import contextlib
import errno
import fcntl
import io
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from .. import wire
from . import asking, execution, handles, last, turns
from .clone import PARENT, Cloner
from .syscalls import call, plain_prctl

_SUBREAPER, _DUMPABLE = 36, 4
_NO_SHELL = 126  # exit code, as a shell's own for what cannot be run
_UNWRITTEN = 120  # exit code, as the interpreter's own for output that it cannot write
_HERE = os.path.dirname(__file__)
_getpid = os.getpid  # a program may replace it
_CWD = 9  # the descriptor on which a shell says where it ended


class _State:
    """What the interpreter knows of itself."""

    running = False  # a program, which may be interrupted
    branched = False  # others share our memory up to some point, and may not look at ours
    moved: handles.Inherited | None = None  # to be done before the first program of a new branch
    fetches = False  # programs have `palaestra_fetch`
    stdin: io.TextIOWrapper | None = None  # an empty input that can serve again


_state = _State()
_prctl = plain_prctl()


def converse(line: wire.Socket, prefix: str) -> NoReturn:
    """Answers calls until the cell hangs up.

    Args:
        line: Connected to pid 1; it moves to descriptor 3.
        prefix: The interpreter's folder as seen from inside.
    """
    call("prctl", _SUBREAPER, 1, 0, 0, 0)
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # pyright: ignore
    if line.fileno() != execution.REQUEST:
        os.dup2(line.fileno(), execution.REQUEST)
        line.close()
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, execution.REQUEST)
    signal.signal(signal.SIGINT, _interrupted)
    scope = execution.fresh_main().__dict__
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # as `site` would
    number, own = 0, _getpid()
    line.sendall(wire.pack(wire.ANSWER, 0, turns.pack_word(0)))  # files are in place
    while True:
        try:
            frame, fds = turns.read_with_descriptors(line)
        except KeyboardInterrupt:
            continue  # late, and a program has put back Python's own handler
        except (wire.Hangup, OSError):
            os._exit(0)
        question = turns.unpack(frame.body)
        number += 1
        if _state.moved is not None:
            _state.moved.settle()
            _state.moved = None
        if question.operation == turns.FORK:
            line, answer, shown = _fork(line, fds)
            own = _getpid()
            wire.send_fds(line, wire.pack(wire.ANSWER, frame.id, answer), shown)
            for fd in shown:
                os.close(fd)
        else:
            code = _perform(question, fds, scope, number, prefix)
            if _getpid() != own:  # a child that the program made: the answer is its parent's
                last.leave(code)
            line.sendall(wire.pack(wire.ANSWER, frame.id, turns.pack_word(code)))


def _interrupted(number: int, frame: FrameType | None) -> None:
    # A signal that comes after the call it was meant for must not end the interpreter.
    if _state.running:
        raise KeyboardInterrupt


def _perform(
    question: turns.Question, fds: list[int], scope: dict[str, Any], number: int, prefix: str
) -> int:
    _allow_fetches(fds)
    if _state.branched:
        _prctl(_DUMPABLE, 1, 0, 0, 0)
    try:
        code = _run(question, scope, number, prefix)
        return code if _flush(aloud=True) else code or _UNWRITTEN
    except KeyboardInterrupt:  # while the exception was reported
        _state.running = False
        _flush()
        return 130
    finally:
        if _state.branched:  # a branch that stands still cannot be looked into by another
            _prctl(_DUMPABLE, 0, 0, 0, 0)


def _run(question: turns.Question, scope: dict[str, Any], number: int, prefix: str) -> int:
    try:
        text = question.text.decode("utf-8", "surrogatepass")
        _set_stdin(question.stdin)
        _state.running = True
        if question.operation == turns.SHELL:
            return _shell(text, prefix)
        _statements(text, f"<call {number}>", scope)
        return 0
    except BaseException as problem:
        _cut(problem)
        return last.ending(problem)
    finally:
        _state.running = False


def _cut(problem: BaseException) -> None:
    """Takes our own frames off the end of a traceback: an interrupt is raised in one of ours."""
    left: list[BaseException | None] = [problem]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        left += (one.__cause__, one.__context__)
        end, trace = None, one.__traceback__
        while trace is not None:
            if not trace.tb_frame.f_code.co_filename.startswith(_HERE):
                end = trace
            trace = trace.tb_next
        if end is not None:
            end.tb_next = None


def _allow_fetches(fds: list[int]) -> None:
    """Puts this call's line to the host's broker in its place; it ends with the call."""
    for fd in fds:
        if fd != execution.BROKER:
            os.dup2(fd, execution.BROKER, inheritable=False)
            os.close(fd)
        if not _state.fetches:
            asking.install(execution.BROKER)
            _state.fetches = True


def _statements(text: str, name: str, scope: dict[str, Any]) -> None:
    text = text.removeprefix(execution.MARK)
    execution.remember(text, name)
    body, expression = execution.split(text, name)
    if body is not None:
        exec(body, scope)
    if expression is not None:
        sys.displayhook(eval(expression, scope))


def _flush(*, aloud: bool = False) -> bool:
    """Writes out both streams; False where a program has closed one under what it printed."""
    done = True
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError as problem:
            if problem.errno == errno.EBADF:
                done = False
                if aloud:
                    _say(f"sys.{name}: {problem.strerror}; what it was to print is lost\n")
        except BaseException:
            continue
    return done


def _say(words: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, words.encode())


def _set_stdin(data: bytes) -> None:
    kept = _state.stdin
    if data:
        execution.set_stdin(data)
        _state.stdin = None
    elif kept is not None and kept is sys.stdin and not kept.closed:
        return
    else:
        null = os.open("/dev/null", os.O_RDONLY)
        if null:
            os.dup2(null, 0)
            os.close(null)
        else:  # a program has closed it
            os.set_inheritable(0, True)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")  # type: ignore[arg-type]  # pyright: ignore
    if not data:
        _state.stdin = sys.stdin  # pyright: ignore[reportAttributeAccessIssue]


def _shell(text: str, prefix: str) -> int:
    """Runs a command in a shell of its own; where it ends is where the session goes on."""
    read, write = os.pipe()
    kept = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take the exit code
    pid = os.fork()
    if not pid:
        try:
            with contextlib.suppress(OSError):  # refused where Landlock stands alone
                os.setsid()
            os.dup2(write, _CWD)
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            script = f"trap 'pwd -P >&{_CWD}' EXIT\n{text}".replace("\0", "")
            word = os.fsdecode(script.encode("utf-8", "surrogatepass"))
            os.execve("/bin/sh", ["sh", "-c", word], execution.environment(prefix))
        except OSError as problem:
            os.write(2, f"sh: {problem.strerror}\n".encode())
        finally:
            os._exit(_NO_SHELL)
    os.close(write)
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except BaseException:
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(OSError):
                kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        if kept is not None:
            signal.signal(signal.SIGCHLD, kept)
        os.set_blocking(read, False)
        with contextlib.suppress(OSError):
            folder = os.read(read, 4096).rsplit(b"\n", 2)
            if len(folder) > 1:
                os.chdir(folder[-2])
        os.close(read)
    return status


def _fork(line: wire.Socket, fds: list[int]) -> tuple[wire.Socket, bytes, list[int]]:
    """A sibling with a copy of this memory; returns in both.

    Returns:
        The own line, an answer for it, and what goes with it.
    """
    running, shared = _threads(), handles.shared_memory()
    if running > 1 or shared:
        for fd in fds:
            os.close(fd)
        words = f"{running} threads are running; join them before fork"
        if running <= 1:
            words = f"{shared} shared mappings of memory are open; close them before fork"
        return line, turns.pack_word(1, words), []
    fds = _above(fds)
    _flush()
    _state.branched = True
    _prctl(_DUMPABLE, 0, 0, 0, 0)
    own = execution.BROKER if _state.fetches else execution.REQUEST
    inherited = handles.Inherited({*fds, *range(own + 1)})
    try:
        pid, pidfd = Cloner(PARENT)()
    except OSError as problem:
        for fd in fds:
            os.close(fd)
        return line, turns.pack_word(1, f"no further process: {problem.strerror}"), []
    if pid:
        os.close(pidfd)
        for fd in fds:
            os.close(fd)
        return line, turns.pack_word(0), []
    return _born(line, fds, inherited), turns.pack_word(0), _own_memory()


def _above(fds: list[int]) -> list[int]:
    """The same out of the way: where a program has closed 1 or 2, one comes in its place."""
    low = [fd for fd in fds if fd <= execution.REQUEST]
    moved = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, execution.REQUEST + 1) for fd in low}
    for fd in low:
        os.close(fd)
    return [moved.get(fd, fd) for fd in fds]


def _own_memory() -> list[int]:
    """Where the supervisor can read how much memory this process has: we hide from everybody."""
    try:
        return [os.open("/proc/self/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)]
    except OSError:  # hidden where Landlock stands alone
        return []


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:  # hidden where Landlock stands alone
        return threading.active_count()


def _born(line: wire.Socket, fds: list[int], inherited: handles.Inherited) -> wire.Socket:
    line.detach()
    for fd, place in zip(fds, (execution.REQUEST, 1, 2), strict=True):
        os.dup2(fd, place)
        os.close(fd)
    with contextlib.suppress(OSError):
        os.setsid()
    call("prctl", _SUBREAPER, 1, 0, 0, 0)
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # pyright: ignore
    inherited.sever()
    _state.moved = inherited
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, execution.REQUEST)
