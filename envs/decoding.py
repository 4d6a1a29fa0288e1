"""JSON inside an agent's text: strict, total, in linear time, and mended on request."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn, cast

from .messages import JSON, Problem
from .rows import finite

__all__ = ["FORM", "Call", "Finder", "MalformedError", "call_of", "decode", "mend", "skip_blank"]

FORM = '{"name": …, "arguments": {…}}'
DEPTH = 100  # of brackets in brackets; Python's own limit would depend on who calls
WINDOW = 1024  # characters that are tried first
MARGIN = 16  # a literal or an escape may be cut this near to a window's end
NAMES = ("name", "tool", "function")
ARGUMENTS = ("arguments", "args", "parameters")
BLANK = " \t\r\n"
_EXPECTED = {
    "Expecting value": "expected a value",
    "Expecting ',' delimiter": "expected ','",
    "Expecting ':' delimiter": "expected ':'",
    "Expecting property name enclosed in double quotes": "expected a name in double quotes",
    "Unterminated string starting at": "this string is not closed",
    "Invalid control character at": "a string holds a line break or control character, write \\n",
    "Invalid \\escape": "a string holds an unknown escape",
    "Invalid \\uXXXX escape": "a string holds an incomplete \\u escape",
}


class MalformedError(Exception):
    """Text that is not what a call looks like; never leaves the parsers."""

    def __init__(self, position: int, expected: str) -> None:
        super().__init__(expected)
        self.position = position
        self.expected = expected

    def problem(self, form: str = FORM) -> Problem:
        """Return what the agent is told."""
        detail = f"Not valid JSON at character {self.position + 1}: {self.expected}."
        return Problem("malformed", detail, f"Send {form}.")


class Call(NamedTuple):
    """A call as it was found in a text, or the problem that stands in its place."""

    name: str
    arguments: Mapping[str, JSON]
    start: int
    stop: int
    problem: Problem | None = None


class Finder:
    """`str.find` for searches that only move forward: all of them together take linear time."""

    __slots__ = ("_needle", "_place", "_text")

    def __init__(self, text: str, needle: str) -> None:
        self._text, self._needle = text, needle
        self._place = text.find(needle)

    def __call__(self, start: int) -> int:
        """Return the first place at or behind `start`; the text's length when there is none."""
        if 0 <= self._place < start:
            self._place = self._text.find(self._needle, start)
        return len(self._text) if self._place < 0 else self._place


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


_STRICT = json.JSONDecoder(parse_constant=_refuse, parse_float=finite)
# (text, place) -> value, end; as fast as json is, for texts that are known to be tame
scan_once: Callable[[str, int], tuple[Any, int]] = cast(Any, _STRICT).scan_once
_LENIENT = json.JSONDecoder(parse_constant=_refuse, parse_float=finite, strict=False)


def skip_blank(text: str, at: int) -> int:
    """Return the place of the first character from `at` on that is no white space of JSON."""
    end = len(text)
    while at < end and text[at] in BLANK:
        at += 1
    return at


def decode(text: str, start: int = 0, *, lenient: bool = False) -> tuple[JSON, int]:
    """Return the JSON value at `start`, white space skipped, and the place behind it.

    Raises:
        MalformedError: Where there is none, or one that nests deeper than 100.
    """
    start = skip_blank(text, start)
    decoder = _LENIENT if lenient else _STRICT
    try:
        value, stop = _scan(decoder, text, start)
    except _ScanError as error:
        _check_depth(text, start, error.position)
        what = _EXPECTED.get(error.message, error.message[:1].lower() + error.message[1:])
        raise MalformedError(error.position, what) from None
    except RecursionError:
        _check_depth(text, start, len(text))
        raise MalformedError(start, "nested too deeply") from None
    except ValueError as error:
        raise MalformedError(start, str(error)) from None
    _check_depth(text, start, stop)
    if not text.isascii() or text.find("\\u", start, stop) >= 0:
        _check_unicode(value, start)
    return value, stop


class _ScanError(Exception):
    """Where a scan failed, and json's words for it."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position, self.message = position, message


def _scan(decoder: json.JSONDecoder, text: str, start: int) -> tuple[JSON, int]:
    """Decode through a window that grows: json counts the lines before each error it reports."""
    size = WINDOW
    while True:
        whole = start + size >= len(text)
        window = text if not start and whole else text[start : start + size]
        try:
            value, stop = decoder.raw_decode(window)
        except json.JSONDecodeError as error:
            cut = error.pos > size - MARGIN or error.msg.startswith("Unterminated")
            if whole or not cut:
                raise _ScanError(start + error.pos, error.msg) from None
        else:
            if whole or stop <= size - MARGIN:
                return value, start + stop
        size *= 4


def _check_depth(text: str, start: int, stop: int) -> None:
    if text.count("[", start, stop) + text.count("{", start, stop) <= DEPTH:
        return
    depth, inside, at = 0, False, start
    while at < stop:
        c = text[at]
        if inside:
            if c == "\\":
                at += 1
            inside = c != '"'
        elif c == '"':
            inside = True
        elif c in "[{":
            depth += 1
            if depth > DEPTH:
                raise MalformedError(at, f"nested deeper than {DEPTH}")
        elif c in "]}":
            depth -= 1
        at += 1


def _check_unicode(value: JSON, start: int) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise MalformedError(start, "a string holds half of a surrogate pair") from None


def call_of(value: JSON, *, whole: bool = False) -> tuple[str, Mapping[str, JSON]] | str:
    """Return name and arguments of a decoded call, or what is wrong with it.

    Args:
        value: A decoded JSON value.
        whole: The arguments must be there, even where empty.
    """
    if not isinstance(value, dict):
        return f"a {_kind(value)} is no call"
    row = cast(dict[str, Any], value)
    inner = row.get("function")
    if isinstance(inner, dict):  # OpenAI's form
        row = cast(dict[str, Any], inner)
    name = next((row[key] for key in NAMES if key in row), None)
    if not isinstance(name, str) or not name:
        return "the call has no 'name'"
    key = next((key for key in ARGUMENTS if key in row), None)
    if key is None:
        return "the call has no 'arguments'" if whole else (name, {})
    arguments: Any = row[key]
    if isinstance(arguments, str):  # OpenAI writes them as JSON text
        try:
            arguments, stop = decode(arguments)
        except MalformedError as error:
            return f"its 'arguments' are no JSON object ({error.expected})"
        if skip_blank(row[key], stop) != len(row[key]):
            return "its 'arguments' go on behind the JSON object"
    if not isinstance(arguments, dict):
        return f"its 'arguments' are a {_kind(arguments)}, not an object"
    return name, cast(dict[str, Any], arguments)


def _kind(value: JSON) -> str:
    names = {"str": "string", "list": "list", "NoneType": "null", "bool": "truth value"}
    return names.get(type(value).__name__, "number")


def mend(text: str) -> str | None:
    """Close the quotes and brackets that are open at the end of `text`.

    Returns:
        JSON text up to the end of its first value, or None where brackets do not match.

    >>> mend('{"name": "go", "arguments": {"to": "no')
    '{"name": "go", "arguments": {"to": "no"}}'
    """
    open_: list[str] = []
    inside, at = False, 0
    while at < len(text):
        c = text[at]
        if inside:
            if c == "\\":
                at += 1
            inside = c != '"'
        elif c == '"':
            inside = True
        elif c in "[{":
            open_.append("]" if c == "[" else "}")
        elif c in "]}":
            if not open_ or open_.pop() != c:
                return None
            if not open_:
                return text[: at + 1]
        at += 1
    if at > len(text):  # ends in the middle of an escape
        text = text[:-1]
    text = text + '"' if inside else text.rstrip().removesuffix(",")
    if text.endswith(":"):
        text += " null"
    return text + "".join(reversed(open_)) if open_ else None
