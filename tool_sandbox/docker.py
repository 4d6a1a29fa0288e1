"""The same guest inside a hardened container; the only file that imports docker.

One container per worker. Its first process is the guest's own pid 1; the host talks to it over a
unix socket in a folder that only the two know, so nothing of ours passes through the engine. Where
no folder is shared (an engine elsewhere, or in a virtual machine), the container's standard input
and output are the line instead; they carry no descriptors.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import docker
import docker.errors

from . import image as images
from . import wire
from .advice import explain
from .cell import Cell, StartFailed
from .container import Contained, Container, wait_gone
from .errors import BackendFailed, BadRequest, SandboxUnavailable
from .flags import compare, hardening
from .limits import Limits
from .owners import BOOT, OWNER, PID, boot_id, orphaned, own_pid, remove_doors
from .relay import Relay
from .zygote import FLAGS

_START = 60.0  # seconds from the request for a container to its first word
_FIRST_ID = 1_600_000_000  # no account has an id from here on; cells count from elsewhere
_IDS = itertools.count()
_GUEST = f"{images.INSIDE}/guest/zygote.py"


class _NotShared(StartFailed):
    """The container does not see the folder that the host has its socket in."""


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
            raise StartFailed("paths", 0, "a container shows no path of the host; bake it in")
        self._preload = list(preload)
        self._labels = {OWNER: str(uuid.uuid4()), PID: own_pid(), BOOT: boot_id()}
        self._shared: bool | None = None  # whether a container sees our folders; None: not tried
        self._client: Any = connect()
        self._image = image or images.tag()
        try:
            self._found = self._find()
            self._remapped = "name=userns" in str(self._client.info().get("SecurityOptions"))
            remove_orphans(self._client)
        except BaseException:
            self._client.close()
            raise
        remove_doors()

    def _find(self) -> Mapping[str, str]:
        """The image's labels."""
        try:
            labels: Mapping[str, str] = self._client.images.get(self._image).labels
        except docker.errors.ImageNotFound:
            raise StartFailed("image", 0, f"the engine lacks {self._image}") from None
        except (docker.errors.DockerException, OSError) as problem:
            raise StartFailed("image", 0, f"the engine does not show it: {problem}") from None
        if images.PYTHON not in labels:
            words = f"{self._image} has no label {images.PYTHON}"
            raise StartFailed("image", 0, words, f"palaestra sandbox build --from {self._image}")
        return labels

    def begin(self, limits: Limits) -> Cell:
        """A worker whose container is starting in the background."""
        keeper = Container()
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
        """The control of a container that is ready to be told what it is."""
        try:
            control = self._road(limits, keeper)
        except docker.errors.APIError as problem:
            raise StartFailed("container", 0, str(problem.explanation or problem)) from None
        except (docker.errors.DockerException, OSError) as problem:
            raise StartFailed("engine", 0, f"it does not answer any more: {problem}") from None
        plan = {
            "preload": self._preload,
            "memory": limits.memory,
            "processes": limits.processes,
            "file_size": limits.file_size,
            "disk": limits.disk,
            "inodes": limits.inodes,
            "group": True,
        }
        wire.send_fds(control, wire.pack(wire.SPAWN, 0, wire.pack_json(plan)), ())
        return control

    def _road(self, limits: Limits, keeper: Container) -> socket.socket:
        """Through a folder, where the engine sees ours; else through the engine."""
        if self._shared is False:
            return self._attach(limits, keeper)
        try:
            control = self._call_back(limits, keeper)
        except _NotShared as problem:
            if self._shared:
                raise
            keeper.release()
            try:
                control = self._attach(limits, keeper)
            except StartFailed as other:
                raise StartFailed(other.step, 0, f"{problem}; {other}", other.advice) from None
            self._shared = False
            return control
        self._shared = True
        return control

    def _call_back(self, limits: Limits, keeper: Container) -> socket.socket:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            path = keeper.open_door(door)
            wanted = hardening(limits, self._user(), path, self._labels)
            try:
                container = self._create(keeper, wanted, f"{images.DOOR}/control")
            except docker.errors.APIError as problem:
                if "bind source path" in str(problem.explanation):
                    raise _NotShared("container", 0, str(problem.explanation)) from None
                raise
            container.start()
            self._check(container, wanted)
            control = _answer(door, container)
        os.unlink(path / "control")  # nobody else comes in
        return control

    def _attach(self, limits: Limits, keeper: Container) -> socket.socket:
        if self._found.get(images.GUEST) != images.digest():
            words = f"the engine shares no folder with us, and {self._image} holds another state"
            raise StartFailed("image", 0, f"{words} of the guest")
        wanted = hardening(limits, self._user(), None, self._labels)
        container = self._create(keeper, wanted, "-")
        streams = {"stdin": 1, "stdout": 1, "stream": 1}
        keeper.relay = Relay(self._client.api.attach_socket(container.id, params=streams))
        container.start()
        self._check(container, wanted)
        keeper.relay.start()
        return keeper.relay.ours

    def _create(self, keeper: Container, wanted: Mapping[str, Any], road: str) -> Any:
        command = [self._found[images.PYTHON], *FLAGS, _GUEST, "--contained", road]
        keeper.container = self._client.containers.create(self._image, command, **wanted)
        return keeper.container

    @staticmethod
    def _check(container: Any, wanted: Mapping[str, Any]) -> None:
        container.reload()
        complaints = compare(container.attrs, wanted)
        if complaints:
            raise StartFailed("container", 0, f"the engine ignores: {', '.join(complaints)}")

    def _user(self) -> int:
        """An id that no account has and no other container: RLIMIT_NPROC counts by it."""
        number = zlib.crc32(own_pid().encode()) + next(_IDS)  # pids alone repeat in containers
        if self._remapped:
            return 65_535 - number % 60_000
        return _FIRST_ID + number % 400_000_000

    def close(self) -> None:
        """Lets the engine go; the containers are closed by whoever holds the cells."""
        self._client.close()

    def forget(self) -> None:
        """In a forked copy of the trainer: the connections are the parent's."""
        self._client = None


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
            raise _NotShared("container", 0, "it ended before its first word") from None
    raise _NotShared("container", 0, "the guest does not call back")


def connect() -> Any:
    """A client of the engine that DOCKER_HOST names, or the usual one.

    Raises:
        StartFailed: None answers within 10 s; its code is the errno, 0 where there is none.
    """
    client = None
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        _knock(host)
        client = docker.from_env(timeout=10)
        client.ping()
        client.api.timeout = 60
        if host.startswith("unix://"):
            _knock_first(client.api.get_adapter("http+docker://"), host)
    except (docker.errors.DockerException, OSError) as problem:
        if client is not None:
            client.close()
        words = getattr(problem, "strerror", None) or problem
        code = getattr(problem, "errno", None) or 0
        raise StartFailed("engine", code, f"no docker engine answers at {host}: {words}") from None
    return client


def _knock_first(adapter: Any, host: str) -> None:
    """For an engine that dies later: each call to it knocks before."""
    send = adapter.send

    def knocking(*given: Any, **named: Any) -> Any:
        _knock(host)
        return send(*given, **named)

    adapter.send = knocking


def _knock(host: str) -> None:
    """Try a local socket by ourselves: the library leaves one open for each failure."""
    if host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(10)
            probe.connect(host.removeprefix("unix://"))


def remove_orphans(client: Any) -> int:
    """Remove containers whose trainer is dead; how many."""
    count = 0
    for container in client.containers.list(
        all=True, filters={"label": OWNER}, ignore_removed=True
    ):
        if orphaned(container.labels):
            with contextlib.suppress(docker.errors.APIError):  # its own end may have come first
                container.remove(force=True)
            wait_gone(container)
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
        raise SandboxUnavailable(explain(problem)) from None
    try:
        if rootfs is not None:
            return _import(client, rootfs, name)
        return _build(client, base or images.DEFAULT, name)
    except (docker.errors.DockerException, OSError) as problem:
        raise BackendFailed(f"the image was not built: {problem}") from None
    finally:
        client.close()


def _import(client: Any, rootfs: str, name: str) -> str:
    data, python = images.pack(rootfs)
    repository, _, version = name.rpartition(":")
    labels = [f"LABEL {key}={value}" for key, value in images.labels(python).items()]
    client.api.import_image_from_data(data, repository=repository, tag=version, changes=labels)
    return name


def _build(client: Any, base: str, name: str) -> str:
    found = client.containers.run(
        base, ["-c", images.search()], entrypoint="/bin/sh", network_mode="none", remove=True
    )
    python = found.decode().strip()
    context = io.BytesIO(images.context(base, python))
    client.images.build(
        fileobj=context, custom_context=True, tag=name, network_mode="none", rm=True
    )
    return name
