"""Rows on the result pipe, and what the two graders share around them.

A row is data: a case's number, what became of it, and a value or a few words. Everything here runs
in the candidate's own process too and can be changed by it, so a row is never a verdict there.
"""

from __future__ import annotations

import os
import struct
import sys
import types
from typing import Any, NoReturn

from .. import values

ROWS = 5  # the result pipe
LENGTH = struct.Struct("<I")
ROW = 4 << 20  # most bytes of one row
NAME = 100  # characters of an exception's name
TEXT = 300  # and of its message

# What a row says of its case; the rest of the row is a value, a name and text, or a reason.
VALUE, RAISED, MALFORMED, TIMEOUT, MISSING, ABSENT = range(6)

_write, _exit = os.write, os._exit


def load(code: str, name: str) -> types.ModuleType:
    """Run a text as a module that can be imported by its name."""
    module = types.ModuleType(name)
    module.__file__ = f"{name}.py"
    sys.modules[name] = module
    exec(compile(code, f"{name}.py", "exec", dont_inherit=True), vars(module))
    return module


def resolve(module: types.ModuleType, path: str) -> Any:
    """The object at a dotted path.

    Raises:
        AttributeError: It is not there.
    """
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def flush() -> None:
    """Write out what is pending; a fork would print it twice."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed or replaced by the candidate
            continue


def leave(code: int) -> NoReturn:
    """End at once: handlers that the candidate left behind have no part in grading."""
    flush()
    _exit(code)


def put(fd: int, row: bytes) -> None:
    """Write one row with its length, whole."""
    data = memoryview(LENGTH.pack(len(row)) + row)
    while data:
        data = data[_write(fd, data) :]


def describe(problem: BaseException) -> tuple[str, str, str]:
    """Name, nearest builtin class and message of an exception, each cut to size."""
    kind = type(problem)
    nearest = next((c.__name__ for c in kind.__mro__ if values.NAMES.get(c)), "BaseException")
    try:
        text = str(problem)[:TEXT]
    except BaseException:  # __str__ is the candidate's
        text = "(its message cannot be printed)"
    return str(kind.__name__)[:NAME], nearest, text
