"""The module that the tests import the candidate as, and the names they use of it.

What the tests rely on stays their own: builtins and names of theirs that a star import would
replace, and modules of the standard library that they use without importing them.
"""

from __future__ import annotations

import ast
import builtins
import sys
import types
from typing import Any

from .proxies import Link

_own: Any = vars(types.ModuleType)["__dict__"].__get__  # a module's own, behind the property
_TOLD = ("__version__", "__author__")  # the machinery of imports asks for the others


class Solution(types.ModuleType):
    """The module that the tests import the candidate as."""

    def __init__(self, name: str, link: Link, source: str, space: dict[str, Any]) -> None:
        super().__init__(name)
        _own(self).update(palaestra_link=link, palaestra_source=source, palaestra_space=space)

    @property
    def __doc__(self) -> Any:  # type: ignore[override]
        return _own(self)["palaestra_link"].describe("__doc__")

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        _own(self)["palaestra_link"].refuse("the tests look into the candidate's module as a whole")

    def __dir__(self) -> Any:
        return self.__dict__

    def __getattr__(self, name: str) -> Any:
        link: Link = _own(self)["palaestra_link"]
        if name == "__all__":
            return self.palaestra_public(link)
        if name.startswith("__") and name.endswith("__") and name not in _TOLD:
            raise AttributeError(name)
        return link.describe(name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("__"):
            return super().__setattr__(name, value)
        link: Link = _own(self)["palaestra_link"]
        link.refuse(f"the tests replace {name} of the candidate's module")

    def palaestra_public(self, link: Link) -> list[str]:
        """The names of a star import, which must not replace what the tests rely on."""
        told: Any = link.ask(link.root(), "operate", "names")
        space: dict[str, Any] = _own(self)["palaestra_space"]
        public = [name for name in told if type(name) is str and name not in space]
        taken = {name for name in public if hasattr(builtins, name)}
        used = names_used(_own(self)["palaestra_source"]) if taken else {}
        for name in sorted(taken & set(used)):
            link.refuse(f"a star import would replace the builtin {name}; import by name")
        return [name for name in public if name not in taken]


def names_used(source: str) -> dict[str, set[str]]:
    """Names that the tests read, and what attributes they take of each."""
    used: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.setdefault(node.id, set())
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.setdefault(node.value.id, set()).add(node.attr)
    return used


def standard_modules(names: tuple[str, ...], source: str) -> dict[str, types.ModuleType]:
    """Those of `names` that the tests use as modules of the standard library.

    They are the judge's own: a `math` of the candidate's making would call all numbers close.
    """
    known = [name for name in names if name in sys.stdlib_module_names]
    used = names_used(source) if known else {}
    found: dict[str, types.ModuleType] = {}
    for name in known:
        if used.get(name):
            module = __import__(name)
            if all(hasattr(module, attribute) for attribute in used[name]):
                found[name] = module
    return found
