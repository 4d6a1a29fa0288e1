"""What every command shares: its words, its errors in one line, its output."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import sys
import traceback
import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

WRONG_USE = 2
FAILED = 1
INTERRUPTED = 130

_ROOT = __name__.split(".")[0]
_HOME = Path(__file__).resolve().parent.parent
_DOTTED = re.compile(r"--([A-Za-z_]\w*(?:\.[\w\-]+)+)(?:=(.*))?", re.DOTALL)

Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="Import MODULE first (the current folder is searched): it registers environments.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


class Mistake(Exception):
    """A wrong use of a command; the text says what was got, what was wanted, what to do."""


def split(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take ``--dotted.key VALUE`` and ``--dotted.key=VALUE`` out of a command line.

    >>> split(["train", "--optim.lr", "1e-3", "--seed", "3", "--env.reward.step=-0.1"])
    (['train', '--seed', '3'], {'optim.lr': '1e-3', 'env.reward.step': '-0.1'})

    Raises:
        Mistake: a key without a value.
    """
    rest: list[str] = []
    overrides: dict[str, str] = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return [*rest, word, *queue], overrides
        match = _DOTTED.fullmatch(word)
        if match is None:
            rest.append(word)
        elif match[2] is not None:
            overrides[match[1]] = match[2]
        elif queue and not queue[0].startswith("--") and queue[0] != "-h":
            overrides[match[1]] = queue.pop(0)
        else:
            raise Mistake(f"{word} has no value; give {word} VALUE.")
    return rest, overrides


def overrides(context: typer.Context) -> dict[str, str]:
    """The dotted keys of this command line."""
    return dict(context.obj or {})


def refuse_overrides(context: typer.Context) -> None:
    """Refuse dotted keys where a command takes none.

    Raises:
        Mistake: a key was given.
    """
    for key in overrides(context):
        raise Mistake(f"--{key}: {context.info_name} takes no dotted keys; leave it out.")


def env_options(context: typer.Context) -> tuple[str | None, dict[str, Any]]:
    """``--env.id`` and the other ``--env.KEY`` values of this command line.

    Raises:
        Mistake: a dotted key of another section was given.
    """
    from ..train import fields

    identity: str | None = None
    options: dict[str, Any] = {}
    for key, text in overrides(context).items():
        section, _, name = key.partition(".")
        if section != "env":
            raise Mistake(f"--{key}: this command takes --env.KEY only; leave it out.")
        if name == "id":
            identity = text
        else:
            options[name] = fields.literal(text)
    return identity, fields.nest(options)


@contextlib.contextmanager
def noted_warnings() -> Generator[None]:
    """Says warnings in a line each, without the place in our code that Python would add."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in given:
                note(f"warning: {warning.message}")


def bring_in(modules: Sequence[str] | None) -> tuple[str, ...]:
    """Import the modules of ``--import``, then the plug-ins that are installed.

    Raises:
        Mistake: a module is not there, or raises while it is imported.
    """
    here = str(Path.cwd())
    if modules and here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # a file may be newer than what Python remembers of its folder
    for name in modules or ():
        _import(name)
    from ..envs import registry

    with noted_warnings():
        registry.discover()
    return tuple(modules or ())


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            hint = f" (without .py: --import {name[:-3]})" if name.endswith(".py") else ""
            raise Mistake(
                f"--import {name}: no such module in {Path.cwd()} or among the installed ones; "
                f"give a module's name{hint}."
            ) from None
        raise Mistake(f"--import {name}: it needs {missing}, which is not installed.") from None
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise Mistake(
            f"--import {name}: it raises {type(error).__name__}: {error} "
            f"({frame.filename}:{frame.lineno})."
        ) from None


def say(text: str) -> None:
    """Print a line of output."""
    typer.echo(text)


def note(text: str) -> None:
    """Print a line beside the output, on standard error."""
    typer.echo(text, err=True)


def say_json(value: object) -> None:
    """Print a value as JSON; what JSON has no word for is written as text."""
    typer.echo(json.dumps(value, indent=1, default=_plain, ensure_ascii=False))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType, reportUnknownVariableType]
    if isinstance(value, set | frozenset | tuple):
        return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return str(value)


def report(error: BaseException) -> int:
    """Print an error for a person and return the exit code.

    A refusal of this package is meant to be read: its text alone is printed. An error of the
    user's own code keeps its traceback. Anything else is a mistake of ours and is shown whole.
    """
    if isinstance(error, KeyboardInterrupt):
        note("interrupted")
        return INTERRUPTED
    cause = error.__cause__
    if _is_ours(error) and type(error).__name__ == "EnvError" and cause and not _is_ours(cause):
        note("".join(traceback.format_exception(cause)).rstrip())
        note(f"error: {error}")
        return FAILED
    if _is_ours(error) or _is_refusal(error):
        note(f"error: {error}")
        return WRONG_USE
    if isinstance(error, OSError) and error.errno is not None:
        note(f"error: {error.strerror}" + (f" ({error.filename})" if error.filename else ""))
        return FAILED
    note("".join(traceback.format_exception(error)).rstrip())
    place = _foreign(error)
    note(
        f"error: raised in {place}, outside palaestra"
        if place
        else "error: this is a mistake in palaestra, not yours; please report the lines above"
    )
    return FAILED


def _is_ours(error: BaseException) -> bool:
    module = type(error).__module__
    return module.split(".")[0] == _ROOT or module == "gymnasium.error"


def _is_refusal(error: BaseException) -> bool:
    """Whether a ``raise`` of this package worded it; our mistakes come from other lines."""
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, ValueError | TypeError | NotImplementedError) or not frames:
        return False
    return _is_at_home(frames[-1].filename) and (frames[-1].line or "").startswith("raise ")


def _is_at_home(filename: str) -> bool:
    return Path(filename).resolve().is_relative_to(_HOME)


def _foreign(error: BaseException) -> str | None:
    """Where the user's own code raised; None where only this package and libraries took part."""
    libraries = [Path(path).resolve() for path in (sys.prefix, sys.base_prefix)]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        if _is_at_home(frame.filename):
            return None
        if path.is_file() and not any(path.is_relative_to(folder) for folder in libraries):
            return f"{frame.filename}:{frame.lineno}"
    return None
