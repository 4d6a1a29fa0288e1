"""The candidate's module, functions and objects as the judge's tests see them.

Each use of a proxy is one question to the candidate. What the tests must not take on a candidate's
word is decided here instead: a proxy never equals a plain value. An operator between a proxy and a
plain value would carry what the tests expect to the other side, so it exists only for objects that
the tests themselves made of a class they name, not for what a function or a method gave them. Where
either answer would be a guess, the test ends as one that cannot be expressed: so it is with the
order of a proxy and a plain value, with arithmetic on what was given, and with an object that was
given and calls itself false.
"""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn, cast

from .. import values
from . import arguments, talk
from .operators import GIVEN, MADE, MAKER, TESTS_OF_PLAIN, furnish, rank_after
from .raising import Raising, Unmakeable

CALLS = 100_000  # questions in one grading

_NO_ANSWER = "the candidate answered what is no answer"


class Inexpressible(BaseException):
    """The tests do what no wire can carry; no handler of theirs may swallow it."""


class Link:
    """The judge's end: asks, and turns answers into values, proxies and exceptions."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.lock = threading.RLock()  # reading an answer may take a question: the hash of a key
        self.asked = 0
        self.used = 0  # of these, questions that ask for more than what a name is
        self.words = 0  # times the candidate's word decided a comparison
        self.gone = ""  # why no further answer will be believed
        self.reason = ""  # why something could not be expressed, once it could not
        self.proxies: dict[int, Proxy] = {}
        self.raising = Raising(self.refuse)
        self.place = _place()  # where the tests print to and read from
        self.lost = ""  # why a question of this test got no answer, once one did not
        self.waiting = False  # for an answer
        self.broken = ""  # why no further question can be put, once the tests broke a wait off
        self.forged = False  # whether an answer was of no form that our server gives
        self.rank = GIVEN  # of the objects in the answer that is being read

    def begin(self) -> None:
        """Forget what concerned the test before."""
        self.reason, self.lost, self.words = "", "", 0

    def greet(self) -> None:
        """Wait until the candidate has loaded.

        Raises:
            BaseException: What its code raised while loading.
        """
        try:
            message = talk.receive(self.line, self._found)
            if message[:1] != (talk.PLAIN,):
                raise self._revived(message[1:])
        except talk.Gone as problem:
            self._lose(problem)
            raise

    def ask(self, target: Proxy, verb: str, *rest: object) -> Any:
        """Put one question; applies to the arguments what it changed in them."""
        with self.lock:
            if self.waiting:  # a handler of the tests asks
                self.broken = "the tests put a question before the last is answered"
            if self.broken:
                self.refuse(self.broken)
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

    def _exchange(self, target: Proxy, verb: str, rest: tuple[object, ...]) -> Any:
        self.asked += 1
        self.used += verb != "describe" and (verb, rest) != ("operate", ("names",))
        if self.asked > CALLS:
            self.refuse(f"the tests put more than {CALLS} questions")
        asked = self.asked
        captures = self._captures()
        question = ("capture", target, verb, *rest) if captures else (verb, target, *rest)
        whole = (asked, *question)
        try:
            data = values.encode(whole, size=talk.LARGEST, handle=_number, whole=True)
        except values.NotPlain as problem:
            self.refuse(str(problem))
        data = self._answer(data)
        rank, self.rank = self.rank, rank_after(target.palaestra_rank, verb, rest, Proxy)
        message = talk.decoded(data, self._found)
        self.rank = rank
        kind, part, changes = _read(message, asked)
        if kind == talk.REFUSED:
            self.refuse(part)
        if captures:
            _print(changes.get(talk.PRINTED))
        answer = part if kind == talk.PLAIN else None
        answer, proper = arguments.bring(verb, rest, answer, changes)
        if not proper:
            raise talk.Forged(_NO_ANSWER)
        if kind == talk.PLAIN:
            return answer
        problem = self._revived((part,))
        if isinstance(problem, StopIteration) and (verb, rest) != ("operate", ("next",)):
            # It would end a `map` or a loop of the tests as if all had been seen.
            self.refuse("the candidate raised StopIteration outside of next()")
        raise problem

    def _answer(self, question: bytes) -> bytes:
        """The bytes of the answer to those of a question."""
        self.waiting = True
        try:
            talk.transmit(self.line, question)
            return talk.frame(self.line)
        except talk.Gone:
            raise
        except BaseException:
            # What a handler of the tests raised. The answer will come, and would be the next one's.
            self.broken = self.reason = "the tests end a question before its answer"
            raise
        finally:
            self.waiting = False

    def _revived(self, parts: tuple[object, ...]) -> BaseException:
        """The exception that an answer tells of."""
        if len(parts) != 1 or not talk.exactly(parts[0], tuple):
            return talk.Forged(_NO_ANSWER)
        try:
            return self.raising.revived(*cast("tuple[Any, ...]", parts[0]))
        except Unmakeable as what:
            self.refuse(f"the candidate raised what cannot be made here: {what}")

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

    def describe(self, name: str, of: Proxy | None = None) -> Any:
        """What the candidate's module holds under a name, or a class of the candidate's.

        Raises:
            AttributeError: Nothing.
        """
        told = self.ask(self.root() if of is None else of, "describe", name)
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


def _read(message: tuple[Any, ...], asked: int) -> tuple[int, Any, dict[Any, Any]]:
    """What kind of answer this is, its main part, and the changes that it tells of."""
    shape: list[type] = [type(part) for part in message]
    if shape[:1] == [int] and message[0] != asked:
        raise talk.Forged("the candidate answered what was not asked")
    if shape == [int, int, str] and message[1] == talk.REFUSED:
        return talk.REFUSED, message[2], {}
    known = len(shape) == 4 and shape[0] is shape[1] is int and shape[3] is dict
    if not known or message[1] not in (talk.PLAIN, talk.RAISED):
        raise talk.Forged(_NO_ANSWER)
    return message[1:]


def _print(printed: Any) -> None:
    """Prints what the candidate has printed where the tests catch it."""
    if not talk.exactly(printed, tuple) or [type(part) for part in printed] != [str, str]:
        raise talk.Forged(_NO_ANSWER)
    sys.stdout.write(printed[0])
    sys.stderr.write(printed[1])


def _number(thing: object) -> int | None:
    return thing.palaestra_number if isinstance(thing, Proxy) else None


class Proxy:
    """One object that lives in the candidate's process."""

    __slots__ = ("__weakref__", "palaestra_link", "palaestra_number", "palaestra_rank")
    palaestra_link: Link
    palaestra_number: int
    palaestra_rank: int

    def __init__(self, link: Link, number: int, rank: int) -> None:
        object.__setattr__(self, "palaestra_link", link)
        object.__setattr__(self, "palaestra_number", number)
        object.__setattr__(self, "palaestra_rank", rank)

    def __hash__(self) -> int:
        answer = self.palaestra_word("hash")
        if type(answer) is not int:
            raise TypeError("hash() of the candidate's object gave no int")
        return answer

    def __bool__(self) -> bool:
        if self.palaestra_word("bool") is True:
            return True
        if self.palaestra_rank != MADE:
            self.palaestra_link.refuse("an object that a function gave says that it is false")
        return False

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Call the object."""
        return self.palaestra_link.ask(self, "call", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name not in _TOLD:
            untold = name in _UNTOLD
            if not untold and (name in _PROBED or self.palaestra_word("hasattr", name) is not True):
                raise AttributeError(name)
            self.palaestra_link.refuse(f"the tests look at {name} of the candidate's object")
        if self.palaestra_rank == MAKER and name[:1].isupper():  # a class within a class, perhaps
            return self.palaestra_link.describe(name, self)
        if name in TESTS_OF_PLAIN and self.palaestra_rank == GIVEN:
            self.palaestra_link.refuse(f"{name} is asked of an object that a function gave")
        return self.palaestra_link.ask(self, "get", name)

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

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        # What `isinstance` asks, wherever it is called: `Proxy` has the methods of every abstract
        # class, and would be an instance of each.
        self.palaestra_link.refuse("the tests ask of what builtin or abstract class an object is")

    @property
    def __dataclass_fields__(self) -> Any:  # `dataclasses.replace` asks the class for it
        return self.__class__

    def __dir__(self) -> Any:
        self.palaestra_link.refuse("the tests list the names of the candidate's object")

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
        return self.palaestra_link.ask(self, "operate", name, *operands)

    def palaestra_word(self, name: str, *operands: object) -> Any:
        """The same, and count that the answer is the candidate's word."""
        self.palaestra_link.words += 1
        return self.palaestra_operate(name, *operands)


_TOLD = (
    *("__name__", "__qualname__", "__doc__", "__module__", "__annotations__", "__dict__"),
    *("__wrapped__", "__self__", "__func__", "__type_params__"),
)
_PROBED = ("__array__", "__length_hint__", "__path__")  # asked by libraries; either answer will do
_UNTOLD = ("__mro__", "__bases__", "__slots__", "__defaults__", "__code__", "__dataclass_fields__")

furnish(Proxy)
