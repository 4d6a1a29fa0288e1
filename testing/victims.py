"""The processes of a sandbox, found and killed from outside, as an accident would."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any

from ..tool_sandbox import owners

ORDER = ("zygote", "launcher", "pid 1")  # each is the parent of the next


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether a condition comes true within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline  # before the look: who is held up looks once more
        if condition():
            return True
        if late:
            return False
        time.sleep(0.002)


def gone(pid: int) -> bool:
    """Whether a process is no more, or only waits to be taken in by a parent that is not ours."""
    return state_of(pid)[0] in "ZX"


def state_of(pid: int) -> tuple[str, int]:
    """The kernel's letter for what a process does, and its parent; ("X", 0) where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # its name may be any bytes
            state, parent, *_ = file.read().rpartition(b")")[2].split()
    except OSError:
        return "X", 0
    return state.decode(), int(parent)


def children_of(pid: int) -> list[int]:
    """Living and dead children of a process, of all its threads."""
    before, found = None, _listed(pid)
    for _ in range(100):  # the kernel leaves some out where another is reaped meanwhile
        if found == before:
            break
        before, found = found, _listed(pid)
    return found


def _listed(pid: int) -> list[int]:
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += map(int, file.read().split())
        except OSError:
            continue
    return found


def descendants_of(pid: int) -> list[int]:
    """All that descend from a process, in no order; it may fork meanwhile."""
    found: list[int] = []
    ahead = children_of(pid)
    while ahead:
        found.append(ahead.pop())
        ahead += children_of(found[-1])
    return found


def descriptors() -> set[str]:
    """What this process holds open: number and name of each descriptor."""
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def carriers(word: str) -> list[int]:
    """Other processes, of anybody, whose command line holds a word."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if word.encode() in file.read():
                    found.append(int(name))
    return found


def zygotes(others: Iterable[int] = ()) -> list[int]:
    """Of the sandboxes of this process, which may have other children; less `others`."""
    return sorted({*children_of(os.getpid())} & {*carriers("guest/zygote.py")} - {*others})


def line_to(pid: int) -> list[int]:
    """From a child of this process down to `pid`; for a guest: zygote, launcher, pid 1, ..."""
    line: list[int] = []
    while pid not in (0, os.getpid()):
        line.append(pid)
        pid = state_of(pid)[1]
    return line[::-1]


def kill(victim: str, guest: int) -> list[int]:
    """Kill one of the processes that a guest of an embedded worker descends from.

    Args:
        victim: One of `ORDER`.
        guest: Any process of the worker, as this process numbers it.

    Returns:
        Launcher, pid 1 and what is below, down to the guest: all must end, unless the zygote was
        the victim.

    Raises:
        LookupError: The guest has ended.
    """
    line = line_to(guest)
    if len(line) <= len(ORDER):  # or somebody else would be killed
        raise LookupError(f"{guest} has ended, or is no guest")
    os.kill(line[ORDER.index(victim)], signal.SIGKILL)
    return line[1:]


def kill_all(victim: str, guest: int) -> list[int]:
    """As `kill`, of every worker that the guest's zygote has made."""
    zygote = line_to(guest)[0]
    launchers = children_of(zygote)
    firsts = [pid for launcher in launchers for pid in children_of(launcher)]
    for pid in ([zygote], launchers, firsts)[ORDER.index(victim)]:
        os.kill(pid, signal.SIGKILL)
    return launchers + firsts


def kill_containers(ids: Iterable[str]) -> None:
    """Kill containers, by their engine."""
    with _engine() as client:
        for name in ids:
            client.containers.get(name).kill()


def kill_container(mark: str) -> None:
    """Kill the container in which a process has `mark` in its arguments, by its engine.

    Raises:
        LookupError: There is none.
    """
    with _engine() as client:
        for container in _containers(client, os.getpid()):
            rows = container.top(ps_args="-efww")["Processes"]  # of any width
            if any(mark in " ".join(row) for row in rows):
                container.kill()
                return
    raise LookupError(f"no container of ours runs {mark}")


def containers(pid: int) -> list[str]:
    """Ids of a trainer's containers, of a dead one's too, on the engine that DOCKER_HOST names."""
    with _engine() as client:
        return [container.id for container in _containers(client, pid)]


@contextmanager
def _engine() -> Generator[Any]:
    from ..tool_sandbox import docker

    client = docker.connect()
    try:
        yield client
    finally:
        client.close()


def _containers(client: Any, pid: int) -> list[Any]:
    label = owners.PID
    held = client.containers.list(all=True, filters={"label": label}, ignore_removed=True)
    return [one for one in held if one.labels[label].startswith(f"{pid}:")]
