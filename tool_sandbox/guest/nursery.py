"""The zygote's work: warm up once, then fork cells on request."""

from __future__ import annotations

import gc
import io
import os
import resource
import signal
import socket
import sys
from importlib import import_module
from typing import Any, NamedTuple, NoReturn, cast

from .. import wire
from . import birth, execution, hot, landlock, last, mappings, unjailed
from .filter import Shape, compiled
from .mounts import HIDDEN
from .syscalls import MACHINE, TABLES

_SHELTER = "/opt/python"  # where an interpreter shows whose own place the jail covers
_DRY_RUNS = 30
_FILES = 1024  # descriptors that a cell may have, where the trainer's own hard limit allows
_LAZY = ("branch", "repl", "driver")


class Prefix(NamedTuple):
    """One folder of the interpreter: where it is, and where the guest sees it."""

    path: str
    place: str


def main(arguments: list[str]) -> NoReturn:
    """The program."""
    if arguments[0] == "--contained":
        from . import contained

        contained.main(arguments[1])
    os.umask(0o022)  # whatever the trainer's is: guests make files and read them again
    _room_for_descriptors()
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, int(arguments[0]))
    frame = wire.read_frame(control)
    wanted, _ = wire.unpack_json(frame.body)
    failed = warm(wanted["preload"], wanted["site"])
    places = prefixes(wanted["site"])
    hello = {
        "threads": threads(),
        "culprit": culprit(),
        "prefixes": [list(p) for p in places],
        "version": sys.version_info[:3],
    }
    control.sendall(wire.pack(wire.HELLO, frame.id, wire.pack_json(hello)))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # launchers are reaped by the kernel
    unjailed.adopt()  # and a pid 1 whose launcher died first: the machine's init may reap nobody
    heritage = birth.Heritage(places, hot.Pages(), failed)
    while True:
        try:
            frame, fds = wire.read_frame_fds(control, 16)
        except (wire.Hangup, OSError):
            os._exit(0)
        plan, _ = wire.unpack_json(frame.body)
        heritage.pages.learn()
        pid, pidfd = birth.clone()
        if not pid:
            control.close()
            birth.launch(plan, fds, heritage)
        for fd in (pidfd, *fds):
            os.close(fd)


def _room_for_descriptors() -> None:
    """Raises a low soft limit: executions park descriptors above those that a program has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _FILES:
        most = _FILES if hard < 0 else min(_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


_found = {"culprit": ""}  # the preloaded module that started a thread


def culprit() -> str:
    """The preloaded module that started a thread, or nothing."""
    return _found["culprit"]


def warm(preload: list[str], site: bool) -> dict[str, str]:
    """Imports, dry runs, and a heap at rest; the modules that could not be imported."""
    if site:
        sys.path += site_folders()
    else:  # a virtual environment's own name for the interpreter does not show inside
        sys.executable = os.path.realpath(sys.executable)
    # links of the machine, followed while they show: inside, the same names mean other places
    sys.path[:] = map(os.path.realpath, sys.path)
    failed: dict[str, str] = {}
    _interactive_words()
    _streams()
    before = threads()
    for name in preload:
        try:
            import_module(name)
        except Exception as problem:
            failed[name] = f"{type(problem).__name__}: {problem}"
        if not culprit() and threads() > before:
            _found["culprit"] = name
    sys.excepthook = last.hook
    for name in _LAZY:  # a cell cannot read our files any more
        import_module(f".{name}", __package__)
    from . import rehearsal  # after the preload, which may hold other versions of what it uses

    rehearsal.rehearse()
    execution.dry_run(_DRY_RUNS)
    if MACHINE in TABLES:
        for group in (False, True):  # made here, the pages it takes are shared by all cells
            compiled(MACHINE, Shape(group, False, landlock.abi() >= 6))
    mappings.merge()
    mappings.enlarge()
    gc.collect()
    mappings.trim()
    gc.freeze()
    gc.disable()
    return failed


def _interactive_words() -> None:
    """`exit`, `quit`, `help` and their like: `-S` leaves them out, a bare interpreter has them."""
    import site

    site.setquit()
    site.setcopyright()
    site.sethelper()


def _streams() -> None:
    """Makes stdout and stderr over a pipe, as guests will have them: they keep what they found."""
    read, write = os.pipe()
    for fd, name in ((1, "stdout"), (2, "stderr")):
        held = os.dup(fd)
        os.dup2(write, fd)
        errors = getattr(sys, name).errors
        raw = io.FileIO(fd, "wb", closefd=False)
        raw.name = f"<{name}>"
        writer = io.BufferedWriter(raw, os.fstat(fd).st_blksize)
        stream = io.TextIOWrapper(writer, "utf-8", errors, "\n", line_buffering=fd == 2)
        stream.mode = "w"  # type: ignore[misc]  # pyright: ignore
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        os.dup2(held, fd)
        os.close(held)
    os.close(read)
    os.close(write)


def threads() -> int:
    """How many threads this process has."""
    return len(os.listdir("/proc/self/task"))


def site_folders() -> list[str]:
    """Where the interpreter's own packages lie; of a virtual environment, if it is one."""
    import site
    import sysconfig

    home = environment_home()
    if not home:
        return [path for path in site.getsitepackages() if os.path.isdir(path)]
    # by its name: what is usual for the interpreter is a place of the machine on Debian
    paths = sysconfig.get_paths("venv", {"base": home, "platbase": home})
    return list(dict.fromkeys((paths["purelib"], paths["platlib"])))


def environment_home() -> str:
    """The virtual environment's folder, or nothing."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
    return home if os.path.exists(f"{home}/pyvenv.cfg") else ""


def prefixes(site: bool) -> list[Prefix]:
    """The interpreter's folders, each with its place inside."""
    homes = (sys.base_prefix, environment_home() if site else "")
    paths = [os.path.realpath(path) for path in homes if path]
    found: list[Prefix] = []
    for path in dict.fromkeys(paths):
        if path == "/usr" or path.startswith("/usr/"):
            continue  # bound anyway
        covered = any(f"{path}/".startswith(f"{hidden}/") for hidden in HIDDEN)
        shelter = _SHELTER if not found else f"{_SHELTER}{len(found)}"
        found.append(Prefix(path, shelter if covered else path))
    return found


def move(places: list[Prefix]) -> None:
    """Points the interpreter's own paths at where its folders show now."""
    moved = [place for place in places if place.path != place.place]
    if not moved:
        return

    def there(path: str) -> str:
        for path_from, path_to in moved:
            if path == path_from or path.startswith(f"{path_from}/"):
                return path_to + path[len(path_from) :]
        return path

    sys.path[:] = map(there, sys.path)
    for name in ("prefix", "base_prefix", "exec_prefix", "base_exec_prefix", "executable"):
        setattr(sys, name, there(getattr(sys, name)))
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):
        folders: Any = getattr(module, "__path__", None)
        if isinstance(folders, list):
            module.__path__ = [there(str(path)) for path in cast("list[object]", folders)]
