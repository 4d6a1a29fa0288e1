"""One execution as the host asks for it, and the form in which that travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from . import wire
from .limits import Language, Limits

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
        broker: A descriptor the execution inherits as 4, likewise; -1 for none.
    """

    code: str
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    fetch: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    language: Language = "python"
    seed: int | None = 0
    want_value: bool = False
    mode: Mode = "run"
    payload: bytes = b""
    fds: tuple[int, ...] = ()
    broker: int = -1

    def order(self) -> wire.Order:
        """The form that travels."""
        flags = (
            (wire.WANT_VALUE if self.want_value else 0)
            | (0 if self.seed is None else wire.SEEDED)
            | (0 if self.mode == "run" else wire.ROWS)
            | (wire.BROKER if self.broker >= 0 else 0)
        )
        limits = self.limits
        return wire.Order(
            self.code.encode("utf-8", "surrogatepass"),
            limits.wall,
            limits.processor_seconds,
            limits.open_files,
            limits.output,
            limits.output_stop,
            wire.MODES.index(self.mode),
            wire.LANGUAGES.index(self.language),
            flags,
            str(self.seed or 0).encode(),
            self.stdin,
            self.payload,
            tuple(self.files.items()),
            self.fetch,
        )
