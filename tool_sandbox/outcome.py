"""From what a cell reports to what the caller reads: the reason, and nothing on trust."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from . import values, wire
from .limits import Reason, Result

OUT_OF_MEMORY = 137  # exit code of an uncaught MemoryError
_SIGKILL, _SIGXCPU = 9, 24
_SHARE = 0.6  # the kernel holds the limit by its ticks, the figure by the clock: on a busy machine
# a program that was ended at 1 s of the one had 0.8 s of the other
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


def reason_of(ending: wire.Ending, cpu_limit: float, *, shell: bool = False) -> Reason:
    """Why an execution ended, from the kernel's figures.

    Args:
        ending: As the supervisor saw it.
        cpu_limit: Seconds.
        shell: Whether it was a shell: there 137 says that a child was killed.

    >>> reason_of(wire.Ending(0, -24, cpu=1.0), 1.0)
    'cpu'
    >>> reason_of(wire.Ending(0, 137), 1.0), reason_of(wire.Ending(0, 137), 1.0, shell=True)
    ('memory', 'error')
    """
    cause = wire.CAUSES[ending.cause]
    if cause != "exit":
        return _BY_CAUSE[cause]
    if ending.status == 0:
        return "ok"
    if ending.status == OUT_OF_MEMORY and not shell:
        return "memory"
    # A guest can send itself the signal; the time it has used is the kernel's word.
    late = ending.cpu >= cpu_limit * _SHARE
    if ending.status == -_SIGKILL and late:
        return "cpu"
    if ending.status == -_SIGXCPU and (late or cpu_limit == math.inf):
        return "cpu"
    return "killed" if ending.status < 0 else "error"


def judge(
    ending: wire.Ending,
    want_value: bool,
    fetch: tuple[str, ...],
    files: Mapping[int, bytearray],
    cpu_limit: float,
    *,
    shell: bool = False,
) -> Outcome:
    """The outcome of one execution."""
    kept = len(ending.stdout), len(ending.stderr)
    reason = reason_of(ending, cpu_limit, shell=shell)
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
