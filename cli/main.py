"""The root command; a command's module is imported only when that command runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from . import terminal

HELP = """Environments, agents and algorithms for language-model agents.

Start with: palaestra train --quick
"""

COMMANDS = {
    "train": "Train a policy, from a preset, a TOML file or flags.",
    "evaluate": "Measure a run or a policy, with confidence intervals.",
    "envs": "List, describe, check and play environments.",
    "show": "Show a run: settings, curves, transcripts.",
    "sandbox": "Where agents' code runs: what this machine can isolate.",
}
GROUPS = ("envs", "sandbox")

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        words: what stands after the program's name; None: those of this process.
    """
    try:
        rest, overrides = terminal.split(sys.argv[1:] if words is None else words)
        app = application(_named(rest), rest)
        app(args=rest, prog_name="palaestra", obj=overrides)
    except Exception as error:
        sys.exit(terminal.report(error))
    except KeyboardInterrupt as error:
        sys.exit(terminal.report(error))
    sys.exit(0)


def application(command: str | None, words: Sequence[str] = ()) -> typer.Typer:
    """The commands, of which only ``command`` is imported; the others are a name and a line.

    Args:
        command: the one that runs; None: none does, as for the root's help.
        words: its words, for the command to look at before they are parsed.

    Raises:
        Mistake: a word that the command refuses with a better hint than the parser's.
    """
    app = typer.Typer(
        help=HELP,
        no_args_is_help=True,
        context_settings=SETTINGS,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    whole = any(name.endswith("_COMPLETE") for name in os.environ if name.startswith("_PALAESTRA"))
    for name, summary in COMMANDS.items():
        if name == command or whole:
            module = importlib.import_module(f".{name}", __package__)
            _attach(app, name, summary, module)
            if name == command and hasattr(module, "refuse_words"):
                module.refuse_words(words)
        else:
            app.command(name, help=summary)(_absent)
    return app


def _attach(app: typer.Typer, name: str, summary: str, module: Any) -> None:
    if name in GROUPS:
        app.add_typer(module.app, name=name, help=summary, context_settings=SETTINGS)
    else:
        words = module.explained() if hasattr(module, "explained") else module.HELP
        app.command(name, help=words, short_help=summary, context_settings=SETTINGS)(module.command)


def _absent() -> None:
    """Stand for a command that does not run in this process."""


def _named(words: Sequence[str]) -> str | None:
    """The first word that is no option: the command."""
    return next((word for word in words if not word.startswith("-")), None)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        terminal.say(f"palaestra {version('palaestra')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that stand before the command."""
