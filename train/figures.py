"""What episodes and time say, as TensorBoard tags."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

from ..envs import outside
from ..rollout.trajectory import Trajectory
from ..rollout.transcript import render
from .settings import Config


def of_episodes(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Success, return, lengths, terms, costs and mistakes of one iteration's episodes."""
    kept = [one for one in trajectories if not one.outcome.excluded]
    row = {
        "rollout/tokens": float(sum(len(one.actions) for one in trajectories)),
        "batch/distinct_tasks": float(len({one.identity.seed for one in kept})),
    }
    if not kept:
        return row

    def mean(read: Callable[[Trajectory], float]) -> float:
        return sum(map(read, kept)) / len(kept)

    row |= {
        "train/success": mean(lambda one: float(bool(one.outcome.success))),
        "rollout/return": mean(lambda one: one.outcome.total),
        "rollout/length": mean(lambda one: float(len(one.actions))),
        "rollout/truncated": mean(lambda one: float(one.outcome.truncated)),
        "episode/turns": mean(lambda one: float(one.turns)),
        "episode/tokens": mean(lambda one: float(len(one.tokens))),
        "env/tool_errors": mean(lambda one: float(sum(one.outcome.problems.values()))),
    }
    if all(one.outcome.potentials for one in kept):
        row["train/frac"] = mean(
            lambda one: sum(one.outcome.potentials.values()) / len(one.outcome.potentials)
        )
    totals = [one.terms() for one in kept]
    for term in sorted({name for terms in totals for name in terms}):
        row[f"reward/{term}"] = sum(terms.get(term, 0.0) for terms in totals) / len(kept)
    for cost in sorted({name for one in kept for name in one.costs}):
        row[f"cost/{cost}"] = mean(
            lambda one, cost=cost: float(one.costs[cost].sum()) if cost in one.costs else 0.0
        )
    for name in sorted({name for one in kept for name in one.identity.params}):
        values = [one.identity.params.get(name) for one in kept]
        numbers = [float(value) for value in values if isinstance(value, bool | int | float)]
        if numbers:
            row[f"domain/{name}"] = sum(numbers) / len(numbers)
    return row


def of_time(tokens: float, gather: float, learn: float) -> dict[str, float]:
    """Where the seconds went."""
    return {
        "rollout/tokens_per_second": tokens / max(gather, 1e-9),
        "time/gather_seconds": gather,
        "time/learn_seconds": learn,
    }


def of_settings(config: Config) -> dict[str, Any]:
    """The settings as flat dotted keys, for TensorBoard's hparams tab."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if is_dataclass(value):
            for one in fields(value):
                if one.compare:
                    walk(f"{prefix}.{one.name}" if prefix else one.name, getattr(value, one.name))
        elif isinstance(value, bool | int | float | str):
            flat[prefix] = value
        elif isinstance(value, dict):
            for key, item in cast(dict[str, Any], value).items():
                walk(f"{prefix}.{key}", item)

    walk("", config)
    return flat


class SandboxMeter:
    """What the process's shared sandbox did from one call to the next.

    Tags that depend on the clock hold "second", "latency", "time" or "memory"; all others are
    equal after a resume.
    """

    def __init__(self) -> None:
        self._before = outside.sandbox_stats()
        self._when = time.perf_counter()

    def since(self) -> dict[str, float]:
        """Figures since the last call; nothing where no sandbox was used."""
        now, before = outside.sandbox_stats(), self._before
        when, began = time.perf_counter(), self._when
        self._before, self._when = now, when
        if now is None or (before is not None and now.executions == before.executions):
            return {}

        def more(read: Callable[[Any], float]) -> float:
            return float(read(now) - (read(before) if before is not None else 0))

        executions = more(lambda one: one.executions)
        run = now.run if before is None else now.run.less(before.run)
        row = {
            "sandbox/executions": executions,
            "sandbox/executions_per_second": executions / max(when - began, 1e-9),
            "sandbox/latency_p50": run.quantile(0.5),
            "sandbox/latency_p99": run.quantile(0.99),
            "sandbox/timeouts": more(lambda one: one.reasons["timeout"]),
            "sandbox/memory_kills": more(lambda one: one.reasons["memory"]),
            "sandbox/lost": more(lambda one: one.lost),
            "sandbox/malformed": more(lambda one: one.malformed),
            "sandbox/queue_wait_seconds": more(lambda one: one.queue_wait),
            "sandbox/busy_time": run.total,
        }
        graded = more(lambda one: one.graded)
        if graded:
            row["sandbox/graded_pass"] = more(lambda one: one.graded_passed) / graded
        return row


class Alarm:
    """Flags that lost or malformed answers rise while reward does: an attack on the grader.

    The last `WINDOW` iterations are compared half with half. Accidents scatter by about the root
    of their number, so only a rise of more than twice that counts: the first lost worker of a run
    is no alarm, three in ten iterations after none are.

    Args:
        rows: those of the iterations before, of which a resumed run has some.
    """

    WINDOW = 20

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=self.WINDOW)
        self._on = False
        for row in rows:
            self.watch(row)

    def watch(
        self, row: Mapping[str, Any], say: Callable[[str], None] | None = None
    ) -> dict[str, float]:
        """Take in an iteration.

        Args:
            row: its figures, by tag.
            say: gets one line when the alarm trips.

        Returns:
            The tag `sandbox/alarm`, 0 or 1; nothing where no sandbox was used.
        """
        if "sandbox/lost" not in row:
            return {}
        bad = (row.get("sandbox/lost") or 0.0) + (row.get("sandbox/malformed") or 0.0)
        self._seen.append((bad, row.get("rollout/return") or 0.0))
        was, self._on = self._on, self._rising()
        if self._on and not was and say is not None:
            say(self._words())
        return {"sandbox/alarm": float(self._on)}

    def _halves(self) -> tuple[float, float, float, float]:
        """Bad answers, then mean returns, of the earlier and the later half."""
        half = self.WINDOW // 2
        early, late = list(self._seen)[:half], list(self._seen)[half:]
        bad = sum(one for one, _ in early), sum(one for one, _ in late)
        returns = sum(one for _, one in early) / half, sum(one for _, one in late) / half
        return (*bad, *returns)

    def _rising(self) -> bool:
        if len(self._seen) < self.WINDOW:
            return False
        before, after, low, high = self._halves()
        return after > before + 2.0 * math.sqrt(before + 1.0) and high > low

    def _words(self) -> str:
        before, after, low, high = self._halves()
        return (
            f"sandbox alarm: {after:.0f} answers lost or malformed in the last "
            f"{self.WINDOW // 2} iterations, {before:.0f} in as many before, while the mean "
            f"return rose from {low:.3f} to {high:.3f}; read transcripts: the policy may have "
            "found a way to break its grader"
        )


def telling_transcript(trajectories: Sequence[Trajectory]) -> str:
    """The successful episode with the most turns: the one in which most tries failed first."""
    won = [one for one in trajectories if one.outcome.success]
    return render(max(won, key=lambda one: one.turns)) if won else ""
