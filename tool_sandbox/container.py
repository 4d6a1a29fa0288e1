"""One container from the host's side: its worker, the keeper of its life, how it starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from .cell import Cell, StartFailed
from .inspection import open_oom_count, read_oom_count
from .limits import Limits
from .owners import DOORS, make_folder, stands_still
from .relay import Relay

APART = "the docker engine shares no folder with this process, so no descriptor can be passed"
_ADDRESS = 100  # bytes of a path that fit into a socket's address, with some to spare
_END = 60.0  # seconds a killed container has to disappear


class Contained(Cell):
    """A cell whose control socket comes once its container has called."""

    def __init__(self, limits: Limits, keeper: Container, starting: Future[socket.socket]) -> None:
        super().__init__(socket.socket(socket.AF_UNIX), limits, keeper)
        self._starting = starting
        self._changing = threading.Lock()
        self._container = keeper

    @property
    def apart(self) -> str:
        """As in `Cell`."""
        return APART if self._container.relay is not None else ""

    def wait_ready(self) -> Mapping[str, Any]:
        """As in `Cell`; first for the container."""
        if self.ready is None and not self._starting.cancelled():
            try:
                control = self._starting.result()
            except BaseException:
                self.kill("lost")
                raise
            with self._changing:
                if control is not self._control:
                    self._control.close()
                    self._control = control
        waited = self.ready is None
        ready = super().wait_ready()
        if waited:
            self._container.tighten(self.limits.memory, ready.get("used"))
        return ready

    def close(self) -> None:
        """As in `Cell`; a container that is still starting is waited for."""
        with contextlib.suppress(Exception):
            if (control := self._starting.result()) is not self._control:
                control.close()
        super().close()


class Container:
    """The keeper of one container and of the road on which the host talks to it."""

    def __init__(self) -> None:
        self.container: Any = None
        self.relay: Relay | None = None
        self._folder = ""
        self._oom = -1

    def open_door(self, door: socket.socket) -> Path:
        """Bind a socket in a folder that the container will see; gives the folder.

        Raises:
            StartFailed: There is no room for it.
        """
        try:
            self._folder = make_folder(DOORS)
            path = Path(self._folder, "door")
            path.mkdir()
            path.chmod(0o700)  # whatever the trainer's umask left of it
            _bind(door, path / "control")
        except OSError as problem:
            raise StartFailed("temporary folder", problem.errno or 0, str(problem)) from None
        door.listen(1)
        os.chmod(path / "control", 0o666)
        os.chmod(path, 0o711)
        return path

    def take(self, data: Mapping[str, Any], fds: Sequence[int]) -> None:
        """A container sends no descriptors."""
        for fd in fds:
            os.close(fd)

    def settle(self) -> None:
        """Open the kernel's count of kills for memory, where this machine shows it."""
        if self.relay is None:  # else the pid is one of the engine's machine, not of ours
            self._oom = open_oom_count(self.container.attrs.get("State", {}).get("Pid", 0))

    def tighten(self, memory: int, used: object) -> None:
        """Set the limit to the caller's, plus what the guest itself holds by now.

        Args:
            memory: Bytes for executions.
            used: Bytes held already, in the guest's own word before any program ran.
        """
        if isinstance(used, int) and used > 0 and self.container is not None:
            size = memory + used
            with contextlib.suppress(OSError):  # an engine that cannot leaves its wider limit
                self.container.update(mem_limit=size, memswap_limit=size)

    def oom_kills(self) -> int:
        """The kernel's count, 0 where it is not shown."""
        return 0 if self._oom < 0 else read_oom_count(self._oom)

    def stands_still(self) -> bool:
        """Whether somebody has paused the container, or stopped its first process."""
        if self.container is None:
            return False
        with contextlib.suppress(OSError):  # an engine that is gone says nothing
            self.container.reload()
            if self.container.status == "paused":
                return True
        pid = self.container.attrs.get("State", {}).get("Pid", 0)
        return self.relay is None and stands_still(pid)  # else the pid is of another machine

    def kill(self) -> None:
        """Kill everything in the container."""
        if self.container is not None:
            with contextlib.suppress(OSError):  # of the engine, too: it may be gone
                self.container.kill()

    def release(self) -> None:
        """Wait for the container's end; idempotent."""
        if self.relay is not None:
            self.relay.close()
        container, self.container = self.container, None
        if container is not None:
            with contextlib.suppress(OSError):
                container.remove(force=True)
            wait_gone(container)
        if self._oom >= 0:
            os.close(self._oom)
            self._oom = -1
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def forget(self) -> None:
        """In a forked copy of the trainer: the container is the parent's."""
        if self.relay is not None:
            self.relay.forget()
        if self._oom >= 0:
            os.close(self._oom)
            self._oom = -1
        self.container, self._folder = None, ""


def _bind(door: socket.socket, path: Path) -> None:
    """Bind, also where the path is longer than the kernel lets an address be."""
    if len(os.fsencode(path)) <= _ADDRESS:
        door.bind(str(path))
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        door.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def wait_gone(container: Any) -> None:
    """Wait until the engine knows a container no more."""
    ends = time.monotonic() + _END
    while time.monotonic() < ends:
        try:
            container.reload()
        except OSError:
            return
        time.sleep(0.01)
