"""Host half of one worker: hands it executions, watches it, takes its word for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .limits import Language, Limits, Result

Mode = Literal["run", "calls", "judge", "candidate"]


@dataclass(frozen=True, slots=True)
class Request:
    """One execution, checked and complete.

    Attributes:
        code: The program (for "calls" and "candidate": the candidate's text).
        stdin: Bytes it may read.
        files: Put into the work directory before it starts.
        fetch: Files collected after its last process is dead.
        limits: The whole of them.
        language: "python" or "shell".
        seed: Of `random` (and numpy's, if loaded); None draws one from the system.
        want_value: Whether the last expression's value comes back.
        mode: "run", or the part of `guest/driver.py` that runs instead.
        payload: What that part reads.
        fds: Descriptors the execution inherits as 6, 7, ...; `begin` takes them over and closes
            our copies, so that the other side sees an end of file at once.
    """

    code: str
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    fetch: tuple[str, ...] = ()
    limits: Limits = Limits()
    language: Language = "python"
    seed: int | None = 0
    want_value: bool = False
    mode: Mode = "run"
    payload: bytes = b""
    fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result, and what the driver wrote to descriptor 5 (hostile bytes)."""

    result: Result
    rows: bytes = b""


class Cell:
    """One worker. One execution at a time: `begin`, then `finish`; `execute` is the two in a row."""

    def execute(self, request: Request) -> Outcome: ...
    def begin(self, request: Request) -> None: ...
    def finish(self) -> Outcome: ...
    def hurry(self, seconds: float) -> None:
        """Ends the running execution at most `seconds` from now."""
    def fileno(self) -> int:
        """Readable when `finish` will not wait (for select)."""
