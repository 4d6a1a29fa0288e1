"""Ways to write calls that are no JSON: tags, Python, fenced code."""

from __future__ import annotations

import ast
import json
import math
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .decoding import Call, MalformedError, decode, skip_blank
from .messages import JSON, Problem, ToolCall

__all__ = ["Fence", "fences", "read_python", "read_xml", "write_python", "write_xml"]

LONGEST_NAME = 128
PYTHON_FORM = "name(argument=value)"


# tags


def read_xml(text: str) -> list[Call]:
    """Find `<name><argument>value</argument></name>`; a value that is JSON is read as such."""
    closers: dict[str, list[int]] = {}
    at = text.find("</")
    while at >= 0:
        name, stop = _tag(text, at + 2)
        if name:
            closers.setdefault(name, []).append(at)
        at = text.find("</", max(stop, at + 2))
    found: list[Call] = []
    at = text.find("<")
    while at >= 0:
        call = _element(text, at, closers)
        if call is not None:
            found.append(call)
        at = text.find("<", at + 1 if call is None else call.stop)
    return found


def _tag(text: str, at: int) -> tuple[str, int]:
    """Return the name of the tag whose name begins at `at`, and the place behind its `>`."""
    stop = text.find(">", at, at + LONGEST_NAME)
    name = text[at:stop] if stop > at else ""
    plain = name.replace("-", "_").replace(".", "_").isidentifier()
    return (name, stop + 1) if plain else ("", at)


def _closer(places: Mapping[str, list[int]], name: str, at: int) -> int:
    known = places.get(name, [])
    number = bisect_left(known, at)
    return known[number] if number < len(known) else -1


def _element(text: str, start: int, closers: Mapping[str, list[int]]) -> Call | None:
    """Return the call that begins at `start`; None where the tag is something else."""
    name, at = _tag(text, start + 1)
    if not name:
        return None
    arguments: dict[str, JSON] = {}
    while True:
        at = skip_blank(text, at)
        if text.startswith(f"</{name}>", at):
            return Call(name, arguments, start, at + len(name) + 3)
        key, inside = _tag(text, at + 1) if text.startswith("<", at) else ("", at)
        stop = _closer(closers, key, inside) if key else -1
        if stop < 0:
            break
        arguments[key] = _value(text[inside:stop])
        at = stop + len(key) + 3
    if not arguments:
        return None
    problem = Problem(
        "malformed",
        f"<{name}> at character {start + 1} is not closed behind its arguments.",
        f"Send <{name}><argument>value</argument></{name}>.",
    )
    return Call("", {}, start, at, problem)


def _value(text: str) -> JSON:
    try:
        value, stop = decode(text)
    except MalformedError:
        return text
    return value if skip_blank(text, stop) == len(text) else text


def write_xml(calls: Sequence[ToolCall]) -> str:
    """Write calls as tags; the inverse of `read_xml` for names that are identifiers."""
    return "\n".join(
        f"<{call.name}>"
        + "".join(f"<{key}>{_text_of(value)}</{key}>" for key, value in call.arguments.items())
        + f"</{call.name}>"
        for call in calls
    )


def _text_of(value: JSON) -> str:
    if isinstance(value, str) and "</" not in value and _value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


# Python


def read_python(text: str) -> list[Call]:
    """Find lines that begin with `name(argument=literal)`, also as `[f(…), g(…)]` or fenced."""
    found: list[Call] = []
    at = 0
    while at < len(text):
        start = skip_blank(text, at)
        stop = _expression(text, start)
        if stop is None:
            at = text.find("\n", start)
            if at < 0:
                break
            continue
        try:
            found += _calls(text[start:stop], start)
        except MalformedError as error:
            detail = f"Not a call at character {start + 1}: {error.expected}."
            hint = f"Send {PYTHON_FORM}, with literal values."
            found.append(Call("", {}, start, stop, Problem("malformed", detail, hint)))
        at = stop
    return found


def _expression(text: str, start: int) -> int | None:
    """Return the end of a bracketed expression that begins a line and fills it, else None."""
    at = start + 1 if text.startswith("[", start) else start
    at = skip_blank(text, at)
    stop = text.find("(", at, at + LONGEST_NAME)
    if stop <= at or not text[at:stop].replace(".", "_").isidentifier():
        return None
    end = _closing(text, start if text.startswith("[", start) else stop)
    line = text.find("\n", end)
    rest = text[end : line if line >= 0 else len(text)].strip()
    return end if rest in ("", ";") else None


def _closing(text: str, start: int) -> int:
    """Return the place behind the bracket that closes the one at `start`; the end if none does."""
    for at, _, depth in _code(text, start):
        if depth <= 0:
            return at + 1
    return len(text)


def _calls(source: str, start: int) -> list[Call]:
    node = _parsed(source, start)
    if not isinstance(node, ast.List):
        return [Call(*_call(node, start), start, start + len(source))]
    cuts = [start + place for place in _commas(source)][: len(node.elts) - 1]
    begins, ends = [start, *cuts], [*cuts, start + len(source)]
    return [
        Call(*_call(item, start), begin, end)
        for item, begin, end in zip(node.elts, begins, ends, strict=False)
    ]


def _parsed(source: str, start: int) -> ast.expr:
    try:
        if "\\" not in source:
            return ast.parse(source, mode="eval").body
        with warnings.catch_warnings():  # an unknown escape is the agent's affair
            warnings.simplefilter("ignore")
            return ast.parse(source, mode="eval").body
    except SyntaxError as error:
        raise MalformedError(start, (error.msg or "not Python").partition(" (")[0]) from None
    except (ValueError, MemoryError, RecursionError):
        raise MalformedError(start, "not Python, or nested too deeply") from None


def _commas(source: str) -> list[int]:
    """Return the places behind the commas between the items of a list display."""
    found: list[int] = []
    for at, c, depth in _code(source, 0):
        if c == "," and depth == 1:
            found.append(at + 1)
    return found


def _code(text: str, at: int) -> Iterator[tuple[int, str, int]]:
    """Yield place, character and depth of brackets of what stands in no string."""
    depth, quote = 0, ""
    while at < len(text):
        c = text[at]
        if quote:
            if c == "\\":
                at += 1
            elif text.startswith(quote, at):
                at += len(quote) - 1
                quote = ""
        elif c in "\"'":
            quote = c * 3 if text.startswith(c * 3, at) else c
            at += len(quote) - 1
        else:
            depth += (c in "([{") - (c in ")]}")
            yield at, c, depth
        at += 1


def _call(node: ast.expr, start: int) -> tuple[str, dict[str, JSON]]:
    if not isinstance(node, ast.Call):
        raise MalformedError(start, "wanted a call")
    if node.args:
        raise MalformedError(start, "give each argument by its name")
    arguments: dict[str, JSON] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise MalformedError(start, "** is no argument")
        arguments[keyword.arg] = _literal(keyword.value, start, 0)
    return ast.unparse(node.func), arguments


def _literal(node: ast.expr | None, start: int, depth: int) -> JSON:
    if depth > 100:
        raise MalformedError(start, "nested deeper than 100")
    match node:
        case ast.Constant(value=str() as text):
            if not text.isascii():
                _encodable(text, start)
            return text
        case ast.Constant(value=bool() | int() | None as value):
            return value
        case ast.Constant(value=float() as value) if math.isfinite(value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if (
            type(value) is not bool
        ):
            return -_literal(node.operand, start, depth + 1)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item, start, depth + 1) for item in items]
        case ast.Dict(keys=keys, values=items):
            names = [_literal(key, start, depth + 1) for key in keys]
            if all(isinstance(name, str) for name in names):
                values = [_literal(item, start, depth + 1) for item in items]
                return dict(zip(names, values, strict=True))
        case _:
            pass
    raise MalformedError(start, "a value is no literal of JSON's kinds")


def _encodable(text: str, start: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedError(start, "a string holds half of a surrogate pair") from None


def write_python(calls: Sequence[ToolCall]) -> str:
    """Write calls as Python, one a line; the inverse of `read_python`."""
    return "\n".join(
        f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"
        for call in calls
    )


# fenced code


class Fence(NamedTuple):
    """A fenced block: its language, its text, its range; `closed` False at a missing end."""

    language: str
    code: str
    start: int
    stop: int
    closed: bool


def fences(text: str) -> list[Fence]:
    """Find the fenced blocks of a text, as CommonMark has them (backticks, at line starts)."""
    found: list[Fence] = []
    opened: tuple[int, int, str, int] | None = None  # start, backticks, language, code's start
    at = text.find("```")
    if at < 0:
        return found
    at = text.rfind("\n", 0, at) + 1
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end].strip()
        ticks = len(line) - len(line.lstrip("`"))
        if ticks >= 3:
            info = line[ticks:].strip()
            if opened is None and "`" not in info:
                language = info.partition(" ")[0].lower()
                opened = (at, ticks, language, min(end + 1, len(text)))
            elif opened is not None and not info and ticks >= opened[1]:
                code = text[opened[3] : max(at - 1, opened[3])]
                found.append(Fence(opened[2], code, opened[0], end, True))
                opened = None
        at = end + 1
    if opened is not None:
        found.append(Fence(opened[2], text[opened[3] :], opened[0], len(text), False))
    return found


def write_fence(language: str, code: str) -> str:
    """Write a fenced block, with more backticks than any line of the code begins with."""
    longest = max(
        (len(s) - len(s.lstrip("`")) for s in map(str.strip, code.split("\n"))), default=0
    )
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{code}\n{ticks}"


def argument_text(arguments: Mapping[str, Any], name: str) -> str:
    """Return the one argument a fenced call has, as text."""
    value = arguments.get(name, "")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
