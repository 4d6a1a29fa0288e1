"""The judge's rows: a plan, what became of each test, and a last word, under the host's nonce."""

from __future__ import annotations

import unittest
from typing import Any

from .. import values
from . import rows, talk
from .proxies import Inexpressible, Link

TESTS = "<tests>"  # the file name of the tests' code


class Board:
    """Writes rows and says what an exception of the tests means.

    Attributes:
        link: To the candidate, once there is one.
    """

    def __init__(
        self, nonce: bytes, names: tuple[str, ...], out: int, module: str = "solution"
    ) -> None:
        """Writes nothing yet.

        Args:
            nonce: Goes with each row.
            names: What the tests use of the candidate.
            out: Descriptor for the rows.
            module: The name that the tests import the candidate under.
        """
        self.nonce = nonce
        self.out = out
        self.names = names
        self.module = module
        self.link: Link | None = None
        self._held = b""

    def whole(self, problem: BaseException | None) -> None:
        """The one row of a script without test classes, or of one that did not get so far."""
        self.hold("plan", ("script",))
        mark, detail = self.judged(problem) if problem is not None else ("pass", "")
        self.hold("row", 0, *self.with_words(mark, detail))

    def end(self) -> None:
        """Say that the script ran to its end, and whether the candidate forged answers."""
        self.put("end", bool(self.link and self.link.forged))

    def hold(self, *row: object) -> None:
        """Write a row together with the next: between the two nothing of the tests runs."""
        data = values.encode((self.nonce, *row))
        self._held += rows.LENGTH.pack(len(data)) + data

    def put(self, *row: object) -> None:
        """Write a row, and what is held, at once: rows written before a time-out count."""
        self.hold(*row)
        rows.put(self.out, self._held)
        self._held = b""

    def with_words(self, mark: str, detail: str) -> tuple[str, str]:
        """A mark and its detail, unless the link knows better."""
        if self.link and self.link.reason:
            return "malformed", self.link.reason[: rows.TEXT]
        if mark == "pass" and self.link and self.link.lost:
            return "missing", self.link.lost  # a handler of the tests swallowed it
        if mark == "pass" and self.link and self.link.words:
            return mark, f"{self.link.words} comparisons rest on the candidate's word"
        return mark, detail[: rows.TEXT]

    def judged(self, problem: BaseException) -> tuple[str, str]:
        """What an exception says of the candidate; nothing of the tests' own text is quoted."""
        where = _line(problem)
        told = getattr(problem, "palaestra_text", None)
        match problem:
            case Inexpressible():
                return "malformed", str(problem)
            case talk.Gone():
                return "missing", str(problem)
            case _ if told is not None:
                return "raised", f"{told}{where}"
            case AssertionError():
                return "wrong", f"an assertion of the tests failed{where}"
            case NameError(name=name) if name in self.names:
                return "missing", f"the program defines no {name}"
            case ImportError(name=str(name)) if name.partition(".")[0] != self.module:
                return "malformed", f"the tests import what no cell has{where}"
            case ImportError():
                return "missing", f"the tests import what is not there{where}"
            case _:
                return "raised", f"{type(problem).__name__}{where}"


class Results(unittest.TestResult):
    """Runs `unittest` tests, each with a row as it ends."""

    def __init__(self, board: Board) -> None:
        """Runs nothing yet."""
        super().__init__()
        self.board = board
        self.places: dict[str, int] = {}
        self.titles: tuple[str, ...] = ()
        self.marks: dict[str, tuple[str, str]] = {}

    def run(self, tests: list[unittest.TestCase]) -> None:
        """Run the tests, each whatever became of the one before."""
        self.titles = tuple(".".join(test.id().split(".")[-2:]) for test in tests)
        self.places = {test.id(): k for k, test in enumerate(tests)}
        self.board.put("plan", self.titles)
        unittest.TestSuite(tests).run(self)

    # What `unittest` calls, with its names.
    # ruff: noqa: N802, D102
    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        if self.board.link:
            self.board.link.begin()

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        mark, detail = self.marks.pop(test.id(), ("missing", "the test gave no result"))
        self.board.put("row", self.places[test.id()], *self.board.with_words(mark, detail))

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.marks.setdefault(test.id(), ("pass", ""))

    def addError(self, test: Any, err: Any) -> None:
        self.marks[test.id()] = self.board.judged(err[1])
        if test.id() not in self.places and test.id().startswith("tearDown"):
            self._add(test.id())

    def _add(self, title: str) -> None:
        """A row of its own for what failed after the last test of its class."""
        self.titles += (title,)
        self.board.put("plan", self.titles)
        self.board.put("row", len(self.titles) - 1, *self.marks.pop(title))

    def addFailure(self, test: Any, err: Any) -> None:
        self.marks[test.id()] = self.board.judged(err[1])

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.marks[test.id()] = self.board.judged(err[1])

    def addSkip(self, test: Any, reason: str) -> None:
        whole = getattr(test, "test_case", test)  # of which this may be a part
        self.marks[whole.id()] = ("missing", "the test skipped itself while it ran")

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self.marks[test.id()] = ("pass", "")

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.marks[test.id()] = ("wrong", "the test passed where its author expected a failure")


def _line(problem: BaseException) -> str:
    line, trace = 0, problem.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == TESTS:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line} of the tests)" if line else ""
