"""Gather, learn, publish, log: the whole of training from top to bottom."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from .judge import Judge, Progress, Run, Summary
from .learner import Learner
from .metrics import Metrics, read
from .recipes.policy_gradient import PolicyGradient
from .signals import Stop

SHOWN = 4  # episodes written to trajectories/ each time


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
    rule = StopRule.parse(config.train.stop_when)
    judge = Judge(config, stages, policy, probe)
    sandbox = figures.SandboxMeter()
    owed = [run.progress.owed] if run.progress.owed is not None else []
    alarm = figures.Alarm([*read(run_dir), *owed])
    engine: Engine | None = None
    stage: Mapping[str, Any] | None = None

    # --- the loop ----------------------------------------------------------------------------
    with (
        contextlib.closing(judge),
        contextlib.ExitStack() as engines,
        contextlib.closing(metrics),
        Stop() as stop,
    ):

        def asked_to_stop() -> bool:
            return stop.requested

        def conclude(row: dict[str, float]) -> None:
            """Judge the weights where that is due, write the row."""
            run.progress.owed = row
            if judge.due(run.progress.iteration):
                row = row | judge.select(run, asked_to_stop)
            if rule is not None:
                run.progress.stop_count = rule.count(run.progress.stop_count, row)
            metrics.write(run.progress.iteration, row)
            run.progress.owed = None

        def over() -> bool:
            """Whether the run has come to its end, or is to be stopped."""
            ruled = rule is not None and run.progress.stop_count >= rule.times
            return stop.requested or ruled or run.progress.iteration >= config.train.iterations

        with contextlib.suppress(InterruptedError):  # within an evaluation, which is now owed
            if run.progress.owed is not None:  # stopped while it was judged
                conclude(run.progress.owed)
            while not over():
                iteration = run.progress.iteration + 1
                if engine is None or stage != stages.at(iteration):
                    stage = stages.at(iteration)
                    engines.close()
                    make = build.env_maker(config.env.id, {**config.env.options, **stage})
                    slots = config.rollout.slots or None
                    engine = Engine(acting, make, run=config.seed, slots=slots)
                    engines.callback(engine.close)
                sandbox.since()  # what evaluations did is no part of the iteration

                began = time.perf_counter()
                trajectories = engine.gather(starts(config, iteration), stop=asked_to_stop)
                if len(trajectories) < config.rollout.batch:
                    break  # stopped; weights have not moved: the boundary before is saved below
                gathered = time.perf_counter()

                row = figures.of_episodes(trajectories)
                row |= learner.update(trajectories, iteration)
                policy.load({}, iteration)  # moved in place: drop what old weights cached
                learned = time.perf_counter()
                row |= figures.of_time(row["rollout/tokens"], gathered - began, learned - gathered)
                row |= sandbox.since()
                row |= alarm.watch(row, console.line)
                run.progress.iteration = iteration

                every = config.log.transcripts_every
                if every and (iteration == 1 or iteration % every == 0):
                    show(run_dir, metrics, trajectories, iteration)
                conclude(row)
                if iteration % config.train.save_every == 0 and not over():
                    run.save()
        run.save()
        checkpoint.save_model(run_dir, policy.save)
        summary = Summary(run_dir, run.progress.iteration)
        with contextlib.suppress(InterruptedError):
            summary = judge.final(run, asked_to_stop)
        if stop.requested:
            return replace(summary, evaluations={}, transcript="", exit_code=stop.exit_code)
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
