"""Where untrusted code runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cell import Outcome, Request
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
    "cell": ("Outcome", "Request"),
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
    "Outcome",
    "Reason",
    "Report",
    "Request",
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
