"""`Calls`: what comes back is read, compared and told here, on our side; the way to the others."""

from __future__ import annotations

import keyword
import math
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import NoneType
from typing import cast

from . import values
from .asserts import calls_from_assert, calls_from_asserts, calls_from_check
from .cases import Calls, Case, Mark, Report, Script, Streams, Tests, Verdict, report
from .cell import Request
from .comparing import equal
from .errors import BadRequest
from .guest import rows as guest_rows
from .guest.watch import ROWS_MOST
from .limits import Limits, Result
from .requests import check_code
from .script import Door, grade_script
from .showing import detail, short
from .streams import grade_streams

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

# In the bytes of every value with a NaN or a Decimal, and of few others: only these are looked at
# twice. It is the end of a float that Python calls NaN, or the tag of a Decimal and its length.
_ODD = re.compile(rb"\xf8[\x7f\xff]|m..[\0\1]\0", re.DOTALL)
_LONG = f"an int of more than {values.MIXED_BITS} bits"
_SLOW = "comparing the two takes too long"


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
            return grade_streams(door, candidate, tests, limits)
        case _:
            raise BadRequest(f"tests are {type(tests).__name__}; give Calls, Script or Streams")


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
        _check_expected(tests.cases)
        return values.encode(
            (
                tests.entry,
                tests.isolate,
                limits.wall,
                len(tests.cases),
                _columns([tuple(case.args) for case in tests.cases]),
                tuple(map(dict, keywords)) if any(keywords) else (),
                tuple(k for k, case in enumerate(tests.cases) if case.by == "truth"),
            ),
            whole=True,
        )
    except values.NotPlain as problem:
        raise BadRequest(f"a Case holds what no wire carries: {problem}") from None


def _check_expected(cases: Sequence[Case]) -> None:
    """Refuses what no candidate's rows could hold or equal, lest everybody fail in silence."""
    expected = [case.expected for case in cases]
    try:
        coded = [values.encode(expected, size=guest_rows.ROW)]
    except values.NotPlain:  # too much at once, or not plain: look at each
        coded = [values.encode(value, size=guest_rows.ROW) for value in expected]
        _check_together(coded)
    if any(map(_ODD.search, coded)):
        for case in cases:
            _check_passable(case)


def _check_together(coded: list[bytes]) -> None:
    size = sum(map(len, coded))
    if size + len(coded) * guest_rows.HEAD.size > ROWS_MOST:
        raise BadRequest(
            f"the expected values take {size} bytes and one grading brings back {ROWS_MOST}: "
            "nobody could pass; grade fewer cases at once"
        )
    made = (guest_rows.row(k, guest_rows.VALUE, data) for k, data in enumerate(coded))
    try:
        read_rows(b"".join(made), len(coded))
    except values.ValueProblem as problem:
        raise BadRequest(
            f"nobody could bring back the expected values together: {problem}; grade fewer "
            "cases at once"
        ) from None


def _check_passable(case: Case) -> None:
    """Refuses an expected value that not even itself would equal, once it has travelled."""
    if case.raises is not None or case.by == "truth":
        return
    reader = values.Reader(values.encode(case.expected), None, values.NODES)
    try:
        value = reader.value()
    except values.BadValue as problem:
        raise BadRequest(f"nobody could bring back an expected value: {problem}") from None
    if reader.longs and reader.decimals:
        raise BadRequest(f"an expected value holds Decimals and {_LONG}: {_SLOW}")
    if not _meets(value, case):
        raise BadRequest(
            f"Case.expected is {short(case.expected)}, which no answer equals: a NaN in a set, or "
            "among keys, equals nothing; expect something else"
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
    names = _names(cases)
    try:
        found = read_rows(rows, len(cases), [case.expected for case in cases])
    except values.ValueProblem as problem:
        told = detail(f"the result channel was written by another hand: {problem}")
        return tuple(Verdict(name, "malformed", told) for name in names), True
    verdicts = [
        _verdict(name, case, what, value)
        for name, case, (what, value) in zip(names, cases, found, strict=False)
    ]
    verdicts += _unwritten(names[len(found) :], result)
    return tuple(verdicts), False


def _names(cases: Sequence[Case]) -> list[str]:
    return [case.name or f"case {k}" for k, case in enumerate(cases)]


def read_rows(data: bytes, most: int, expected: Sequence[object] = ()) -> list[tuple[int, object]]:
    """What became of each case and the value with it, in order; an unfinished last row is left out.

    Args:
        data: From the pipe.
        most: How many rows there may be.
        expected: Of each case. What cannot be compared with it in time comes as malformed.

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
        value = reader.value()
        if reader.at != end:
            raise values.BadValue(f"row {k} does not end with its value")
        if (reader.longs or reader.decimals) and _clash(reader, expected[k : k + 1]):
            what, value = guest_rows.MALFORMED, f"{_LONG} beside Decimals: {_SLOW}"
        found.append((what, value))
        at = end
    return found


def _clash(reader: values.Reader, expected: Sequence[object]) -> bool:
    """Whether the value just read, or what is expected, holds Decimals and the other long ints.

    All threads of a trainer would wait for their comparison, which is one step for Python.
    """
    other = values.Reader(values.encode(expected[0]) if expected else b"N", None, values.NODES)
    other.value()
    return (reader.longs and other.decimals) or (reader.decimals and other.longs)


def _verdict(name: str, case: Case, what: int, value: object) -> Verdict:
    match (what, value):
        case (guest_rows.VALUE, _) if case.raises is not None:
            return Verdict(name, "wrong", detail(f"raised nothing and returned {short(value)}"))
        case (guest_rows.VALUE, _) if _meets(value, case):
            return _passed(name)
        case (guest_rows.VALUE, _):
            return Verdict(name, "wrong", detail(f"returned {short(value)}"))
        case (guest_rows.RAISED, (str(kind), str(nearest), str(text), str(when))):
            if case.raises is not None and not when and _matches(case.raises, kind, nearest):
                return _passed(name)
            told = f"{kind.split('/')[0]}: {text}" + (f" ({when})" if when else "")
            return Verdict(name, "raised", detail(told))
        case (guest_rows.TIMEOUT, _):
            return Verdict(name, "timeout", "this case did not return within its wall")
        case (guest_rows.MISSING, int(code)):
            return Verdict(name, "missing", f"the program ended in this case, {_death(code)}")
        case (guest_rows.ABSENT, str(entry)):
            return Verdict(name, "missing", detail(f"the program defines no {entry[:80]}"))
        case (guest_rows.MALFORMED, str(reason)):
            return Verdict(name, "malformed", detail(reason))
        case _:
            return Verdict(name, "malformed", "the row has an unknown form")


def _death(code: int) -> str:
    """What an exit code tells; it comes from the candidate's process and may be any number."""
    if code == -signal.SIGXCPU:
        return "its processor time was used up"
    if code == -signal.SIGKILL:
        return "killed, as where the memory is used up"
    return f"by signal {-code}" if -64 <= code < 0 else f"exit code {short(code)}"


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
