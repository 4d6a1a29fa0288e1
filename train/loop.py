"""Gather, learn, publish, log: the whole of training from top to bottom."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..agents.core import Agent
from ..rollout.engine import Engine, Start
from ..rollout.trajectory import Trajectory, write_jsonl
from ..rollout.transcript import render
from . import build, checkpoint, figures, manifest
from .choices import resolve
from .config import Config, replaced
from .console import Console
from .curriculum import Curriculum, StopRule
from .evaluate import SELECTION_SEEDS, Evaluation, evaluate, write
from .learner import Learner
from .metrics import Metrics
from .recipes.policy_gradient import PolicyGradient
from .signals import Stop

SHOWN = 4  # episodes written to trajectories/ each time


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
    """What the loop itself remembers from one iteration to the next; saved with the weights."""

    iteration: int = 0
    best: tuple[float, float] = (-math.inf, -math.inf)
    best_iteration: int = 0
    stop_count: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data; JSON has no infinity."""
        return {
            "iteration": self.iteration,
            "best": [None if math.isinf(one) else one for one in self.best],
            "best_iteration": self.best_iteration,
            "stop_count": self.stop_count,
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Progress:
        """Take back what ``to_json`` gave."""
        first, second = (-math.inf if one is None else float(one) for one in row["best"])
        return cls(row["iteration"], (first, second), row["best_iteration"], row["stop_count"])


def train(
    config: Config,
    run_dir: Path,
    *,
    resume: bool = False,
    imports: Sequence[str] = (),
    console: Console | None = None,
) -> Summary:
    """Train an agent; the run directory is that of docs/architecture.md.

    Args:
        config: the settings; keys left open are chosen here (``choices.resolve``).
        run_dir: a new or empty folder, or that of the run to go on with.
        resume: go on from the last whole checkpoint, bit for bit.
        imports: modules that the caller imported because they register environments; recorded,
            so that resume and evaluation import them again.
        console: what shows progress; None: nothing.

    Raises:
        ConfigError: an impossible setting.
        CheckpointError: the folder cannot be used, or a checkpoint cannot be written.
    """
    torch.set_num_threads(config.train.threads)
    console = console or Console(quiet=True)
    checkpoint.claim(run_dir, resume=resume)

    # --- who and where -----------------------------------------------------------------------
    stages = Curriculum.of(config)
    for options in stages.every:  # a mistake in a late stage is found now
        build.env_maker(config.env.id, {**config.env.options, **options})
    probe = build.env_maker(config.env.id, {**config.env.options, **stages.last})()
    config, chosen = resolve(config, probe)
    policy = build.policy(config, probe)
    config = replaced(config, {"policy.context": policy.context})  # a model may hold less
    for line in chosen:
        console.line(line)
    console.line(build.describe(config, policy))
    reference = build.policy(config, probe) if config.kl.mode != "none" else None
    learner = Learner(policy, PolicyGradient(config), config, reference=reference)
    acting: Agent = build.agent(config, policy, probe)
    run = Run(config, run_dir, policy, learner, Progress())

    resume_from: int | None = None
    if resume:
        resume_from = run.load(console)
    manifest.open_run(run_dir, config, command=sys.argv, env_ids=[config.env.id], imports=imports)
    metrics = Metrics(
        run_dir,
        config.train.iterations,
        console,
        resume_from,
        tensorboard=config.log.tensorboard,
    )
    rule = StopRule.parse(config.train.stop_when) if config.train.stop_when else None
    judge = Judge(config, stages, policy, probe)
    sandbox = figures.SandboxMeter()
    engine: Engine | None = None
    stage: Mapping[str, Any] | None = None

    # --- the loop ----------------------------------------------------------------------------
    with Stop() as stop, contextlib.closing(metrics), contextlib.closing(judge):
        for iteration in range(run.progress.iteration + 1, config.train.iterations + 1):
            if stage != stages.at(iteration):
                stage = stages.at(iteration)
                if engine is not None:
                    engine.close()
                make = build.env_maker(config.env.id, {**config.env.options, **stage})
                engine = Engine(acting, make, run=config.seed, slots=config.rollout.slots or None)
            assert engine is not None  # the first iteration makes one

            began = time.perf_counter()
            trajectories = engine.gather(starts(config, iteration), stop=lambda: stop.requested)
            if stop.requested and len(trajectories) < config.rollout.batch:
                break  # weights have not moved: the boundary before is saved below
            gathered = time.perf_counter()

            row = figures.of_episodes(trajectories)
            row |= learner.update(trajectories, iteration)
            policy.load({}, iteration)  # moved in place: drop what old weights cached
            learned = time.perf_counter()
            row |= figures.of_time(row["rollout/tokens"], gathered - began, learned - gathered)
            row |= sandbox.since()
            run.progress.iteration = iteration

            ended = False
            if config.train.eval_every and iteration % config.train.eval_every == 0:
                row |= judge.select(run)
                if rule is not None:
                    run.progress.stop_count = run.progress.stop_count + 1 if rule.holds(row) else 0
                    ended = run.progress.stop_count >= rule.times
            metrics.write(iteration, row)
            if config.log.transcripts_every and (
                iteration == 1 or iteration % config.log.transcripts_every == 0
            ):
                show(run_dir, metrics, trajectories, iteration)
            if stop.requested or ended:
                break
            if iteration % config.train.save_every == 0:
                run.save()

        if engine is not None:
            engine.close()
        run.save()
        checkpoint.save_model(run_dir, policy.save)
        if stop.requested:
            return Summary(run_dir, run.progress.iteration, exit_code=stop.exit_code)
        summary = judge.final(run)
        metrics.settings(
            figures.of_settings(config),
            {f"final/{name}": one["success"].value for name, one in summary.evaluations.items()},
        )
        manifest.close_run(
            run_dir, {name: one.to_json() for name, one in summary.evaluations.items()}
        )
        return summary


def starts(config: Config, iteration: int) -> list[Start]:
    """Which episodes iteration ``iteration`` plays: a function of seed and iteration only.

    Attempts of one group share seed, task and randomisation.
    """
    draw = np.random.Generator(np.random.PCG64([config.seed, iteration, 0, 0]))
    groups = max(1, config.rollout.batch // config.rollout.group_size)
    seeds = draw.integers(2**20, 2**30, size=groups)
    return [
        Start(int(seed), episode=0, attempt=attempt, group=group)
        for group, seed in enumerate(seeds)
        for attempt in range(config.rollout.group_size)
    ]


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

    def close(self) -> None:
        """Close the environments."""
        self.engine.close()

    def select(self, run: Run) -> dict[str, float]:
        """Evaluate during training; keeps the weights when they are the best so far."""
        row: dict[str, float] = {}
        for name, agent in self.agents.items():
            found = evaluate(
                agent, self.engine, n=self.config.train.eval_episodes, seeds=SELECTION_SEEDS
            )
            row[f"eval/success_{name}"] = found["success"].value
            row[f"eval/return_{name}"] = found["return"].value
        score = (row["eval/success_greedy"], row["eval/success_sampled"])
        if self.config.train.keep == "best" and score > run.progress.best:
            run.progress.best, run.progress.best_iteration = score, run.progress.iteration
            run.save_best()
        return row

    def final(self, run: Run) -> Summary:
        """Judge the kept weights: greedy once, sampled four times a task."""
        kept = f"last, iteration {run.progress.iteration}"
        best = checkpoint.best(run.run_dir)
        if best is not None:
            build.restore(self.config, self.policy, best.path, best.iteration)
            kept = f"best, iteration {best.iteration}"
        n = self.config.train.eval_episodes
        evaluations = {
            "greedy": evaluate(self.agents["greedy"], self.engine, n=n),
            "sampled": evaluate(self.agents["sampled"], self.engine, n=n, attempts=4),
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


def show(
    run_dir: Path, metrics: Metrics, trajectories: Sequence[Trajectory], iteration: int
) -> None:
    """Write some episodes for later reading, and one as text for TensorBoard."""
    folder = run_dir / "trajectories"
    folder.mkdir(exist_ok=True)
    path = folder / f"iteration-{iteration:06d}.jsonl.gz"
    path.unlink(missing_ok=True)  # a resumed run writes the same ones again
    write_jsonl(path, trajectories[:SHOWN])
    metrics.text("transcript", render(trajectories[0]), iteration)
