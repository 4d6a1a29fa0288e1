"""From an agent's text to content and calls: total functions in linear time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, cast

from . import dialects, readers
from .decoding import DEPTH, Call, call_of, scan_once
from .messages import Problem, ToolCall, cut
from .problems import nearest
from .readers import CLOSE, OPEN, Found, read_call

__all__ = [
    "PARSERS",
    "Form",
    "Parsed",
    "Parser",
    "auto",
    "fenced",
    "hermes",
    "json",
    "named",
    "native",
    "python",
    "react",
    "render",
    "xml",
]


new: Callable[..., Any] = cast(Any, tuple).__new__  # a third of a named tuple's cost
TAME = 8_192  # characters


class Parsed(NamedTuple):
    """What a message says and what it calls.

    Attributes:
        content: what is said outside the calls; after `Final Answer:` only that.
        calls: in order; a call that cannot be read carries its problem. Spans are ranges of the
            text, not empty, apart from each other; ids are empty, the environment gives them.
        problems: what was wrong and stops no call (`repaired`).
    """

    content: str
    calls: tuple[ToolCall, ...] = ()
    problems: tuple[Problem, ...] = ()


class Parser(Protocol):
    """Any function from text to `Parsed`; it never raises."""

    def __call__(self, text: str, /) -> Parsed:
        """Read one message."""
        ...


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write calls: a parser, and its inverse.

    Attributes:
        name: as in configurations.
        read: (text, whether to repair) -> what was found.
        write: calls -> text.
        quick: reads what is plain and right, at a fraction of the cost; None for all else.
        repair: close brackets and quotes that are left open, and count that as `repaired`.
    """

    name: str
    read: Callable[[str, bool], Found]
    write: Callable[[Sequence[ToolCall]], str]
    quick: Callable[[str], Parsed | None] | None = None
    repair: bool = False

    def __call__(self, text: str) -> Parsed:
        """Read one message."""
        if self.quick is not None and (parsed := self.quick(text)) is not None:
            return parsed
        found = self.read(text, self.repair)
        if not found.calls:
            return Parsed(text if found.content is None else found.content)
        calls = tuple(
            new(ToolCall, ("", c.name, c.arguments, (c.start, c.stop), c.problem))
            for c in found.calls
        )
        content = found.content
        if content is None:
            content = cut(text, [call.span for call in calls])
        note = Problem("repaired", "Brackets or quotes that were left open have been closed.")
        return Parsed(content, calls, (note,) * found.repaired)

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write calls so that reading them gives the same names and arguments."""
        return self.write(calls)

    def repairing(self) -> Form:
        """Return the same form with `repair` on."""
        return replace(self, repair=True)


def render(calls: Sequence[ToolCall], parser: Parser | None = None) -> str:
    """Write calls in the form that `parser` reads; hermes where it does not say how.

    >>> render([ToolCall("", "add", {"a": 1}, (0, 0))])
    '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    """
    write: Callable[[Sequence[ToolCall]], str] = getattr(parser, "render", hermes.render)
    return write(calls)


def _quick_hermes(text: str) -> Parsed | None:
    """Read tame text: short, ASCII, with well-formed calls in the one form that we write."""
    at = text.find(OPEN)
    if at < 0:
        return new(Parsed, (text, (), ()))
    if len(text) > TAME or not text.isascii() or "\\u" in text:
        return None
    if text.count("{") + text.count("[") > DEPTH:
        return None
    calls: list[ToolCall] = []
    content, stop = "", 0
    while at >= 0:
        content += text[stop:at]
        try:
            value, stop = scan_once(text, at + len(OPEN))
            name, arguments = value["name"], value["arguments"]
        except (ValueError, StopIteration, TypeError, KeyError):
            return None
        if not text.startswith(CLOSE, stop) or len(value) != 2:
            return None
        if type(name) is not str or not name or type(arguments) is not dict:
            return None
        stop += len(CLOSE)
        calls.append(new(ToolCall, ("", name, arguments, (at, stop), None)))
        at = text.find(OPEN, stop)
    return new(Parsed, (content + text[stop:], tuple(calls), ()))


hermes = Form("hermes", readers.read_hermes, readers.write_hermes, _quick_hermes)
json = Form("json", readers.read_json, readers.write_json)
react = Form("react", readers.read_react, readers.write_react)
xml = Form("xml", lambda text, repair: Found(dialects.read_xml(text)), dialects.write_xml)
python = Form(
    "python", lambda text, repair: Found(dialects.read_python(text)), dialects.write_python
)


def fenced(language: str = "python", *, tool: str = "run", argument: str = "code") -> Form:
    r"""Return the form in which a fenced block is a call of one tool: for agents that write code.

    Args:
        language: The block's language; blocks without one count too, others are content.
        tool: The tool a block calls.
        argument: Its argument that gets the block's text.

    >>> fenced()("Let me see.\n```python\nprint(1)\n```").calls[0].arguments
    {'code': 'print(1)'}
    """
    names = {"", language.lower(), *({"py", "python3"} if language == "python" else ())}

    def read(text: str, repair: bool) -> Found:
        calls: list[Call] = []
        repaired = 0
        for fence in dialects.fences(text):
            if fence.language not in names:
                continue
            problem = None
            if not fence.closed and not repair:
                problem = Problem("malformed", "The code block is not closed.", "End it with ```.")
            repaired += not fence.closed and repair
            arguments = {} if problem else {argument: fence.code}
            name = "" if problem else tool
            calls.append(Call(name, arguments, fence.start, fence.stop, problem))
        return Found(calls, repaired)

    def write(calls: Sequence[ToolCall]) -> str:
        texts = [dialects.argument_text(call.arguments, argument) for call in calls]
        return "\n".join(dialects.write_fence(language, text) for text in texts)

    return Form("fenced", read, write)


def native(respond: Callable[[str], Mapping[str, Any]]) -> Form:
    """Return the form of a model's own template.

    Args:
        respond: From a text to a message in OpenAI's form (`content`, `tool_calls`), as a
            transformers tokenizer's `parse_response` gives it. What it raises is a malformed call.
    """

    def read(text: str, repair: bool) -> Found:
        try:
            message = respond(text)
            content = message.get("content")
            values = list(message.get("tool_calls") or ())
        except Exception as error:  # a foreign parser may raise anything at an agent's text
            detail = f"The message does not have the model's own form ({type(error).__name__})."
            problem = Problem("malformed", detail, "Write the call as the tools were described.")
            return Found([Call("", {}, 0, len(text), problem)] if text else [])
        spans = _native_spans(text, values)
        calls = [read_call(v, *span) for v, span in zip(values, spans, strict=False)]
        return Found(calls, 0, content if isinstance(content, str) else "" if calls else None)

    return Form("native", read, readers.write_hermes)


def _native_spans(text: str, values: Sequence[Any]) -> list[tuple[int, int]]:
    """Return a span for each call, as far as the text goes: a foreign parser tells no places.

    A call's span ends where the name of the next one is first written.
    """
    n = min(len(values), len(text))
    starts = [0] if n else []
    for i in range(1, n):
        read = call_of(values[i])
        place = -1 if isinstance(read, str) else text.find(read[0], starts[-1] + 1)
        starts.append(min(max(place, starts[-1] + 1), len(text) - (n - i)))
    return list(zip(starts, [*starts[1:], len(text)], strict=True)) if n else []


def _read_auto(text: str, repair: bool) -> Found:
    first: Found | None = None
    for form in (hermes, json, react, xml, python, _code):
        found = form.read(text, repair)
        if any(call.problem is None for call in found.calls) or found.content is not None:
            return found
        if found.calls and first is None:
            first = found
    return first or Found([])


_code = fenced()
auto = Form("auto", _read_auto, readers.write_hermes)

PARSERS: Mapping[str, Form] = {
    "hermes": hermes,
    "json": json,
    "react": react,
    "xml": xml,
    "python": python,
    "fenced": _code,
    "auto": auto,
}


def named(name: str) -> Form:
    """Return the parser of a configuration: a key of `PARSERS`, with `+repair` behind it or not.

    >>> named("json+repair").repair
    True
    """
    plain, plus, option = name.partition("+")
    if plain not in PARSERS or (plus and option != "repair"):
        like = nearest(plain, PARSERS)
        asked = f"did you mean {like!r}? " if like else ""
        raise ValueError(
            f"parser {name!r} is unknown; {asked}known are {', '.join(PARSERS)}, each also with "
            "+repair"
        )
    return PARSERS[plain].repairing() if plus else PARSERS[plain]
