"""Everything this room raises.

SandboxError
├── SandboxUnavailable   no backend reaches the level that was asked for
├── SandboxClosed        used after `close`
├── BadRequest           refused before anything runs (also a ValueError)
├── SessionDead          the session's interpreter has ended
├── BackendFailed        workers cannot be started or come up weaker than the first
└── FileProblem          a session's file cannot be read or written (also an OSError)
    └── MissingFile      it does not exist (also a FileNotFoundError)

What a guest does is never raised: time-outs, crashes and floods are `Result`s.
"""

from __future__ import annotations


class SandboxError(Exception):
    """Root of this room's errors."""


class SandboxUnavailable(SandboxError):
    """No backend reaches the wanted level; the message names what mends each."""


class SandboxClosed(SandboxError):
    """The sandbox was used after `close`."""


class BadRequest(SandboxError, ValueError):
    """The request itself is wrong; nothing was run."""


class SessionDead(SandboxError):
    """The session's interpreter has ended; restore a snapshot or open a new session."""


class BackendFailed(SandboxError):
    """The backend cannot start workers, or only weaker ones than before."""


class FileProblem(SandboxError, OSError):
    """A file of a session cannot be read or written as asked."""


class MissingFile(FileProblem, FileNotFoundError):
    """The file does not exist in the session."""


class UnsafeSandboxWarning(UserWarning):
    """The `process` backend isolates nothing."""
