"""The host's side of the zygote: the warm interpreter that forks cells."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import wire
from .cell import StartFailed
from .errors import BackendFailed, SandboxClosed
from .lines import new_line
from .waiting import foreign

_GUEST = Path(__file__).parent / "guest" / "zygote.py"
_MARK = "PALAESTRA_ZYGOTE"  # set for the zygote, and for whatever else we start by mistake
ENVIRONMENT = {
    _MARK: "1",
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "LD_BIND_NOW": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",  # each further arena is 64 MiB of address space
}
FLAGS = ("-s", "-P", "-S", "-B", "-X", "utf8")
_TRIES, _SPAN = 3, 10.0  # failed starts within so many seconds are the end
_START = 120.0  # seconds it has to import what is preloaded
_FEWEST_FILES = 128  # descriptors: executions park some from 64 on
_MORE_FILES = "let the trainer have more open files: ulimit -n 4096 (or LimitNOFILE= of its unit)"
_MORE_PROCESSES = (
    "let the trainer have more processes: ulimit -u 4096, TasksMax= of its unit, or --pids-limit "
    "of its container"
)
_SHORTAGES = {
    errno.EMFILE: _MORE_FILES,
    errno.ENFILE: _MORE_FILES,
    errno.EAGAIN: _MORE_PROCESSES,
}


class Zygote:
    """The warm interpreter, restarted when it is gone."""

    def __init__(self, python: str, preload: Sequence[str], site: bool) -> None:
        self._python = python
        self._wanted = {"preload": list(preload), "site": site}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._errors = -1
        self._failures: list[tuple[float, str]] = []
        self._lock = threading.Lock()
        self._closed = False
        self.hello: Mapping[str, Any] = {}

    def spawn(self, plan: Mapping[str, object], fds: Sequence[int]) -> None:
        """Asks for one cell; the cell itself answers on the control socket it is given.

        Raises:
            BackendFailed: The zygote failed to start three times in ten seconds.
            StartFailed: It refuses to fork.
            SandboxClosed: After `close`.
        """
        frame = wire.pack(wire.SPAWN, 0, wire.pack_json(plan))
        with self._lock:
            if self._closed:  # or a thread that comes late would start it again, for good
                raise SandboxClosed("this sandbox is closed; make a new one")
            for _ in range(_TRIES):
                control = self._running()
                deadline = time.monotonic() + _START
                try:
                    wire.send_fds(control, frame, fds)
                    return
                except BaseException as problem:
                    self._stop()  # it may have got a part
                    if not isinstance(problem, OSError) or foreign(problem, deadline):
                        raise  # an interrupt
        raise BackendFailed("the zygote hangs up as soon as it is asked")

    def _running(self) -> socket.socket:
        if self._control is None:
            now = time.monotonic()
            self._failures = [one for one in self._failures if now - one[0] < _SPAN]
            if len(self._failures) >= _TRIES:
                last = self._failures[-1][1]
                raise BackendFailed(f"the zygote failed {_TRIES} times in {_SPAN:.0f} s: {last}")
            try:
                self._control = self._start()
            except StartFailed as problem:
                self._failures.append((now, str(problem)))
                raise
        return self._control

    def _start(self) -> socket.socket:
        if not self._python:
            raise StartFailed("zygote", 0, "this Python does not know where it lies itself")
        if _MARK in os.environ:  # or programs would start each other without end
            words = f"{self._python} is no interpreter, but starts this program again"
            raise StartFailed("zygote", 0, words, "give python= an interpreter (3.11 or newer)")
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if 0 <= hard < _FEWEST_FILES:
            words = f"this process may open {hard} files at most; a cell takes {_FEWEST_FILES}"
            raise StartFailed("open files", errno.EMFILE, words, _MORE_FILES)
        deadline = time.monotonic() + _START
        with contextlib.ExitStack() as undo:
            undo.callback(self._stop)
            try:
                ours = self._launch(undo)
            except (OSError, wire.Hangup, wire.Malformed) as problem:
                if foreign(problem, deadline):
                    raise
                raise failed("zygote", problem, self._words()) from None
            if self.hello["threads"] != 1:
                words = f"module {self.hello['culprit']!r} starts threads; leave it out"
                raise StartFailed("preload", 0, words)
            undo.pop_all()
        return ours

    def _launch(self, undo: contextlib.ExitStack) -> socket.socket:
        """Its control, once it has warmed up; `undo` closes that."""
        ours, theirs = new_line()
        undo.callback(ours.close)
        with theirs:  # closed here, or its hang-up would never reach us
            self._errors = os.memfd_create("zygote", os.MFD_CLOEXEC)
            self._process = subprocess.Popen(
                [self._python, *FLAGS, str(_GUEST), str(theirs.fileno())],
                env=ENVIRONMENT,
                pass_fds=[theirs.fileno()],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,
            )
        ours.settimeout(_START)
        wire.send_fds(ours, wire.pack(wire.SPAWN, 0, wire.pack_json(self._wanted)), ())
        self.hello, _ = wire.unpack_json(wire.read_frame(ours).body)
        return ours

    def _words(self) -> str:
        if self._errors < 0:
            return ""
        return os.pread(self._errors, 4096, 0).decode("utf-8", "replace").strip()

    @property
    def pid(self) -> int | None:
        """Of the running zygote."""
        return None if self._process is None else self._process.pid

    def _hang_up(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1

    def _stop(self) -> None:
        self._hang_up()
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """Ends it; idempotent. Cells that still live go on."""
        with self._lock:
            self._closed = True
            self._stop()

    def forget(self) -> None:
        """In a forked copy of the trainer: closes the descriptors, reaps nothing."""
        self._hang_up()
        if self._process is not None:
            self._process.returncode = 0  # not our child: no warning, no wait
            self._process = None
        self._lock = threading.Lock()


def failed(step: str, problem: Exception, words: str = "") -> StartFailed:
    """What a start came to for want of something of the machine's.

    Args:
        step: Which start.
        problem: What was raised.
        words: What the process itself said.
    """
    code = getattr(problem, "errno", None) or 0
    advice = _SHORTAGES.get(code, "")
    return StartFailed(step, code, f"{problem or type(problem).__name__} {words}".strip(), advice)
