"""Test code as grader: a judge in one cell, the candidate in another, one socket between."""

from __future__ import annotations

import builtins
import contextlib
import secrets
import socket
import symtable
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from . import values
from .cases import MARKS, Mark, Report, Script, Verdict, report
from .cell import Cell, Request
from .errors import BackendFailed, BadRequest
from .guest import rows as guest_rows
from .guest import talk
from .limits import Limits
from .outcome import Outcome
from .requests import check_code
from .waiting import readable

_TRIES = 3
GRACE = 0.2  # seconds that one side has when the other has ended
_warned: set[str] = set()


class Door(Protocol):
    """What a sandbox offers to a grading."""

    def run(self, request: Request) -> Outcome:
        """Execute on a worker of the pool."""
        ...

    def borrow(self, limits: Limits) -> AbstractContextManager[Cell]:
        """A worker of the pool, for the candidate."""
        ...

    def judge(self, limits: Limits) -> AbstractContextManager[Cell]:
        """The judge cell that belongs to the borrowed worker."""
        ...

    def note(self, name: str) -> None:
        """Count an event."""
        ...


def grade_script(door: Door, candidate: str, tests: Script, limits: Limits) -> Report:
    """Grade one candidate by test code.

    Raises:
        BadRequest: The test code does not parse; nothing was run.
    """
    check_code(candidate, "candidate")
    check_code(tests.source, "Script.source")
    check_code(tests.prelude, "Script.prelude")
    nonce = secrets.token_bytes(16)
    names = tests.names if tests.names is not None else free_names(tests.source, tests.prelude)
    if tests.call is not None and tests.call not in names:
        names = (*names, tests.call)
    shared = candidate if tests.share else None
    payload = values.encode(
        (nonce, tests.prelude, tests.source, names, tests.module, tests.call, shared)
    )
    check_code(candidate, "candidate", len(payload))
    judge = Request("", limits=limits, mode="judge", payload=payload)
    if tests.share:
        _warn_shared()
        judged = door.run(judge)
        return _reported(door, nonce, judged, judged)
    server = Request(
        candidate, limits=limits, mode="candidate", payload=values.encode((tests.module,))
    )
    for _ in range(_TRIES):
        with door.borrow(limits) as worker, door.judge(limits) as bench:
            try:
                judged, answered = pair(bench, worker, judge, server)
            except BrokenPipeError:
                continue  # one of the two had died while idle; no test ran
        return _reported(door, nonce, judged, answered)
    raise BackendFailed("workers die as soon as they are asked")


def _warn_shared() -> None:
    if "share" not in _warned:
        _warned.add("share")
        warnings.warn(
            "Script(share=True) runs the tests in the candidate's own process, which can give "
            "itself any verdict; use it only where the tests cannot be expressed otherwise",
            stacklevel=4,
        )


def pair(bench: Cell, worker: Cell, judge: Request, server: Request) -> tuple[Outcome, Outcome]:
    """Run both halves at the same time over a fresh socket.

    Returns:
        The judge's outcome and the candidate's.

    Raises:
        BrokenPipeError: A cell was dead before it was asked.
    """
    near, far = socket.socketpair()
    with near, far:
        worker.begin(replace(server, fds=(far.detach(),)))
        try:
            bench.begin(replace(judge, fds=(near.detach(),)))
        except BrokenPipeError:
            worker.hurry(0.0)
            worker.finish()
            raise
    sides = {bench.fileno(): worker, worker.fileno(): bench}
    with contextlib.suppress(OSError, ValueError):  # closed from another thread: `finish` says so
        ended = readable(list(sides))
        if len(ended) == 1:
            sides[ended[0]].hurry(GRACE)
    return bench.finish(), worker.finish()


def _reported(door: Door, nonce: bytes, judged: Outcome, answered: Outcome) -> Report:
    verdicts, whole = _verdicts(nonce, judged)
    if not whole and not _waited(judged, answered):
        door.note("judge_failed")
    if answered.result.reason == "timeout":  # whose wall was over first is a matter of chance
        verdicts = tuple(_late(verdict) for verdict in verdicts)
    integrity = "shared" if judged is answered else "separate"
    return report(verdicts, answered.result, integrity)


def _late(verdict: Verdict) -> Verdict:
    if verdict.outcome == "missing" and verdict.detail == talk.ENDED:
        return Verdict(verdict.name, "timeout", "no answer in time")
    return verdict


def _waited(judged: Outcome, answered: Outcome) -> bool:
    """Whether the judge ran out of time while it waited for its candidate."""
    late = judged.result.reason == "timeout" or answered.result.reason == "timeout"
    busy = judged.result.cpu > answered.result.cpu + judged.result.wall / 10
    return late and not busy


def _verdicts(nonce: bytes, judged: Outcome) -> tuple[tuple[Verdict, ...], bool]:
    """The judge's rows as verdicts, and whether it ran to its end.

    Rows under the nonce come from a cell without candidate code, unless the script is shared:
    so each is looked at before it is believed.
    """
    titles: tuple[str, ...] = ("script",)
    found: dict[int, Verdict] = {}
    whole = False
    for kind, *rest in _rows(judged.rows, nonce):
        shape: Any = [type(part) for part in rest]
        if kind == "plan" and shape == [tuple]:
            titles = tuple(str(name) for name in rest[0])
        elif kind == "row" and shape == [int, str, str] and 0 <= rest[0] < len(titles):
            mark = rest[1] if rest[1] in MARKS else "malformed"
            k: int = rest[0]
            found[k] = Verdict(titles[k], mark, rest[2])
        elif kind == "end":
            whole = judged.result.ok
    late = judged.result.reason == "timeout"
    mark: Mark = "timeout" if late else "missing"
    detail = "no answer in time" if late else "the judge did not get here"
    verdicts = [found.get(k, Verdict(title, mark, detail)) for k, title in enumerate(titles)]
    if not whole and all(verdict.outcome == "pass" for verdict in verdicts):
        verdicts.append(Verdict("the script's end", mark, detail))
    return tuple(verdicts), whole


def _rows(data: bytes, nonce: bytes) -> Iterator[tuple[Any, ...]]:
    at = 0
    while len(data) - at >= guest_rows.LENGTH.size:
        (length,) = guest_rows.LENGTH.unpack_from(data, at)
        at += guest_rows.LENGTH.size
        try:
            row: Any = values.decode(data[at : at + length])
        except values.BadValue:
            return
        if not talk.exactly(row, tuple) or len(row) < 2 or row[0] != nonce:
            return
        yield row[1:]
        at += length


def free_names(source: str, prelude: str = "") -> tuple[str, ...]:
    r"""Names that test code uses and neither it, its prelude nor Python defines.

    Raises:
        BadRequest: One of the texts does not parse.

    >>> free_names("from math import sqrt\nassert solve(len([sqrt(4)])) == x", "x = 1")
    ('solve',)
    """
    used: set[str] = set()
    made: set[str] = set(dir(builtins)) | {"__name__", "__file__"}
    for text, what in ((prelude, "prelude"), (source, "source")):
        try:
            table = symtable.symtable(text, f"<{what}>", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
            raise BadRequest(f"Script.{what} does not parse: {problem}") from None
        for scope in _scopes(table):
            for symbol in scope.get_symbols():
                top = scope is table or symbol.is_declared_global()
                if top and (symbol.is_assigned() or symbol.is_imported()):
                    made.add(symbol.get_name())
                elif symbol.is_referenced() and symbol.is_global():
                    used.add(symbol.get_name())
    return tuple(sorted(used - made))


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)
