"""The assert statements of public task files, read as `Calls`.

Only a test whose meaning is "this call gives this value" becomes a `Case`; every other answers
None and is left to `Script`. Test text is trusted, candidate text never comes here.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from . import values
from .cases import By, Calls, Case

_LARGEST = 10_000  # what arithmetic between literals may grow to, in bits or items
_MAKERS = frozenset({"set", "frozenset", "tuple", "list", "dict", "float", "complex"})
_ARITHMETIC: Mapping[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "truediv",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
    ast.Pow: "pow",
}


class _NotLiteral(Exception):
    """The expression is no literal."""


class _Found(NamedTuple):
    """One call with what it must give."""

    entry: str
    case: Case


def calls_from_assert(source: str, entry: str | None = None) -> Case | None:
    """Read one assert statement as a case.

    Forms, `f(...)` being a call of a plain name with literal arguments: `assert f(x) == y`,
    `y == f(x)`, `f(x) is True` (False, None), `assert f(x)` and `assert not f(x)`,
    `abs(f(x) - y) < 1e-6` (also `<=`, `math.fabs`), `math.isclose(f(x), y, ...)`. Literals:
    constants, signed numbers, containers, `set()`, names of builtin types, arithmetic between
    literals.

    Args:
        source: The statement.
        entry: The only function that may be called; None takes any.

    Returns:
        The case, or None where the statement asks for something else.

    >>> calls_from_assert("assert f([1, 2], -1) == {'a': 2}").expected
    {'a': 2}
    >>> calls_from_assert("assert len(f(1)) == 2") is None
    True
    """
    found = _from_source(source, entry)
    return None if found is None else found.case


def calls_from_asserts(sources: Iterable[str], entry: str | None = None) -> Calls | None:
    """Read assert statements that call one function (MBPP's `test_list`) as `Calls`.

    Returns:
        All of them as cases, or None where one is no case or they call several functions.
    """
    found = [_from_source(source, entry) for source in sources]
    return _gathered(found)


def calls_from_check(source: str, entry: str) -> Calls | None:
    """Read a `check(candidate)` function (HumanEval's `test`) as `Calls` of `entry`.

    Assertions of a constant that holds (`assert True, "..."`) ask nothing and are dropped.

    Returns:
        All assertions as cases, or None where the text does anything else.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    checks = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    rest = [node for node in body if not isinstance(node, ast.FunctionDef)]
    if len(checks) != 1 or len(body) - len(rest) != 1 or not all(map(_is_data, rest)):
        return None
    check = checks[0]
    if len(check.args.args) != 1:
        return None
    parameter = check.args.args[0].arg
    asked = [node for node in check.body if not _asks_nothing(node)]
    found = [_from_statement(node, parameter) for node in asked]
    calls = _gathered(found)
    return None if calls is None else Calls(entry, calls.cases)


def _gathered(found: list[_Found | None]) -> Calls | None:
    whole = [item for item in found if item is not None]
    entries = {item.entry for item in whole}
    if len(whole) != len(found) or len(entries) != 1:
        return None
    return Calls(entries.pop(), tuple(item.case for item in whole))


def _from_source(source: str, entry: str | None) -> _Found | None:
    try:
        body = ast.parse(source.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return _from_statement(body[0], entry) if len(body) == 1 else None


def _from_statement(node: ast.stmt, entry: str | None) -> _Found | None:
    if not isinstance(node, ast.Assert):
        return None
    try:
        found = _from_test(node.test)
        values.encode((found.case.args, dict(found.case.kwargs), found.case.expected))
    except (_NotLiteral, ArithmeticError, TypeError, ValueError):
        return None
    return found if entry is None or found.entry == entry else None


def _from_test(test: ast.expr) -> _Found:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _found(test.operand, False, by="truth")
    if isinstance(test, ast.Call):
        if _callee(test) in ("math.isclose", "isclose"):
            return _from_isclose(test)
        return _found(test, True, by="truth")
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        raise _NotLiteral
    left, right = test.left, test.comparators[0]
    match test.ops[0]:
        case ast.Eq():
            call, literal = (right, left) if _is_literal(left) else (left, right)
            return _found(call, _literal(literal))
        case ast.Is() if isinstance(right, ast.Constant) and right.value in (True, False, None):
            return _found(left, right.value, by="identity")
        case ast.Lt() | ast.LtE():
            return _from_distance(left, _literal(right))
        case _:
            raise _NotLiteral


def _found(
    call: ast.expr, expected: object, tolerance: float | None = None, by: By = "equality"
) -> _Found:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise _NotLiteral
    if any(keyword.arg is None for keyword in call.keywords):
        raise _NotLiteral
    args = tuple(map(_literal, call.args))
    kwargs = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    name = ast.unparse(call)
    case = Case(args, kwargs, expected, tolerance=tolerance, name=name[:80], by=by)
    return _Found(call.func.id, case)


def _from_distance(left: ast.expr, bound: object) -> _Found:
    """`abs(f(x) - y) < bound`."""
    if not isinstance(left, ast.Call) or _callee(left) not in ("abs", "math.fabs", "fabs"):
        raise _NotLiteral
    difference = left.args[0] if len(left.args) == 1 else None
    if not isinstance(difference, ast.BinOp) or not isinstance(difference.op, ast.Sub):
        raise _NotLiteral
    one, two = difference.left, difference.right
    call, literal = (two, one) if _is_literal(one) else (one, two)
    expected = _literal(literal)
    return _found(call, expected, _tolerance(expected, _number(bound)))


def _from_isclose(test: ast.Call) -> _Found:
    if len(test.args) != 2:
        raise _NotLiteral
    one, two = test.args
    call, literal = (two, one) if _is_literal(one) else (one, two)
    expected = _literal(literal)
    options = {keyword.arg: _number(_literal(keyword.value)) for keyword in test.keywords}
    if not set(options) <= {"rel_tol", "abs_tol"}:
        raise _NotLiteral
    relative = options.get("rel_tol", 1e-9) * abs(_number(expected))
    return _found(call, expected, _tolerance(expected, max(relative, options.get("abs_tol", 0.0))))


def _tolerance(expected: object, distance: float) -> float | None:
    """The tolerance that allows `distance` from this expected value, relative or absolute."""
    if not distance > 0 or not math.isfinite(distance):
        return None
    return distance / max(1.0, abs(_number(expected)))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _NotLiteral
    return float(value)


def _callee(call: ast.Call) -> str:
    return ast.unparse(call.func)


def _is_literal(node: ast.expr) -> bool:
    try:
        _literal(node)
    except (_NotLiteral, ArithmeticError, TypeError, ValueError):
        return False
    return True


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=items):
            return tuple(map(_literal, items))
        case ast.List(elts=items):
            return list(map(_literal, items))
        case ast.Set(elts=items):
            return set(map(_literal, items))
        case ast.Dict(keys=keys, values=items):
            if None in keys:
                raise _NotLiteral
            return {_literal(k): _literal(v) for k, v in zip(keys, items, strict=True) if k}
        case ast.Name(id=name) if name in values.TYPES:
            return values.TYPES[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _literal(operand)
            return -value if isinstance(sign, ast.USub) else +value
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(type(op), _literal(left), _literal(right))
        case ast.Call():
            return _constructed(node)
        case _:
            raise _NotLiteral


def _arithmetic(kind: type[ast.operator], left: Any, right: Any) -> Any:
    if kind not in _ARITHMETIC or max(_extent(left), _extent(right)) > _LARGEST:
        raise _NotLiteral
    grows = _extent(left) * (right if type(right) is int else _extent(right))
    if kind in (ast.Mult, ast.Pow) and abs(grows) > _LARGEST * 64:
        raise _NotLiteral
    return getattr(operator, _ARITHMETIC[kind])(left, right)


def _extent(value: Any) -> int:
    if isinstance(value, int):
        return value.bit_length()
    return len(value) if hasattr(value, "__len__") else 1


def _constructed(node: ast.Call) -> Any:
    """`set()`, `tuple([1, 2])`, `float("inf")`: builtin types applied to literals."""
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in _MAKERS or node.keywords or len(node.args) > 1:
        raise _NotLiteral
    return values.TYPES[name](*map(_literal, node.args))


def _is_data(node: ast.stmt) -> bool:
    """An assignment of literals (METADATA) or a bare string."""
    if isinstance(node, ast.Assign):
        return _is_literal(node.value)
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _asks_nothing(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assert):
        return isinstance(node.test, ast.Constant) and bool(node.test.value)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Pass)
