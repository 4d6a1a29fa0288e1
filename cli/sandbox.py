"""Where agents' code runs: what this machine can isolate, and a try."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import terminal

if TYPE_CHECKING:
    from ..tool_sandbox import Isolation, Result

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def doctor(context: typer.Context, as_json: terminal.AsJson = False) -> None:
    """Start a worker, test it from inside, and say what holds.

    Exit codes: 0 fully isolated, 1 not (what is missing and what to do is printed).
    """
    terminal.refuse_overrides(context)
    from ..tool_sandbox import Sandbox
    from ..tool_sandbox.errors import SandboxError

    try:
        with Sandbox("auto", workers=1) as sandbox:
            found = sandbox.isolation
    except SandboxError as error:
        if as_json:
            terminal.say_json({"level": "none", "advice": str(error)})
        else:
            terminal.say(f"no backend isolates fully here: {error}")
        raise typer.Exit(terminal.FAILED) from None
    if as_json:
        terminal.say_json({name: getattr(found, name) for name in type(found).__slots__})
        return
    for line in _lines(found):
        terminal.say(line)


def _lines(found: Isolation) -> list[str]:
    lines = [
        f"backend  {found.backend}",
        f"level    {found.level}",
        f"layers   {', '.join(found.layers)}",
    ]
    if found.missing:
        lines.append(f"missing  {', '.join(found.missing)}")
    return [*lines, f"advice   {found.advice}"] if found.advice else lines


@app.command()
def run(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A Python file, or - for standard input.")
    ] = "-",
    wall: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="How long it may run.")
    ] = 5.0,
    as_json: terminal.AsJson = False,
) -> None:
    """Run a Python program in the sandbox.

    Exit codes: 0 it ended without an error, 1 it did not, 2 wrong use.
    """
    terminal.refuse_overrides(context)
    from ..tool_sandbox import Limits, Sandbox

    code = _read(file)
    with Sandbox("auto", workers=1, limits=Limits(wall=wall)) as sandbox:
        result = sandbox.execute(code)
    if as_json:
        terminal.say_json({name: getattr(result, name) for name in _SHOWN})
    else:
        _print(result)
    if not result.ok:
        raise typer.Exit(terminal.FAILED)


_SHOWN = ("reason", "exit_code", "stdout", "stderr", "wall", "cpu", "memory_peak")


def _read(file: str) -> str:
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise terminal.Mistake(f"{file} cannot be read ({reason}); give a Python file.") from None


def _print(result: Result) -> None:
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    if not result.ok:
        terminal.note(f"ended: {result.reason}, exit code {result.exit_code}")
