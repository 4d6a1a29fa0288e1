"""Exceptions of the candidate, made anew among the tests: of the class that they would catch."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

from .. import values
from . import rows, talk

_NONE_OF_THESE = ("unittest", "doctest", "builtins")  # their exceptions mean something to the judge


class Unmakeable(Exception):
    """An exception that cannot be made anew; another would be caught as what it is not."""


class Raising:
    """Exception classes by the names that the candidate gives them."""

    def __init__(self, refuse: Callable[[str], NoReturn]) -> None:
        """Knows none yet.

        Args:
            refuse: Ends the test: what it asks of a class or its exceptions is not here.
        """
        self.classes: dict[str, type[BaseException]] = {}
        self._lacks = _lacking(refuse)
        self._shell = type("Shell", (type,), {"__getattr__": self._lacks})

    def kind(self, chain: Any) -> type[BaseException]:
        """The class at the head of a chain of names that ends in a builtin one.

        A name stands for a builtin class, `module.Name` for one of the standard library that the
        tests hold too, `.Name` for a class of the candidate's own, which is made here.
        """
        name = str(chain[0])[: rows.NAME] if chain else "Exception"
        own = name.rpartition(".")[2]
        known = _standard(name) if "." in name else values.TYPES.get(name)
        known = known or self.classes.get(own)
        if known is not None:
            return known if issubclass(known, BaseException) else Exception
        above = self.kind(chain[1:]) if len(chain) > 1 else Exception
        builtin: Any = values.TYPES.get(str(chain[-1]), Exception) if chain else Exception
        mixed = issubclass(builtin, BaseException) and not issubclass(above, builtin)
        bases: tuple[Any, ...] = (above, builtin) if mixed else (above,)
        body = {"__str__": _text, "__getattr__": self._lacks}
        how = {"metaclass": self._shell}
        made: Any = types.new_class(own, bases, how, lambda space: space.update(body))
        self.classes[own] = made
        return made

    def revived(self, *parts: Any) -> BaseException:
        """The exception that an answer tells of: its class, text, arguments, attributes and cause.

        Raises:
            Unmakeable: It is of a class that only its own arguments make.
        """
        shape = (tuple, str, tuple, dict, tuple)
        if len(parts) != len(shape) or not all(map(talk.exactly, parts, shape)):
            return talk.Forged("the candidate answered what is no answer")
        kind = self.kind(parts[0][:20])
        problem = _made(kind, parts[2])
        vars(problem).update({k: v for k, v in parts[3].items() if type(k) is str})
        vars(problem)["palaestra_text"] = f"{kind.__name__}: {parts[1]}"
        hidden, *links = parts[4][:3] or (False,)
        causes = [self.revived(*one) if talk.exactly(one, tuple) else None for one in links]
        if causes:
            problem.__cause__, problem.__context__ = causes[0], causes[-1]
        problem.__suppress_context__ = hidden is True
        if len(parts[1]) < rows.TEXT:  # else it was cut
            vars(problem)["palaestra_said"] = parts[1]
        return problem


def _lacking(refuse: Callable[[str], NoReturn]) -> Callable[[Any, str], NoReturn]:
    """A `__getattr__` for what is only a shell of the candidate's class, and its exceptions."""

    def lacks(thing: Any, name: str) -> NoReturn:
        if name.startswith(("__", "palaestra_")):
            raise AttributeError(name)
        refuse(f"the tests ask for {name} of an exception of the candidate's")

    return lacks


def _made(kind: type[BaseException], args: tuple[object, ...]) -> BaseException:
    try:
        return kind(*args)
    except Exception:  # the class wants other arguments
        try:
            problem = BaseException.__new__(kind)
            problem.args = args
            return problem
        except Exception:  # an `ExceptionGroup`, say
            raise Unmakeable(kind.__name__) from None


def _standard(name: str) -> type | None:
    """An exception class of a standard module that the tests have imported too."""
    module, _, attribute = name.rpartition(".")
    root = module.partition(".")[0]
    if root not in sys.stdlib_module_names or root in _NONE_OF_THESE:
        return None
    found = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _text(problem: BaseException) -> str:
    """The text of an exception of a candidate's class: what its own `__str__` made of it."""
    said: object = vars(problem).get("palaestra_said")
    return said if isinstance(said, str) else BaseException.__str__(problem)
