"""What this machine can isolate: tries every backend, and says what it saw."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .advice import advise
from .backends import Backend, Wish, candidates, isolation_of
from .cell import Cell, Request, StartFailed
from .errors import SandboxError, UnsafeSandboxWarning
from .limits import Isolation, Level, Limits

_RUNS = 200
_COMMON = ("json", "math", "re")
PLANS: tuple[tuple[str, Level], ...] = (
    ("cell", "full"),
    ("cell", "reduced"),
    ("docker", "full"),
    ("process", "none"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One backend at one level.

    Attributes:
        backend: Its name.
        usable: Whether a worker came up and its self-test passed.
        level: What the self-test observed; "none" where nothing came up.
        layers: What holds.
        missing: What this machine does not give.
        advice: What to do about it.
        p50: Median seconds of 200 small executions; None where nothing came up.
        asked: The level that was tried.
    """

    backend: str
    usable: bool
    level: Level
    layers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    advice: str = ""
    p50: float | None = None
    asked: Level = "full"


def examine(plans: Sequence[tuple[str, Level]] = PLANS, runs: int = _RUNS) -> tuple[Finding, ...]:
    """Starts a worker of each backend, and times it.

    Args:
        plans: (backend, level) pairs to try.
        runs: Executions that are timed.

    Returns:
        One finding a plan, in their order.
    """
    return tuple(_examine(name, level, runs) for name, level in plans)


def _examine(name: str, level: Level, runs: int) -> Finding:
    wish = Wish(name, level, None, _COMMON, (), None)
    backend: Backend | None = None
    cell: Cell | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeSandboxWarning)
        try:
            backend = candidates(wish)[-1]()
            cell = backend.begin(Limits())
            seen = isolation_of(cell, backend)
            return _finding(seen, _median(cell, runs), level)
        except (StartFailed, SandboxError, OSError) as problem:
            words = f"{problem}. {advise(problem)}"
            return Finding(name, False, "none", advice=words, asked=level)
        finally:
            if cell is not None:
                cell.close()
            if backend is not None:
                backend.close()


def _finding(seen: Isolation, p50: float, asked: Level) -> Finding:
    return Finding(
        seen.backend, True, seen.level, seen.layers, seen.missing, seen.advice, p50, asked
    )


def _median(cell: Cell, runs: int) -> float:
    request = Request("print(6 * 7)")
    times: list[float] = []
    for _ in range(runs):
        started = time.perf_counter()
        cell.execute(request)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def reaches_full(findings: Sequence[Finding]) -> bool:
    """Whether `Sandbox("auto")` would reach "full" here."""
    return any(f.usable and f.level == "full" and f.backend != "process" for f in findings)


def to_json(findings: Sequence[Finding]) -> str:
    """The findings for scripts."""
    rows = [asdict(finding) for finding in findings]
    return json.dumps({"full": reaches_full(findings), "backends": rows}, indent=2)


def to_text(findings: Sequence[Finding]) -> str:
    """The findings for people, a paragraph a backend."""
    lines: list[str] = []
    for finding in findings:
        state = finding.level if finding.usable else "not usable"
        speed = "" if finding.p50 is None else f", {finding.p50 * 1000:.2f} ms an execution"
        road = ", reduced on request" if finding.asked == "reduced" else ""
        lines.append(f"{finding.backend}{road}: {state}{speed}")
        for name in ("layers", "missing"):
            values: tuple[str, ...] = getattr(finding, name)
            if values:
                lines.append(f"    {name}: {', '.join(values)}")
        if finding.advice:
            lines.append(f"    {finding.advice}")
    verdict = "auto reaches full" if reaches_full(findings) else "auto would refuse to run"
    return "\n".join([*lines, verdict])
