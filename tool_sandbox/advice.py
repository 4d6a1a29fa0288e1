"""What to do when a worker cannot be made: the remedy of the step that failed."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

from .cell import StartFailed

_NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
# A switch of the kernel or of a distribution, and the value that forbids user namespaces.
_SWITCHES = {
    "kernel.unprivileged_userns_clone": "0",
    "kernel.apparmor_restrict_unprivileged_userns": "1",
}
_SYSCTL = (
    "allow user namespaces: sysctl -w user.max_user_namespaces=15000 "
    "(Debian: kernel.unprivileged_userns_clone=1; Ubuntu: "
    "kernel.apparmor_restrict_unprivileged_userns=0)"
)
_PRIVILEGED = (
    *("bind mounts", "root file system", "private mounts", "pivot_root"),
    *("setgroups", "setresgid", "setresuid"),
)
# What a root needs of capabilities, and the kernel's numbers of them.
_CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "SETGID": 6, "SETUID": 7, "SYS_ADMIN": 21}
_MARKS = ("/.dockerenv", "/run/.containerenv")  # files that only containers have
_OPEN = "--security-opt seccomp=unconfined --security-opt apparmor=unconfined"
_REDUCED = 'or ask for minimum="reduced"'
_PROC = (
    "the container masks parts of its /proc: start it with "
    f"{_OPEN} --security-opt systempaths=unconfined, {_REDUCED}"
)
_READABLE = (
    "the user that guests run as cannot read this interpreter; give python= one outside homes of "
    "mode 700, such as /usr/bin/python3"
)
_START_ENGINE = (
    "start the engine (systemctl start docker), or set DOCKER_HOST to where one listens; the image "
    "then comes from: palaestra sandbox build"
)
_JOIN = (
    "your user may not use the engine's socket: join the group that owns it (usermod -aG docker "
    "USER, then log in anew), or set DOCKER_HOST to an engine of your own"
)
_WORDS = {
    "image": "palaestra sandbox build --rootfs self (pulls nothing), "
    "or palaestra sandbox build --from IMAGE",
    "paths": "leave readable= out, or use the cell backend",
    "hidden paths": "a cell has its own /tmp, /mnt, /dev and /proc: give paths outside these, or "
    "the files themselves with files=",
    "library": "pip install docker, or use the cell backend",
    "preload": "leave that module out of preload=",
    "container": "`docker info` and the engine's log say more",
    "seccomp": "the kernel lacks CONFIG_SECCOMP_FILTER; use the docker backend on another kernel",
    "proc": "mount one of this namespace: mount -t proc proc /proc (unshare --mount-proc, "
    "bwrap --proc /proc)",
    "landlock": "it takes Linux 6.7 with Landlock switched on (lsm=landlock,...); "
    "or use the docker backend",
    "zygote": "give python= an interpreter (3.11 or newer) that starts",
    "self-test: identity": "run as a plain user: this root has no other id to give to guests",
    "temporary folder": "free space, or set TMPDIR to a folder that can be written",
}
_REPORT = "this is our mistake or an unusual kernel: please report the words above and `uname -r`"


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys", *name.split(".")).read_text().strip()
    except OSError:
        return ""


def advise(problem: Exception, setting: Callable[[str], str] = _setting) -> str:
    """The words for one failure; empty where nothing is known.

    Args:
        problem: What was raised.
        setting: A kernel setting's value by its name; empty where there is none.

    >>> "systempaths" in advise(StartFailed("proc", errno.EPERM, "no"))
    True
    """
    if not isinstance(problem, StartFailed):
        return ""
    step, code = problem.step, problem.code
    if problem.advice:
        return problem.advice
    if step == "engine":
        return _JOIN if code in (errno.EACCES, errno.EPERM) else _START_ENGINE
    if step == "proc" and code == errno.EPERM:
        return _PROC
    if step in ("unshare", "uid_map"):
        return _namespaces(code, setting)
    if step in _PRIVILEGED:
        return f"in a container: start it with {_flags()}, {_REDUCED}"
    if step == "readable" or "readable:" in str(problem):
        return _READABLE
    part = str(problem).partition(":")[2].partition(":")[0]
    return _WORDS.get(f"{step}:{part}") or _WORDS.get(step, _REPORT)


def explain(problem: Exception) -> str:
    """A failure's own words, and what to do about it."""
    words = str(problem).strip() or type(problem).__name__
    advice = advise(problem)
    return f"{words}; {advice}" if advice else words


def _flags() -> str:
    """What opens a container for cells; a root needs less of /proc, but more of a capability."""
    if os.geteuid() == 0:
        return " ".join((_OPEN, *(f"--cap-add {name}" for name in _lacking())))
    return f"{_OPEN} --security-opt systempaths=unconfined"


def _lacking() -> list[str]:
    """The capabilities that this root lacks; one it seems to have may be worth nothing here."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.M)
    held = int(found[1], 16) if found else 0
    return [
        name for name, bit in _CAPABILITIES.items() if name == "SYS_ADMIN" or not held >> bit & 1
    ]


def _namespaces(code: int, setting: Callable[[str], str]) -> str:
    """Names the very setting where this machine shows it, else all that could be."""
    names = [f"user.max_{kind}_namespaces" for kind in _NAMESPACES]
    orders = [f"{name}=15000" for name in names if setting(name) == "0"]
    if os.geteuid() != 0:
        orders += [
            f"{name}={1 - int(value)}"
            for name, value in _SWITCHES.items()
            if setting(name) == value
        ]
    if orders:
        return f"this machine forbids namespaces: sysctl -w {' '.join(orders)}, {_REDUCED}"
    if code == errno.ENOSPC:
        return f"{_SYSCTL}, {_REDUCED}"
    if any(map(os.path.exists, _MARKS)):
        return f"start this container with {_flags()}, {_REDUCED}"
    return f"{_SYSCTL}; in a container: start it with {_flags()}, {_REDUCED}"
