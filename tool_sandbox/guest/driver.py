"""Grading, the guest's half: calls what it is told to and writes down what came back.

Everything here runs in the candidate's own process and can be changed by it. That is why it holds
no expected value and gives no verdict: the host compares.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
import types
from collections.abc import Callable
from typing import Any, NoReturn, cast

from .. import values
from . import candidate, judge, last, rows

_clock, _poll = time.monotonic, select.poll


def drive(mode: str, code: str, payload: bytes) -> None:
    """Run one part of a grading in the process of an execution.

    Args:
        mode: "calls", or "judge" and "candidate", the two halves of a `Script`.
        code: The candidate's text; empty for the judge.
        payload: What the host packed for this part.
    """
    if mode == "calls":
        calls(code, payload)
    elif mode == "judge":
        judge.judge(payload)
    else:
        candidate.serve(code, payload)


def calls(code: str, payload: bytes) -> NoReturn:
    """Call the entry once a case and write one row each, before the next case begins."""
    entry, isolate, wall, count, columns, keywords, truths = cast("Any", values.decode(payload))
    cases = cases_of(count, columns)
    rows.deepen()
    apart = isolate == "case"
    if apart:  # the whole has a wall for each case; loading must not use them up
        signal.setitimer(signal.ITIMER_REAL, wall)  # the kernel ends us: there is no handler
    try:
        module = rows.load(code, "solution")
    except Exception as problem:  # SystemExit ends the process: its rows are missing
        last.ending(problem)
        for k in range(count):
            rows.put(rows.ROWS, _raised(k, problem, "while loading"))
        rows.leave(1)
    if apart:
        signal.setitimer(signal.ITIMER_REAL, 0)
    path = entry.split(".")
    for k in range(count):
        kwargs: dict[str, Any] = keywords[k] if keywords else {}
        whole = k not in truths
        if apart:
            row = _apart(lambda: row_of(k, module, path, cases[k], kwargs, whole), k, wall)  # noqa: B023
        else:
            row = row_of(k, module, path, cases[k], kwargs, whole)
        rows.put(rows.ROWS, row)
    rows.leave(0)


def cases_of(count: int, columns: Any) -> list[tuple[Any, ...]]:
    """The arguments of each case: they travel by position where all cases have as many."""
    if isinstance(columns, list):
        return cast("Any", columns)
    return list(zip(*columns, strict=True)) if columns else [()] * count


def row_of(
    k: int,
    module: types.ModuleType,
    path: list[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    whole: bool = True,
) -> bytes:
    """Call the entry for one case; what became of it as a row.

    Args:
        k: Number of the case.
        module: The candidate's.
        path: Of the entry in it.
        args: Of the call.
        kwargs: Of the call.
        whole: Whether the answer itself is wanted; else its truth will do, if it is not plain.
    """
    try:
        function: Any = module
        for part in path:
            function = getattr(function, part)
    except AttributeError:
        return rows.row(k, rows.ABSENT, values.encode(".".join(path)))
    try:
        answer = function(*args, **kwargs)
    except BaseException as problem:  # SystemExit too: it costs this case only
        return _raised(k, problem, "")
    try:
        return rows.row(k, rows.VALUE, _plain(answer, whole))
    except Exception as problem:
        return rows.row(k, rows.MALFORMED, values.encode(str(problem)[: rows.TEXT]))


def _plain(answer: object, whole: bool) -> bytes:
    try:
        return values.encode(answer, size=rows.ROW)
    except values.NotPlain:
        if whole:
            raise
        return values.encode(bool(answer))


def _raised(k: int, problem: BaseException, when: str) -> bytes:
    return rows.row(k, rows.RAISED, values.encode((*rows.describe(problem), when)))


def _apart(row: Callable[[], bytes], k: int, wall: float) -> bytes:
    """Make a row in a fork of its own, within `wall` seconds."""
    rows.flush()
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        made = row()
        rows.flush()  # first, for whoever has the row ends us
        rows.put(into, made)
        rows.leave(0)
    os.close(into)
    found = _await(out, child, wall)
    os.close(out)
    if found is None:
        return rows.row(k, rows.TIMEOUT, values.encode(""))
    return found if isinstance(found, bytes) else rows.row(k, rows.MISSING, values.encode(found))


def _await(out: int, child: int, wall: float) -> bytes | int | None:
    """The child's row; its exit code, if it ended without one; None when its time was up."""
    ends, life, held = _clock() + wall, os.pidfd_open(child), bytearray()
    poll = _poll()
    poll.register(out, select.POLLIN)
    poll.register(life, select.POLLIN)
    row, late = None, True
    while (left := ends - _clock()) > 0:
        ready = dict(poll.poll(left * 1000))
        piece = os.read(out, 1 << 16) if out in ready else b""
        held += piece
        whole = len(held) >= 4 and len(held) >= 4 + rows.LENGTH.unpack_from(held)[0]
        if whole or (ready and not piece):
            row = bytes(held[: 4 + rows.LENGTH.unpack_from(held)[0]]) if whole else None
            late = False
            break
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(life)
    return None if late else os.waitstatus_to_exitcode(status) if row is None else row
