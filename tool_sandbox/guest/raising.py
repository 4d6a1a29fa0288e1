"""Exceptions of the candidate, made anew among the tests: of the class that they would catch."""

from __future__ import annotations

import sys
import types
from typing import Any

from .. import values
from . import rows, talk

_NONE_OF_THESE = ("unittest", "doctest", "builtins")  # their exceptions mean something to the judge


class Raising:
    """Exception classes by the names that the candidate gives them."""

    def __init__(self) -> None:
        self.classes: dict[str, type[BaseException]] = {}

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
        made: Any = types.new_class(own, bases, exec_body=lambda space: space.update(__str__=_text))
        self.classes[own] = made
        return made

    def revived(self, *parts: Any) -> BaseException:
        """The exception that an answer tells of: its class, text, arguments and attributes."""
        shape = (tuple, str, tuple, dict)
        if len(parts) != len(shape) or not all(map(talk.exactly, parts, shape)):
            return talk.Forged("the candidate answered what is no answer")
        kind = self.kind(parts[0][:20])
        problem = _made(kind, parts[2], parts[1])
        vars(problem).update({k: v for k, v in parts[3].items() if type(k) is str})
        vars(problem)["palaestra_text"] = f"{kind.__name__}: {parts[1]}"
        if len(parts[1]) < rows.TEXT:  # else it was cut
            vars(problem)["palaestra_said"] = parts[1]
        return problem


def _made(kind: type[BaseException], args: tuple[object, ...], text: str) -> BaseException:
    try:
        return kind(*args)
    except Exception:  # the class wants other arguments
        try:
            problem = BaseException.__new__(kind)
            problem.args = args
            return problem
        except Exception:
            return RuntimeError(text)


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
