"""From a fork of the zygote to a cell that says ready: launcher, pid 1, self-test."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from .. import wire
from . import execution, hot, landlock, layout, selftest, serve, unjailed, waiter
from .clone import Cloner
from .jail import Jail, JailError, Plan

clone = Cloner()  # made once, in the zygote: the hooks of `os.fork` would touch a megabyte


class Heritage(NamedTuple):
    """What a cell has of its zygote."""

    places: Sequence[tuple[str, str]]  # of the interpreter's folders: where they are, and show
    pages: hot.Pages
    failed: dict[str, str]  # modules that could not be preloaded, and why


class Handles:
    """The descriptors that came with a spawn request, by name."""

    def __init__(self, names: Sequence[str], fds: Sequence[int]) -> None:
        self._fds = dict(zip(names, fds, strict=True))

    def get(self, name: str) -> int:
        """One descriptor, or -1."""
        return self._fds.get(name, -1)

    def join_groups(self) -> None:
        """Puts this process into its resource groups."""
        for name, fd in self._fds.items():
            if name.startswith("procs"):
                os.write(fd, b"0")
                os.close(fd)


def launch(data: dict[str, Any], fds: list[int], heritage: Heritage) -> NoReturn:
    """The launcher's whole life; it and pid 1 never return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    handles = Handles(data["fds"], fds)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, handles.get("control"))
    try:
        data["prefixes"] = [list(place) for place in heritage.places]
        plan = Plan.load(data)
        if plan.owner:
            plan = plan._replace(owner=data["owner"] + os.getpid() % data["owners"])
        _prepare(handles)
        jail = Jail(plan)
        if plan.mode == "full":
            jail.namespaces()
        _split(jail, control, handles, data["id"], heritage)
    except BaseException as problem:
        fail(control, data["id"], problem)


def _prepare(handles: Handles) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    handles.join_groups()
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("900")
    except OSError:
        pass  # a matter of who is killed first


def _split(
    jail: Jail,
    control: socket.socket,
    handles: Handles,
    request_id: int,
    heritage: Heritage,
) -> NoReturn:
    """Forks pid 1; the launcher sends the host both pidfds, then only waits.

    Pid 1 goes on when `opener` is closed: by a launcher that is a waiter by then, or will be none.
    """
    own = os.pidfd_open(os.getpid())
    gate, opener = os.pipe()
    pid, child = clone()
    if not pid:
        os.close(opener)
        os.read(gate, 1)
        os.close(gate)
        _first(jail, control, handles, request_id, own, heritage)
    frame = wire.pack(
        wire.HANDLES, request_id, wire.pack_json({"pid": pid, "launcher": os.getpid()})
    )
    wire.send_fds(control, frame, [child, own])
    os.closerange(3, opener)
    if jail.plan.mode == "full":
        os.closerange(opener + 1, 256)
        waiter.become()
    else:
        unjailed.adopt()
    os.closerange(3, 256)
    os.waitpid(pid, 0)
    if jail.plan.mode != "full":  # no namespace died with it, so its orphans came to us
        unjailed.end_descendants()
        unjailed.vanish(jail.plan.root)
    os._exit(0)


def _first(
    jail: Jail,
    control: socket.socket,
    handles: Handles,
    request_id: int,
    launcher: int,
    heritage: Heritage,
) -> NoReturn:
    """The worker's first process: locks itself up, tests the lock from inside, serves."""
    try:
        serve.reset_signals()
        full = jail.plan.mode == "full"
        peak = handles.get("peak")
        if jail.plan.group and peak < 0:
            peak = serve.NO_MARK
        setting = serve.Setting(
            control,
            launcher,
            memory=jail.plan.memory,
            disk=jail.plan.disk,
            peak=peak,
            oom=handles.get("oom"),
            group=jail.plan.group,
            hidden=jail.plan.mode != "bare",
            alone=full,
            branches=jail.plan.mode != "bare",
        )
        lock = _lock if full else _lock_without_namespaces
        server = serve.Server(lock(jail, heritage, setting))
        level = {"bare": "none"}.get(jail.plan.mode, jail.plan.mode)
        seen = {"layers": jail.layers, "missing": jail.missing, "level": level}
        ready = {**seen, "failed": heritage.failed}
        control.sendall(wire.pack(wire.READY, request_id, wire.pack_json(ready)))
        server.loop()
    except BaseException as problem:
        fail(control, request_id, problem)


def _lock(jail: Jail, heritage: Heritage, setting: serve.Setting) -> serve.Setting:
    """All steps, in their order; the setting with what they found."""
    from .nursery import Prefix, move

    jail.files()
    move([Prefix(*place) for place in heritage.places])
    os.chdir(layout.work())
    setting = setting._replace(prefix=_environment(heritage.places), polling=jail.polling)
    heritage.pages.settle(setting)
    jail.identity()
    jail.limits()
    jail.rules()
    selftest.check(jail)
    return setting


def _lock_without_namespaces(
    jail: Jail, heritage: Heritage, setting: serve.Setting
) -> serve.Setting:
    heritage.pages.close()
    if os.readlink("/proc/self") != str(os.getpid()):  # we would look for strangers, and kill them
        raise JailError("proc", "it shows another pid namespace than ours")
    layout.settle(jail.plan.root)
    unjailed.adopt()
    setting = setting._replace(cleaner=unjailed.Scrubber(jail.plan.owner))
    if jail.plan.mode == "bare":
        jail.missing.append("everything")
        jail.limits()
        return setting._replace(prefix=_environment(heritage.places, 0))
    version = unjailed.require()
    jail.missing.append("namespaces")
    jail.identity()
    jail.limits()
    jail.polling = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    own = landlock.Rule(jail.polling, landlock.READ)  # the supervisor's; executions drop it
    rules = unjailed.rules(jail, version)
    jail.rules([*rules, own])
    prefix = _environment(heritage.places, 0)
    selftest.check(jail)
    again = unjailed.Again(rules, version)
    return setting._replace(prefix=prefix, polling=jail.polling, again=again)


def _environment(places: Sequence[tuple[str, str]], column: int = 1) -> str:
    prefix = places[0][column] if places else "/usr"
    os.environ.clear()
    os.environ.update(execution.environment(prefix))
    return prefix


def fail(control: socket.socket, request_id: int, problem: BaseException) -> NoReturn:
    """Says why, then ends: no code path goes on with less."""
    report = {"step": "start", "code": 0, "text": f"{type(problem).__name__}: {problem}"}
    if isinstance(problem, JailError):
        report = {"step": problem.step, "code": problem.code, "text": problem.text}
    try:
        control.sendall(wire.pack(wire.FAILED, request_id, wire.pack_json(report)))
    finally:
        os._exit(1)
