"""The tests' text before it runs: it says which tests it enters, and asks what it would decide.

A name in a text proves nothing: `if False: test_a()` runs no test. And some questions about an
object of the candidate are answered by what its proxy is: `type(x)`, `x.__class__`, `callable(x)`,
`hasattr(x, "__iter__")`, `isinstance(x, Iterable)`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any, cast

from .. import values
from .proxies import Proxy

_ENTERED = "palaestra_entered"
_ASKED = {"type": 1, "callable": 1, "hasattr": 2, "isinstance": 2}  # words, and their arguments
_BLOCKS = (ast.If, ast.Try, ast.With, ast.For, ast.While, ast.ExceptHandler)


def compiled(source: str, name: str) -> CodeType:
    """A script as code; what it calls besides its own names is in `helpers`.

    Args:
        source: The text of the tests.
        name: What its tracebacks call it.
    """
    tests = "def test" in source.lower() or "def check" in source
    asks = "__class__" in source or any(f"{word}(" in source for word in _ASKED)
    guards = "__name__" in source and "pytest" in source
    if not (tests or asks or guards):
        return compile(source, name, "exec", dont_inherit=True)
    tree = ast.parse(source, name)
    for node in tree.body:
        if guards and isinstance(node, ast.If) and _hands_over(node):
            node.body = [ast.copy_location(ast.Pass(), node)]
    _announce(tree.body, "")
    if asks:
        _Asking(tree).visit(tree)
    return compile(ast.fix_missing_locations(tree), name, "exec", dont_inherit=True)


def helpers(entered: Callable[[str], None]) -> dict[str, Callable[..., Any]]:
    """What a compiled script calls.

    Args:
        entered: Is told the qualified name of each test function as it begins.
    """
    asked = {"type": _type, "callable": _callable, "hasattr": _has, "isinstance": _is_instance}
    return {_ENTERED: entered, **{f"palaestra_{word}": asked[word] for word in _ASKED}}


def is_test(name: str) -> bool:
    """Whether a function or class of that name is there to be run."""
    return name.lower().startswith("test") or name == "check"


def _hands_over(node: ast.If) -> bool:
    """Whether a guard would hand the file to pytest, which no cell has: we run its tests."""
    return "__name__" in ast.unparse(node.test) and "pytest" in ast.unparse(node.body[0])


def _announce(nodes: Iterable[ast.AST], prefix: str) -> None:
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if is_test(node.name):
                _say(node, prefix + node.name)
        elif isinstance(node, ast.ClassDef):
            _announce(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, _BLOCKS):
            _announce(ast.iter_child_nodes(node), prefix)


def _say(function: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> None:
    call = ast.Call(ast.Name(_ENTERED, ast.Load()), [ast.Constant(name)], [])
    first = function.body[0]
    for part in (word := ast.Expr(call), call, call.func, *call.args):
        ast.copy_location(part, first)
    told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)  # its docstring
    function.body.insert(1 if told else 0, word)


class _Asking(ast.NodeTransformer):
    """Replaces questions that would be answered by what a proxy is, if they are Python's own."""

    def __init__(self, tree: ast.Module) -> None:
        stored = {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
        }
        named = {getattr(node, "name", None) or getattr(node, "arg", "") for node in ast.walk(tree)}
        self.words = {word for word in _ASKED if word not in stored and word not in named}

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in self.words and len(node.args) == _ASKED[name] and not node.keywords:
            node.func = ast.copy_location(ast.Name(f"palaestra_{name}", ast.Load()), node.func)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr != "__class__" or not isinstance(node.ctx, ast.Load):
            return node
        name = ast.copy_location(ast.Name("palaestra_type", ast.Load()), node)
        return ast.copy_location(ast.Call(name, [node.value], []), node)


def _type(thing: Any) -> Any:
    if type(thing) is not Proxy:
        return cast("object", type(thing))
    told = thing.palaestra_word("type")
    return told if type(told) is Proxy else Proxy  # a plain type would be a lie: its objects travel


def _callable(thing: Any) -> bool:
    if type(thing) is not Proxy:
        return callable(thing)
    return thing.palaestra_word("callable") is True


def _has(thing: Any, name: Any) -> bool:
    if type(thing) is not Proxy or not (type(name) is str and name.startswith("__")):
        return hasattr(thing, name)
    return thing.palaestra_word("hasattr", name) is True


def _is_instance(thing: Any, kinds: Any) -> bool:
    if type(thing) is Proxy:
        for kind in cast("tuple[Any, ...]", kinds if type(kinds) is tuple else (kinds,)):
            if type(kind) is not Proxy and kind not in values.NAMES:
                name = getattr(kind, "__name__", kind)
                thing.palaestra_link.refuse(f"isinstance of the candidate's object and {name}")
    return isinstance(thing, kinds)
