"""The judge's half of a script: runs the tests and writes what became of them.

No candidate code is here. The rows carry the host's nonce, which only this process was given.
"""

from __future__ import annotations

import socket
import sys
import types
import unittest
from types import TracebackType
from typing import Any, cast

from .. import values
from . import rows, talk
from .proxies import Inexpressible, Link, Solution

TESTS = "<tests>"
_Problem = tuple[type[BaseException], BaseException, TracebackType]


def judge(payload: bytes) -> None:
    """Run a script against the candidate at the other end of the socket."""
    nonce, prelude, source, names, module, call, shared = cast("Any", values.decode(payload))
    board = Rows(nonce, names)
    try:
        space = _space(prelude)
        if shared is None:
            link = board.link = Link(socket.socket(fileno=talk.SOCKET))
            link.greet()
            found: types.ModuleType = Solution(module, link)
            sys.modules[module] = found
        else:
            found = rows.load(shared, module)
        for name in names:
            thing = getattr(found, name, board)
            if thing is not board:
                space[name] = thing
        exec(compile(source, TESTS, "exec", dont_inherit=True), space)
        if call is not None:
            if call not in space:
                raise NameError(call, name=call)
            space["check"](space[call])
    except BaseException as problem:
        board.whole(problem)
    else:
        kinds = _test_classes(space)
        if kinds:
            board.run([case for kind in kinds for case in _cases(kind) if not _skipped(case)])
        else:
            board.whole(None)
    board.end()
    rows.leave(0)


def _space(prelude: str) -> dict[str, Any]:
    """The tests' globals, with the trusted code they lean on."""
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    exec(compile(prelude, "<prelude>", "exec", dont_inherit=True), vars(module))
    return vars(module)


def _test_classes(space: dict[str, Any]) -> list[type[unittest.TestCase]]:
    """The test classes that the script itself defines."""
    found: list[type[unittest.TestCase]] = []
    for kind in space.values():
        if isinstance(kind, type) and issubclass(kind, unittest.TestCase) and _own(kind):
            found.append(kind)
    return found


def _own(kind: type) -> bool:
    return kind.__module__ == "tests"


def _cases(kind: type[unittest.TestCase]) -> list[unittest.TestCase]:
    return [kind(name) for name in unittest.TestLoader().getTestCaseNames(kind)]


def _skipped(case: unittest.TestCase) -> bool:
    method = getattr(case, case.id().rpartition(".")[2], None)
    return any(getattr(thing, "__unittest_skip__", False) for thing in (type(case), method))


class Rows(unittest.TestResult):
    """Writes a plan, a row for each test as it ends, and a last word."""

    def __init__(self, nonce: bytes, names: tuple[str, ...]) -> None:
        super().__init__()
        self.nonce = nonce
        self.names = names
        self.link: Link | None = None
        self.places: dict[str, int] = {}
        self.marks: dict[str, tuple[str, str]] = {}

    def run(self, tests: list[unittest.TestCase]) -> None:
        """Run the tests, each whatever became of the one before."""
        titles = [".".join(test.id().split(".")[-2:]) for test in tests]
        self.places = {test.id(): k for k, test in enumerate(tests)}
        self._put("plan", tuple(titles))
        unittest.TestSuite(tests).run(self)

    def whole(self, problem: BaseException | None) -> None:
        """The one row of a script without test classes, or of one that did not get so far."""
        self._put("plan", ("script",))
        mark, detail = self._judged(problem) if problem is not None else ("pass", "")
        self._put("row", 0, *self._with_words(mark, detail))

    def end(self) -> None:
        """Say that the script ran to its end."""
        self._put("end", self.link.words if self.link else 0)

    def _put(self, *row: object) -> None:
        rows.put(rows.ROWS, values.encode((self.nonce, *row)))

    # What `unittest` calls, with its names.
    # ruff: noqa: N802, D102
    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        if self.link:
            self.link.reason, self.link.words = "", 0

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        mark, detail = self.marks.pop(test.id(), ("missing", "the test gave no result"))
        self._put("row", self.places[test.id()], *self._with_words(mark, detail))

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.marks.setdefault(test.id(), ("pass", ""))

    def addError(self, test: Any, err: Any) -> None:
        self.marks[test.id()] = self._judged(err[1])

    def addFailure(self, test: Any, err: Any) -> None:
        self.marks[test.id()] = self._judged(err[1])

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.marks[test.id()] = self._judged(err[1])

    def addSkip(self, test: Any, reason: str) -> None:
        self.marks[test.id()] = ("missing", "the test skipped itself while it ran")

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self.marks[test.id()] = ("pass", "")

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.marks[test.id()] = ("wrong", "the test passed where its author expected a failure")

    def _with_words(self, mark: str, detail: str) -> tuple[str, str]:
        if self.link and self.link.reason:
            return "malformed", self.link.reason[: rows.TEXT]
        if mark == "pass" and self.link and self.link.words:
            return mark, f"{self.link.words} comparisons rest on the candidate's word"
        return mark, detail[: rows.TEXT]

    def _judged(self, problem: BaseException) -> tuple[str, str]:
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
            case ImportError():
                return "missing", f"the tests import what is not there{where}"
            case _:
                return "raised", f"{type(problem).__name__}{where}"


def _line(problem: BaseException) -> str:
    line, trace = 0, problem.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == TESTS:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line} of the tests)" if line else ""
