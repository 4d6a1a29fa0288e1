"""Where agents' code runs: what this machine can isolate, a try, a grading, an image."""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from . import grading, inside, terminal

if TYPE_CHECKING:
    from ..tool_sandbox import Limits, Result

KILLED = 128  # what shells add to the number of the signal that ended a program

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command("grade")(grading.grade)


class Level(StrEnum):
    """The weakest isolation that a person accepts."""

    full = "full"
    reduced = "reduced"
    none = "none"


class Language(StrEnum):
    """What a program is written in."""

    python = "python"
    shell = "shell"


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMG]?)(i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size; give bytes, or a number as 64K, 256M, 2G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()]


def _bytes(help_text: str) -> Any:
    return typer.Option(metavar="BYTES", parser=_size, help=help_text)


@app.command()
def doctor(
    context: typer.Context,
    runs: Annotated[int, typer.Option(min=1, help="Executions that are timed.")] = 200,
    as_json: terminal.AsJson = False,
) -> None:
    """Start a worker of each backend, test it from inside, time it, and say what holds.

    Exit codes: 0 a sandbox that chooses by itself is fully isolated, 1 it would refuse to run.
    """
    terminal.refuse_overrides(context)
    from ..tool_sandbox import doctor as examiner

    found = examiner.examine(runs=runs)
    terminal.say(examiner.to_json(found) if as_json else examiner.to_text(found))
    if not examiner.reaches_full(found):
        raise typer.Exit(terminal.FAILED)


@app.command()
def run(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A program, or - for standard input.")
    ] = "-",
    stdin: Annotated[
        str | None, typer.Option(metavar="FILE", help="What it reads; - for standard input.")
    ] = None,
    language: Annotated[Language, typer.Option(help="Of the program.")] = Language.python,
    backend: inside.Backend = inside.Backends.auto,
    minimum: Annotated[Level, typer.Option(help="The weakest isolation to accept.")] = Level.full,
    wall: Annotated[float | None, typer.Option(metavar="SECONDS", help="Time it has.")] = None,
    cpu: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Processor time of a process.")
    ] = None,
    memory: Annotated[int | None, _bytes("Of all its processes, its files included.")] = None,
    processes: Annotated[int | None, typer.Option(help="And threads, together.")] = None,
    open_files: Annotated[int | None, typer.Option(help="Of a process.")] = None,
    file_size: Annotated[int | None, _bytes("Of one file.")] = None,
    disk: Annotated[int | None, _bytes("Of all its files.")] = None,
    inodes: Annotated[int | None, typer.Option(help="Files and folders.")] = None,
    output: Annotated[int | None, _bytes("Shown of each stream.")] = None,
    output_stop: Annotated[int | None, _bytes("Written in all, that end it.")] = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Run a program in the sandbox and end as it ended.

    Its output is shown once it has ended, on a terminal with control characters spelt out; how it
    ended and what it used stand in a last line on standard error.

    Exit codes: the program's own; 128 + N when signal N ended it; 1 when its worker was lost;
    2 also for wrong use.
    """
    terminal.refuse_overrides(context)
    given = {name: context.params[name] for name in _LIMITS}
    from ..tool_sandbox import Sandbox

    if file == "-" and stdin == "-":
        raise terminal.Mistake("--stdin -: the program itself comes from there; give it as FILE.")
    code = _read(file)
    fed = b"" if stdin is None else _input(stdin)
    with terminal.noted_warnings():
        sandbox = Sandbox(backend.value, workers=1, limits=_limits(given), minimum=minimum.value)
    with sandbox:
        result = sandbox.execute(code, stdin=fed, language=language.value)
    if as_json:
        terminal.say_json({name: getattr(result, name) for name in _SHOWN})
    else:
        _print(result)
    raise typer.Exit(_exit_code(result))


_LIMITS = (
    *("wall", "cpu", "memory", "processes", "open_files", "file_size"),
    *("disk", "inodes", "output", "output_stop"),
)
_SHOWN = (
    *("reason", "exit_code", "stdout", "stderr", "stdout_bytes", "stderr_bytes"),
    *("truncated", "wall", "cpu", "memory_peak"),
)


def _limits(given: dict[str, Any]) -> Limits:
    from ..tool_sandbox import Limits

    return Limits(**{name: value for name, value in given.items() if value is not None})


def _read(file: str) -> str:
    if file != "-":
        return inside.read_text(file, "a program")
    try:
        return _input("-").decode("utf-8")
    except UnicodeDecodeError:
        raise terminal.Mistake("standard input is no UTF-8 text; give a program.") from None


def _input(file: str) -> bytes:
    if file == "-":
        if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise terminal.Mistake("standard input is closed; give a FILE.")
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise terminal.Mistake(
            f"{file} cannot be read ({error.strerror}); give a file for --stdin."
        ) from None


def _print(result: Result) -> None:
    _show(result.stdout, sys.stdout)
    _show(result.stderr, sys.stderr)
    terminal.note(summary(result))


def _show(text: str, stream: TextIO | None) -> None:
    """Writes what a program wrote, as far as the stream can say it."""
    if stream is None:  # it was closed before we began
        return
    shown = inside.visible(text) if stream.isatty() else text
    encoding = stream.encoding or "utf-8"
    stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def summary(result: Result) -> str:
    """How a program ended and what it used, in one line.

    >>> from ..tool_sandbox import Result
    >>> summary(Result("ok", 0, wall=0.25, cpu=0.1, memory_peak=9 << 20))
    'ended: ok, exit code 0, 0.250 s, 0.100 s of processor time, 9.0 MiB'
    """
    words = [f"ended: {result.reason}"]
    if result.exit_code is not None:
        words.append(f"exit code {result.exit_code}")
    words += [f"{result.wall:.3f} s", f"{result.cpu:.3f} s of processor time"]
    if result.memory_peak is not None:
        words.append(f"{result.memory_peak / (1 << 20):.1f} MiB")
    if result.truncated:
        words.append(f"output cut ({result.stdout_bytes} and {result.stderr_bytes} bytes written)")
    return ", ".join(words)


def _exit_code(result: Result) -> int:
    code = result.exit_code
    if code is None:
        return terminal.FAILED
    if code < 0:
        return KILLED - code
    return code if code or result.ok else terminal.FAILED


@app.command()
def build(
    context: typer.Context,
    base: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="IMAGE", help="Build on this image; the engine may pull it."
        ),
    ] = None,
    rootfs: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Import a root file system instead; self: this machine's interpreter and shell.",
        ),
    ] = None,
) -> None:
    """Make the image of the docker backend (python:3.12-slim, unless said otherwise).

    Exit codes: 0 made, its name is printed; 2 it was not.
    """
    terminal.refuse_overrides(context)
    if base is not None and rootfs is not None:
        raise terminal.Mistake("--from and --rootfs: an image has one source; leave one out.")
    from ..tool_sandbox import docker

    terminal.say(docker.build(base=base, rootfs=rootfs))
