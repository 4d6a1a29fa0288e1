"""The judge's half of a script: runs the tests and writes what became of them.

No candidate code is here. The rows carry the host's nonce, which only this process was given.
"""

from __future__ import annotations

import inspect
import sys
import types
import unittest
from typing import Any

from .. import values
from . import rows, talk
from .board import TESTS, Board, Results
from .proxies import Inexpressible, Link, Proxy
from .solution import Solution, names_used, standard_modules


def judge(payload: bytes) -> None:
    """Run a script against the candidate at the other end of the socket."""
    order: Any = values.decode(payload)
    setattr(unittest, "main", _nothing)  # noqa: B010  # run by `Results`, not by the file's last line
    examine(order, talk.SOCKET, rows.ROWS)
    rows.leave(0)


def examine(order: tuple[Any, ...], line: int, out: int) -> None:
    """Run a script and write its rows.

    Args:
        order: What the host packed.
        line: Descriptor that leads to the candidate.
        out: Descriptor for the rows.
    """
    nonce, prelude, source, names, module, call, shared = order
    board = Board(nonce, names, out)
    try:
        space = _space(prelude)
        if shared is None:
            link = board.link = Link(line)
            link.greet()
            found: types.ModuleType = Solution(module, link, source, space)
            sys.modules[module] = found
        else:
            found = rows.load(shared, module)
        own = {} if shared is not None else standard_modules(names, source)
        for name in names:
            thing = own.get(name) or getattr(found, name, board)
            if thing is not board:
                space[name] = thing
        named = _questions(board, [space.get(name) for name in names])
        exec(compile(source, TESTS, "exec", dont_inherit=True), space)
        if call is not None:
            if call not in space:
                raise NameError(call, name=call)
            space["check"](space[call])
    except BaseException as problem:
        board.whole(problem)
    else:
        kinds = _test_classes(space)
        cases = [case for kind in kinds for case in _cases(kind) if not _skipped(case)]
        loose, unrun = ([], "") if kinds or call is not None else _uncalled(space, source)
        if not unrun and board.link is not None and board.link.asked == named:
            unrun = "the script asks nothing of the candidate: nothing in it was run"
        if kinds or loose:
            Results(board).run([*cases, *loose])
        else:
            board.whole(Inexpressible(unrun) if unrun else None)
    board.end()


def _questions(board: Board, things: list[object]) -> int:
    """Questions so far; -1 where no further one is needed, for some names are plain values."""
    if board.link is None or any(thing is not None and not _lives(thing) for thing in things):
        return -1
    return board.link.asked


def _lives(thing: object) -> bool:
    return isinstance(thing, Proxy | types.ModuleType)


def _nothing(*_: object, **__: object) -> None:
    pass


def _space(prelude: str) -> dict[str, Any]:
    """The tests' globals, with the trusted code they lean on."""
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    exec(compile(prelude, "<prelude>", "exec", dont_inherit=True), vars(module))
    return vars(module)


def _test_classes(space: dict[str, Any]) -> list[type[unittest.TestCase]]:
    """The test classes that the script itself defines."""
    found: dict[type[unittest.TestCase], None] = {}  # each once, whatever its names
    for kind in space.values():
        if isinstance(kind, type) and issubclass(kind, unittest.TestCase) and _own(kind):
            found[kind] = None
    return list(found)


def _own(kind: Any) -> bool:
    return kind.__module__ == "tests"


def _uncalled(space: dict[str, Any], source: str) -> tuple[list[unittest.TestCase], str]:
    """Test functions that the script defines and never uses, and what else would go unrun.

    A script whose tests nobody calls would pass whatever the candidate is.
    """
    made = {
        name: thing
        for name, thing in space.items()
        if isinstance(thing, type | types.FunctionType) and _own(thing)
        if name.lower().startswith("test") or name == "check"
    }
    used = names_used(source) if made else {}
    loose: list[unittest.TestCase] = []
    for name, thing in made.items():
        if name in used:
            continue
        if isinstance(thing, types.FunctionType) and name != "check" and not _is_async(thing):
            loose.append(unittest.FunctionTestCase(thing))
        elif not isinstance(thing, type) or any(part.startswith("test") for part in vars(thing)):
            return [], f"the tests define {name} and nothing runs it: call it in the script"
    return loose, ""


def _is_async(function: types.FunctionType) -> bool:
    return bool(function.__code__.co_flags & inspect.CO_COROUTINE)


def _cases(kind: type[unittest.TestCase]) -> list[unittest.TestCase]:
    return [kind(name) for name in unittest.TestLoader().getTestCaseNames(kind)]


def _skipped(case: unittest.TestCase) -> bool:
    method = getattr(case, case.id().rpartition(".")[2], None)
    return any(getattr(thing, "__unittest_skip__", False) for thing in (type(case), method))
