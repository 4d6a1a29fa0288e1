"""What the sandbox's commands share: which backend, files that are read, text that is safe."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import terminal

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Backends(StrEnum):
    """Who runs a program."""

    auto = "auto"
    cell = "cell"
    docker = "docker"
    process = "process"


Backend = Annotated[
    Backends, typer.Option(help="Who runs it; auto never takes process, which isolates nothing.")
]


def read_text(file: str, wanted: str) -> str:
    """The text of a file.

    Raises:
        Mistake: It cannot be read, or is no UTF-8.
    """
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise terminal.Mistake(f"{file} cannot be read ({reason}); give {wanted}.") from None


def visible(text: str) -> str:
    r"""Text of strangers for a terminal: what would move its cursor or colours is spelt out.

    >>> visible("a\x1b[2Jb\n")
    'a\\x1b[2Jb\n'
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
