"""The candidate's module, functions and objects as the judge's tests see them.

Each use of a proxy is one question to the candidate. What the tests must not take on a candidate's
word is decided here instead: a proxy never equals a plain value and never orders against one, is
true, and has a plain object's hash. An operator between a proxy and a plain value would carry what
the tests expect to the other side, so it exists only for objects of a class that the tests name.
"""

from __future__ import annotations

import socket
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, cast

from .. import values
from . import talk

CALLS = 100_000  # questions in one grading


class Inexpressible(BaseException):
    """The tests do what no wire can carry; no handler of theirs may swallow it."""


class Link:
    """The judge's end: asks, and turns answers into values, proxies and exceptions."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.lock = threading.Lock()
        self.asked = 0
        self.words = 0  # times the candidate's word decided a comparison
        self.gone = ""  # why no further answer will be believed
        self.reason = ""  # why something could not be expressed, once it could not
        self.proxies: dict[int, Proxy] = {}
        self.classes: dict[str, type[BaseException]] = {}
        self.named = False  # whether what is being answered comes of a class the tests name

    def greet(self) -> None:
        """Wait until the candidate has loaded.

        Raises:
            BaseException: What its code raised while loading.
        """
        message = talk.receive(self.sock, self._found)
        if message[:1] != (talk.PLAIN,):
            raise self._revived(*message[1:])

    def ask(self, target: Proxy, verb: str, *rest: object) -> tuple[Any, Any]:
        """Put one question; gives the answer and the arguments it changed."""
        with self.lock:
            if self.gone:
                raise talk.Gone(self.gone)
            try:
                return self._exchange(target, verb, rest)
            except talk.Gone as problem:
                self.gone = str(problem)
                raise

    def _exchange(self, target: Proxy, verb: str, rest: tuple[object, ...]) -> tuple[Any, Any]:
        self.asked += 1
        if self.asked > CALLS:
            self.refuse(f"the tests put more than {CALLS} questions")
        self.named = target.palaestra_named
        try:
            talk.send(self.sock, (self.asked, verb, target, *rest), _number)
        except values.NotPlain as problem:
            self.refuse(str(problem))
        message = talk.receive(self.sock, self._found)
        number, kind, *parts = (*message, None, None)[: max(2, len(message))]
        if number != self.asked:
            raise talk.Gone("the candidate answered what was not asked")
        if kind == talk.PLAIN and len(parts) == 2 and talk.exactly(parts[1], dict):
            return parts[0], parts[1]
        if kind == talk.REFUSED and len(parts) == 1:
            self.refuse(str(parts[0]))
        problem = self._revived(*parts)
        if isinstance(problem, StopIteration) and rest[:1] != ("next",):
            # It would end a `map` or a loop of the tests as if all had been seen.
            told = getattr(problem, "palaestra_text", "StopIteration")
            problem = RuntimeError("the candidate raised StopIteration outside of next()")
            vars(problem)["palaestra_text"] = told
        raise problem

    def refuse(self, why: str) -> NoReturn:
        """End the test: it cannot be expressed."""
        self.reason = why
        raise Inexpressible(why)

    def root(self) -> Proxy:
        """The candidate's module."""
        self.named = False
        return self._found(talk.ROOT)

    def describe(self, name: str) -> Any:
        """What the candidate's module holds under a name.

        Raises:
            AttributeError: Nothing.
        """
        told, _ = self.ask(self.root(), "describe", name)
        if not talk.exactly(told, tuple) or len(told) != 3:  # absent, or no answer
            raise AttributeError(f"the program defines no {name}")
        form, detail, thing = told
        if form == "module" and detail == name and name in sys.stdlib_module_names:
            return __import__(name)
        if form == "exception" and talk.exactly(detail, tuple):
            return self._class(detail)
        if isinstance(thing, Proxy) and name[:1].isupper():
            object.__setattr__(thing, "palaestra_named", True)
        return thing

    def _found(self, number: int) -> Proxy:
        proxy = self.proxies.get(number)
        if proxy is None:
            proxy = self.proxies[number] = Proxy(self, number, self.named)
        return proxy

    def _class(self, chain: Any) -> type[BaseException]:
        """The exception class of that name, made here unless it is a builtin one."""
        name = str(chain[0])[:100] if chain else "Exception"
        known = values.TYPES.get(name, self.classes.get(name))
        if known is not None:
            return known if issubclass(known, BaseException) else Exception
        above = self._class(chain[1:]) if len(chain) > 1 else Exception
        made: Any = types.new_class(name, (above,))
        self.classes[name] = made
        return made

    def _revived(self, *parts: Any) -> BaseException:
        """The exception that an answer tells of."""
        tuples = [talk.exactly(part, tuple) for part in parts]
        if tuples != [True, False, True]:
            return talk.Gone("the candidate answered what is no answer")
        kind = self._class(parts[0][:20])
        try:
            problem = kind(*parts[2])
        except Exception:  # the class wants other arguments
            problem = RuntimeError(str(parts[1]))
        vars(problem)["palaestra_text"] = f"{kind.__name__}: {parts[1]}"
        return problem


def _number(thing: object) -> int | None:
    return thing.palaestra_number if isinstance(thing, Proxy) else None


class Proxy:
    """One object that lives in the candidate's process."""

    __slots__ = ("palaestra_link", "palaestra_named", "palaestra_number")
    palaestra_link: Link
    palaestra_number: int
    palaestra_named: bool

    def __init__(self, link: Link, number: int, named: bool) -> None:
        object.__setattr__(self, "palaestra_link", link)
        object.__setattr__(self, "palaestra_number", number)
        object.__setattr__(self, "palaestra_named", named)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return True

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Call the object, and apply to the arguments what the call changed in them."""
        answer, changed = self.palaestra_link.ask(self, "call", args, kwargs)
        things = (*args, *kwargs.values())
        for place, value in changed.items():
            if type(place) is int and 0 <= place < len(things):
                _apply(things[place], value)
        return answer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name not in _TOLD:
            raise AttributeError(name)
        return self.palaestra_link.ask(self, "get", name)[0]

    def __setattr__(self, name: str, value: object) -> None:
        self.palaestra_link.ask(self, "set", name, value)

    def __delattr__(self, name: str) -> None:
        self.palaestra_link.ask(self, "delete", name)

    def __eq__(self, other: object) -> Any:
        return self.palaestra_compared("eq", other) if isinstance(other, Proxy) else False

    def __ne__(self, other: object) -> Any:
        return self.palaestra_compared("ne", other) if isinstance(other, Proxy) else True

    def __contains__(self, item: object) -> bool:
        if self.palaestra_named:
            return self.palaestra_compared("contains", item) is True
        return any(one is item or one == item for one in self)

    def __iter__(self) -> Iterator[Any]:
        return self.palaestra_operate("iter")

    def __exit__(self, kind: object, problem: object, trace: object) -> bool:
        if kind is not None:
            self.palaestra_link.refuse("an exception leaves a with block of the candidate's")
        return self.palaestra_operate("exit") is True

    def __mro_entries__(self, bases: object) -> NoReturn:
        self.palaestra_link.refuse("the tests derive a class from one of the candidate's")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        self.palaestra_link.refuse("the tests copy an object of the candidate's")

    def __instancecheck__(self, thing: object) -> bool:
        return isinstance(thing, Proxy) and self.palaestra_compared("isinstance", thing) is True

    def __subclasscheck__(self, kind: object) -> bool:
        return isinstance(kind, Proxy) and self.palaestra_compared("issubclass", kind) is True

    def palaestra_operate(self, name: str, *operands: object) -> Any:
        """Apply an operator over there."""
        return self.palaestra_link.ask(self, "operate", name, *operands)[0]

    def palaestra_compared(self, name: str, other: object) -> Any:
        """The same, and count that the answer is the candidate's word."""
        self.palaestra_link.words += 1
        return self.palaestra_operate(name, other)


_TOLD = ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__", "__dict__")


def _unary(name: str, kind: type | None) -> Callable[..., Any]:
    def method(self: Proxy, *operands: object) -> Any:
        answer = self.palaestra_operate(name, *operands)
        if kind is not None and type(answer) is not kind:
            raise TypeError(f"{name}() of the candidate's object gave a {type(answer).__name__}")
        return answer

    return method


def _binary(name: str) -> Callable[[Proxy, object], Any]:
    def method(self: Proxy, other: object) -> Any:
        if not isinstance(other, Proxy) and not self.palaestra_named:
            raise TypeError(f"{name} is not supported between an object and a plain value")
        return self.palaestra_compared(name, other)

    return method


def _ordering(name: str) -> Callable[[Proxy, object], Any]:
    def method(self: Proxy, other: object) -> Any:
        if not isinstance(other, Proxy):
            raise TypeError(f"{name} is not supported between an object and a plain value")
        return self.palaestra_compared(name, other)

    return method


def _furnish() -> None:
    """Give `Proxy` the special methods that ask."""
    made: dict[str, Callable[..., Any]] = {}
    for name in talk.ARITHMETIC:
        bare = name.rstrip("_")
        made[bare], made[f"r{bare}"] = _binary(name), _binary(f"r{name}")
    for name in ("lt", "le", "gt", "ge"):
        made[name] = _ordering(name)
    made["divmod"] = _binary("divmod")
    for name in (*talk.UNARY, "abs", "round", "next", "reversed", "enter"):
        made[name] = _unary(name, None)
    for kind in (str, repr, int, float, complex):
        made[kind.__name__] = _unary(kind.__name__, str if kind is repr else cast("type", kind))
    made["len"], made["index"] = _unary("len", int), _unary("index", int)
    for name, method in made.items():
        setattr(Proxy, f"__{name}__", method)


_furnish()


def _apply(old: Any, new: Any) -> None:
    """Bring a changed argument up to date, in place."""
    if type(old) is not type(new):
        return
    if isinstance(old, list):
        _merge(cast("Any", old), new)
    elif isinstance(old, dict | set):
        cast("Any", old).clear()
        cast("Any", old).update(new)
    elif isinstance(old, deque):
        cast("Any", old).clear()
        cast("Any", old).extend(new)


def _merge(old: list[Any], new: list[Any]) -> None:
    if len(old) != len(new):
        old[:] = new
        return
    for k, (before, after) in enumerate(zip(list(old), new, strict=True)):
        if type(before) is type(after) and isinstance(before, list | dict | set | deque):
            _apply(before, after)
        else:
            old[k] = after


class Solution(types.ModuleType):
    """The module that the tests import the candidate as."""

    def __init__(self, name: str, link: Link) -> None:
        super().__init__(name)
        self.__dict__["palaestra_link"] = link

    def __getattr__(self, name: str) -> Any:
        link: Link = self.__dict__["palaestra_link"]
        if name == "__all__":
            return link.ask(link.root(), "operate", "names")[0]
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return link.describe(name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("__"):
            return super().__setattr__(name, value)
        link: Link = self.__dict__["palaestra_link"]
        link.refuse(f"the tests replace {name} of the candidate's module")
