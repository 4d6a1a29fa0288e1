"""Rows on the result pipe, and what the two graders share around them.

A row is data: its length, a case's number, what became of it, and a value: what was returned, or a
few words. Everything here runs in the candidate's own process too and can be changed by it, so a
row is never a verdict there.
"""

from __future__ import annotations

import linecache
import os
import struct
import sys
import traceback
import types
from typing import NoReturn

from .. import values

ROWS = 5  # the result pipe
LENGTH = struct.Struct("<I")
HEAD = struct.Struct("<IIB")  # bytes that follow, the case's number, what became of it
_REST = HEAD.size - LENGTH.size  # of the head, after its length
ROW = 4 << 20  # most bytes of one row
NAME = 100  # characters of an exception's name
TEXT = 300  # and of its message
_BETWEEN = 4  # frames of ours between who loads a candidate and its functions
ABOVE = 8  # names of one exception's classes

# What a row says of its case; the value is what was returned, else text or several.
VALUE, RAISED, MALFORMED, TIMEOUT, MISSING, ABSENT = range(6)

_write, _exit = os.write, os._exit


def load(code: str, name: str) -> types.ModuleType:
    """Run a text as a module that can be imported by its name."""
    from .execution import remember  # the host imports this file, and must not need that one

    module = types.ModuleType(name)
    module.__file__ = f"{name}.py"
    sys.modules[name] = module
    code = code.removeprefix("\ufeff")  # as Python does with a file
    remember(code, module.__file__)
    exec(compile(code, module.__file__, "exec", dont_inherit=True), vars(module))
    return module


def forget(name: str) -> None:
    """Undo `load`, after a rehearsal."""
    del sys.modules[name]
    linecache.cache.pop(f"{name}.py", None)


def deepen() -> None:
    """Lets a candidate recurse as deep as in a file of its own; before it is loaded."""
    ours = sum(1 for _ in traceback.walk_stack(None)) + _BETWEEN
    sys.setrecursionlimit(sys.getrecursionlimit() + ours)


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


def row(k: int, what: int, body: bytes) -> bytes:
    """The row of case k, with its length."""
    return HEAD.pack(len(body) + _REST, k, what) + body


def put(fd: int, data: bytes) -> None:
    """Write all of it."""
    written = _write(fd, data)
    while written < len(data):
        written += _write(fd, data[written:])


def describe(problem: BaseException) -> tuple[str, str, str]:
    """Names, nearest builtin class and message of an exception, each cut to size.

    The names are those of its class and, after slashes, of the classes above it down to a builtin.
    """
    names: list[str] = []
    nearest = "BaseException"
    for kind in type(problem).__mro__:
        if kind in values.NAMES:
            nearest = kind.__name__
            break
        names.append(str(kind.__name__)[:NAME])
    try:
        text = str(problem)[:TEXT]
    except BaseException:  # __str__ is the candidate's
        text = "(its message cannot be printed)"
    return "/".join(names[:ABOVE]) or nearest, nearest, text
