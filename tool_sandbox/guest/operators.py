"""The special methods of a proxy, and for which objects of the candidate each may be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from . import talk

# What an object of the candidate is to the tests: something they were given; made by their own call
# of a class; or such a class.
GIVEN, MADE, MAKER = range(3)
# Questions to a plain value whose answer is only yes or no: an object could say yes to each. And
# `assertSetEqual` asks for the difference.
TESTS_OF_PLAIN = frozenset(
    name
    for kind in (str, bytes, set, float)
    for name in dir(kind)
    if name.startswith("is") or name in ("startswith", "endswith", "difference")
)
# Operators whose result is as much the tests' own as the object was.
_KEEPING = frozenset(
    (
        *(*talk.ARITHMETIC, *(f"r{name}" for name in talk.ARITHMETIC), *talk.IN_PLACE),
        *("neg", "pos", "invert", "enter"),
    )
)
_NUMERIC = frozenset(
    (
        *("neg", "pos", "invert", "abs", "round", *talk.WHOLE),
        *("float", "int", "complex", "index"),
    )
)


def rank_after(rank: int, verb: str, rest: tuple[object, ...], proxy: type) -> int:
    """What the objects in the answer to a question will be.

    Args:
        rank: Of the object that is asked.
        verb: The question's.
        rest: Its other parts.
        proxy: The class of proxies.
    """
    if verb == "call":
        return MADE if rank == MAKER else GIVEN
    if (verb, rest) == ("operate", ("type",)):  # a class that the tests name stays one
        return MAKER
    if verb != "operate" or rest[0] not in _KEEPING:
        return GIVEN
    others = (cast("Any", thing).palaestra_rank for thing in rest[1:] if type(thing) is proxy)
    return MADE if MADE in (rank, *others) else GIVEN


def _unary(name: str, kind: type | None) -> Callable[..., Any]:
    def method(self: Any, *operands: object) -> Any:
        if name in _NUMERIC and self.palaestra_rank != MADE:
            self.palaestra_link.refuse(f"{name} of an object that a function gave")
        answer = self.palaestra_operate(name, *operands)
        if kind is not None and type(answer) is not kind:
            raise TypeError(f"{name}() of the candidate's object gave a {type(answer).__name__}")
        return answer

    return method


def _binary(name: str) -> Callable[..., Any]:
    def method(self: Any, other: object, *modulus: object) -> Any:
        if type(other) is not type(self) and self.palaestra_rank != MADE:
            self.palaestra_link.refuse(f"{name} of a plain value and what a function gave")
        return self.palaestra_word(name, other, *modulus)

    return method


def _ordering(name: str) -> Callable[..., Any]:
    def method(self: Any, other: object) -> Any:
        if type(other) is not type(self):
            self.palaestra_link.refuse(f"{name} of a plain value and an object of the candidate's")
        return self.palaestra_word(name, other)

    return method


def _told(name: str) -> Callable[[Any], Any]:
    return lambda proxy: proxy.palaestra_link.ask(proxy, "get", name)


def furnish(proxy: type) -> None:
    """Give the class of proxies the special methods that ask."""
    made: dict[str, Callable[..., Any]] = {}
    for name in talk.ARITHMETIC:
        bare = name.rstrip("_")
        made[bare], made[f"r{bare}"] = _binary(name), _binary(f"r{name}")
        made[f"i{bare}"] = _binary(f"i{bare}")
    for name in ("lt", "le", "gt", "ge"):
        made[name] = _ordering(name)
    made["divmod"], made["rdivmod"] = _binary("divmod"), _binary("rdivmod")
    whole = (*talk.WHOLE, "abs", "round")
    for name in (*talk.UNARY, *whole, "next", "reversed", "enter", "fspath"):
        made[name] = _unary(name, None)
    made["format"] = _unary("format", str)
    for kind in (str, repr, int, float, complex, bytes):
        made[kind.__name__] = _unary(kind.__name__, str if kind is repr else cast("type", kind))
    made["len"], made["index"] = _unary("len", int), _unary("index", int)
    for name, method in made.items():
        setattr(proxy, f"__{name}__", method)
    for name in ("__doc__", "__annotations__"):  # a class has its own, which would be found first
        setattr(proxy, name, property(_told(name)))
