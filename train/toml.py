"""Nested tables as TOML text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast


def dumps(table: Mapping[str, Any]) -> str:
    """TOML text that ``tomllib.loads`` reads back to an equal table.

    Args:
        table: values are bool, int, float, str, lists of these, tables and lists of tables;
            a None is left out, since TOML has no word for it.

    >>> print(dumps({"seed": 0, "env": {"id": "a/B-v0", "reward": {"tests": 0.5}}}))
    seed = 0
    <BLANKLINE>
    [env]
    id = "a/B-v0"
    <BLANKLINE>
    [env.reward]
    tests = 0.5
    <BLANKLINE>
    """
    return "\n".join(_table(table, "")) + "\n"


def _table(table: Mapping[str, Any], path: str) -> list[str]:
    lines: list[str] = []
    later: list[str] = []
    for name, value in table.items():
        full = f"{path}.{_key(name)}" if path else _key(name)
        if isinstance(value, Mapping):
            inside = _table(cast(Mapping[str, Any], value), full)
            header = [] if inside and inside[0] == "" else [f"[{full}]"]
            later += ["", *header, *inside] if header else inside
        elif _is_tables(value):
            for item in cast(Sequence[Mapping[str, Any]], value):
                later += ["", f"[[{full}]]", *_table(item, full)]
        elif value is not None:
            lines.append(f"{_key(name)} = {_value(value)}")
    return lines + later


def _is_tables(value: object) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(item, Mapping) for item in cast(Sequence[object], value))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        items = cast(Mapping[str, Any], value).items()
        return "{" + ", ".join(f"{_key(name)} = {_value(item)}" for name, item in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in cast(Sequence[Any], value)) + "]"
    raise TypeError(f"{type(value).__name__} {value!r} has no form in TOML; give plain values")
