"""The judge's half of a script: runs the tests and writes what became of them.

No candidate code is here. The rows carry the host's nonce, which only this process was given.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
import unittest
from collections.abc import Callable
from typing import Any, NoReturn, cast

from .. import values
from . import rewriting, rows, talk
from .board import TESTS, Board, Results
from .proxies import Inexpressible, Link
from .solution import Solution, names_used, standard_modules

_OWN = ("tests", "__main__")  # module names of what the prelude and the script define
# Assertions about warnings and logs, which the candidate gives in its own process.
_ELSEWHERE = ("assertWarns", "assertWarnsRegex", "assertLogs", "assertNoLogs")


def judge(payload: bytes) -> None:
    """Run a script against the candidate at the other end of the socket."""
    order: Any = values.decode(payload)
    setattr(unittest, "main", _nothing)  # noqa: B010  # run by `Results`, not by the file's last line
    for name in _ELSEWHERE:
        setattr(unittest.TestCase, name, _refused(name))
    # Nobody reads how two values differ; and to print a proxy prettily asks what it is.
    setattr(unittest.case, "pprint", types.SimpleNamespace(pformat=repr))  # noqa: B010
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
    board = Board(nonce, names, out, module)
    entered: set[str] = set()
    space: dict[str, Any] = {}
    failed: BaseException | None = None
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
        space["__name__"] = "__main__"  # a guard at the end of the script is meant to be run
        sys.modules["__main__"] = sys.modules["tests"]
        space.update(rewriting.helpers(entered.add))
        if shared is None:
            _patching(source)
        exec(rewriting.compiled(source, TESTS), space)
        if call is not None:
            if call not in space:
                raise NameError(call, name=call)
            space["check"](space[call])
    except BaseException as problem:
        failed = None if _left(problem, board) else problem
    if failed is not None:
        board.whole(failed)
    else:
        _rest(board, space, source, entered)
    board.end()


def _left(problem: BaseException, board: Board) -> bool:
    """Whether the script ended itself, and well: `sys.exit(0)`, its own and not the candidate's."""
    own = type(problem) is SystemExit and not hasattr(problem, "palaestra_text")
    return own and board.link is not None and cast("SystemExit", problem).code in (None, 0)


def _rest(board: Board, space: dict[str, Any], source: str, entered: set[str]) -> None:
    """Run the tests that the script only defines; a script of which nothing ran is refused."""
    kinds = _test_classes(space)
    cases = [case for kind in kinds for case in _cases(kind) if not _skipped(case)]
    loose, unrun = _uncalled(space, source, entered, kinds)
    if kinds and not (cases or loose):
        unrun = "the tests' classes hold no test that is run"
    elif not (unrun or kinds or loose) and board.link is not None and not board.link.used:
        unrun = "the script asks nothing of the candidate: nothing in it was run"
    if unrun or not (kinds or loose):
        board.whole(Inexpressible(unrun) if unrun else None)
    else:
        with contextlib.suppress(KeyboardInterrupt):  # the candidate's: `unittest` ends with it
            Results(board).run([*cases, *loose])


def _nothing(*_: object, **__: object) -> None:
    pass


def _patching(source: str) -> None:
    """Refuses mocks in place of what the candidate has of its own: time, print, random numbers."""
    if "mock" not in source:
        return
    from unittest import mock

    patch: Any = getattr(mock, "_patch")  # noqa: B009
    enter = patch.__enter__

    def entered(self: Any) -> Any:
        target = self.getter()
        if isinstance(target, types.ModuleType) and not isinstance(target, Solution):
            what = f"{target.__name__}.{self.attribute}"
            raise Inexpressible(f"the tests replace {what}; the candidate has its own")
        return enter(self)

    patch.__enter__ = entered


def _refused(name: str) -> Callable[..., NoReturn]:
    def method(case: unittest.TestCase, *_: object, **__: object) -> NoReturn:
        raise Inexpressible(f"{name}: the candidate warns and logs in a process of its own")

    return method


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
        # A proxy refuses to be asked by `isinstance`.
        if issubclass(type(kind), type) and issubclass(kind, unittest.TestCase) and _own(kind):
            found[kind] = None
    return list(found)


def _own(kind: Any) -> bool:
    return kind.__module__ in _OWN


class _Loose(unittest.FunctionTestCase):
    """A test function under the name that the script gives it."""

    def __init__(self, name: str, function: Any) -> None:
        super().__init__(function)
        self.name = name

    def id(self) -> str:
        return self.name


def _uncalled(
    space: dict[str, Any], source: str, entered: set[str], kinds: list[type[unittest.TestCase]]
) -> tuple[list[unittest.TestCase], str]:
    """Test functions that the script defines and has not run, and what else would go unrun.

    A script whose tests nobody calls would pass whatever the candidate is.
    """
    made = {
        name: thing
        for name, thing in space.items()
        if issubclass(type(thing), (type, types.FunctionType)) and _own(thing)
        if not (isinstance(thing, type) and any(issubclass(kind, thing) for kind in kinds))
        if rewriting.is_test(name)
    }
    used = names_used(source) if made else {}
    loose: list[unittest.TestCase] = []
    for name, thing in made.items():
        if isinstance(thing, type):
            parts = [part for part in vars(thing) if part.startswith("test")]
            ran = not parts or any(f"{thing.__qualname__}.{part}" in entered for part in parts)
        else:
            ran = thing.__qualname__ in entered or (name in used and _wants(thing))
        if ran:
            continue
        plain = isinstance(thing, types.FunctionType) and not _is_async(thing)
        if not plain or _wants(thing) or name == "check":
            return [], f"the tests define {name} and nothing runs it: call it in the script"
        loose.append(_Loose(name, thing))
    return loose, ""


def _wants(function: Any) -> bool:
    """Whether it cannot be called without arguments."""
    code = function.__code__
    given = len(function.__defaults__ or ())
    needed = set(code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount])
    return code.co_argcount > given or bool(needed - set(function.__kwdefaults__ or ()))


def _is_async(function: types.FunctionType) -> bool:
    return bool(function.__code__.co_flags & inspect.CO_COROUTINE)


def _cases(kind: type[unittest.TestCase]) -> list[unittest.TestCase]:
    names = unittest.TestLoader().getTestCaseNames(kind)
    return [kind(name) for name in names or (["runTest"] if hasattr(kind, "runTest") else [])]


def _skipped(case: unittest.TestCase) -> bool:
    method = getattr(case, case.id().rpartition(".")[2], None)
    return any(getattr(thing, "__unittest_skip__", False) for thing in (type(case), method))
