"""List, describe, check and play environments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from . import games, players, terminal

if TYPE_CHECKING:
    from ..envs.core import Env

VIEWS = ("turn", "tool", "token")

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
Id = Annotated[str, typer.Argument(metavar="ID", help="An id, as palaestra/CodeDrill-v0.")]


@app.command("list")
def list_(
    context: typer.Context,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Only those that hold TEXT.")
    ] = None,
    imports: terminal.Imports = None,
    as_json: terminal.AsJson = False,
) -> None:
    """List the environments: id and one sentence; plug-ins are marked."""
    terminal.refuse_overrides(context)
    terminal.bring_in(imports)
    from ..envs import registry

    rows = [asdict(entry) | {"views": VIEWS} for entry in registry.entries()]
    if text is not None:
        rows = [row for row in rows if text.lower() in f"{row['id']} {row['summary']}".lower()]
    if as_json:
        terminal.say_json(rows)
        return
    width = max((len(str(row["id"])) for row in rows), default=0)
    for row in rows:
        mark = f" (plug-in {row['plugin']})" if row["plugin"] else ""
        terminal.say(f"{row['id']:<{width}}  {row['summary']}{mark}")
    if not rows:
        terminal.note(f'no environment holds "{text}"; palaestra envs list shows all.')


@app.command()
def describe(
    context: typer.Context,
    identity: Id,
    imports: terminal.Imports = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Describe an environment: views, tools, reward terms, limits, tasks."""
    terminal.refuse_overrides(context)
    terminal.bring_in(imports)
    from ..envs import registry

    found = registry.describe(identity)
    if as_json:
        terminal.say_json(found)
        return
    for line in page(found):
        terminal.say(line)


def page(found: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a description.

    Args:
        found: as ``envs.registry.describe`` gives it.
    """
    yield f"{found['id']}: {found['summary']}"
    for title, value in found.items():
        if title in ("id", "summary") or value in ("", None, {}, []):
            continue
        if title == "doc":
            yield from ("", *str(value).splitlines())
        elif isinstance(value, Mapping):
            yield f"\n{title.replace('_', ' ')}"
            for name, part in cast(Mapping[str, Any], value).items():
                yield f"  {name:<18} {_short(part)}"
        elif title == "tools":
            yield "\ntools"
            for tool in cast(list[dict[str, Any]], value):
                yield f"  {json.dumps(tool, ensure_ascii=False)}"
        else:
            yield f"{title.replace('_', ' ')}: {_short(value)}"


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        items = cast(Mapping[str, object], value).items()
        return ", ".join(f"{name} {_short(part)}" for name, part in items)
    if isinstance(value, list | tuple):
        return " to ".join(str(part) for part in cast(list[object], value))
    return str(value)


@app.command()
def check(
    context: typer.Context,
    identity: Id,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer examples of each law.")] = False,
    view: Annotated[
        list[str] | None,
        typer.Option("--view", metavar="VIEW", help="turn, tool or token; may be repeated."),
    ] = None,
    imports: terminal.Imports = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Check an environment against the laws every environment keeps.

    Exit codes: 0 it keeps them, 1 it does not, 2 wrong use.
    """
    for name in view or ():
        if name not in VIEWS:
            raise terminal.Mistake(f'--view: got "{name}"; give {", ".join(VIEWS)}.')
    make = _maker(context, identity, imports)
    make()  # a wrong argument is a mistake of the command line, not a broken law
    from ..testing import conformance

    report = conformance.check_environment(make, views=tuple(view or VIEWS), quick=quick)
    if as_json:
        terminal.say_json(report.to_json())
    else:
        terminal.say(str(report))
    if not report.ok:
        raise typer.Exit(terminal.FAILED)


@app.command()
def play(
    context: typer.Context,
    identity: Id,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Seed of the episode. [fresh]")
    ] = None,
    policy: Annotated[
        str, typer.Option(metavar="POLICY", help="human, reference, random or silent.")
    ] = "human",
    imports: terminal.Imports = None,
) -> None:
    """Be the agent, or watch one play an episode."""
    make = _maker(context, identity, imports)
    if policy == "human":
        games.play(make(), games.typed(), seed=seed, write=terminal.say)
        return
    if policy not in players.NAMES:
        raise terminal.Mistake(f'--policy: got "{policy}"; give human, {", ".join(players.NAMES)}.')
    from ..envs.streams import fresh_seed
    from ..rollout import episode, transcript

    chosen = fresh_seed() if seed is None else seed
    trajectory = episode.play(players.player(policy, make), make(), seed=chosen)
    terminal.say(transcript.render(trajectory))


def _maker(context: typer.Context, identity: str, imports: list[str] | None) -> Callable[[], Env]:
    """What makes the environment with the ``--env.KEY`` values of the command line."""
    other, options = terminal.env_options(context)
    if other is not None:
        raise terminal.Mistake(f"--env.id {other}: the id is given already ({identity}).")
    terminal.bring_in(imports)
    from ..envs import registry

    registry.find(identity)
    return partial(registry.make, identity, **options)
