"""What episodes and time say, as TensorBoard tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """What the process's shared sandbox did from one iteration to the next.

    Tags that depend on the clock hold "second", "latency" or "time"; all others are equal after
    a resume.
    """

    def __init__(self) -> None:
        self._before = outside.sandbox_stats()

    def since(self) -> dict[str, float]:
        """Figures since the last call; nothing where no sandbox was used."""
        now, before = outside.sandbox_stats(), self._before
        self._before = now
        if now is None or (before is not None and now.executions == before.executions):
            return {}

        def more(read: Callable[[Any], float]) -> float:
            return read(now) - (read(before) if before is not None else 0.0)

        return {
            "sandbox/timeouts": more(lambda one: one.reasons["timeout"]),
            "sandbox/memory_kills": more(lambda one: one.reasons["memory"]),
            "sandbox/lost": more(lambda one: one.lost),
            "sandbox/malformed": more(lambda one: one.malformed),
            "sandbox/queue_wait_seconds": more(lambda one: one.queue_wait),
            "sandbox/latency_p50": now.run.quantile(0.5),
            "sandbox/latency_p99": now.run.quantile(0.99),
            "sandbox/busy_time": more(lambda one: one.run.total),
        }


def telling_transcript(trajectories: Sequence[Trajectory]) -> str:
    """The successful episode with the most turns: the one in which most tries failed first."""
    won = [one for one in trajectories if one.outcome.success]
    return render(max(won, key=lambda one: one.turns)) if won else ""
