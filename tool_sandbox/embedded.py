"""The embedded backend: starts the zygote, asks it for cells, and keeps their processes in hand."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from . import owners, wire
from .cell import Cell, StartFailed
from .errors import BackendFailed, SandboxClosed
from .limits import Limits
from .resources import Group, Groups
from .waiting import readable

_GUEST = Path(__file__).parent / "guest" / "zygote.py"
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "LD_BIND_NOW": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
FLAGS = ("-s", "-P", "-S", "-B", "-X", "utf8")
_FIRST_ID = 1_000_000_000  # no account has an id from here on
_IDS = 1 << 22  # as many as there can be processes
_FEW_IDS = 27_000
_FEWEST = 1000  # that a container's root must hold, to give some away
Mode = Literal["full", "reduced", "bare"]
_TRIES, _SPAN = 3, 10.0  # failed starts within so many seconds are the end
_END = 5.0  # seconds that killed processes have to disappear


class Processes:
    """The keeper of a cell's launcher and pid 1, by descriptors that cannot be mistaken."""

    def __init__(self, group: Group | None, root: str = "") -> None:
        # One thread may kill while another releases; and garbage is collected in the midst of both.
        self._lock = threading.RLock()
        self._fds: list[int] = []
        self._root = root  # of a worker without a root file system of its own
        self._group = group
        self.pids: tuple[int, ...] = ()

    def take(self, data: Mapping[str, Any], fds: Sequence[int]) -> None:
        """The pidfds of pid 1 and launcher, in this order."""
        self._fds += fds
        self.pids = (int(data["pid"]), int(data["launcher"]))

    def settle(self) -> None:
        """The group's limit is the caller's, plus what the cell itself holds by now."""
        if self._group is not None:
            self._group.settle()

    def oom_kills(self) -> int:
        """The group's count."""
        return 0 if self._group is None else self._group.oom_kills()

    def kill(self) -> None:
        """Pid 1 first (the namespace dies with it), then the launcher.

        Where there is no namespace the launcher is spared: whatever pid 1 leaves comes to it, and
        it ends by itself when the last of them has.
        """
        with self._lock:
            for fd in self._fds[:1] if self._root else self._fds:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            if self._group is not None:
                self._group.kill()

    def release(self) -> None:
        """Waits for both ends, then removes the group."""
        deadline = time.monotonic() + _END
        with self._lock:
            fds, self._fds = self._fds, []
            group, self._group = self._group, None
            root, self._root = self._root, ""
        ended = _END / 2 if root else _END / 5
        if fds and not _ended(fds, ended):
            for fd in fds:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            _ended(fds, deadline - time.monotonic())
        for fd in fds:
            os.close(fd)
        if group is not None:
            group.remove()
        if root:
            owners.remove_tree(root)

    def forget(self) -> None:
        """In a forked copy of the trainer: the descriptors go, the processes are not ours."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        if self._group is not None:
            self._group.forget()
            self._group = None


def _ended(fds: Sequence[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    for fd in fds:
        left = max(0.0, deadline - time.monotonic())
        if not readable([fd], left):
            return False
    return True


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
                try:
                    wire.send_fds(control, frame, fds)
                    return
                except OSError:
                    self._stop()
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
        ours, theirs = socket.socketpair()
        self._errors = os.memfd_create("zygote", os.MFD_CLOEXEC)
        command = [self._python, *FLAGS, str(_GUEST), str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                command,
                env=ENVIRONMENT,
                pass_fds=[theirs.fileno()],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,
            )
            theirs.close()  # or its hang-up would never reach us
            ours.settimeout(120.0)
            ours.sendall(wire.pack(wire.SPAWN, 0, wire.pack_json(self._wanted)))
            self.hello, _ = wire.unpack_json(wire.read_frame(ours).body)
        except (OSError, wire.Hangup, wire.Malformed) as problem:
            ours.close()
            theirs.close()
            words = self._words()
            self._stop()
            raise StartFailed("zygote", 0, f"{problem or type(problem).__name__} {words}") from None
        if self.hello["threads"] != 1:
            ours.close()
            self._stop()
            raise StartFailed(
                "preload", 0, f"module {self.hello['culprit']!r} starts threads; leave it out"
            )
        return ours

    def _words(self) -> str:
        if self._errors < 0:
            return ""
        return os.pread(self._errors, 4096, 0).decode("utf-8", "replace").strip()

    @property
    def pid(self) -> int | None:
        """Of the running zygote."""
        return None if self._process is None else self._process.pid

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1
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
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1
        if self._process is not None:
            self._process.returncode = 0  # not our child: no warning, no wait
            self._process = None
        self._lock = threading.Lock()


class Embedded:
    """Makes cells."""

    def __init__(
        self,
        python: str | None,
        preload: Sequence[str],
        readable: Sequence[str],
        *,
        mode: Mode = "full",
    ) -> None:
        """Starts nothing yet.

        Args:
            python: Another interpreter or virtual environment.
            preload: Modules imported once.
            readable: Further paths that show inside, read-only.
            mode: "full", "reduced" (no namespaces) or "bare" (nothing at all).
        """
        site = python is not None or any(
            name.partition(".")[0] not in sys.stdlib_module_names for name in preload
        )
        self.zygote = Zygote(python or sys.executable, preload, site)
        self._readable = list(readable)
        self._mode: Mode = mode
        self.name = "process" if mode == "bare" else "cell"
        self._groups = Groups()
        if mode != "full":
            owners.remove_folders(owners.ROOTS)
        self._ids = itertools.count()

    def begin(self, limits: Limits) -> Cell:
        """A cell that is starting; `Cell.wait_ready` waits for it.

        Raises:
            BackendFailed: The zygote cannot be started.
            StartFailed: It refuses.
        """
        group = self._groups.make(limits)
        root = "" if self._mode == "full" else _folder()
        ours, theirs = socket.socketpair()
        names, fds = ["control"], [theirs.fileno()]
        passed = {} if group is None else group.descriptors()
        names += passed
        fds += passed.values()
        plan = {
            "id": 0,
            "fds": names,
            "memory": limits.memory,
            "processes": limits.processes,
            "file_size": limits.file_size,
            "disk": limits.disk,
            "inodes": limits.inodes,
            "readable": self._readable,
            "group": group is not None,
            "mode": self._mode,
            "root": root,
            **_ids(self._mode),
        }
        try:
            self.zygote.spawn(plan, fds)
        except BaseException:
            ours.close()
            Processes(group, root).release()
            raise
        finally:
            theirs.close()
            for fd in passed.values():
                os.close(fd)
        return Cell(ours, limits, Processes(group, root))

    @property
    def lacks(self) -> str:
        """Why there is no resource group; empty when there is one."""
        return self._groups.lacks

    def close(self) -> None:
        """Ends the zygote; the cells are closed by whoever holds them."""
        self.zygote.close()

    def forget(self) -> None:
        """In a forked copy of the trainer."""
        self.zygote.forget()


def _folder() -> str:
    """A new folder for a worker without a root file system of its own."""
    try:
        return owners.make_folder(owners.ROOTS)
    except OSError as problem:
        raise StartFailed("temporary folder", problem.errno or 0, str(problem)) from None


def _ids(mode: Mode) -> dict[str, int]:
    """Where the ids of a root's cells begin, and how many there are; 0: the plain user's road."""
    if os.geteuid() != 0 or mode == "bare":
        return {"owner": 0, "owners": 1}
    share = os.stat("/proc/self/ns/pid").st_ino % 128  # containers number their processes alike
    first = _FIRST_ID + share * _IDS
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    if any(start <= first and first + _IDS <= start + count for start, _, count in ranges):
        return {"owner": first, "owners": _IDS}
    start, _, count = max(ranges, key=lambda one: one[2])  # the root of a container
    if count < _FEWEST:
        return {"owner": 0, "owners": 1}
    # its accounts begin from below, nobody and systemd's own from above
    return {"owner": start + count // 2, "owners": min(count // 2, _FEW_IDS)}
