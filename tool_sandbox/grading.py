"""Cases, scripts and streams; comparison on our side; `Report`."""

from __future__ import annotations

import contextlib
import keyword
import math
import reprlib
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from types import NoneType
from typing import Any, cast

from . import values
from .asserts import calls_from_assert, calls_from_asserts, calls_from_check
from .cases import Calls, Case, Mark, Report, Script, Streams, Tests, Verdict, report
from .cell import Request
from .errors import BadRequest
from .guest import rows as guest_rows
from .guest.watch import ROWS_MOST
from .limits import Limits, Result
from .requests import check_code, check_room
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
_MOST_OUTPUT = 4 << 20  # bytes kept of one stream


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
    if not all(map(_is_name, tests.entry.split("."))):
        raise BadRequest(
            f"Calls.entry is {tests.entry!r}, which no program can define; give a name, or names "
            "joined by dots: a method of a new object is asked for by Script"
        )
    if tests.isolate not in ("batch", "case"):
        raise BadRequest(f'Calls.isolate is {tests.isolate!r}; give "batch" or "case"')
    if not isinstance(cast("object", tests.cases), Sequence):
        raise BadRequest(f"Calls.cases is {type(tests.cases).__name__}; give a tuple of Cases")
    for case in tests.cases:
        _check_case(case)
    keywords = [case.kwargs for case in tests.cases]
    try:
        _check_expected([case.expected for case in tests.cases])
        return values.encode(
            (
                tests.entry,
                tests.isolate,
                limits.wall,
                len(tests.cases),
                _columns([tuple(case.args) for case in tests.cases]),
                tuple(map(dict, keywords)) if any(keywords) else (),
                tuple(k for k, case in enumerate(tests.cases) if case.by == "truth"),
            )
        )
    except values.NotPlain as problem:
        raise BadRequest(f"a Case holds what no wire carries: {problem}") from None


def _check_expected(expected: list[object]) -> None:
    """Refuses what no candidate's rows could hold, lest everybody fail in silence."""
    with contextlib.suppress(values.NotPlain):  # too much at once, or not plain: look at each
        values.encode(expected, size=guest_rows.ROW)
        return
    sizes = [len(values.encode(value, size=guest_rows.ROW)) for value in expected]
    if sum(sizes) + len(sizes) * guest_rows.HEAD.size > ROWS_MOST:
        raise BadRequest(
            f"the expected values take {sum(sizes)} bytes and one grading brings back "
            f"{ROWS_MOST}: nobody could pass; grade fewer cases at once"
        )


def _columns(arguments: list[tuple[object, ...]]) -> object:
    """The first arguments of all cases, the second ones, ...: a column of numbers is one piece.

    Cases of different length travel as they are, in a list.
    """
    if len(set(map(len, arguments))) > 1:
        return arguments
    return tuple(zip(*arguments, strict=True))


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _check_case(case: object) -> None:
    if not isinstance(case, Case):
        raise BadRequest(f"Calls.cases holds a {type(case).__name__}; give Cases")
    if type(case.name) is not str or type(case.raises) not in (str, NoneType):
        raise BadRequest(
            f"Case.name and Case.raises are {case.name!r} and {case.raises!r}; give texts: "
            "raises is the name of an exception, or None"
        )
    if case.raises is not None and not all(map(_is_name, case.raises.split("."))):
        raise BadRequest(f"Case.raises is {case.raises!r}; give the name of one exception, or None")
    if case.by not in ("equality", "truth", "identity"):
        raise BadRequest(f'Case.by is {case.by!r}; give "equality", "truth" or "identity"')
    limit = cast("object", case.tolerance)
    if limit is not None and not (isinstance(limit, int | float) and 0 <= limit < math.inf):
        raise BadRequest(f"Case.tolerance is {limit!r}; give a number from 0, or None")
    args, kwargs = cast("object", case.args), cast("object", case.kwargs)
    if type(args) is tuple and type(kwargs) is dict and not kwargs:
        return  # the rest asks abstract classes, which takes its time
    if isinstance(args, str | bytes | bytearray) or not isinstance(args, Sequence):
        raise BadRequest(f"Case.args is {type(args).__name__}; give a tuple of arguments")
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
        found = read_rows(rows, len(cases))
    except values.ValueProblem as problem:
        detail = f"the result channel was written by another hand: {problem}"
        return tuple(Verdict(name, "malformed", detail[:DETAIL]) for name in names), True
    verdicts = [
        _verdict(name, case, what, value)
        for name, case, (what, value) in zip(names, cases, found, strict=False)
    ]
    verdicts += _unwritten(names[len(found) :], result)
    return tuple(verdicts), False


def read_rows(data: bytes, most: int) -> list[tuple[int, object]]:
    """What became of each case and the value with it, in order; an unfinished last row is left out.

    Raises:
        BadValue: A row has no value, is out of order, or one too many.
    """
    found: list[tuple[int, object]] = []
    reader = values.Reader(data, None, 2 * values.NODES)  # of all rows: they must not hold us up
    head, length_bytes = guest_rows.HEAD, guest_rows.LENGTH.size
    at = 0
    while len(data) - at >= length_bytes:
        (length,) = guest_rows.LENGTH.unpack_from(data, at)
        end = at + length_bytes + length
        if end > len(data):
            break
        if at + head.size > end:
            raise values.BadValue(f"row {len(found)} has no head")
        _, k, what = head.unpack_from(data, at)
        if k != len(found) or k >= most:
            raise values.BadValue(f"row {len(found)} is not the row of case {len(found)}")
        reader.at = at + head.size
        found.append((what, reader.value()))
        if reader.at != end:
            raise values.BadValue(f"row {k} does not end with its value")
        at = end
    return found


def _verdict(name: str, case: Case, what: int, value: object) -> Verdict:
    if what == guest_rows.VALUE:
        if case.raises is not None:
            return Verdict(name, "wrong", f"returned {short(value)} and raised nothing")
        if _meets(value, case):
            return _passed(name)
        return Verdict(name, "wrong", f"returned {short(value)}"[:DETAIL])
    match (what, value):
        case (guest_rows.RAISED, (str(kind), str(nearest), str(text), str(when))):
            if case.raises is not None and not when and _matches(case.raises, kind, nearest):
                return Verdict(name, "pass")
            detail = f"{kind.split('/')[0]}: {text}" + (f" ({when})" if when else "")
            return Verdict(name, "raised", detail[:DETAIL])
        case (guest_rows.TIMEOUT, _):
            return Verdict(name, "timeout", "this case did not return within its wall")
        case (guest_rows.MISSING, _):
            return Verdict(name, "missing", "the program ended itself in this case")
        case (guest_rows.ABSENT, str(entry)):
            return Verdict(name, "missing", f"the program defines no {entry[:80]}")
        case (guest_rows.MALFORMED, str(reason)):
            return Verdict(name, "malformed", reason[:DETAIL])
        case _:
            return Verdict(name, "malformed", "the row has an unknown form")


@lru_cache(4096)
def _passed(name: str) -> Verdict:
    return Verdict(name, "pass")


def _meets(value: object, case: Case) -> bool:
    if case.by == "equality":
        return equal(value, case.expected, case.tolerance)
    if case.by == "truth":
        return bool(value) == bool(case.expected)
    return type(value) is type(case.expected) and equal(value, case.expected)


def _matches(wanted: str, kind: str, nearest: str) -> bool:
    """Whether an exception is of the wanted class; builtin classes by our own hierarchy."""
    wanted = wanted.rpartition(".")[2]
    above = OSError if wanted in ("IOError", "EnvironmentError") else values.TYPES.get(wanted)
    below = values.TYPES.get(nearest)
    if above is None or below is None:
        return wanted in kind.split("/")[: guest_rows.ABOVE]
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
    if not tests.cases or not isinstance(cast("object", tests.cases), Sequence):
        raise BadRequest("Streams has no cases; give at least one pair of stdin and stdout")
    for pair in tests.cases:
        _check_pair(pair)
        check_room({}, pair[0].encode(), limits)
    check_code(candidate, "candidate", max(len(given) * 4 for given, _ in tests.cases))
    verdicts: list[Verdict] = []
    shown: Result | None = None  # the first that failed, else the last
    program = candidate.removeprefix("\ufeff")  # as Python does with a file
    for k, (given, expected) in enumerate(tests.cases):
        room = min(max(limits.output, 2 * len(expected.encode()) + 1), _MOST_OUTPUT)
        request = Request(program, given.encode(), limits=replace(limits, output=room))
        result = door.run(request).result
        verdict = _stream_verdict(f"case {k}", expected, result, tests.match)
        if all(earlier.outcome == "pass" for earlier in verdicts):
            shown = result
        verdicts.append(verdict)
    assert shown is not None
    return report(tuple(verdicts), shown)


def _check_pair(pair: object) -> None:
    shown = short(pair)
    texts = list(cast("Any", pair)) if isinstance(pair, tuple | list) else []
    if [type(text) for text in texts] != [str, str]:
        raise BadRequest(f"Streams.cases holds {shown}; give pairs of texts, stdin and stdout")
    if len(texts[1]) > _MOST_OUTPUT // 4:
        raise BadRequest(f"an expected stdout has {len(texts[1])} characters; give at most 1 MiB")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise BadRequest("Streams.cases holds a lone surrogate; give valid text") from None


def _stream_verdict(name: str, expected: str, result: Result, match: str) -> Verdict:
    if result.reason == "timeout":
        return Verdict(name, "timeout", "the program did not end in time")
    if not result.ok:
        detail = f"the program ended with {result.reason}, exit code {result.exit_code}"
        return Verdict(name, "raised" if result.reason == "error" else "missing", detail)
    # undecodable bytes became U+FFFD, and what is beyond the cap is missing: both change the length
    same = result.stdout_bytes == len(result.stdout.encode()) and (
        result.stdout == expected if match == "exact" else result.stdout.split() == expected.split()
    )
    return Verdict(name, "pass") if same else Verdict(name, "wrong", "the output differs")
