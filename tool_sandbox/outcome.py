"""From what a cell reports to what the caller reads: the reason, and nothing on trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import values, wire
from .limits import Reason, Result

OUT_OF_MEMORY = 137  # exit code of an uncaught MemoryError
_SIGKILL, _SIGXCPU = 9, 24
_BY_CAUSE: dict[str, Reason] = {
    "timeout": "timeout",
    "output": "output",
    "memory": "memory",
    "hurried": "killed",
    "stopped": "timeout",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result, and what the driver wrote to descriptor 5 (hostile bytes)."""

    result: Result
    rows: bytes = b""


def reason_of(ending: wire.Ending, cpu_limit: float) -> Reason:
    """Why an execution ended, from the kernel's figures.

    >>> reason_of(wire.Ending(0, -24), 1.0)
    'cpu'
    """
    cause = wire.CAUSES[ending.cause]
    if cause != "exit":
        return _BY_CAUSE[cause]
    if ending.status == 0:
        return "ok"
    if ending.status == OUT_OF_MEMORY:
        return "memory"
    if ending.status == -_SIGXCPU:
        return "cpu"
    if ending.status == -_SIGKILL and ending.cpu >= cpu_limit:
        return "cpu"
    return "killed" if ending.status < 0 else "error"


def judge(
    ending: wire.Ending,
    want_value: bool,
    fetch: tuple[str, ...],
    files: Mapping[int, bytearray],
    cpu_limit: float,
) -> Outcome:
    """The outcome of one execution."""
    kept = len(ending.stdout), len(ending.stderr)
    reason = reason_of(ending, cpu_limit)
    result = Result(
        reason,
        ending.status,
        ending.stdout.decode("utf-8", "replace"),
        ending.stderr.decode("utf-8", "replace"),
        ending.stdout_bytes,
        ending.stderr_bytes,
        ending.wall,
        ending.cpu,
        None if ending.memory_peak < 0 else ending.memory_peak,
        {fetch[index]: bytes(data) for index, data in files.items()},
        _value(ending.rows) if want_value and reason == "ok" else None,
        kept,
    )
    return Outcome(result, ending.rows)


def _value(data: bytes) -> object:
    if not data:
        return None
    try:
        return values.decode(data)
    except values.ValueProblem:
        return None  # the guest can write to that pipe, too
