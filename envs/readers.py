"""Ways to write calls as JSON: between tags, bare, or behind `Action:`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from .decoding import FORM, Call, Finder, MalformedError, call_of, decode, mend, skip_blank
from .messages import Problem, ToolCall

__all__ = [
    "Found",
    "read_call",
    "read_hermes",
    "read_json",
    "read_react",
    "write_hermes",
    "write_json",
    "write_react",
]


class Found(NamedTuple):
    """What a reader found: calls, how many were repaired, and the content if it says so itself."""

    calls: list[Call]
    repaired: int = 0
    content: str | None = None


OPEN, CLOSE = "<tool_call>", "</tool_call>"
ACTION, INPUT, FINAL, OBSERVATION = "Action:", "Action Input:", "Final Answer:", "Observation:"
FIRST = {"{": '"}', "[": '"]{['}  # what may stand behind a bracket that begins calls


def read_hermes(text: str, repair: bool) -> Found:
    """Find `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number of them."""
    found = Found([])
    at = text.find(OPEN)
    if at < 0:
        return found
    closings, openings = Finder(text, CLOSE), Finder(text, OPEN)
    repaired = 0
    while at < len(text):
        body = at + len(OPEN)
        try:
            value, stop = decode(text, body)
            closed = skip_blank(text, stop)
            if not text.startswith(CLOSE, closed):
                raise MalformedError(closed, f"expected '{CLOSE}'")
            stop = closed + len(CLOSE)
            call = read_call(value, at, stop)
        except MalformedError as error:
            end = closings(body)
            stop = min(end, openings(body))
            call = _mended(text[body:stop], at, stop) if repair else None
            stop = min(stop + len(CLOSE), len(text)) if stop == end else stop
            repaired += call is not None
            problem = error.problem(f"{OPEN}{FORM}{CLOSE}")
            call = call._replace(stop=stop) if call else Call("", {}, at, stop, problem)
        found.calls.append(call)
        at = openings(stop)
    return found._replace(repaired=repaired)


def read_call(value: Any, start: int, stop: int) -> Call:
    """Return the call that a decoded value is, or the problem in its place."""
    read = call_of(value)
    if isinstance(read, str):
        problem = Problem("malformed", f"{read[:1].upper()}{read[1:]}.", f"Send {FORM}.")
        return Call("", {}, start, stop, problem)
    return Call(*read, start, stop)


def _mended(text: str, start: int, stop: int) -> Call | None:
    """Return the call that mending gives, or None."""
    closed = mend(text)
    if closed is None:
        return None
    try:
        value, _ = decode(closed, lenient=True)
    except MalformedError:
        return None
    call = read_call(value, start, stop)
    return call if call.problem is None else None


def _dump(call: ToolCall) -> str:
    row = {"name": call.name, "arguments": dict(call.arguments)}
    return json.dumps(row, ensure_ascii=False)


def write_hermes(calls: Sequence[ToolCall]) -> str:
    """Write calls between tags; the inverse of `read_hermes`."""
    return "\n".join(f"{OPEN}{_dump(call)}{CLOSE}" for call in calls)


def read_json(text: str, repair: bool) -> Found:
    """Find the last bare or fenced object, or array of objects, with a name and arguments."""
    objects, arrays = Finder(text, "{"), Finder(text, "[")
    last: list[Call] = []
    failed: tuple[int, MalformedError] | None = None
    at = 0
    while (start := min(objects(at), arrays(at))) < len(text):
        inside = skip_blank(text, start + 1)
        if text[inside : inside + 1] not in FIRST[text[start]]:
            at = start + 1  # most brackets of prose end here, for a tenth of the cost
            continue
        try:
            value, at = decode(text, start)
        except MalformedError as error:
            at = max(error.position, start + 1)
            if any(f'"{key}"' in text[start:at] for key in ("name", "tool", "function")):
                failed = start, error
            continue
        if calls := _json_calls(text, value, start, at):
            last, failed = calls, None
    if failed is None or last:
        return Found(_with_fence(text, last))
    start, error = failed
    stop = _fence_end(text, start)
    if repair and (call := _mended(text[start:stop], start, stop)):
        return Found(_with_fence(text, [call]), 1)
    return Found(_with_fence(text, [Call("", {}, start, stop, error.problem())]))


def _json_calls(text: str, value: Any, start: int, stop: int) -> list[Call]:
    """Return the calls that a decoded value at [start, stop) holds; none if it is anything else."""
    single = isinstance(value, dict)
    values: list[Any] = [value] if single else value
    reads = [call_of(item, whole=True) for item in values]
    if not reads or any(isinstance(read, str) for read in reads):
        return []
    ends: list[int] = []
    at = start + 1
    for _ in values[1:]:
        _, at = decode(text, at)
        ends.append(at)
        at = skip_blank(text, at) + 1  # the comma
    ends.append(stop)
    begins = [start, *ends[:-1]]
    pairs = zip(reads, begins, ends, strict=True)
    return [Call(read[0], read[1], b, e) for read, b, e in pairs if not isinstance(read, str)]


def _with_fence(text: str, calls: list[Call]) -> list[Call]:
    """Let the spans take in the fence around the calls, so that it is not content."""
    if not calls:
        return calls
    before = text[: calls[0].start].rstrip()
    line = before[before.rfind("\n") + 1 :].strip()
    after = skip_blank(text, calls[-1].stop)
    if not line.startswith("```") or not text.startswith("```", after):
        return calls
    calls[0] = calls[0]._replace(start=len(before) - len(line))
    calls[-1] = calls[-1]._replace(stop=after + 3)
    return calls


def _fence_end(text: str, start: int) -> int:
    stop = text.find("\n```", start)
    return len(text) if stop < 0 else stop


def write_json(calls: Sequence[ToolCall]) -> str:
    """Write one call as an object, several as an array; the inverse of `read_json`."""
    rows = [_dump(call) for call in calls]
    return rows[0] if len(rows) == 1 else f"[{', '.join(rows)}]" if rows else ""


def read_react(text: str, repair: bool) -> Found:
    """Find `Action: name` and `Action Input: {…}` on lines; `Final Answer:` is the content."""
    calls: list[Call] = []
    repaired, at, content = 0, 0, None
    while at < len(text):
        start = skip_blank(text, at)
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        at = end + 1
        if text.startswith(OBSERVATION, start):
            break  # what a model writes behind this it has made up
        if text.startswith(FINAL, start):
            content = text[start + len(FINAL) :].strip()
            break
        if text.startswith(ACTION, start):
            name = text[start + len(ACTION) : end].strip().strip("`")
            call, mended = _react_input(text, name, start, end, repair)
            repaired += mended
            calls.append(call)
            at = call.stop
    return Found(calls, repaired, None if calls else content)


def _react_input(text: str, name: str, start: int, end: int, repair: bool) -> tuple[Call, bool]:
    """Return the call `name` whose input follows the line that ends at `end`."""
    at = skip_blank(text, end)
    if not text.startswith(INPUT, at):
        return Call(name, {}, start, end), False
    at += len(INPUT)
    try:
        value, stop = decode(text, at)
        if not isinstance(value, dict):
            raise MalformedError(skip_blank(text, at), "expected an object {…}")
        return Call(name, cast(dict[str, Any], value), start, stop), False
    except MalformedError as error:
        stop = text.find(f"\n{OBSERVATION}", at)
        stop = len(text) if stop < 0 else stop
        closed = mend(text[at:stop]) if repair else None
        if closed is not None:
            try:
                value, _ = decode(closed, lenient=True)
                if isinstance(value, dict):
                    return Call(name, cast(dict[str, Any], value), start, stop), True
            except MalformedError:
                pass
        problem = error.problem(f"{ACTION} {name or 'name'}\\n{INPUT} {{…}}")
        return Call("", {}, start, stop, problem), False


def write_react(calls: Sequence[ToolCall]) -> str:
    """Write calls as actions; the inverse of `read_react`."""
    return "\n".join(
        f"{ACTION} {call.name}\n{INPUT} {json.dumps(dict(call.arguments), ensure_ascii=False)}"
        for call in calls
    )
