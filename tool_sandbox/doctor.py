"""What this machine can isolate: tries every backend, and says what it saw."""

from __future__ import annotations

import json
import textwrap
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .advice import advise
from .backends import Backend, Wish, candidates, isolation_of
from .cell import Cell, Request, StartFailed
from .errors import BackendFailed, SandboxError, UnsafeSandboxWarning
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
        usable: Whether a worker came up, passed its self-test, and ran what it was given.
        level: What the self-test observed; "none" where nothing came up.
        layers: What holds.
        missing: What this machine does not give.
        advice: What to do about it; empty where there is nothing to do.
        p50: Median seconds of the small executions; None where nothing came up.
        asked: The level that was tried.
        problem: Why it is not usable; empty where it is.
    """

    backend: str
    usable: bool
    level: Level
    layers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    advice: str = ""
    p50: float | None = None
    asked: Level = "full"
    problem: str = ""


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
            _, make = candidates(wish)[-1]
            backend = make()
            cell = backend.begin(Limits())
            seen = isolation_of(cell, backend)
            return _finding(seen, _median(cell, runs), level)
        except (StartFailed, SandboxError, OSError) as problem:
            words = str(problem) or type(problem).__name__
            return Finding(name, False, "none", advice=advise(problem), asked=level, problem=words)
        finally:
            if cell is not None:
                cell.close()
            if backend is not None:
                backend.close()


def _finding(seen: Isolation, p50: float, asked: Level) -> Finding:
    advice = "" if seen.level == "none" else seen.advice
    return Finding(seen.backend, True, seen.level, seen.layers, seen.missing, advice, p50, asked)


def _median(cell: Cell, runs: int) -> float:
    request = Request("print(6 * 7)")
    times: list[float] = []
    for _ in range(runs):
        started = time.perf_counter()
        result = cell.execute(request).result
        times.append(time.perf_counter() - started)
        if not result.ok:
            raise BackendFailed(f"print(6 * 7) ended as {result.reason!r}: {result.stderr[-200:]}")
    return sorted(times)[len(times) // 2]


def reaches_full(findings: Sequence[Finding]) -> bool:
    """Whether `Sandbox("auto")` would reach "full" here."""
    return bool(chosen(findings))


def chosen(findings: Sequence[Finding]) -> str:
    """What `Sandbox("auto")` would take here; empty where it would refuse to run."""
    full = [f.backend for f in findings if f.usable and f.level == "full"]
    return next((name for name in ("cell", "docker") if name in full), "")


def to_json(findings: Sequence[Finding]) -> str:
    """The findings for scripts: `full`, `auto`, and one object a backend under `backends`."""
    rows = [asdict(finding) for finding in findings]
    found = {"full": reaches_full(findings), "auto": chosen(findings), "backends": rows}
    return json.dumps(found, indent=2)


def to_text(findings: Sequence[Finding]) -> str:
    """The findings for people: the verdict, then a paragraph a backend."""
    name = chosen(findings)
    verdict = (
        f'Sandbox("auto") would run code in {name}, fully isolated.'
        if name
        else 'Sandbox("auto") would refuse to run code here; what mends it stands behind "do".'
    )
    lines = [verdict]
    for finding in findings:
        lines += ["", _headline(finding)]
        for word, text in _details(finding):
            if text:
                indent = " " * 11
                lines += textwrap.wrap(
                    text,
                    100,
                    initial_indent=f"  {word:<9}",
                    subsequent_indent=indent,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
    return "\n".join(lines)


def _headline(finding: Finding) -> str:
    name = finding.backend
    if finding.asked == "reduced":
        name += ' (only with minimum="reduced")'
    elif finding.backend == "process":
        name += " (only by its name)"
    speed = "" if finding.p50 is None else f", {finding.p50 * 1000:.1f} ms an execution"
    level = "isolates nothing" if finding.level == "none" else finding.level
    return f"{name}: {level}{speed}" if finding.usable else f"{name}: cannot be used"


def _details(finding: Finding) -> tuple[tuple[str, str], ...]:
    if finding.usable and finding.backend == "process":
        return ()  # it lacks everything, and nothing mends that
    return (
        ("layers", ", ".join(finding.layers)),
        ("missing", ", ".join(finding.missing)),
        ("problem", finding.problem),
        ("do", finding.advice),
    )
