"""Test code as grader: a judge in one cell, the candidate in another, one socket between."""

from __future__ import annotations

import ast
import builtins
import secrets
import symtable
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol, cast

from . import values
from .cases import MARKS, Mark, Report, Script, Verdict, report
from .cell import Cell, Request
from .errors import BackendFailed, BadRequest
from .guest import rows as guest_rows
from .guest import talk
from .limits import Limits
from .lines import line_for
from .outcome import Outcome
from .requests import check_code
from .waiting import readable

_TRIES = 3
GRACE = 0.5  # seconds that one side has when the other has ended
_FOLLOWS = 0.02  # of these, without being told
_REMEMBERED = 1 << 16  # characters of test code whose free names are kept
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

    def count(
        self, cell: Cell, request: Request, outcome: Outcome, dispatch: float, total: float
    ) -> None:
        """Count an execution on a borrowed worker."""
        ...


def grade_script(door: Door, candidate: str, tests: Script, limits: Limits) -> Report:
    """Grade one candidate by test code.

    Raises:
        BadRequest: The test code does not parse; nothing was run.
    """
    check_code(candidate, "candidate")
    check_code(tests.source, "Script.source")
    check_code(tests.prelude, "Script.prelude")
    _check_names(tests)
    nonce = secrets.token_bytes(16)
    source = tests.source.removeprefix("\ufeff")  # as Python does with a file
    names, call = tests.names, tests.call
    if call is not None and not call.isidentifier():  # an expression: `Solution().two_sum`
        source, call = f"{source}\ncheck((\n{call}\n))\n", None  # it may end in a comment
        names = None if names is None else (*names, *free_names(tests.call or "", ""))
    names = free_names(source, tests.prelude) if names is None else tuple(names)
    if call is not None and call not in names:
        names = (*names, call)
    shared = candidate if tests.share else None
    payload = values.encode((nonce, tests.prelude, source, names, tests.module, call, shared))
    check_code(candidate, "candidate", len(payload))
    judge = Request("", limits=limits, mode="judge", payload=payload)
    if tests.share:
        _warn_shared()
        judged = door.run(judge)
        return _reported(door, nonce, judged, judged)
    server = Request(
        candidate, limits=limits, mode="candidate", payload=values.encode(tests.module)
    )
    asked = time.monotonic()
    for _ in range(_TRIES):
        with door.borrow(limits) as worker, door.judge(limits) as bench:
            started = time.monotonic()
            try:
                judged, answered = pair(bench, worker, judge, server)
            except BrokenPipeError:
                continue  # one of the two had died while idle; no test ran
            total = time.monotonic() - started
        door.count(worker, server, answered, started - asked, total)
        door.count(bench, judge, judged, started - asked, total)
        return _reported(door, nonce, judged, answered)
    raise BackendFailed("workers die as soon as they are asked")


def _check_names(tests: Script) -> None:
    names = cast("object", tests.names)
    if not tests.source.strip():
        raise BadRequest("Script.source is empty; give at least one test")
    if names is not None and (
        isinstance(names, str)
        or not isinstance(names, Collection)
        or any(type(name) is not str for name in cast("Collection[object]", names))
    ):
        raise BadRequest(f"Script.names is {names!r}; give a tuple of names, or None")
    for what, name in (("module", tests.module), ("call", tests.call)):
        if type(name) is not str and (name is not None or what == "module"):
            raise BadRequest(f"Script.{what} is {name!r}; give a name")
    try:
        ast.parse("None" if tests.call is None else tests.call, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        words = f"Script.call is {tests.call!r:.200}; give a name or an expression"
        raise BadRequest(words) from None


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
        BackendFailed: There is no descriptor left for the socket.
    """
    near, far = line_for("between candidate and judge")
    with near, far:
        worker.begin(replace(server, fds=(far.detach(),)))
        try:
            bench.begin(replace(judge, fds=(near.detach(),)))
        except BrokenPipeError:
            worker.hurry(0.0)
            worker.finish()
            raise
    # An interrupt anywhere in here leaves cells that were asked: the pool takes none of those back.
    sides = {bench.fileno(): worker, worker.fileno(): bench}
    if min(sides) >= 0:  # else closed from another thread: `finish` says so
        ended = readable(list(sides))
        other = sides[ended[0]]
        # As a rule it follows at once, and a word to its cell would only hold it up.
        if len(ended) == 1 and (rest := other.fileno()) >= 0 and not readable([rest], _FOLLOWS):
            other.hurry(GRACE - _FOLLOWS)
    return bench.finish(), worker.finish()


def _reported(door: Door, nonce: bytes, judged: Outcome, answered: Outcome) -> Report:
    verdicts, whole, forged = _verdicts(nonce, judged)
    if not whole and not _waited(judged, answered):
        door.note("judge_failed")
    if forged or any(verdict.outcome == "malformed" for verdict in verdicts):
        door.note("malformed")
    if answered.result.reason == "timeout":  # whose wall was over first is a matter of chance
        verdicts = tuple(_late(verdict) for verdict in verdicts)
    integrity = "shared" if judged is answered else "separate"
    # A judge that was lost is our failure, and must not look like the candidate's.
    lost = judged.result.reason == "lost"
    return report(verdicts, judged.result if lost else answered.result, integrity)


def _late(verdict: Verdict) -> Verdict:
    if verdict.outcome == "missing" and verdict.detail == talk.ENDED:
        return Verdict(verdict.name, "timeout", "no answer in time")
    return verdict


def _waited(judged: Outcome, answered: Outcome) -> bool:
    """Whether the judge ran out of time while it waited for its candidate."""
    late = judged.result.reason == "timeout" or answered.result.reason == "timeout"
    busy = judged.result.cpu > answered.result.cpu + judged.result.wall / 10
    return late and not busy


def _verdicts(nonce: bytes, judged: Outcome) -> tuple[tuple[Verdict, ...], bool, bool]:
    """The judge's rows as verdicts, whether it ran to its end, and whether answers were forged.

    Rows under the nonce come from a cell without candidate code, unless the script is shared:
    so each is looked at before it is believed.
    """
    titles: tuple[str, ...] = ("script",)
    found: dict[int, Verdict] = {}
    whole = forged = False
    for kind, *rest in _rows(judged.rows, nonce):
        shape: Any = [type(part) for part in rest]
        if kind == "plan" and shape == [tuple]:
            titles = tuple(_title(name) for name in rest[0])
        elif kind == "row" and shape == [int, str, str] and 0 <= rest[0] < len(titles):
            mark = rest[1] if rest[1] in MARKS else "malformed"
            k: int = rest[0]
            found[k] = Verdict(titles[k], mark, rest[2])
        elif kind == "end":
            whole, forged = judged.result.ok, rest[:1] == [True]
    late = judged.result.reason == "timeout"
    mark: Mark = "timeout" if late else "missing"
    detail = "no answer in time" if late else "the judge did not get here"
    verdicts = [found.get(k, Verdict(title, mark, detail)) for k, title in enumerate(titles)]
    if not whole and all(verdict.outcome == "pass" for verdict in verdicts):
        verdicts.append(Verdict("the script's end", mark, detail))
    return tuple(verdicts), whole, forged


def _title(name: object) -> str:
    """The name of a test as it can be written anywhere; of a shared script it may be forged."""
    return name.encode("utf-8", "replace").decode() if isinstance(name, str) else "?"


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
    if len(source) + len(prelude) > _REMEMBERED:
        return _free_names.__wrapped__(source, prelude)
    return _free_names(source, prelude)


@lru_cache(256)  # a group of candidates has the same tests
def _free_names(source: str, prelude: str) -> tuple[str, ...]:
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
