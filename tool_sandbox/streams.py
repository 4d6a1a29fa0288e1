"""`Streams`: a program's output is compared here, on our side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from .cases import Report, Streams, Verdict, report
from .cell import Request
from .errors import BadRequest
from .limits import Limits, Result
from .requests import check_code, check_room
from .script import Door
from .showing import detail, short

_MOST_OUTPUT = 4 << 20  # bytes kept of one stream


def grade_streams(door: Door, candidate: str, tests: Streams, limits: Limits) -> Report:
    """Grade one candidate by what it prints.

    Raises:
        BadRequest: A case that cannot be; nothing was run.
    """
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
    # The limit travels to the guest, so all that it may tell is whether any output is a long one.
    longest = max(len(expected.encode()) for _, expected in tests.cases)
    if 2 * longest >= limits.output:  # there is room for white space, which tokens leave out
        limits = replace(limits, output=_MOST_OUTPUT)
    for k, (given, expected) in enumerate(tests.cases):
        request = Request(program, given.encode(), limits=limits)
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
        told = f"the program ended with {result.reason}, exit code {result.exit_code}"
        said = result.stderr.rstrip().rpartition("\n")[2]  # as a rule the exception
        told += f": {said}" if said and not result.truncated else ""  # its end may be cut off
        return Verdict(name, "raised" if result.reason == "error" else "missing", detail(told))
    # Beyond the cap output is missing; bytes that are no text became U+FFFD, as a rule a longer
    # one. Where neither changed the length, what was written is what is compared, or nearly so.
    same = result.stdout_bytes == len(result.stdout.encode()) and (
        result.stdout == expected if match == "exact" else result.stdout.split() == expected.split()
    )
    return Verdict(name, "pass") if same else Verdict(name, "wrong", "the output differs")
