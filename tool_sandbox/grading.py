"""Cases, scripts and streams; comparison on our side; `Report`."""

from __future__ import annotations

import math
import reprlib
import signal
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

from . import values
from .asserts import calls_from_assert, calls_from_asserts, calls_from_check
from .cases import Calls, Case, Mark, Report, Script, Streams, Tests, Verdict, report
from .cell import Request
from .errors import BadRequest
from .guest import rows as guest_rows
from .limits import Limits, Result
from .requests import check_code
from .script import Door, grade_script

__all__ = [
    "Calls",
    "Case",
    "Door",
    "Report",
    "Script",
    "Streams",
    "Tests",
    "Verdict",
    "calls_from_assert",
    "calls_from_asserts",
    "calls_from_check",
    "equal",
    "grade",
]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
DETAIL = 200  # characters


def grade(door: Door, candidate: str, tests: Tests, limits: Limits) -> Report:
    """Grade one candidate.

    Raises:
        BadRequest: The tests themselves are wrong; nothing was run.
    """
    match tests:
        case Calls():
            return _grade_calls(door, candidate, tests, limits)
        case Script():
            return grade_script(door, candidate, tests, limits)
        case Streams():
            return _grade_streams(door, candidate, tests, limits)
        case _:
            raise BadRequest(f"tests are {type(tests).__name__}; give Calls, Script or Streams")


def equal(got: object, expected: object, tolerance: float | None = None) -> bool:
    """Whether a decoded value is what was expected.

    Without tolerance Python's own `==` between exact builtin types, so `True` equals 1 and a tuple
    never equals a list. With it numbers may differ by `tolerance`, or by that share of the expected
    number. NaN equals NaN only where it is expected.

    >>> equal([1, 2.0000001], [1, 2], 1e-6), equal((1,), [1])
    (True, False)
    """
    try:
        return bool(got == expected) or _alike(got, expected, tolerance)
    except Exception:  # a signalling NaN, an int too large for a float
        return False


def _alike(got: Any, expected: Any, tolerance: float | None) -> bool:
    kind: Any = _kind(expected)
    if issubclass(kind, dict):
        return issubclass(type(got), dict) and _alike_pairs(got, expected, tolerance)
    if any(kind is one for one in (list, tuple, deque)):
        same = _kind(got) is kind and len(got) == len(expected)
        return same and all(map(equal, got, expected, [tolerance] * len(expected)))
    if kind is bool or not _is_number(expected) or not _is_number(got):
        return False
    return _near(got, expected, tolerance)


def _kind(value: object) -> type:
    return type(value)


def _alike_pairs(got: Any, expected: Any, tolerance: float | None) -> bool:
    return len(got) == len(expected) and all(
        key in got and equal(got[key], expected[key], tolerance) for key in expected
    )


def _is_number(value: object) -> bool:
    return type(value) in (int, float, complex, Decimal, Fraction)


def _near(got: Any, expected: Any, tolerance: float | None) -> bool:
    if expected != expected:
        return bool(got != got)
    if tolerance is None or isinstance(got, complex) > isinstance(expected, float | complex):
        return False
    kind = complex if complex in (type(got), type(expected)) else float
    size = abs(kind(expected))
    return math.isfinite(size) and abs(kind(got) - kind(expected)) <= tolerance * max(1.0, size)


def _grade_calls(door: Door, candidate: str, tests: Calls, limits: Limits) -> Report:
    payload = _pack(tests, limits)
    check_code(candidate, "candidate", len(payload))
    if tests.isolate == "case":  # each case has the wall to itself, and loading has one too
        total = min(limits.wall * (len(tests.cases) + 1), 86_400.0)
        limits = replace(limits, wall=total, cpu=limits.processor_seconds)
    request = Request(candidate, limits=limits, mode="calls", payload=payload)
    outcome = door.run(request)
    verdicts, forged = verdicts_of(tests.cases, outcome.rows, outcome.result)
    if forged:
        door.note("malformed")
    return report(verdicts, outcome.result)


def _pack(tests: Calls, limits: Limits) -> bytes:
    if not isinstance(cast("object", tests.entry), str) or not tests.entry:
        raise BadRequest(f"Calls.entry is {tests.entry!r}; give the name of a function")
    if tests.isolate not in ("batch", "case"):
        raise BadRequest(f'Calls.isolate is {tests.isolate!r}; give "batch" or "case"')
    for case in tests.cases:
        _check_case(case)
    asked = tuple((tuple(case.args), dict(case.kwargs)) for case in tests.cases)
    try:
        values.encode([case.expected for case in tests.cases])
        return values.encode((tests.entry, tests.isolate, limits.wall, asked))
    except values.NotPlain as problem:
        raise BadRequest(f"a Case holds what no wire carries: {problem}") from None


def _check_case(case: object) -> None:
    if not isinstance(case, Case):
        raise BadRequest(f"Calls.cases holds a {type(case).__name__}; give Cases")
    limit = cast("object", case.tolerance)
    if limit is not None and not (isinstance(limit, int | float) and 0 <= limit < math.inf):
        raise BadRequest(f"Case.tolerance is {limit!r}; give a number from 0, or None")
    args, kwargs = cast("object", case.args), cast("object", case.kwargs)
    if isinstance(args, str | bytes) or not isinstance(args, Iterable):
        raise BadRequest(f"Case.args is {args!r}; give a tuple of arguments")
    if not isinstance(kwargs, Mapping) or not all(type(key) is str for key in case.kwargs):
        raise BadRequest(f"Case.kwargs is {kwargs!r}; give a mapping of names to arguments")


def verdicts_of(
    cases: tuple[Case, ...], rows: bytes, result: Result
) -> tuple[tuple[Verdict, ...], bool]:
    """Judge what came out of the result pipe, byte by byte hostile.

    Returns:
        One verdict a case, and whether the pipe carried what no driver writes: rows out of order,
        more rows than cases, bytes that are no row. Then every case fails.
    """
    names = [case.name or f"case {k}" for k, case in enumerate(cases)]
    try:
        found = list(read_rows(rows, len(cases)))
    except values.ValueProblem as problem:
        detail = f"the result channel was written by another hand: {problem}"
        return tuple(Verdict(name, "malformed", detail[:DETAIL]) for name in names), True
    verdicts = [
        _verdict(name, case, row) for name, case, row in zip(names, cases, found, strict=False)
    ]
    verdicts += _unwritten(names[len(found) :], result)
    return tuple(verdicts), False


def read_rows(data: bytes, most: int) -> Iterable[tuple[Any, ...]]:
    """The rows in `data`, in order; an unfinished last one is left out.

    Raises:
        BadValue: A row is no tuple, out of order, or one too many.
    """
    at, k, nodes = 0, 0, 2 * values.NODES  # of all rows: reading them must not hold us up
    while len(data) - at >= guest_rows.LENGTH.size:
        (length,) = guest_rows.LENGTH.unpack_from(data, at)
        at += guest_rows.LENGTH.size
        if at + length > len(data):
            return
        found, nodes = values.decode_some(data[at : at + length], nodes)
        row = cast("Any", found)
        at += length
        if type(row) is not tuple or k >= most or len(cast("Any", row)) < 3 or row[0] != k:
            raise values.BadValue(f"row {k} is not the row of case {k}")
        yield row
        k += 1


def _verdict(name: str, case: Case, row: tuple[Any, ...]) -> Verdict:
    match row:
        case (_, guest_rows.VALUE, got) if case.raises is not None:
            return Verdict(name, "wrong", f"returned {short(got)} and raised nothing")
        case (_, guest_rows.VALUE, got):
            if equal(got, case.expected, case.tolerance):
                return Verdict(name, "pass")
            return Verdict(name, "wrong", f"returned {short(got)}"[:DETAIL])
        case (_, guest_rows.RAISED, str(kind), str(nearest), str(text), str(when)):
            if case.raises is not None and not when and _matches(case.raises, kind, nearest):
                return Verdict(name, "pass")
            detail = f"{kind}: {text}" + (f" ({when})" if when else "")
            return Verdict(name, "raised", detail[:DETAIL])
        case (_, guest_rows.TIMEOUT, *_):
            return Verdict(name, "timeout", "this case did not return within its wall")
        case (_, guest_rows.MISSING, *_):
            return Verdict(name, "missing", "the program ended itself in this case")
        case (_, guest_rows.ABSENT, str(entry)):
            return Verdict(name, "missing", f"the program defines no {entry[:80]}")
        case (_, guest_rows.MALFORMED, str(reason)):
            return Verdict(name, "malformed", reason[:DETAIL])
        case _:
            return Verdict(name, "malformed", "the row has an unknown form")


def _matches(wanted: str, kind: str, nearest: str) -> bool:
    """Whether an exception is of the wanted class; builtin classes by our own hierarchy."""
    wanted = wanted.rpartition(".")[2]
    above = values.TYPES.get(wanted)
    below = values.TYPES.get(nearest)
    if above is None or below is None:
        return kind == wanted
    return issubclass(below, above)


def _unwritten(names: list[str], result: Result) -> list[Verdict]:
    """Verdicts of the cases whose row never came."""
    if not names:
        return []
    slow = result.reason == "timeout" or result.exit_code == -signal.SIGALRM  # late in loading
    late: Mark = "timeout" if slow else "missing"
    ended = f"the program ended here ({result.reason}, exit code {result.exit_code})"
    first = Verdict(names[0], late, "no answer in time" if late == "timeout" else ended)
    return [first, *(Verdict(name, "missing", "never reached") for name in names[1:])]


def short(value: object) -> str:
    """A plain value for human eyes, cut to size."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an int with more digits than Python prints
        return "<a very large number>"


def _grade_streams(door: Door, candidate: str, tests: Streams, limits: Limits) -> Report:
    if tests.match not in ("exact", "tokens"):
        raise BadRequest(f'Streams.match is {tests.match!r}; give "exact" or "tokens"')
    if not tests.cases:
        raise BadRequest("Streams has no cases; give at least one pair of stdin and stdout")
    check_code(candidate, "candidate", max(len(given) * 4 for given, _ in tests.cases))
    verdicts: list[Verdict] = []
    shown: Result | None = None  # the first that failed, else the last
    for k, (given, expected) in enumerate(tests.cases):
        room = min(max(limits.output, 2 * len(expected.encode()) + 1), 4 << 20)
        request = Request(candidate, given.encode(), limits=replace(limits, output=room))
        result = door.run(request).result
        verdict = _stream_verdict(f"case {k}", expected, result, tests.match)
        if all(earlier.outcome == "pass" for earlier in verdicts):
            shown = result
        verdicts.append(verdict)
    assert shown is not None
    return report(tuple(verdicts), shown)


def _stream_verdict(name: str, expected: str, result: Result, match: str) -> Verdict:
    if result.reason == "timeout":
        return Verdict(name, "timeout", "the program did not end in time")
    if not result.ok:
        detail = f"the program ended with {result.reason}, exit code {result.exit_code}"
        return Verdict(name, "raised" if result.reason == "error" else "missing", detail)
    if match == "exact":
        same = result.stdout == expected and result.stdout_bytes == len(expected.encode())
    else:
        same = result.stdout.split() == expected.split() and not result.truncated
    return Verdict(name, "pass") if same else Verdict(name, "wrong", "the output differs")
