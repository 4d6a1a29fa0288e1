"""Where untrusted code runs.

An execution goes down this list on the host, and its result comes up again::

    sandbox    the door: checks what is asked (requests) and remembers what came of it (stats)
    engine     what lives behind it: workers (pool), sessions (session), the network (network)
    backends   which of cell (embedded), docker (docker, container) and process serves
    cell       one worker from outside: hands over, waits, believes nothing (wire, outcome)

and inside, in `guest`, from the warm interpreter to the program::

    zygote     warmed once (nursery), forked for every worker (birth)
    jail       what shows (mounts), what may be called (filter, landlock), tried (selftest)
    serve      pid 1: arms an execution (execution), watches it (watch), proves it clean (clean)
    branch     the same for sessions: interpreters (repl) of which one runs at a time

Grading stands beside it: `grading` compares what `guest.driver` called, `script` lets a judge
(`guest.judge`) ask a candidate (`guest.candidate`) through proxies.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import (
        BackendFailed,
        BadRequest,
        FileProblem,
        MissingFile,
        SandboxClosed,
        SandboxError,
        SandboxUnavailable,
        SessionDead,
        UnsafeSandboxWarning,
    )
    from .grading import Calls, Case, Report, Script, Streams, Tests, Verdict
    from .limits import FileInfo, Isolation, Job, KiB, Limits, MiB, Reason, Result
    from .network import Fetch
    from .sandbox import COMMON, Sandbox
    from .session import Session, Snapshot
    from .stats import Stats

_HOMES = {
    "errors": (
        "BackendFailed",
        "BadRequest",
        "FileProblem",
        "MissingFile",
        "SandboxClosed",
        "SandboxError",
        "SandboxUnavailable",
        "SessionDead",
        "UnsafeSandboxWarning",
    ),
    "grading": ("Calls", "Case", "Report", "Script", "Streams", "Tests", "Verdict"),
    "limits": ("FileInfo", "Isolation", "Job", "KiB", "Limits", "MiB", "Reason", "Result"),
    "network": ("Fetch",),
    "sandbox": ("COMMON", "Sandbox"),
    "session": ("Session", "Snapshot"),
    "stats": ("Stats",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "COMMON",
    "BackendFailed",
    "BadRequest",
    "Calls",
    "Case",
    "Fetch",
    "FileInfo",
    "FileProblem",
    "Isolation",
    "Job",
    "KiB",
    "Limits",
    "MiB",
    "MissingFile",
    "Reason",
    "Report",
    "Result",
    "Sandbox",
    "SandboxClosed",
    "SandboxError",
    "SandboxUnavailable",
    "Script",
    "Session",
    "SessionDead",
    "Snapshot",
    "Stats",
    "Streams",
    "Tests",
    "UnsafeSandboxWarning",
    "Verdict",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
