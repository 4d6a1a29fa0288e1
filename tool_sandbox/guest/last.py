"""How a program ends: its last words, its exit code, and what a bare interpreter would do then."""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import atexit
import contextlib
import errno
import gc
import io
import linecache
import os
import sys
import threading
import traceback
from types import BuiltinFunctionType, FunctionType, ModuleType, NoneType
from typing import Any, NoReturn

OUT_OF_MEMORY = 137  # exit code of an uncaught MemoryError
BY_SIGNAL = -2  # an uncaught KeyboardInterrupt ends the process by the signal itself

# Looked up once: what `threading` would do at the end of a program without threads touches pages
# that each execution would have to copy.
_threads: dict[int, object] = threading._active  # type: ignore[attr-defined]  # pyright: ignore
_threading_exits: list[object] = threading._threading_atexits  # type: ignore[attr-defined]  # pyright: ignore


def ending(problem: BaseException) -> int:
    """Reports an uncaught exception as the interpreter does; the exit code it leads to."""
    if isinstance(problem, SystemExit):
        return _exit_code(problem.code)
    try:
        trim(problem)
        if isinstance(problem, SyntaxError) and problem.filename in linecache.cache:
            # The compiler looks for the line in a file of that name, which is not there.
            problem.text = linecache.getline(problem.filename, problem.lineno or 0) or problem.text
        sys.excepthook(type(problem), problem, problem.__traceback__)
    except BaseException:  # of a hook the guest put there, or of an exception without words
        _last_words(problem)
    refused = isinstance(problem, OSError) and problem.errno == errno.ENOMEM
    if refused or isinstance(problem, MemoryError):
        return OUT_OF_MEMORY
    return 130 if isinstance(problem, KeyboardInterrupt) else 1


def trim(problem: BaseException) -> None:
    """Takes our own frames off the head of a traceback."""
    trace = problem.__traceback__
    here = os.path.dirname(__file__)
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(here):
        trace = trace.tb_next
    problem.__traceback__ = trace


def hook(kind: type[BaseException], problem: BaseException, trace: Any) -> None:
    """The excepthook: a traceback with source lines, although the program is no file."""
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        traceback.print_exception(kind, problem, trace)


def _last_words(problem: BaseException) -> None:
    try:
        hook(type(problem), problem, problem.__traceback__)
        return
    except BaseException:
        pass  # it has no words of its own
    try:
        os.write(2, f"{type(problem).__name__}: the exception could not be printed\n".encode())
    except BaseException:
        return


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF if -(1 << 63) <= code < 1 << 63 else 0xFF  # too large for C: as -1
    try:
        print(code, file=sys.stderr)
    except BaseException:
        _last_words(SystemExit())
    return 1


def leave(code: int) -> NoReturn:
    """What the interpreter does at its end, then the end."""
    try:
        if len(_threads) > 1 or _threading_exits:
            threading._shutdown()  # type: ignore[attr-defined]  # pyright: ignore
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    except BaseException as problem:
        ending(problem)
    flushed = _flush()
    _drop_main()
    if not flushed or not _flush():
        code = 120
    if code == BY_SIGNAL:
        _signal.signal(2, _signal.SIG_DFL)
        os.kill(os.getpid(), 2)
    os._exit(code)


def _flush() -> bool:
    """Writes out both streams; False where one refuses."""
    done = True
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name, None)
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except BaseException:
            done = False
    return done


# In these nothing is pending at the end.
_NUMBERS: tuple[type, ...] = int, float, complex, bool, NoneType
_PLAIN = frozenset[type](
    (*_NUMBERS, str, bytes, type, FunctionType, BuiltinFunctionType, ModuleType)
)
_WRITERS = io.TextIOWrapper, io.BufferedWriter


def _drop_main() -> None:
    """Lets go of what the program holds: its files are written out, its `__del__` run."""
    main = sys.modules.pop("__main__", None)
    if main is None or _PLAIN.issuperset(map(type, main.__dict__.values())):
        return  # the common case, which then costs nothing
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    for thing in gc.get_objects():  # of a cycle the collector closes the innermost first
        if issubclass(type(thing), _WRITERS):
            with contextlib.suppress(BaseException):
                thing.flush()
    thing = main = None
    gc.collect()
