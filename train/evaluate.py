"""How good a policy is: success, return, length, with intervals, on seeds it never trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..agents.core import Agent
from ..algos import statistics
from ..envs.core import Env
from ..rollout.engine import Engine, Start
from ..rollout.trajectory import Trajectory
from .checkpoint import write_text

# Training seeds are drawn from [2**20, 2**30): every seed below is disjoint by construction.
EVALUATION_SEEDS = 10_000
# Checkpoints are chosen on other seeds than they are judged on.
SELECTION_SEEDS = 500_000


@dataclass(frozen=True, slots=True)
class Measure:
    """A number with its 95 % interval over ``tasks`` tasks."""

    value: float
    low: float
    high: float
    tasks: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        measures: name -> number with interval (feedback.md 5.1).
        episodes: one plain row an episode: task, seed, attempt, success, return, turns, tokens.
        trajectories: the episodes, in the order of ``episodes``.
    """

    measures: Mapping[str, Measure]
    episodes: tuple[Mapping[str, Any], ...]
    trajectories: tuple[Trajectory, ...]

    def __getitem__(self, name: str) -> Measure:
        return self.measures[name]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and intervals, for ``eval/NAME.json`` and ``--json``."""
        return {name: asdict(measure) for name, measure in self.measures.items()}


def evaluate(
    agent: Agent,
    make_env: Callable[[], Env] | Engine,
    *,
    n: int = 128,
    attempts: int = 1,
    k: Sequence[int] = (1,),
    seeds: int = EVALUATION_SEEDS,
    run: int = 0,
    slots: int | None = 256,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Play ``n`` tasks ``attempts`` times each and measure.

    Noise of the sampler is a function of (seed, attempt), so two policies see the same numbers.

    Args:
        agent: who plays.
        make_env: makes an environment, or an engine whose agent is replaced for this evaluation.
        n: tasks; task i is drawn by seed ``seeds + i``.
        attempts: how often each task is played.
        k: for which k pass@k and pass^k are estimated; at most ``attempts``.
        seeds: the first seed.
        run: part of every random key.
        slots: episodes side by side.
        stop: asked between decode steps; True ends the evaluation.

    Raises:
        ValueError: a k is larger than ``attempts``.
        InterruptedError: ``stop`` answered True.
    """
    if max(k, default=1) > attempts:
        most = max(k)
        raise ValueError(f"k={most} wants {most} attempts a task, got {attempts}; raise attempts")
    engine = make_env if isinstance(make_env, Engine) else Engine(agent, make_env, slots=slots)
    engine.agent, engine.run = agent, run
    starts = [
        Start(seeds + task, attempt=attempt, group=task)
        for task in range(n)
        for attempt in range(attempts)
    ]
    try:
        with torch.no_grad():
            trajectories = engine.gather(starts, stop=stop)
    finally:
        if engine is not make_env:
            engine.close()
    if len(trajectories) < len(starts):
        raise InterruptedError("the evaluation was stopped")
    return measure(trajectories, k=k)


def measure(trajectories: Sequence[Trajectory], *, k: Sequence[int] = (1,)) -> Evaluation:
    """Measures of episodes already played; ``identity.group`` says which share a task."""
    kept = [one for one in trajectories if not one.outcome.excluded]
    rows = [_row(one) for one in trajectories]
    tasks: dict[int, list[Trajectory]] = {}
    for one in kept:
        tasks.setdefault(one.identity.group, []).append(one)
    measures: dict[str, Measure] = {}

    def over(name: str, read: Callable[[Trajectory], float]) -> None:
        clusters = [[read(one) for one in group] for group in tasks.values()]
        measures[name] = _interval(clusters, binary=name == "success")

    over("success", lambda one: float(bool(one.outcome.success)))
    over("return", lambda one: one.outcome.total)
    over("turns", lambda one: float(one.turns))
    over("tokens", lambda one: float(len(one.actions)))
    over("tool_errors", lambda one: float(sum(one.outcome.problems.values())))
    for size in k:
        # a task that lost attempts to a failure of ours says nothing about more than it has left
        groups = [group for group in tasks.values() if len(group) >= size]
        won = torch.tensor([sum(bool(one.outcome.success) for one in group) for group in groups])
        played = torch.tensor([len(group) for group in groups])
        if size > 1:
            for name, estimate in (("@", statistics.pass_at_k), ("^", statistics.pass_hat_k)):
                found = estimate(won, played, k=size)
                measures[f"pass{name}{size}"] = _interval([[float(value)] for value in found])
    return Evaluation(measures, tuple(rows), tuple(trajectories))


def write(folder: Path, name: str, evaluation: Evaluation) -> Path:
    """Write ``NAME.json`` (numbers and intervals) and ``NAME.jsonl`` (a line an episode)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_text(path, json.dumps(evaluation.to_json(), indent=1) + "\n")
    lines = [json.dumps(row, ensure_ascii=False) for row in evaluation.episodes]
    write_text(folder / f"{name}.jsonl", "\n".join(lines) + "\n")
    return path


def _interval(clusters: Sequence[Sequence[float]], *, binary: bool = False) -> Measure:
    """Wilson for a yes or no a task, else a bootstrap over whole tasks.

    Where all tasks agree a bootstrap would claim certainty, so those, too, get Wilson's.
    """
    if not clusters:
        return Measure(math.nan, math.nan, math.nan, 0)
    single = all(len(cluster) == 1 for cluster in clusters)
    agreed = len({value for cluster in clusters for value in cluster}) == 1
    if binary and (single or agreed):
        found = statistics.wilson(round(sum(cluster[0] for cluster in clusters)), len(clusters))
    else:
        values = [value for cluster in clusters for value in cluster]
        samples = torch.tensor(values, dtype=torch.float64)
        labels = [at for at, cluster in enumerate(clusters) for _ in cluster]
        found = statistics.cluster_bootstrap(samples, torch.tensor(labels), draws=1_000)
    return Measure(found.estimate, found.low, found.high, len(clusters))


def _row(one: Trajectory) -> dict[str, Any]:
    return {
        "task": one.identity.task,
        "seed": one.identity.seed,
        "attempt": one.identity.attempt,
        "success": one.outcome.success,
        "return": one.outcome.total,
        "turns": one.turns,
        "tokens": len(one.actions),
        "reason": one.outcome.reason,
        "terms": one.terms(),
        "problems": dict(one.outcome.problems),
        "excluded": one.outcome.excluded,
    }
