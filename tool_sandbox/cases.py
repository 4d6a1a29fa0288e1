"""What is asked of a candidate, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from .limits import Result
from .showing import detail

Mark = Literal["pass", "wrong", "raised", "timeout", "missing", "malformed"]
By = Literal["equality", "truth", "identity"]
MARKS: tuple[Mark, ...] = get_args(Mark)


@dataclass(frozen=True, slots=True)
class Case:
    """One call and what it must give.

    Attributes:
        args: Plain data (`values.encode`).
        kwargs: Plain data by name.
        expected: What the call must return; it never leaves the host.
        raises: Name of the exception the call must raise instead.
        tolerance: Numbers may differ by it, relatively or absolutely; None compares exactly.
        name: For the verdict.
        by: What is asked of the answer: that it equals `expected`, that it is as true or as untrue
            (a bare `assert f(x)`), or that it is the same constant (`f(x) is None`).
    """

    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict[str, object])
    expected: object = None
    raises: str | None = None
    tolerance: float | None = None
    name: str = ""
    by: By = "equality"


@dataclass(frozen=True, slots=True)
class Calls:
    """A function called once a case: values come out, the host compares.

    Attributes:
        entry: Name of the candidate's function; dots lead into classes.
        cases: In the order of the calls.
        isolate: "batch" runs all cases in one process with one wall in total; "case" loads the
            candidate once and forks for each case, each with a wall of its own.
    """

    entry: str
    cases: tuple[Case, ...]
    isolate: Literal["batch", "case"] = "batch"


@dataclass(frozen=True, slots=True)
class Script:
    """Test code, run by a judge process in another cell than the candidate's.

    Attributes:
        source: Asserts, a `check(candidate)` or unittest classes.
        prelude: Trusted code the tests lean on (HumanEval: the prompt).
        names: The candidate's names the tests use; None takes the free names of `source`.
        module: What the tests import the candidate as.
        call: Run `check(<call>)` at the end: a name, or an expression (`Solution().two_sum`).
        share: Run the tests in the candidate's own process; nothing then keeps it honest.
    """

    source: str
    prelude: str = ""
    names: tuple[str, ...] | None = None
    module: str = "solution"
    call: str | None = None
    share: bool = False


@dataclass(frozen=True, slots=True)
class Streams:
    """A program run once a case: stdin in, stdout out, compared by the host.

    Attributes:
        cases: Pairs of stdin and expected stdout.
        match: "exact", or "tokens" for equality of the words between white space.
    """

    cases: tuple[tuple[str, str], ...]
    match: Literal["exact", "tokens"] = "tokens"


Tests = Calls | Script | Streams


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one case; `detail` never holds an expected value."""

    name: str
    outcome: Mark
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one candidate.

    Attributes:
        passed: Every row passed, and there was at least one.
        score: Share of rows passed.
        verdicts: One a row.
        result: The candidate's execution; its reason is "lost" where the judge's worker was lost.
        integrity: "shared" where tests and candidate shared a process.
    """

    passed: bool
    score: float
    verdicts: tuple[Verdict, ...]
    result: Result
    integrity: Literal["separate", "shared"] = "separate"


def _readable(verdict: Verdict) -> Verdict:
    """The verdict with a detail that can be written anywhere: its words may be the candidate's."""
    if verdict.detail.isprintable():
        return verdict
    return replace(verdict, detail=detail(verdict.detail))


def report(
    verdicts: tuple[Verdict, ...],
    result: Result,
    integrity: Literal["separate", "shared"] = "separate",
) -> Report:
    """Count the verdicts into a report."""
    verdicts = tuple(map(_readable, verdicts))
    passed = sum(verdict.outcome == "pass" for verdict in verdicts)
    score = passed / len(verdicts) if verdicts else 0.0
    whole = bool(verdicts) and passed == len(verdicts)
    return Report(whole, score, verdicts, result, integrity)
