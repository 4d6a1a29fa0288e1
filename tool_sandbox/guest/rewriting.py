"""The tests' text before it runs: it says which tests it enters, and asks what it would decide.

A name in a text proves nothing: `if False: test_a()` runs no test. And some questions about an
object of the candidate are answered by what its proxy is: `type(x)`, `x.__class__`, `callable(x)`,
`hasattr(x, "__iter__")`, `isinstance(x, Iterable)`, `map(type, xs)`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any, cast

from .. import values
from .proxies import Proxy

_ENTERED = "palaestra_entered"
_ASKED = ("type", "callable", "hasattr", "isinstance", "getattr")  # each is replaced where called
_ASK, _CLASS, _CLASSES = "palaestra_ask", "palaestra_class", "palaestra_classes"
# Functions that call what they are given first.
_CALLERS = ("map", "filter", "filterfalse", "starmap", "partial", "reduce", "groupby")
_BLOCKS = (ast.If, ast.Try, ast.With, ast.For, ast.While, ast.ExceptHandler)


def compiled(source: str, name: str) -> CodeType:
    """A script as code; what it calls besides its own names is in `helpers`.

    Args:
        source: The text of the tests.
        name: What its tracebacks call it.
    """
    tests = "def test" in source.lower() or "def check" in source
    asks = any(word in source for word in (*_ASKED, "__class__", "match "))
    guards = "__name__" in source and "pytest" in source
    if not (tests or asks or guards):
        return compile(source, name, "exec", dont_inherit=True)
    tree = ast.parse(source, name)
    for node in tree.body:
        if guards and isinstance(node, ast.If) and _hands_over(node):
            node.body = [ast.copy_location(ast.Pass(), node)]
    _announce(tree.body, "")
    if asks:
        _Asking().visit(tree)
    return compile(ast.fix_missing_locations(tree), name, "exec", dont_inherit=True)


def helpers(entered: Callable[[str], None]) -> dict[str, Callable[..., Any]]:
    """What a compiled script calls.

    Args:
        entered: Is told the qualified name of each test function as it begins.
    """
    return {_ENTERED: entered, _ASK: _ask, _CLASS: _class, _CLASSES: _classes}


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

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        node.func = _asked(node.func)
        if name in _CALLERS and node.args:
            node.args[0] = _asked(node.args[0])
        for one in node.keywords:
            if one.arg == "key":
                one.value = _asked(one.value)
        return node

    def visit_Match(self, node: ast.Match) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        kinds = [part.cls for part in ast.walk(node) if isinstance(part, ast.MatchClass)]
        if not kinds:
            return node
        call = ast.Call(ast.Name(_CLASSES, ast.Load()), [*kinds], [])
        for part in (word := ast.Expr(call), call, call.func):
            ast.copy_location(part, node)
        return [word, node]

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr != "__class__" or not isinstance(node.ctx, ast.Load):
            return node
        name = ast.copy_location(ast.Name(_CLASS, ast.Load()), node)
        return ast.copy_location(ast.Call(name, [node.value], []), node)


def _asked(node: ast.expr) -> ast.expr:
    if not (isinstance(node, ast.Name) and node.id in _ASKED):
        return node
    name = ast.copy_location(ast.Name(_ASK, ast.Load()), node)
    return ast.copy_location(ast.Call(name, [node], []), node)


def _ask(what: Any) -> Any:
    """What to call in the place of `what`, which is Python's own or the tests' of that name."""
    return next((ours for theirs, ours in _OURS if what is theirs), what)


def _type(thing: Any, *more: Any, **words: Any) -> Any:
    if more or type(thing) is not Proxy:
        return cast("Any", type)(thing, *more, **words)
    told = thing.palaestra_word("type")
    return told if type(told) is Proxy else Proxy  # a plain type would be a lie: its objects travel


def _class(thing: Any) -> Any:
    return _type(thing) if type(thing) is Proxy else thing.__class__


def _classes(*kinds: Any) -> None:
    for kind in kinds:
        if type(kind) is Proxy:
            kind.palaestra_link.refuse("the tests match against a class of the candidate's")


def _get(thing: Any, name: Any, *default: Any) -> Any:
    special = type(thing) is Proxy and type(name) is str and name.startswith("__")
    if special and hasattr(Proxy, name) and not _has(thing, name):
        if default:
            return default[0]
        raise AttributeError(name)
    return getattr(thing, name, *default)


def _callable(thing: Any) -> bool:
    if type(thing) is not Proxy:
        return callable(thing)
    return thing.palaestra_word("callable") is True


def _has(thing: Any, name: Any) -> bool:
    if type(thing) is not Proxy or not (type(name) is str and name.startswith("__")):
        return hasattr(thing, name)
    return thing.palaestra_word("hasattr", name) is True


def _is_instance(thing: Any, kinds: Any) -> bool:
    if type(thing) is not Proxy:
        return isinstance(thing, kinds)
    link = thing.palaestra_link
    several = cast("tuple[Any, ...]", kinds if type(kinds) is tuple else (kinds,))
    plain = [kind for kind in several if type(kind) is not Proxy]
    for kind in plain:
        if kind not in values.NAMES:
            name = getattr(kind, "__name__", kind)
            link.refuse(f"isinstance of the candidate's object and {name}")
    own = (kind for kind in several if type(kind) is Proxy)
    if object in plain or any(kind.__instancecheck__(thing) for kind in own):
        return True
    if plain and thing.palaestra_word("is_any", *plain) is not False:
        # Of a class of the candidate's above a builtin one: it may say so of any object.
        link.refuse("the candidate's object says that it is of a builtin class")
    return False


_OURS: list[tuple[Any, Callable[..., Any]]] = [
    (type, _type),
    (callable, _callable),
    (hasattr, _has),
    (isinstance, _is_instance),
    (getattr, _get),
]
