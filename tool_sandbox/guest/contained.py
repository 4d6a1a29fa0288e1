"""The same guest as the first process of a hardened container."""

from __future__ import annotations

import os
import socket
import sys
from typing import NoReturn, cast

from .. import wire
from . import birth, execution, layout, pipes, selftest, serve
from .jail import Jail, JailError, Plan

_SHARED = "/dev/shm"
_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
_OOM = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")


def main(path: str) -> NoReturn:
    """Connects, locks itself up further than the engine did, and serves.

    Args:
        path: Of the host's unix socket; "-" where no folder is shared with the host: then standard
            input and output are the line.
    """
    control = _line(path)
    frame = wire.read_frame(control)
    data, _ = wire.unpack_json(frame.body)
    try:
        server = _prepare(control, data, frame.id)
    except BaseException as problem:
        birth.fail(control, frame.id, problem)
    server.loop()


def _line(path: str) -> socket.socket:
    if path == "-":
        return cast("socket.socket", pipes.of_standard_streams())
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.connect(path)
    return control


def _prepare(control: socket.socket, data: dict[str, object], request_id: int) -> serve.Server:
    from . import nursery

    preload = data["preload"]
    assert isinstance(preload, list)
    failed = nursery.warm([str(name) for name in preload], bool(data.get("site")))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if nursery.threads() != 1:
        raise JailError("preload", f"module {nursery.culprit()!r} starts threads; leave it out")
    serve.reset_signals()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    jail = Jail(Plan.load({**data, "prefixes": [], "readable": [], "mode": "contained"}))
    layout.settle(layout.root(), (_SHARED,) if os.access(_SHARED, os.W_OK) else ())
    for folder in layout.writable()[1:]:
        os.makedirs(folder, 0o700, exist_ok=True)
    os.chdir(layout.work())
    oom = _open_first(_OOM)
    prefix = sys.base_prefix
    os.environ.clear()
    os.environ.update(execution.environment(prefix))
    jail.layers.append("container")
    jail.identity()
    jail.limits()
    jail.rules()
    selftest.check(jail)
    if isinstance(control, pipes.Pipes):
        jail.missing.append("shared folder")
    setting = serve.Setting(control, prefix=prefix, memory=jail.plan.memory, oom=oom, group=True)
    server = serve.Server(setting)
    ready = {
        "layers": jail.layers,
        "missing": jail.missing,
        "level": "full",
        "failed": failed,
        "used": _used(),  # bytes that count against the container's limit, and are no program's
    }
    control.sendall(wire.pack(wire.READY, request_id, wire.pack_json(ready)))
    return server


def _used() -> int:
    fd = _open_first(_USED)
    if fd < 0:
        return 0
    try:
        return int(os.read(fd, 64))
    finally:
        os.close(fd)


def _open_first(paths: tuple[str, ...]) -> int:
    for path in paths:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
    return -1
