"""The candidate's half of a script: its code, and a small server that answers for it."""

from __future__ import annotations

import builtins
import contextlib
import io
import math
import operator
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from .. import values
from . import last, rows, talk
from .arguments import Watched


def serve(code: str, payload: bytes) -> None:
    """Load the code, then answer the judge until it leaves."""
    name: Any = values.decode(payload)
    objects = Objects()
    rows.deepen()
    try:
        module = rows.load(code, name)
    except Exception as problem:  # SystemExit ends the process, and the judge sees it go
        last.ending(problem)
        talk.send(talk.SOCKET, (talk.RAISED, _raised(problem)), objects.lend)
        rows.leave(1)
    objects.lend(module)
    try:
        talk.send(talk.SOCKET, (talk.PLAIN, "ready"), objects.lend)
        while True:
            question = talk.receive(talk.SOCKET, objects.find)
            talk.transmit(talk.SOCKET, answer(question, objects))
    except talk.Gone:
        rows.leave(0)


_AWAITED = (types.CoroutineType, types.AsyncGeneratorType)  # there is no loop that both share


class Objects:
    """What was lent to the judge: number -> object, each object under one number."""

    def __init__(self) -> None:
        """Lends nothing yet."""
        self.held: list[object] = []
        self.numbers: dict[int, int] = {}

    def lend(self, thing: object) -> int:
        """The number of an object."""
        number = self.numbers.get(id(thing))
        if number is None:  # held for ever, so that no other object can get its id
            number = self.numbers[id(thing)] = len(self.held)
            self.held.append(thing)
        return number

    def find(self, number: int) -> object:
        """The object under a number."""
        return self.held[number]


def answer(question: tuple[Any, ...], objects: Objects) -> bytes:
    """Do what was asked; the answer carries the question's number and the changed arguments."""
    number, verb, target, *rest = question
    printed: tuple[io.StringIO, ...] = ()
    if verb == "capture":
        verb, *rest = rest
        printed = io.StringIO(), io.StringIO()
    watched = Watched(verb, rest)
    try:
        found = _done(verb, target, rest, *printed)
        if type(found) in _AWAITED:
            found.close() if isinstance(found, types.CoroutineType) else None
            return values.encode(
                (number, talk.REFUSED, "the tests await the candidate's coroutine")
            )
        kind, part, changes = talk.PLAIN, found, watched.changes(found)
    except BaseException as problem:
        kind, part, changes = talk.RAISED, _raised(problem), watched.changes()
    try:
        if printed:
            changes[talk.PRINTED] = tuple(stream.getvalue() for stream in printed)
        told = (number, kind, part, changes)
        return values.encode(told, size=talk.LARGEST, handle=objects.lend)
    except Exception as problem:
        return values.encode((number, talk.REFUSED, str(problem)[: rows.TEXT]))


def _done(verb: str, target: Any, rest: list[Any], *streams: io.StringIO) -> Any:
    """What came of a question; `streams` get what was printed, if the tests catch it."""
    if not streams:
        return _VERBS[verb](target, *rest)
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        return _VERBS[verb](target, *rest)


_DEPTH = 4  # of the causes of causes that are told


def _raised(problem: BaseException, depth: int = _DEPTH) -> tuple[object, ...]:
    """Its classes' names down to the first builtin, its text, arguments and attributes if plain.

    At last what it comes from: whether its context is hidden, its cause, and its context unless
    that is the cause.
    """
    names: list[str] = []
    for kind in type(problem).__mro__:
        names.append(_name(kind)[: rows.NAME])
        if kind in values.NAMES:
            break
    _, _, text = rows.describe(problem)
    try:
        values.encode(problem.args, size=1 << 16)
        args = tuple(problem.args)
    except Exception:
        args = (text,)
    links: list[object] = [problem.__suppress_context__]
    cause, context = problem.__cause__, problem.__context__
    for one in (cause,) if cause is context else (cause, context):
        links.append(_raised(one, depth - 1) if one is not None and depth else None)
    return tuple(names), text, args, _attributes(problem), tuple(links)


def _name(kind: type) -> str:
    """A class's name as `Raising.kind` reads it."""
    name, module = str(kind.__name__), str(kind.__module__)
    if kind in values.NAMES:
        return name
    home = sys.modules.get(module) if module.partition(".")[0] in sys.stdlib_module_names else None
    return f"{module}.{name}" if home is not None and vars(home).get(name) is kind else f".{name}"


def _attributes(problem: BaseException) -> dict[str, object]:
    """What was set on an exception or belongs to its own classes, where plain."""
    found: dict[str, object] = {}
    names = list(getattr(problem, "__dict__", {}))
    for kind in type(problem).__mro__:
        if kind in values.NAMES:
            break
        names += [name for name in vars(kind) if not name.startswith("_")]
    for name in names[:32]:
        with contextlib.suppress(Exception):
            value = getattr(problem, name)
            values.encode((name, value), size=1 << 16)
            found[str(name)] = value
    return found


def _call(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return target(*args, **kwargs)


def _describe(target: Any, name: str) -> Any:
    """What a name of the module is: a module, an exception class, a value, or absent."""
    thing = getattr(target, name, _ABSENT)
    if thing is _ABSENT:
        return ("absent",)
    if isinstance(thing, types.ModuleType):
        standard = thing.__name__ if sys.modules.get(thing.__name__) is thing else ""
        return "module", standard, thing
    if isinstance(thing, type) and issubclass(thing, BaseException) and thing not in values.NAMES:
        chain = [_name(kind) for kind in thing.__mro__]
        known = [kind in values.NAMES for kind in thing.__mro__]
        return "exception", tuple(chain[: known.index(True) + 1]), thing
    return "value", "", thing


_ABSENT = object()


def _set(target: Any, name: str, value: Any) -> Any:
    setattr(target, name, value)


def _operate(target: Any, name: str, *operands: Any) -> Any:
    """A special method, as the language itself would call it."""
    function = _OPERATORS.get(name)
    if function is None:
        raise TypeError(f"{name} is no operator")
    return function(target, *operands)


def _swapped(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda one, two: function(two, one)


def _names(module: Any) -> list[str]:
    """What `from solution import *` brings."""
    public = [name for name in dir(module) if not name.startswith("_")]
    return sorted(getattr(module, "__all__", public))


def _is_instance(kind: Any, thing: object) -> bool:
    return isinstance(thing, kind)


def _is_any(thing: object, *kinds: type) -> bool:
    return isinstance(thing, kinds)


def _is_subclass(kind: Any, other: Any) -> bool:
    return issubclass(other, kind)


def _enter(manager: Any) -> Any:
    return manager.__enter__()


def _exit(manager: Any) -> bool:
    return bool(manager.__exit__(None, None, None))


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(operator, name)
    for name in (*talk.ARITHMETIC, "eq", "ne", "lt", "le", "gt", "ge", "contains")
}
_OPERATORS: dict[str, Callable[..., Any]] = {
    **_BINARY,
    **{f"r{name}": _swapped(function) for name, function in _BINARY.items()},
    **{name: getattr(operator, name) for name in talk.IN_PLACE},
    **{name: getattr(operator, name) for name in talk.UNARY},
    **{name: getattr(builtins, name) for name in talk.FUNCTIONS},
    **{name: getattr(math, name) for name in talk.WHOLE},
    "pow": pow,  # with a modulus too
    "rdivmod": _swapped(divmod),
    "fspath": os.fspath,
    "names": _names,
    "isinstance": _is_instance,
    "is_any": _is_any,
    "issubclass": _is_subclass,
    "enter": _enter,
    "exit": _exit,
}


def _get(target: Any, name: str) -> Any:
    return getattr(target, name)


def _delete(target: Any, name: str) -> Any:
    return delattr(target, name)


_VERBS: dict[str, Callable[..., Any]] = {
    "call": _call,
    "get": _get,
    "describe": _describe,
    "set": _set,
    "delete": _delete,
    "operate": _operate,
}
