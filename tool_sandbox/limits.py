"""What an execution may use, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from .errors import BadRequest

KiB = 1024
MiB = 1024 * KiB

Reason = Literal["ok", "error", "timeout", "cpu", "memory", "output", "killed", "lost"]
Level = Literal["full", "reduced", "none"]
Language = Literal["python", "shell"]
Kind = Literal["file", "directory", "other"]
REASONS: tuple[Reason, ...] = get_args(Reason)
LEVELS: tuple[Level, ...] = ("none", "reduced", "full")  # weakest first

_LEAST: Mapping[str, float] = {
    "wall": 0.001,
    "cpu": 1,
    "memory": 16 * MiB,
    "processes": 1,
    "open_files": 8,
    "file_size": 1,
    "disk": 64 * KiB,
    "inodes": 16,
    "output": 1,
    "output_stop": 1,
}
_MOST: Mapping[str, float] = {
    "wall": 86_400,
    "cpu": 86_400,
    "memory": 1 << 46,
    "processes": 30_000,
    "open_files": 65_536,
    "file_size": 1 << 46,
    "disk": 1 << 46,
    "inodes": 1 << 30,
    "output": 4 * MiB,
    "output_stop": 1 << 40,
}
_WRITTEN = 128  # bits of the largest number that an error writes out
_WHOLE = frozenset(_LEAST) - {"wall", "cpu"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one execution may use; every field has a hard bound of the kernel behind it.

    Attributes:
        wall: Seconds, from the moment the code is handed over.
        cpu: Seconds per process; None means ceil(wall) + 1.
        memory: Bytes of the whole tree of processes, its files included.
        processes: Processes and threads together.
        open_files: Descriptors per process.
        file_size: Bytes of one file.
        disk: Bytes of the work directory, /tmp and /dev/shm together.
        inodes: Files and directories in those three.
        output: Bytes kept per stream; the rest is counted and dropped.
        output_stop: Bytes written to both streams that end the execution.

    Raises:
        BadRequest: A value is no number, or out of its range.

    >>> Limits(wall=2.0).processor_seconds
    3
    """

    wall: float = 5.0
    cpu: float | None = None
    memory: int = 512 * MiB
    processes: int = 16
    open_files: int = 64
    file_size: int = 16 * MiB
    disk: int = 32 * MiB
    inodes: int = 2048
    output: int = 64 * KiB
    output_stop: int = 8 * MiB

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item.name, getattr(self, item.name))

    @property
    def processor_seconds(self) -> int:
        """Whole seconds of processor time per process, as RLIMIT_CPU wants them."""
        return math.ceil(self.wall) + 1 if self.cpu is None else math.ceil(self.cpu)


def _check(name: str, value: object) -> None:
    if name == "cpu" and value is None:
        return
    kinds = (int,) if name in _WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        wanted = "a whole number" if name in _WHOLE else "a number"
        raise BadRequest(f"Limits.{name} is {value!r}; give {wanted}")
    low, high = _LEAST[name], _MOST[name]
    if not low <= value <= high:  # NaN fails every comparison, so it lands here too
        raise BadRequest(f"Limits.{name} is {show(value)}; give a value from {low:,} to {high:,}")


def show(value: float) -> str:
    """A number for an error; Python itself refuses to write out very long ones.

    >>> show(0.5), show(16 * MiB), show(10**5000)
    ('0.5', '16,777,216', 'a number of 16,610 bits')
    """
    if isinstance(value, int) and value.bit_length() > _WRITTEN:
        return f"a number of {value.bit_length():,} bits"
    return f"{value:,}"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one execution. `reason` is the kernel's word, never the guest's.

    Attributes:
        reason: Why it ended; "lost" means our worker was lost, which blames nobody.
        exit_code: As the kernel reported it; -N for signal N; None when lost.
        stdout: UTF-8, undecodable bytes as U+FFFD, at most `Limits.output` bytes of it.
        stderr: The same for the other stream.
        stdout_bytes: Bytes written, before the cap.
        stderr_bytes: The same for the other stream.
        wall: Seconds.
        cpu: User and system seconds, children that were waited for included.
        memory_peak: Bytes; of the tree with a resource group, else of the main process.
        files: Those asked for that exist as regular files.
        value: The last expression's value as plain data, when asked for.
    """

    reason: Reason
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    memory_peak: int | None = None
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    value: object = None
    _kept: tuple[int, int] = field(default=(-1, -1), repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the program ran to its end with exit code 0."""
        return self.reason == "ok"

    @property
    def truncated(self) -> bool:
        """Whether more was written to a stream than was kept."""
        out, err = self._kept
        return 0 <= out < self.stdout_bytes or 0 <= err < self.stderr_bytes


@dataclass(frozen=True, slots=True)
class Isolation:
    """What holds, as observed from inside; not what was asked for.

    Attributes:
        backend: "cell", "docker" or "process".
        level: "full", "reduced" or "none".
        layers: Such as ("user", "mount", "pid", "net", "ipc", "uts", "seccomp", "landlock:7").
        missing: Layers this machine does not give.
        advice: What to do about them; empty when nothing is missing.
    """

    backend: str
    level: Level
    layers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    advice: str = ""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One entry of a session's directory."""

    path: str
    kind: Kind
    size: int


@dataclass(frozen=True, slots=True)
class Job:
    """One execution, described: what `Sandbox.map` takes and what tools yield."""

    code: str
    stdin: str | bytes = b""
    files: Mapping[str, bytes | str] = field(default_factory=dict[str, "bytes | str"])
    fetch: tuple[str, ...] = ()
    limits: Limits | None = None
    language: Language = "python"
    seed: int | None = 0
    want_value: bool = False
