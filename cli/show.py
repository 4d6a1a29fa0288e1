"""Show a run: settings, curves, transcripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..rollout.trajectory import Trajectory

HELP = """Show a run: what it was, how it went, what the agent said.

\b
Examples:
  palaestra show runs/NAME
  palaestra show runs/NAME --transcripts 5
  palaestra show runs/NAME --json
"""

TAGS = (
    "train/success",
    "train/frac",
    "rollout/return",
    "policy/entropy_nonforced",
    "policy/kl_update",
    "eval/success_greedy",
    "eval/success_sampled",
)
ROWS = 12


def command(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    transcripts: Annotated[
        int, typer.Option(min=0, help="How many transcripts to print, the last ones.")
    ] = 1,
    as_json: terminal.AsJson = False,
) -> None:
    """Print a run."""
    terminal.refuse_overrides(context)
    from ..train import manifest, metrics

    if not (run / "config.toml").is_file():
        raise terminal.Mistake(f"{run} holds no run (no config.toml); give the folder of a run.")
    rows = metrics.read(run)
    facts = manifest.read(run)
    if as_json:
        terminal.say_json({"run": str(run), "manifest": facts, "metrics": rows})
        return
    terminal.say(_head(run, facts, rows))
    for line in curve(rows):
        terminal.say(line)
    for trajectory in _last(run, transcripts):
        from ..rollout import transcript

        terminal.say("\n" + transcript.render(trajectory).rstrip())


def _head(run: Path, facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    from ..train import config

    settings = config.load_run(run)
    done = rows[-1]["iteration"] if rows else 0
    policy = settings.policy.model or settings.policy.preset
    versions = facts.get("versions", {})
    return (
        f"{run}: {settings.env.id}, policy {policy}, {settings.algo.name} with "
        f"{settings.algo.estimator} credit, seed {settings.seed}, "
        f"{done} of {settings.train.iterations} iterations"
        + (f", palaestra {versions['palaestra']}" if "palaestra" in versions else "")
    )


def curve(rows: Sequence[dict[str, Any]], most: int = ROWS) -> list[str]:
    """The rows of a run as a table of at most ``most`` lines, the last row among them.

    Args:
        rows: as ``metrics.read`` gives them.
        most: lines under the head.
    """
    tags = [tag for tag in TAGS if any(row.get(tag) is not None for row in rows)]
    if not rows:
        return ["no iteration was finished yet"]
    step = -(-len(rows) // most)
    chosen = rows[len(rows) - 1 :: -step][::-1]
    last: dict[str, Any] = {}
    filled: dict[int, dict[str, Any]] = {}
    for row in rows:  # an evaluation stands until the next one
        last |= {tag: row[tag] for tag in tags if row.get(tag) is not None}
        filled[row["iteration"]] = dict(last)
    names = [tag.rpartition("/")[2] for tag in tags]
    widths = [max(8, len(name)) for name in names]
    head = "  ".join(
        ["iteration", *(f"{name:>{w}}" for name, w in zip(names, widths, strict=True))]
    )
    return [head] + [
        "  ".join(
            [
                f"{row['iteration']:>9}",
                *(
                    f"{filled[row['iteration']].get(tag, float('nan')):>{width}.4f}"
                    for tag, width in zip(tags, widths, strict=True)
                ),
            ]
        )
        for row in chosen
    ]


def _last(run: Path, count: int) -> list[Trajectory]:
    """The last sampled trajectories of a run; none where none were kept."""
    from ..rollout import trajectory

    found: list[Trajectory] = []
    for path in sorted((run / "trajectories").glob("*.jsonl*"), reverse=True):
        if len(found) >= count:
            break
        found += list(trajectory.read_jsonl(path))[: count - len(found)]
    return found
