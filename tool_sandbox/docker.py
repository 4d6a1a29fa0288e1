"""The same guest inside a hardened container; the only file that imports docker.

One container per worker. Its first process is the guest's own pid 1; the host talks to it over a
unix socket in a folder that only the two know, so nothing of ours passes through the engine.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types

from . import image as images
from . import wire
from .cell import Cell, StartFailed
from .embedded import ENVIRONMENT, FLAGS
from .errors import BackendFailed, BadRequest, SandboxUnavailable
from .inspection import compare, open_oom_count, read_oom_count
from .limits import Limits, MiB
from .owners import BOOT, DOORS, OWNER, PID, boot_id, orphaned, own_pid, remove_doors

_START = 60.0  # seconds from the request for a container to its first word
_OWN = 96 * MiB  # of the interpreter that waits in the container
_FIRST_ID = 1_600_000_000  # no account has an id from here on; cells count from elsewhere
_IDS = itertools.count()


class Docker:
    """Makes workers that are containers."""

    name = "docker"
    lacks = ""

    def __init__(self, image: str | None, preload: Sequence[str], readable: Sequence[str]) -> None:
        """Looks for the engine and the image; removes what dead trainers left.

        Args:
            image: None means the one that `palaestra sandbox build` made.
            preload: Modules imported once in each container.
            readable: Host paths; a container shows none.

        Raises:
            StartFailed: No engine answers, or it lacks the image.
        """
        if readable:
            raise StartFailed("readable", 0, "a container shows no path of the host; bake it in")
        self._preload = list(preload)
        self._owner = str(uuid.uuid4())
        self._client: Any = connect()
        self._image = image or images.tag()
        self._python = self._find(image)
        self._remapped = "name=userns" in str(self._client.info().get("SecurityOptions"))
        remove_orphans(self._client)
        remove_doors()

    def _find(self, image: str | None) -> str:
        try:
            labels: Mapping[str, str] = self._client.images.get(self._image).labels
        except docker.errors.ImageNotFound:
            made = "palaestra sandbox build --rootfs self, or palaestra sandbox build --from IMAGE"
            raise StartFailed(
                "image", 0, f"the engine lacks {self._image}; make it with: {made}"
            ) from None
        if images.PYTHON not in labels:
            raise StartFailed(
                "image",
                0,
                f"{image} has no label {images.PYTHON}; build it with: "
                f"palaestra sandbox build --from {image}",
            )
        return labels[images.PYTHON]

    def begin(self, limits: Limits) -> Cell:
        """A worker whose container is starting in the background."""
        keeper = Container(self._client)
        starting: Future[socket.socket] = Future()
        cell = Contained(limits, keeper, starting)

        def start() -> None:
            try:
                starting.set_result(self._start(limits, keeper))
            except BaseException as problem:
                starting.set_exception(problem)

        threading.Thread(target=start, name="palaestra-container", daemon=True).start()
        return cell

    def _start(self, limits: Limits, keeper: Container) -> socket.socket:
        user = _FIRST_ID + (os.getpid() * 256 + next(_IDS)) % 400_000_000
        if self._remapped:
            user = 65_535 - next(_IDS) % 60_000
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            path = keeper.open_door(door)
            wanted = hardening(limits, user, path)
            try:
                container = self._client.containers.create(
                    self._image,
                    [self._python, *FLAGS, f"{images.INSIDE}/guest/zygote.py", "--contained",
                     f"{images.DOOR}/control"],
                    labels={OWNER: self._owner, PID: own_pid(), BOOT: boot_id()},
                    **wanted,
                )  # fmt: skip
                keeper.container = container
                container.start()
                complaints = compare(container, wanted)
            except docker.errors.APIError as problem:
                raise StartFailed("container", 0, str(problem.explanation or problem)) from None
            if complaints:
                raise StartFailed("container", 0, f"the engine ignores: {', '.join(complaints)}")
            control = self._answer(door, container)
        os.unlink(path / "control")  # nobody else comes in
        plan = {
            "preload": self._preload,
            "memory": limits.memory,
            "processes": limits.processes,
            "file_size": limits.file_size,
            "disk": limits.disk,
            "inodes": limits.inodes,
            "group": True,
        }
        control.sendall(wire.pack(wire.SPAWN, 0, wire.pack_json(plan)))
        return control

    @staticmethod
    def _answer(door: socket.socket, container: Any) -> socket.socket:
        """Wait for the guest's call."""
        door.settimeout(0.5)
        ends = time.monotonic() + _START
        while time.monotonic() < ends:
            try:
                return door.accept()[0]
            except TimeoutError:
                with contextlib.suppress(docker.errors.NotFound):
                    container.reload()
                    if container.status in ("created", "running"):
                        continue
                raise StartFailed("container", 0, "it ended before its first word") from None
        raise StartFailed(
            "container", 0, "the guest does not call back; a remote engine shares no sockets"
        )

    def close(self) -> None:
        """Lets the engine go; the containers are closed by whoever holds the cells."""
        self._client.close()

    def forget(self) -> None:
        """In a forked copy of the trainer: the connections are the parent's."""
        self._client = None


class Contained(Cell):
    """A cell whose control socket comes once its container has called."""

    def __init__(self, limits: Limits, keeper: Container, starting: Future[socket.socket]) -> None:
        super().__init__(socket.socket(socket.AF_UNIX), limits, keeper)
        self._starting = starting
        self._changing = threading.Lock()

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
        return super().wait_ready()

    def close(self) -> None:
        """As in `Cell`; a container that is still starting is waited for."""
        with contextlib.suppress(Exception):
            self._starting.result().close()
        super().close()


class Container:
    """The keeper of one container and of the folder its socket stands in."""

    def __init__(self, client: Any) -> None:
        self.container: Any = None
        self._client = client
        self._folder = ""
        self._oom = -1

    def open_door(self, door: socket.socket) -> Path:
        """Bind a socket in a folder that the container will see; gives the folder."""
        prefix = f"{DOORS}{own_pid().replace(':', '-')}-"
        self._folder = tempfile.mkdtemp(prefix=prefix)  # 700: nobody else comes near
        path = Path(self._folder, "door")
        path.mkdir()
        door.bind(str(path / "control"))
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
        pid = self.container.attrs.get("State", {}).get("Pid", 0)
        self._oom = open_oom_count(pid)

    def oom_kills(self) -> int:
        """The kernel's count, 0 where it is not shown."""
        return 0 if self._oom < 0 else read_oom_count(self._oom)

    def kill(self) -> None:
        """Kill everything in the container."""
        if self.container is not None:
            with contextlib.suppress(docker.errors.APIError, OSError):
                self.container.kill()

    def release(self) -> None:
        """Wait for the container's end; idempotent."""
        container, self.container = self.container, None
        if container is not None:
            with contextlib.suppress(docker.errors.APIError, OSError):
                container.remove(force=True)
            _wait_gone(container)
        if self._oom >= 0:
            os.close(self._oom)
            self._oom = -1
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def forget(self) -> None:
        """In a forked copy of the trainer: the container is the parent's."""
        if self._oom >= 0:
            os.close(self._oom)
            self._oom = -1
        self.container, self._folder = None, ""


def _wait_gone(container: Any) -> None:
    ends = time.monotonic() + 10.0
    while time.monotonic() < ends:
        try:
            container.reload()
        except (docker.errors.APIError, OSError):
            return
        time.sleep(0.01)


def connect() -> Any:
    """A client of the engine that DOCKER_HOST names, or the usual one.

    Raises:
        StartFailed: None answers within 2 s.
    """
    client = None
    try:
        _knock(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
        client = docker.from_env(timeout=2)
        client.ping()
        client.api.timeout = 60
    except (docker.errors.DockerException, OSError) as problem:
        if client is not None:
            client.close()
        raise StartFailed("engine", 0, f"no docker engine answers: {problem}") from None
    return client


def _knock(host: str) -> None:
    """Try a local socket by ourselves: the library leaves one open for each failure."""
    if host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(2)
            probe.connect(host.removeprefix("unix://"))


def hardening(limits: Limits, user: int, door: Path) -> dict[str, Any]:
    """The flags of a container; all of them are mandatory."""
    mounts = [
        docker.types.Mount(inside, str(path), type="bind", read_only=True)
        for path, inside in (*images.guest_files().items(), (door, images.DOOR))
    ]
    size = limits.memory + _OWN
    return {
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "read_only": True,
        "user": f"{user}:{user}",
        "pids_limit": limits.processes + 4,
        "mem_limit": size,
        "memswap_limit": size,
        "nano_cpus": 1_000_000_000,
        "ipc_mode": "private",
        "shm_size": MiB,
        "tmpfs": {
            "/mnt": f"rw,exec,nosuid,nodev,size={limits.disk},nr_inodes={limits.inodes},"
            f"mode=700,uid={user},gid={user}"
        },
        "ulimits": [docker.types.Ulimit(name="core", soft=0, hard=0)],
        "log_config": docker.types.LogConfig(type="none"),
        "init": False,
        "auto_remove": True,
        "environment": ENVIRONMENT,
        "hostname": "sandbox",
        "working_dir": "/",
        "mounts": mounts,
    }


def remove_orphans(client: Any) -> int:
    """Remove containers whose trainer is dead; how many."""
    count = 0
    for container in client.containers.list(
        all=True, filters={"label": OWNER}, ignore_removed=True
    ):
        if orphaned(container.labels):
            with contextlib.suppress(docker.errors.APIError):  # its own end may have come first
                container.remove(force=True)
            _wait_gone(container)
            count += 1
    return count


def build(*, base: str | None = None, rootfs: str | None = None, tag: str | None = None) -> str:
    """Make the image.

    Args:
        base: An image to build on, which the engine has or can pull; python:3.12-slim by default.
        rootfs: A folder with a root file system, or "self"; used instead of `base`.
        tag: Its name; None means the one that `Docker` looks for.

    Returns:
        The name.

    Raises:
        BadRequest: Both were given, or `rootfs` is no folder with an interpreter.
        SandboxUnavailable: No engine answers.
        BackendFailed: The engine does not build it.
    """
    if base is not None and rootfs is not None:
        raise BadRequest("give an image to build on or a root file system, not both")
    name = tag or images.tag()
    try:
        client = connect()
    except StartFailed as problem:
        raise SandboxUnavailable(str(problem)) from None
    try:
        if rootfs is not None:
            return _import(client, rootfs, name)
        return _build(client, base or images.DEFAULT, name)
    except docker.errors.DockerException as problem:
        raise BackendFailed(f"the image was not built: {problem}") from None
    finally:
        client.close()


def _import(client: Any, rootfs: str, name: str) -> str:
    data, python = images.pack(rootfs)
    repository, _, version = name.rpartition(":")
    client.api.import_image_from_data(
        data, repository=repository, tag=version, changes=[f"LABEL {images.PYTHON}={python}"]
    )
    return name


def _build(client: Any, base: str, name: str) -> str:
    found = client.containers.run(
        base, ["-c", images.search()], entrypoint="/bin/sh", network_mode="none", remove=True
    )
    python = found.decode().strip()
    text = images.dockerfile(base, python).encode()
    client.images.build(fileobj=io.BytesIO(text), tag=name, network_mode="none", rm=True)
    return name
