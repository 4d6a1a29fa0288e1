"""What a bad call is told: got, wanted, do."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .messages import Problem

__all__ = ["bad_arguments", "nearest", "shown", "unknown_tool"]

LISTED = 20  # names of tools listed in a message
SAID = 5  # faults of one call told at once
_KINDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "a string",
    "str": "a string",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object",
    "dataclass": "an object",
    "none": "null",
    "finite": "a finite number",
}


def shown(value: object, limit: int = 60) -> str:
    """Return a value as JSON, shortened to about `limit` characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name most like `name`, or None where none is."""
    found = difflib.get_close_matches(name[:64], list(names), 1)
    return found[0] if found else None


def unknown_tool(name: str, names: Sequence[str]) -> Problem:
    """Return the problem of a call to a tool that does not exist.

    >>> unknown_tool("serch", ["search", "open"]).text
    "There is no tool 'serch'. Did you mean 'search'? Tools: search, open."
    """
    like = nearest(name, names)
    listed = ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")
    asked = f"Did you mean '{like}'? " if like else ""
    hint = f"{asked}Tools: {listed}." if names else "There are no tools here; answer in words."
    return Problem("unknown_tool", f"There is no tool '{_cut(name)}'.", hint)


def bad_arguments(tool: str, errors: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Problem:
    """Return the problem of arguments that do not fit.

    Args:
        tool: The tool's name.
        errors: What pydantic found: `type`, `loc`, `ctx`, `input`, `msg`.
        names: The tool's arguments.
    """
    texts = dict.fromkeys([_sentence(e, names) for e in errors if e["type"] != "missing"])
    texts |= dict.fromkeys([_sentence(e, names) for e in errors if e["type"] == "missing"])
    said = list(texts)
    more = f"; and {len(said) - SAID} more" if len(said) > SAID else ""
    hint = "" if names else f"{tool} takes no arguments."
    return Problem("bad_arguments", f"{tool}: {'; '.join(said[:SAID])}{more}.", hint)


def _sentence(error: Mapping[str, Any], names: Sequence[str]) -> str:
    kind: str = error["type"]
    where = _path(error["loc"])
    if kind == "missing":
        return f"'{where}' is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        like = nearest(str(error["loc"][-1]), names)
        return f"'{where}' is no argument" + (f" (did you mean '{like}'?)" if like else "")
    return f"{where} {_demand(kind, error)} (got {shown(error['input'])})"


def _demand(kind: str, error: Mapping[str, Any]) -> str:
    bounds = {"ge": "at least", "le": "at most", "gt": "more than", "lt": "less than"}
    ctx: Mapping[str, Any] = error.get("ctx") or {}
    for key, words in bounds.items():
        if key in ctx:
            return f"must be {words} {ctx[key]}"
    unit = "characters" if kind.startswith("string") else "items"
    for key, words in (("min_length", "at least"), ("max_length", "at most")):
        if key in ctx:
            return f"must have {words} {ctx[key]} {unit}"
    if "expected" in ctx:
        return f"must be {'one of ' if ' or ' in ctx['expected'] else ''}{ctx['expected']}"
    if "multiple_of" in ctx:
        return f"must be a multiple of {ctx['multiple_of']}"
    if "pattern" in ctx:
        return f"must match {ctx['pattern']}"
    if kind == "float_type" and type(error["input"]) is int:
        return "must be a number below 1.8e308"
    noun = _KINDS.get(kind.partition("_")[0])
    return f"must be {noun}" if noun else f"is not right: {error['msg']}"


def _path(loc: Sequence[int | str]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{_cut(part)}" if path else _cut(part)
    return path or "the call"


def _cut(name: str) -> str:
    return name if len(name) <= 64 else f"{name[:63]}…"
