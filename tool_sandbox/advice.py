"""What to do when a worker cannot be made: the remedy of the step that failed."""

from __future__ import annotations

import errno

from .cell import StartFailed

_SYSCTL = (
    "allow user namespaces: sysctl -w user.max_user_namespaces=15000 "
    "(Debian: kernel.unprivileged_userns_clone=1; Ubuntu: "
    "kernel.apparmor_restrict_unprivileged_userns=0)"
)
_CONTAINER = "in a container: --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
_PROC = (
    "the container masks parts of its /proc: start it with "
    '--security-opt systempaths=unconfined, or ask for minimum="reduced"'
)


def advise(problem: Exception) -> str:
    """The words for one failure.

    >>> "systempaths" in advise(StartFailed("proc", errno.EPERM, "no"))
    True
    """
    if not isinstance(problem, StartFailed):
        return "Look at the words above."
    if problem.step == "proc" and problem.code == errno.EPERM:
        return _PROC
    if problem.step in ("unshare", "uid_map"):
        if problem.code == errno.ENOSPC:
            return _SYSCTL
        return f'{_SYSCTL}; {_CONTAINER}, or ask for minimum="reduced"'
    if problem.step in ("bind mounts", "root file system", "private mounts", "pivot_root"):
        return f'{_CONTAINER} --cap-add SYS_ADMIN, or ask for minimum="reduced"'
    if problem.step == "seccomp":
        return "the kernel lacks CONFIG_SECCOMP_FILTER; use the docker backend on another kernel"
    if problem.step == "readable" or "readable:" in str(problem):
        return "give python= an interpreter that the mapped user can read, outside mode-700 homes"
    if problem.step == "preload":
        return "leave that module out of preload="
    return "Run `palaestra sandbox doctor` for the whole report."
