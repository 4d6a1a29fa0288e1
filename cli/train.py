"""Train from a preset, a TOML file or flags."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args, get_origin

import typer

from . import figures, terminal

if TYPE_CHECKING:
    from ..train.config import Config
    from ..train.fields import Leaf
    from ..train.loop import Summary

MOST_USED = (
    "train.iterations",
    "env.id",
    "policy.preset",
    "rollout.batch",
    "rollout.temperature",
    "rollout.group_size",
    "algo.name",
    "algo.estimator",
    "algo.clip",
    "optim.lr",
    "entropy.start",
    "kl.coef",
)
MAY_DIFFER = "train.iterations"


def _line(leaf: Leaf, value: object) -> str:
    shown = str(value).strip("()")
    words = {"True": "true", "False": "false", "": "none"}.get(shown, shown)
    one_of = f": {', '.join(get_args(leaf.type))}" if get_origin(leaf.type) is Literal else ""
    return f"  --{leaf.key:<26} {leaf.help}{one_of} [{words}]"


def _keys(names: Sequence[str] | None = None) -> str:
    from ..train import config

    known = {key: leaf for key, leaf in config.keys().items() if not leaf.hidden}
    preset = config.load(preset=config.DEFAULT_PRESET, environ={})
    lines = [_line(known[key], config.value(preset, key)) for key in (names or known)]
    lines.append("  --env.KEY VALUE              an argument of the environment, as --env.level 1")
    lines.append("  --env.reward.NAME WEIGHT     the weight of one of its reward terms")
    return "\n".join(lines)


HELP = """Train a policy; without arguments the preset drill-code.

CONFIG is a TOML file over the preset; keys may be given as flags, --dotted.key VALUE, and as
variables, PALAESTRA_OPTIM_LR=1e-3. A later one wins: preset, file, variables, flags.

\b
The most used keys (all of them: palaestra train --keys):
KEYS

\b
Examples:
  palaestra train --quick
  palaestra train --seed 1 --optim.lr 1e-3 --run runs/slower
  palaestra train --resume runs/slower --train.iterations 300
  palaestra train --import my_env --env.id my/Env-v0

Exit codes: 0 done, 2 wrong use, 130 stopped by Ctrl-C (saved: go on with --resume).
"""


def explained() -> str:
    """The help of the command, with the most used keys as they are."""
    return HELP.replace("KEYS", _keys(MOST_USED))


OPTIONS = frozenset(
    ("preset", "run", "resume", "seed", "quick", "policy", "import", "dry-run", "quiet", "keys")
)


def refuse_words(words: Sequence[str]) -> None:
    """Refuse ``--iterations`` and its like with the dotted key that was meant.

    Raises:
        Mistake: an option that is the last part of a dotted key.
    """
    from ..train import config

    tails = {key.rpartition(".")[2]: key for key in reversed(config.keys())}
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name not in OPTIONS and name.replace("-", "_") in tails:
            key = tails[name.replace("-", "_")]
            raise terminal.Mistake(f"--{name}: no such option; did you mean --{key}?")


def command(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="TOML file over the preset.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Settings by name. [drill-code]")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the run. [runs/ENV-seedN-DATE]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with the run in DIR, exactly.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="The run's one seed. [0]")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Level 1, 80 iterations.")] = False,
    policy: Annotated[
        str | None, typer.Option(metavar="POLICY", help="nano, tiny, small, or hf:PATH_OR_NAME.")
    ] = None,
    imports: terminal.Imports = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the config and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the end.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Print every config key and stop.")] = False,
) -> None:
    """Train: settings, folder, loop, the last words."""
    from ..train import checkpoint, config

    if keys:
        terminal.say(_keys())
        return
    overrides = _overrides(context, seed, policy)
    if resume is None:
        base = preset or config.DEFAULT_PRESET
        settings = config.load(path, overrides, preset=base, quick=quick, environ=os.environ)
    elif run or preset or quick:
        raise terminal.Mistake(
            "--resume goes on with its own settings; leave out --run, --preset and --quick."
        )
    else:
        settings = _again(resume, path, overrides)
    modules = terminal.bring_in(imports or _recorded(resume))
    if dry_run:
        _dry(settings)
        return
    run_dir = resume or run or _new_folder(settings)
    checkpoint.claim(run_dir, resume=resume is not None)
    summary = _train(settings, run_dir, resume is not None, modules, quiet)
    _last_words(summary, run_dir)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


def _train(
    settings: Config, run_dir: Path, resume: bool, modules: tuple[str, ...], quiet: bool
) -> Summary:
    from ..train import loop
    from ..train.console import Console

    console = Console(quiet=quiet)
    try:
        return loop.train(settings, run_dir, resume=resume, imports=modules, console=console)
    except KeyboardInterrupt:  # before the loop watches signals, or the second one
        terminal.note("interrupted at once; what was saved before is whole")
        raise typer.Exit(terminal.INTERRUPTED) from None
    finally:
        console.stop()


def _overrides(context: typer.Context, seed: int | None, policy: str | None) -> dict[str, str]:
    found = terminal.overrides(context)
    if seed is not None:
        found["seed"] = str(seed)
    if policy is None:
        return found
    if policy.startswith("hf:"):
        folder = Path(policy.removeprefix("hf:"))
        found["policy.model"] = f"hf:{folder.resolve()}" if folder.is_dir() else policy
    elif policy in ("nano", "tiny", "small"):
        found["policy.preset"] = policy
    else:
        raise terminal.Mistake(
            f'--policy: got "{policy}"; give nano, tiny or small (from scratch), or '
            "hf:PATH_OR_NAME (a Hugging Face model)."
        )
    return found


def _again(run_dir: Path, path: Path | None, overrides: Mapping[str, str]) -> Config:
    """The settings of a run that goes on: its own, and perhaps more iterations.

    Raises:
        Mistake: a file, a variable or a flag differs from what the run was made with.
    """
    from ..train import checkpoint, config

    checkpoint.claim(run_dir, resume=True)
    saved = config.load_run(run_dir)
    wanted = config.load_run(run_dir, overrides, path=path, environ=os.environ)
    differ = {
        key: values for key, values in config.difference(saved, wanted).items() if key != MAY_DIFFER
    }
    if differ:
        lines = "".join(
            f"\n  {key}: the run has {before}, asked for {after}"
            for key, (before, after) in differ.items()
        )
        raise terminal.Mistake(
            f"{run_dir} was made with another config; only {MAY_DIFFER} may differ. Leave these "
            f"out, or start a new run with --run:{lines}"
        )
    return wanted


def _recorded(resume: Path | None) -> list[str] | None:
    """The modules a run was started with."""
    from ..train import manifest

    return None if resume is None else list(manifest.read(resume).get("imports", []))


def _new_folder(settings: Config) -> Path:
    name = settings.env.id.rpartition("/")[2]
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    first = Path("runs") / f"{name}-seed{settings.seed}-{stamp}"
    others = (first.with_name(f"{first.name}-{number}") for number in range(2, 1_000))
    return next(path for path in (first, *others) if not path.exists())


def _dry(settings: Config) -> None:
    from ..train import build, choices, config
    from ..train.curriculum import Curriculum

    last = Curriculum.of(settings).last
    env = build.env_maker(settings.env.id, {**settings.env.options, **last})()
    effective, lines = choices.resolve(settings, env)
    for line in lines:
        terminal.note(line)
    terminal.say(config.to_toml(effective).rstrip())


def _last_words(summary: Summary, run_dir: Path) -> None:
    if summary.exit_code:
        terminal.say(
            f"stopped and saved after {summary.iteration} iterations; go on with: "
            f"palaestra train --resume {run_dir}"
        )
        return
    if summary.evaluations:
        terminal.say(f"\non tasks never trained on ({summary.kept}):")
        for line in figures.lines(figures.facts(summary.evaluations)):
            terminal.say(line)
    if summary.transcript:
        terminal.say(f"\nan episode of the agent:\n{summary.transcript.rstrip()}")
    terminal.say(
        f"\nthe run is in {run_dir}; next:\n"
        f"  tensorboard --logdir {run_dir}\n"
        f"  palaestra show {run_dir}\n"
        f"  palaestra evaluate {run_dir} --n 512"
    )
