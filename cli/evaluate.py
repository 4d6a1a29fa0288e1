"""Evaluate a run's weights, a model, or a player without weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from . import figures, players, terminal

if TYPE_CHECKING:
    from ..agents.core import Agent
    from ..envs.core import Env
    from ..train.evaluate import Evaluation
    from ..train.settings import Config

HELP = """Measure a run or a policy on tasks it never trained on.

RUN is the folder of a run: its best weights, on its environment in the last stage of its
curriculum. A policy without a run needs --env.id.

\b
Policies:
  hf:PATH_OR_NAME      a Hugging Face model
  nano, tiny, small    a transformer with random weights
  reference            says the environment's own solution
  random, silent       draw among what is legal; say nothing

\b
Examples:
  palaestra evaluate runs/NAME
  palaestra evaluate runs/NAME --n 512 --attempts 8 --k 1,8 --json
  palaestra evaluate runs/NAME --env.level 3
  palaestra evaluate --policy reference --env.id palaestra/Code-v0

Exit codes: 0 done, 2 wrong use.
"""


class Subject(NamedTuple):
    """Who is evaluated, where, and under which name in ``eval/``."""

    title: str
    agents: Mapping[str, Agent]
    make_env: Callable[[], Env]
    folder: Path | None = None
    suffix: str = ""


def command(
    context: typer.Context,
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="Folder of a run.")] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="POLICY", help="A policy in the place of a run.")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="The last weights, not the best.")] = False,
    n: Annotated[int, typer.Option(min=1, metavar="N", help="Tasks.")] = 128,
    attempts: Annotated[
        int, typer.Option(min=1, metavar="N", help="Attempts at each task, sampled.")
    ] = 4,
    k: Annotated[
        str, typer.Option(metavar="K,...", help="For which k pass@k and pass^k are estimated.")
    ] = "1",
    greedy: Annotated[bool, typer.Option("--greedy", help="The likeliest tokens only.")] = False,
    sampled: Annotated[bool, typer.Option("--sampled", help="Drawn tokens only.")] = False,
    both: Annotated[bool, typer.Option("--both", help="Both, one after the other. [default]")] = (
        False
    ),
    shield: Annotated[
        str | None, typer.Option(metavar="SHIELD", help="grammar, tokens or none, for this time.")
    ] = None,
    imports: terminal.Imports = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Evaluate."""
    if (run is None) == (policy is None):
        raise terminal.Mistake("give either the folder of a RUN or --policy POLICY.")
    if sum((greedy, sampled, both)) > 1:
        raise terminal.Mistake("give one of --greedy, --sampled and --both.")
    ways = ("greedy",) if greedy else ("sampled",) if sampled else ("greedy", "sampled")
    sizes = _sizes(k, attempts)
    terminal.bring_in(imports if run is None or imports else _recorded(run))
    overrides = _overrides(context, shield)
    if run is not None:
        subject = _of_run(run, overrides, last, ways)
    else:
        subject = _of_policy(policy or "", overrides, ways)
    found = _evaluate(subject, n, attempts, sizes)
    facts = {"policy": subject.title, "n": n, "attempts": attempts} | figures.facts(found)
    if as_json:
        terminal.say_json(facts)
        return
    terminal.say(f"{subject.title}, {n} tasks")
    for line in figures.lines(facts):
        terminal.say(line)


def _sizes(text: str, attempts: int) -> list[int]:
    try:
        sizes = [int(word) for word in text.split(",")]
    except ValueError:
        raise terminal.Mistake(f'--k: got "{text}"; give whole numbers, as 1,4.') from None
    if min(sizes) < 1:
        raise terminal.Mistake(f'--k: got "{text}"; give numbers >= 1.')
    if max(sizes) > attempts:
        raise terminal.Mistake(
            f"FB-E06: pass@{max(sizes)} was asked with {attempts} attempts a task; "
            f"give --attempts {max(sizes)} or more."
        )
    return sizes


def _recorded(run: Path) -> list[str]:
    from ..train import manifest

    return list(manifest.read(run).get("imports", []))


def _overrides(context: typer.Context, shield: str | None) -> dict[str, str]:
    overrides = terminal.overrides(context)
    for key in overrides:
        if not key.startswith("env."):
            raise terminal.Mistake(f"--{key}: evaluate takes --env.KEY only; leave it out.")
    return overrides if shield is None else overrides | {"rollout.shield": shield}


def _of_run(run: Path, overrides: Mapping[str, str], last: bool, ways: tuple[str, ...]) -> Subject:
    from ..train import build, checkpoint, config
    from ..train.curriculum import Curriculum

    trained, settings = config.load_run(run), config.load_run(run, overrides)
    policy = build.policy(trained, build.env_maker(trained.env.id, trained.env.options)())
    best = None if last else checkpoint.best(run)
    folder = run / "model" if best is None else best.path
    if not folder.is_dir():  # the run was killed before its end
        folder = checkpoint.latest(run).path
    build.restore(trained, policy, folder)
    stage = Curriculum.of(settings).last
    given = {key.split(".")[1] for key in overrides if key.startswith("env.")}
    options = {**settings.env.options, **{k: v for k, v in stage.items() if k not in given}}
    make_env = build.env_maker(settings.env.id, options)
    title = f"{run}, {folder.name}" + (f" (iteration {best.iteration})" if best else "")
    agents = _agents(settings, policy, make_env(), ways)
    words = ["last"] * last + [f"{key.rpartition('.')[2]}={overrides[key]}" for key in overrides]
    suffix = re.sub(r"[^\w.=-]+", "_", "".join(f"-{word}" for word in words))
    return Subject(title, agents, make_env, run / "eval", suffix)


def _of_policy(name: str, overrides: Mapping[str, str], ways: tuple[str, ...]) -> Subject:
    from ..train import build, choices, config

    if "env.id" not in overrides:
        raise terminal.Mistake("--policy needs --env.id ID; palaestra envs list shows the ids.")
    words = dict(overrides)
    if name.startswith("hf:"):
        words["policy.model"] = name
    elif name in ("nano", "tiny", "small"):
        words["policy.preset"] = name
    elif name not in players.NAMES:
        raise terminal.Mistake(
            f'--policy: got "{name}"; give hf:PATH_OR_NAME, nano, tiny, small or one of '
            f"{', '.join(players.NAMES)}."
        )
    settings = config.load(None, words)
    make_env = build.env_maker(settings.env.id, settings.env.options)
    title = f"{name} on {settings.env.id}"
    if name in players.NAMES:
        agent = players.player(name, make_env)
        return Subject(title, dict.fromkeys(ways, agent), make_env)
    env = make_env()
    settings, _ = choices.resolve(settings, env)
    policy = build.policy(settings, env)
    return Subject(title, _agents(settings, policy, env, ways), make_env)


def _agents(settings: Config, policy: Any, env: Env, ways: tuple[str, ...]) -> dict[str, Agent]:
    from ..train import build

    return {way: build.agent(settings, policy, env, greedy=way == "greedy") for way in ways}


def _evaluate(subject: Subject, n: int, attempts: int, sizes: list[int]) -> dict[str, Evaluation]:
    from ..train import evaluate

    found: dict[str, Evaluation] = {}
    for way, agent in subject.agents.items():
        if found and not agent.policies:
            found[way] = next(iter(found.values()))  # who has no policy plays one way only
            continue
        many = attempts if way == "sampled" else 1  # a greedy policy repeats itself
        asked = sizes if way == "sampled" else [1]
        found[way] = evaluate.evaluate(agent, subject.make_env, n=n, attempts=many, k=asked)
        if subject.folder is not None:
            evaluate.write(subject.folder, f"{way}-n{n}{subject.suffix}", found[way])
    return found
