"""Programs with one mistake, and what plain tests in a plain interpreter say of them."""

from __future__ import annotations

import ast
import copy
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

MEMORY = 1 << 30  # bytes of address space of a plain interpreter: a mistake can ask for all
_SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.FloorDiv,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Change(NamedTuple):
    """One field of one node of a syntax tree, and what to put there."""

    node: Any
    field: str
    value: object


def mutants(code: str, seed: object, most: int, within: str = "") -> list[str]:
    r"""Copies of a program, each with one operator, comparison, constant or result changed.

    Args:
        code: Python.
        seed: Fixes the choice.
        most: How many at most, all different.
        within: Only in the top-level function of this name; empty: anywhere.

    >>> sorted(mutants("def f(x): return x + 1", 0, 2))
    ['def f(x):\n    return None', 'def f(x):\n    return x - 1']
    """
    count = len(list(_changes(_part(_parsed(code), within))))
    chosen = random.Random(repr(seed)).sample(range(count), min(most, count))
    found: dict[str, None] = {}
    for place in sorted(chosen):
        tree = _parsed(code)
        change = list(_changes(_part(tree, within)))[place]
        setattr(change.node, change.field, change.value)
        found[ast.unparse(ast.fix_missing_locations(tree))] = None
    return list(found)


def _parsed(code: str) -> ast.Module:
    with warnings.catch_warnings():  # odd escapes in a public file's text are not our news
        warnings.simplefilter("ignore")
        return ast.parse(code)


def _part(tree: ast.Module, name: str) -> ast.AST:
    if not name:
        return tree
    return next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)


def _changes(tree: ast.AST) -> Iterator[Change]:
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in _SWAPS:
                yield Change(node, "op", _SWAPS[type(op)]())
            case ast.Compare(ops=[first, *rest]) if type(first) in _SWAPS:
                yield Change(node, "ops", [_SWAPS[type(first)](), *rest])
            case ast.Constant(value=bool(value)):
                yield Change(node, "value", not value)
            case ast.Constant(value=int(value) | float(value)):
                yield Change(node, "value", value + 1)
            case ast.Constant(value=str(value)) if id(node) not in texts:
                yield Change(node, "value", value + "x")
            case ast.If(test=test) | ast.While(test=test):
                yield Change(node, "test", ast.UnaryOp(ast.Not(), copy.deepcopy(test)))
            case ast.Return(value=ast.expr()):
                yield Change(node, "value", ast.Constant(None))
            case _:
                pass


def plainly_passes(program: str, wall: float) -> bool:
    """Whether a program, tests inside, ends well in a plain interpreter; its author is trusted.

    Args:
        program: Python.
        wall: Seconds it has.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-s", "-P", "-S", "-B", "-"],
                input=_BOUND + program,
                text=True,
                cwd=folder,
                timeout=wall,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


_BOUND = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))\n"
