"""A docker engine for tests: the one that runs here, or one of our own without any network."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from .victims import carriers, children_of

_START = 120.0  # seconds an engine has to answer
_FLAGS = ("--iptables=false", "--ip6tables=false", "--bridge=none")


class NoEngine(Exception):
    """There is no engine here, and none can be started; the message says why."""


@contextlib.contextmanager
def docker_engine() -> Generator[str]:
    """The address of an engine that has the guest's image.

    Yields:
        What DOCKER_HOST should be.

    Raises:
        NoEngine: None answers, and none can be started.
    """
    if answers(os.environ.get("DOCKER_HOST")):
        host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        provide_image(host)
        yield host
        return
    program = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise NoEngine("no engine answers, and there is no dockerd to start (apt: docker.io)")
    if os.geteuid() != 0:
        raise NoEngine("no engine answers, and only root can start one")
    with own_engine(program) as host:
        provide_image(host)
        yield host


def answers(host: str | None) -> bool:
    """Whether an engine answers there; None asks the usual places."""
    from ..tool_sandbox import docker
    from ..tool_sandbox.cell import StartFailed

    try:
        with address(host):
            docker.connect().close()
    except StartFailed:
        return False
    return True


@contextlib.contextmanager
def address(host: str | None) -> Generator[None]:
    """DOCKER_HOST, for a while."""
    before = os.environ.get("DOCKER_HOST")
    if host is not None:
        os.environ["DOCKER_HOST"] = host
    try:
        yield
    finally:
        if host is not None:
            os.environ.pop("DOCKER_HOST")
        if before is not None:
            os.environ["DOCKER_HOST"] = before


@contextlib.contextmanager
def own_engine(program: str, flags: Sequence[str] = ()) -> Generator[str]:
    """An engine on a socket and data folder of its own, ended and removed afterwards.

    Args:
        program: Of the engine.
        flags: Further ones.

    Yields:
        What DOCKER_HOST should be; beside the socket lies a file `pid`.

    Raises:
        NoEngine: It does not come up, with its last words.
    """
    folder = Path(tempfile.mkdtemp(prefix="palaestra-engine-"))
    folder.chmod(0o755)
    host = f"unix://{folder}/docker.sock"
    places = [f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
    command = [program, *_FLAGS, *flags, *places, f"--pidfile={folder}/pid", "-H", host]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        ends = time.monotonic() + _START
        while not answers(host):
            if process.poll() is not None or time.monotonic() > ends:
                words = (folder / "log").read_text(errors="replace").strip()[-500:]
                raise NoEngine(f"dockerd does not come up: {words}")
            time.sleep(0.1)
        os.chmod(folder / "docker.sock", 0o666)  # our folder's own, and it lives for this run
        yield host
    finally:
        _end(process)
        _end_orphans(folder)
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(120.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_orphans(folder: Path) -> None:
    """Ends what an engine that was killed has left running: shims, and their containers."""
    for orphan in carriers(f"{folder}/exec"):
        for pid in (*children_of(orphan), orphan):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _unmount(folder: Path) -> None:
    """What an engine that was killed has left mounted, the innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    places = [line.split()[1] for line in lines]
    for place in sorted((one for one in places if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", place], check=False, stderr=subprocess.DEVNULL)


def provide_image(host: str) -> None:
    """Build the guest's image from this machine's interpreter, unless the engine has it."""
    from ..tool_sandbox import docker, image

    with address(host):
        client = docker.connect()
        try:
            if any(image.tag() in found.tags for found in client.images.list()):
                return
        finally:
            client.close()
        docker.build(rootfs="self")
