"""The interpreter of a session: runs call after call in one `__main__`, and can branch."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

from .. import wire
from . import execution, layout
from .clone import PARENT, Cloner
from .syscalls import call

_SUBREAPER = 36
_CWD = 9  # the descriptor on which a shell says where it ended


def converse(line: socket.socket, prefix: str) -> NoReturn:
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
    scope = execution.fresh_main().__dict__
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # as `site` would
    number = 0
    line.sendall(wire.pack(wire.ANSWER, 0, wire.pack_json({"status": 0})))  # files are in place
    while True:
        frame, fds = _next(line)
        head, blobs = wire.unpack_json(frame.body)
        number += 1
        if head["op"] == "fork":
            line, answer = _fork(line, head, fds)
        else:
            answer = {"status": _perform(head, blobs, scope, number, prefix)}
        # A signal that arrives late must not end the interpreter.
        with contextlib.suppress(KeyboardInterrupt):
            line.sendall(wire.pack(wire.ANSWER, frame.id, wire.pack_json(answer)))


def _next(line: socket.socket) -> tuple[wire.Frame, list[int]]:
    while True:
        try:
            return wire.read_frame_fds(line, 4)
        except KeyboardInterrupt:
            continue  # came after the call it was meant for
        except (wire.Hangup, OSError):
            os._exit(0)


def _perform(
    head: dict[str, Any], blobs: list[bytes], scope: dict[str, Any], number: int, prefix: str
) -> int:
    text = blobs[0].decode("utf-8", "surrogatepass")
    try:
        _set_stdin(blobs[1])
        if head["op"] == "shell":
            return _shell(text, prefix)
        _statements(text, f"<call {number}>", scope)
        return 0
    except BaseException as problem:
        return execution.ending(problem)
    finally:
        _flush()


def _statements(text: str, name: str, scope: dict[str, Any]) -> None:
    execution.remember(text, name)
    body, expression = execution.split(text, name)
    if body is not None:
        exec(body, scope)
    if expression is not None:
        sys.displayhook(eval(expression, scope))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()


def _set_stdin(data: bytes) -> None:
    if data:
        execution.set_stdin(data)
    else:
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")  # type: ignore[arg-type]  # pyright: ignore


def _shell(text: str, prefix: str) -> int:
    """Runs a command in a shell of its own; where it ends is where the session goes on."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with contextlib.suppress(OSError):  # refused where Landlock stands alone
                os.setsid()
            os.dup2(write, _CWD)
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            script = f"trap 'pwd -P >&{_CWD}' EXIT\n{text}".replace("\0", "")
            environment = execution.environment(prefix)
            os.execve("/bin/sh", ["sh", "-c", script], environment)
        finally:
            os._exit(127)
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
        os.set_blocking(read, False)
        with contextlib.suppress(OSError):
            folder = os.read(read, 4096).rsplit(b"\n", 2)
            if len(folder) > 1:
                os.chdir(folder[-2])
        os.close(read)
    return status


def _fork(
    line: socket.socket, head: dict[str, Any], fds: list[int]
) -> tuple[socket.socket, dict[str, Any]]:
    """A sibling with a copy of this memory; returns in both, each with its own line."""
    running = _threads()
    if running > 1:
        for fd in fds:
            os.close(fd)
        return line, {"error": f"{running} threads are running; join them before fork"}
    _flush()
    try:
        pid, pidfd = Cloner(PARENT)()
    except OSError as problem:
        for fd in fds:
            os.close(fd)
        return line, {"error": f"no further process: {problem.strerror}"}
    if pid:
        os.close(pidfd)
        for fd in fds:
            os.close(fd)
        return line, {"pid": pid}
    return _born(line, head["home"], fds), {"born": True}


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:  # hidden where Landlock stands alone
        return threading.active_count()


def _born(line: socket.socket, home: str, fds: list[int]) -> socket.socket:
    line.detach()
    for fd, place in zip(fds, (execution.REQUEST, 1, 2), strict=True):
        os.dup2(fd, place)
        os.close(fd)
    with contextlib.suppress(OSError):
        os.setsid()
    call("prctl", _SUBREAPER, 1, 0, 0, 0)
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # pyright: ignore
    try:
        os.chdir(os.path.join(home, os.path.relpath(os.getcwd(), layout.work())))
    except OSError:
        os.chdir(home)
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, execution.REQUEST)


def processor_clock(pid: int) -> float:
    """Seconds of processor time a process has used; 0 once it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0
