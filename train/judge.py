"""How good the weights of a run are, and which of them are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..rollout.engine import Engine
from . import build, checkpoint, figures
from .config import Config
from .console import Console
from .curriculum import Curriculum
from .evaluate import SELECTION_SEEDS, Evaluation, evaluate, write
from .learner import Learner


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to.

    Attributes:
        iteration: iterations done.
        evaluations: ``success_greedy`` and ``success_sampled`` runs of the kept weights; empty
            when the run was stopped by a signal.
        transcript: one episode in which the agent recovered from a failed try, if there is one.
        exit_code: 0, or 128 + the signal that stopped the run.
        kept: which weights were evaluated, as "best, iteration 150".
    """

    run_dir: Path
    iteration: int
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict[str, Evaluation])
    transcript: str = ""
    exit_code: int = 0
    kept: str = ""


@dataclass(slots=True)
class Progress:
    """What the loop itself remembers from one iteration to the next; saved with the weights.

    ``owed`` holds the figures of an iteration whose evaluation was interrupted: the weights have
    moved, the row is not yet written. A resumed run begins by judging and writing it.
    """

    iteration: int = 0
    best: tuple[float, float] = (-math.inf, -math.inf)
    best_iteration: int = 0
    stop_count: int = 0
    owed: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data; JSON has no infinity."""
        return {
            "iteration": self.iteration,
            "best": [None if math.isinf(one) else one for one in self.best],
            "best_iteration": self.best_iteration,
            "stop_count": self.stop_count,
            "owed": self.owed,
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Progress:
        """Take back what ``to_json`` gave."""
        first, second = (-math.inf if one is None else float(one) for one in row["best"])
        rest = (row["best_iteration"], row["stop_count"], row.get("owed"))
        return cls(row["iteration"], (first, second), *rest)


@dataclass(slots=True)
class Run:
    """The part of a run that is saved: weights, optimiser, counters."""

    config: Config
    run_dir: Path
    policy: Any
    learner: Learner
    progress: Progress

    def parts(self) -> dict[str, checkpoint.Part]:
        """What a checkpoint holds."""
        return {
            "model": self.policy.save,
            "trainer_state.json": self.progress.to_json(),
            "optimizer.pt": self.learner.state_dict(),
        }

    def save(self) -> None:
        """Write the checkpoint of this iteration."""
        checkpoint.save(
            self.run_dir, self.progress.iteration, self.parts(), keep=self.config.train.checkpoints
        )

    def save_best(self) -> None:
        """Write the best checkpoint so far."""
        checkpoint.save_best(self.run_dir, self.progress.iteration, self.parts())

    def load(self, console: Console) -> int:
        """Go back to the last whole checkpoint; returns its iteration."""
        found = checkpoint.latest(self.run_dir)
        for line in found.skipped:
            console.line(f"{line}; going on from {found.path.name}")
        build.restore(self.config, self.policy, found.path, found.iteration)
        self.learner.load_state_dict(found.tensors("optimizer.pt"))
        self.progress = Progress.of(found.json("trainer_state.json"))
        return found.iteration


class Judge:
    """Plays the policy on seeds it never trains on, in the last stage of the curriculum."""

    def __init__(self, config: Config, stages: Curriculum, policy: Any, env: Any) -> None:
        self.config = config
        self.policy = policy
        self.agents = {
            "greedy": build.agent(config, policy, env, greedy=True),
            "sampled": build.agent(config, policy, env),
        }
        make = build.env_maker(config.env.id, {**config.env.options, **stages.last})
        self.engine = Engine(self.agents["sampled"], make, slots=256)
        self.engine.give(env)

    def due(self, iteration: int) -> bool:
        """Whether the weights are judged after an iteration."""
        every = self.config.train.eval_every
        return every > 0 and iteration % every == 0

    def close(self) -> None:
        """Close the environments."""
        self.engine.close()

    def select(self, run: Run, stop: Callable[[], bool]) -> dict[str, float]:
        """Evaluate during training; keeps the weights when they are the best so far.

        Raises:
            InterruptedError: ``stop`` answered True; nothing has changed.
        """
        row: dict[str, float] = {}
        for name, agent in self.agents.items():
            n = self.config.train.eval_episodes
            found = evaluate(agent, self.engine, n=n, seeds=SELECTION_SEEDS, stop=stop)
            row[f"eval/success_{name}"] = found["success"].value
            row[f"eval/return_{name}"] = found["return"].value
        score = (row["eval/success_greedy"], row["eval/success_sampled"])
        if self.config.train.keep == "best" and score > run.progress.best:
            run.progress.best, run.progress.best_iteration = score, run.progress.iteration
            run.save_best()
        return row

    def final(self, run: Run, stop: Callable[[], bool]) -> Summary:
        """Judge the kept weights: greedy once, sampled four times a task.

        Raises:
            InterruptedError: ``stop`` answered True.
        """
        kept = f"last, iteration {run.progress.iteration}"
        best = checkpoint.best(run.run_dir)
        if best is not None:
            build.restore(self.config, self.policy, best.path, best.iteration)
            kept = f"best, iteration {best.iteration}"
        n = self.config.train.eval_episodes
        evaluations = {
            "greedy": evaluate(self.agents["greedy"], self.engine, n=n, stop=stop),
            "sampled": evaluate(self.agents["sampled"], self.engine, n=n, attempts=4, stop=stop),
        }
        for name, one in evaluations.items():
            write(run.run_dir / "eval", name, one)
        return Summary(
            run.run_dir,
            run.progress.iteration,
            evaluations,
            figures.telling_transcript(evaluations["greedy"].trajectories),
            kept=kept,
        )
