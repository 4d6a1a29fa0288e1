"""The candidate's module, functions and objects as the judge's tests see them.

Each use of a proxy is one question to the candidate. What the tests must not take on a candidate's
word is decided here instead: a proxy never equals a plain value and never orders against one, and
is no number. Truth and hash are asked only of objects that the tests themselves made. An operator
between a proxy and a plain value would carry what the tests expect to the other side, so it exists
only for objects that the tests themselves made of a class they name, not for what a function or a
method gave them.
"""

from __future__ import annotations

import builtins
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, cast

from .. import values
from . import talk
from .raising import Raising

CALLS = 100_000  # questions in one grading

# What an object of the candidate is to the tests: something they were given; made by their own call
# of a class; or such a class.
GIVEN, MADE, MAKER = range(3)


class Inexpressible(BaseException):
    """The tests do what no wire can carry; no handler of theirs may swallow it."""


class Link:
    """The judge's end: asks, and turns answers into values, proxies and exceptions."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.lock = threading.Lock()
        self.asked = 0
        self.used = 0  # of these, questions that ask for more than what a name is
        self.words = 0  # times the candidate's word decided a comparison
        self.gone = ""  # why no further answer will be believed
        self.reason = ""  # why something could not be expressed, once it could not
        self.proxies: dict[int, Proxy] = {}
        self.raising = Raising()
        self.place = _place()  # where the tests print to and read from
        self.lost = ""  # why a question of this test got no answer, once one did not
        self.forged = False  # whether an answer was of no form that our server gives
        self.rank = GIVEN  # of the objects in the answer that is being read

    def greet(self) -> None:
        """Wait until the candidate has loaded.

        Raises:
            BaseException: What its code raised while loading.
        """
        try:
            message = talk.receive(self.line, self._found)
            if message[:1] != (talk.PLAIN,):
                raise self.raising.revived(*message[1:])
        except talk.Gone as problem:
            self._lose(problem)
            raise

    def ask(self, target: Proxy, verb: str, *rest: object) -> tuple[Any, Any]:
        """Put one question; gives the answer and the arguments it changed."""
        with self.lock:
            try:
                if self.gone:
                    raise talk.Gone(self.gone)
                return self._exchange(target, verb, rest)
            except talk.Gone as problem:
                self._lose(problem)
                raise

    def _lose(self, problem: talk.Gone) -> None:
        self.gone = self.lost = str(problem)
        self.forged = self.forged or isinstance(problem, talk.Forged)

    def _exchange(self, target: Proxy, verb: str, rest: tuple[object, ...]) -> tuple[Any, Any]:
        self.asked += 1
        self.used += verb != "describe" and (verb, rest) != ("operate", ("names",))
        if self.asked > CALLS:
            self.refuse(f"the tests put more than {CALLS} questions")
        self.rank = _rank(target.palaestra_rank, verb, rest)
        captures = self._captures()
        question = ("capture", target, verb, *rest) if captures else (verb, target, *rest)
        try:
            talk.send(self.line, (self.asked, *question), _number)
        except values.NotPlain as problem:
            self.refuse(str(problem))
        message = talk.receive(self.line, self._found)
        number, kind, *parts = (*message, None, None)[: max(2, len(message))]
        if number != self.asked:
            raise talk.Forged("the candidate answered what was not asked")
        if kind == talk.PLAIN and len(parts) == 2 and talk.exactly(parts[1], dict):
            return _printed(parts[0]) if captures else parts[0], parts[1]
        if kind == talk.REFUSED and len(parts) == 1:
            self.refuse(str(parts[0]))
        problem = self.raising.revived(*parts)
        if isinstance(problem, StopIteration) and (verb, rest) != ("operate", ("next",)):
            # It would end a `map` or a loop of the tests as if all had been seen.
            told = getattr(problem, "palaestra_text", "StopIteration")
            problem = RuntimeError("the candidate raised StopIteration outside of next()")
            vars(problem)["palaestra_text"] = told
        raise problem

    def _captures(self) -> bool:
        """Whether the tests catch what is printed; their other replacements cannot be had there."""
        if (place := _place()) == self.place:
            return False
        for name in place:
            if name not in ("stdout", "stderr") and place[name] is not self.place[name]:
                self.refuse(f"the tests replace {name}; the candidate has its own")
        return True

    def refuse(self, why: str) -> NoReturn:
        """End the test: it cannot be expressed."""
        self.reason = why
        raise Inexpressible(why)

    def root(self) -> Proxy:
        """The candidate's module."""
        self.rank = GIVEN
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
            return self.raising.kind(detail)
        self.used += not isinstance(thing, Proxy)
        if isinstance(thing, Proxy) and name[:1].isupper() and "_" not in name:
            object.__setattr__(thing, "palaestra_rank", MAKER)
        return thing

    def _found(self, number: int) -> Proxy:
        proxy = self.proxies.get(number)
        if proxy is None:
            proxy = self.proxies[number] = Proxy(self, number, self.rank)
        elif self.rank == GIVEN:  # a method that gives its own object must gain nothing by it
            object.__setattr__(proxy, "palaestra_rank", GIVEN)
        return proxy


def _place() -> dict[str, object]:
    streams = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
    return streams | {name: getattr(builtins, name) for name in ("print", "input", "open")}


def _printed(answer: Any) -> Any:
    """Prints what the candidate has printed where the tests catch it; gives its answer."""
    if not talk.exactly(answer, tuple) or [type(part) for part in answer[1:]] != [str, str]:
        raise talk.Forged("the candidate answered what is no answer")
    sys.stdout.write(answer[1])
    sys.stderr.write(answer[2])
    return answer[0]


def _rank(rank: int, verb: str, rest: tuple[object, ...]) -> int:
    """What the objects in the answer to a question will be."""
    if verb == "call":
        return MADE if rank == MAKER else GIVEN
    if verb != "operate" or rest[0] not in _KEEPING:
        return GIVEN
    others = (thing.palaestra_rank for thing in rest[1:] if isinstance(thing, Proxy))
    return MADE if MADE in (rank, *others) else GIVEN


# Operators whose result is as much the tests' own as the object was.
_KEEPING = frozenset(
    (
        *(*talk.ARITHMETIC, *(f"r{name}" for name in talk.ARITHMETIC), *talk.IN_PLACE),
        *("neg", "pos", "invert", "enter"),
    )
)


def _number(thing: object) -> int | None:
    return thing.palaestra_number if isinstance(thing, Proxy) else None


class Proxy:
    """One object that lives in the candidate's process."""

    __slots__ = ("palaestra_link", "palaestra_number", "palaestra_rank")
    palaestra_link: Link
    palaestra_number: int
    palaestra_rank: int

    def __init__(self, link: Link, number: int, rank: int) -> None:
        object.__setattr__(self, "palaestra_link", link)
        object.__setattr__(self, "palaestra_number", number)
        object.__setattr__(self, "palaestra_rank", rank)

    def __hash__(self) -> int:
        if self.palaestra_rank != MADE:
            return object.__hash__(self)
        answer = self.palaestra_word("hash")
        if type(answer) is not int:
            raise TypeError("hash() of the candidate's object gave no int")
        return answer

    def __bool__(self) -> bool:
        return self.palaestra_rank != MADE or self.palaestra_word("bool") is True

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Call the object, and apply to the arguments what the call changed in them."""
        answer, changed = self.palaestra_link.ask(self, "call", args, kwargs)
        things = (*args, *kwargs.values())
        same = changed.pop(talk.SAME, None)
        for place, value in changed.items():
            if type(place) is int and 0 <= place < len(things):
                _apply(things[place], value)
        if type(same) is int and 0 <= same < len(things) and type(things[same]) in talk.MUTABLE:
            return things[same]
        return answer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name not in _TOLD:
            if name in _UNTOLD:
                self.palaestra_link.refuse(f"the tests look at {name} of the candidate's object")
            raise AttributeError(name)
        if name in _TESTS_OF_PLAIN and self.palaestra_rank == GIVEN:
            raise AttributeError(f"{name} is asked of an object where a plain value was expected")
        return self.palaestra_link.ask(self, "get", name)[0]

    def __setattr__(self, name: str, value: object) -> None:
        self.palaestra_link.ask(self, "set", name, value)

    def __delattr__(self, name: str) -> None:
        self.palaestra_link.ask(self, "delete", name)

    def __eq__(self, other: object) -> Any:
        return self.palaestra_word("eq", other) if isinstance(other, Proxy) else False

    def __ne__(self, other: object) -> Any:
        return self.palaestra_word("ne", other) if isinstance(other, Proxy) else True

    def __contains__(self, item: object) -> bool:
        if self.palaestra_rank == MADE:
            return self.palaestra_word("contains", item) is True
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
        return isinstance(thing, Proxy) and self.palaestra_word("isinstance", thing) is True

    def __subclasscheck__(self, kind: object) -> bool:
        return isinstance(kind, Proxy) and self.palaestra_word("issubclass", kind) is True

    def palaestra_operate(self, name: str, *operands: object) -> Any:
        """Apply an operator over there."""
        return self.palaestra_link.ask(self, "operate", name, *operands)[0]

    def palaestra_word(self, name: str, *operands: object) -> Any:
        """The same, and count that the answer is the candidate's word."""
        self.palaestra_link.words += 1
        return self.palaestra_operate(name, *operands)


_TOLD = ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__", "__dict__")
_UNTOLD = ("__mro__", "__bases__", "__slots__", "__defaults__", "__code__", "__dataclass_fields__")
# Questions to a plain value whose answer is only yes or no: an object could say yes to each. And
# `assertSetEqual` asks for the difference.
_TESTS_OF_PLAIN = frozenset(
    name
    for kind in (str, bytes, set, float)
    for name in dir(kind)
    if name.startswith("is") or name in ("startswith", "endswith", "difference")
)
_NUMERIC = frozenset(("neg", "pos", "invert", "abs", "round", "float", "int", "complex", "index"))


def _unary(name: str, kind: type | None) -> Callable[..., Any]:
    def method(self: Proxy, *operands: object) -> Any:
        if name in _NUMERIC and self.palaestra_rank != MADE:
            raise TypeError(f"{name} of an object; a plain number was expected")
        answer = self.palaestra_operate(name, *operands)
        if kind is not None and type(answer) is not kind:
            raise TypeError(f"{name}() of the candidate's object gave a {type(answer).__name__}")
        return answer

    return method


def _told(name: str) -> Callable[[Proxy], Any]:
    return lambda proxy: proxy.palaestra_link.ask(proxy, "get", name)[0]


def _binary(name: str) -> Callable[[Proxy, object], Any]:
    def method(self: Proxy, other: object) -> Any:
        if not isinstance(other, Proxy) and self.palaestra_rank != MADE:
            raise TypeError(f"{name} is not supported between an object and a plain value")
        return self.palaestra_word(name, other)

    return method


def _ordering(name: str) -> Callable[[Proxy, object], Any]:
    def method(self: Proxy, other: object) -> Any:
        if not isinstance(other, Proxy):
            raise TypeError(f"{name} is not supported between an object and a plain value")
        return self.palaestra_word(name, other)

    return method


def _furnish() -> None:
    """Give `Proxy` the special methods that ask."""
    made: dict[str, Callable[..., Any]] = {}
    for name in talk.ARITHMETIC:
        bare = name.rstrip("_")
        made[bare], made[f"r{bare}"] = _binary(name), _binary(f"r{name}")
        made[f"i{bare}"] = _binary(f"i{bare}")
    for name in ("lt", "le", "gt", "ge"):
        made[name] = _ordering(name)
    made["divmod"] = _binary("divmod")
    for name in (*talk.UNARY, "abs", "round", "next", "reversed", "enter"):
        made[name] = _unary(name, None)
    made["format"] = _unary("format", str)
    for kind in (str, repr, int, float, complex):
        made[kind.__name__] = _unary(kind.__name__, str if kind is repr else cast("type", kind))
    made["len"], made["index"] = _unary("len", int), _unary("index", int)
    for name, method in made.items():
        setattr(Proxy, f"__{name}__", method)
    for name in ("__doc__", "__annotations__"):  # a class has its own, which would be found first
        setattr(Proxy, name, property(_told(name)))


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
