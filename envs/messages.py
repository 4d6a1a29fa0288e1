"""What agents, tools and environments say to each other: frozen values."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from .pictures import Image, from_data_url, to_data_url

__all__ = [
    "JSON",
    "Credit",
    "Image",
    "Message",
    "Problem",
    "ProblemCode",
    "Role",
    "ToolCall",
    "ToolResult",
]

# a recursive alias would make every reader of an argument narrow it first
JSON: TypeAlias = Any
Role = Literal["system", "user", "assistant", "tool"]
ProblemCode = Literal[
    "malformed",
    "unknown_tool",
    "bad_arguments",
    "not_now",
    "over_budget",
    "too_long",
    "too_many_calls",
    "timeout",
    "failed",
    "unavailable",
    "blocked",
    "infrastructure",
    "coerced",
    "repaired",
]
EXTRA = "palaestra"  # key of an OpenAI message that keeps what its form has no place for


class Problem(NamedTuple):
    """What was wrong with a call or a message, in words the agent can act on.

    Attributes:
        code: one of fourteen kinds; rewards and statistics read it.
        detail: what was got and what was wanted.
        hint: what to do instead; empty where the detail says it.
    """

    code: ProblemCode
    detail: str
    hint: str = ""

    @property
    def text(self) -> str:
        """Detail and hint as one observation."""
        return f"{self.detail} {self.hint}" if self.hint else self.detail


class ToolCall(NamedTuple):
    """One wish to run a tool.

    Attributes:
        id: unique within the episode; results and credits refer to it.
        name: the tool.
        arguments: plain JSON values by name.
        span: character range of the call in its message's `content`; (0, 0) where there is no text.
        problem: why it cannot run, if it cannot.
    """

    id: str
    name: str
    arguments: Mapping[str, JSON]
    span: tuple[int, int]
    problem: Problem | None = None


class ToolResult(NamedTuple):
    """What came of one call, or of one request that was run outside the environment.

    Attributes:
        call_id: the call (or the request's key) it answers.
        content: what the agent reads.
        ok: whether the tool ran cleanly.
        problem: what went wrong, if anything.
        value: what the tool returned, for rules; never shown.
        seconds: simulated time.
        cost: simulated money.
        infrastructure: the failure is ours, not the agent's.
    """

    call_id: str
    content: str
    ok: bool
    problem: Problem | None = None
    value: JSON = None
    seconds: float = 0.0
    cost: float = 0.0
    infrastructure: bool = False


class Credit(NamedTuple):
    """A part of the reward, and what earned it.

    Attributes:
        term: a declared reward term.
        value: raw in a `Reply`, weighted in a `Step`.
        call_id: the call that earned it.
        span: the characters of the agent's message that earned it; at most one of the two.
    """

    term: str
    value: float
    call_id: str | None = None
    span: tuple[int, int] | None = None


class Message(NamedTuple):
    """One message of the transcript.

    Attributes:
        role: who speaks.
        content: the text, calls included, thinking left out.
        calls: the calls parsed from it.
        call_id: the call a tool message answers.
        images: pictures shown with it.
        reasoning: thinking text, split off before parsing.
    """

    role: Role
    content: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    images: tuple[Image, ...] = ()
    reasoning: str = ""

    def to_openai(self) -> dict[str, JSON]:
        """Returns the message in the form of OpenAI's chat API.

        The text of calls is cut from `content`, since it stands in `tool_calls`; what the form has
        no place for (spans, problems, that text) is kept under the key "palaestra".
        """
        spans = [call.span for call in self.calls if call.span[0] < call.span[1]]
        visible = cut(self.content, spans)
        row: dict[str, JSON] = {"role": self.role, "content": visible}
        if self.images:
            row["content"] = [{"type": "text", "text": visible}, *map(image_part, self.images)]
        if self.calls:
            row["tool_calls"] = [call_to_openai(call) for call in self.calls]
        if self.call_id is not None:
            row["tool_call_id"] = self.call_id
        if self.reasoning:
            row["reasoning_content"] = self.reasoning
        if extra := self._extra(visible):
            row[EXTRA] = extra
        return row

    def _extra(self, visible: str) -> dict[str, JSON]:
        extra: dict[str, JSON] = {}
        if visible != self.content:
            extra["content"] = self.content
        if any(call.span != (0, 0) for call in self.calls):
            extra["spans"] = [list(call.span) for call in self.calls]
        if any(call.problem for call in self.calls):
            extra["problems"] = [call.problem and list(call.problem) for call in self.calls]
        return extra

    @classmethod
    def from_openai(cls, row: Mapping[str, JSON]) -> "Message":
        """Reads a message in OpenAI's form; the inverse of `to_openai`.

        Args:
            row: a chat message; unknown keys are ignored, a missing `content` is empty.
        """
        extra: Mapping[str, JSON] = row.get(EXTRA) or {}
        visible, images = parts(row.get("content"))
        wishes: Sequence[Mapping[str, JSON]] = row.get("tool_calls") or ()
        spans = extra.get("spans") or [(0, 0)] * len(wishes)
        problems = extra.get("problems") or [None] * len(wishes)
        calls = tuple(map(call_from_openai, wishes, spans, problems))
        content = extra.get("content", visible)
        reasoning = row.get("reasoning_content") or ""
        return cls(row["role"], content, calls, row.get("tool_call_id"), images, reasoning)


def cut(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Returns `text` without the characters of `spans`.

    Example:
        >>> cut("see <a> and <b>", [(4, 7), (12, 15)])
        'see  and '
    """
    kept: list[str] = []
    at = 0
    for start, stop in sorted(spans):
        kept.append(text[at:start])
        at = max(at, stop)
    kept.append(text[at:])
    return "".join(kept)


def image_part(image: Image) -> dict[str, JSON]:
    """Returns a picture as a content part of OpenAI's form."""
    return {"type": "image_url", "image_url": {"url": to_data_url(image)}}


def parts(content: JSON) -> tuple[str, tuple[Image, ...]]:
    """Splits OpenAI content (a string, parts, or nothing) into text and pictures."""
    if content is None or isinstance(content, str):
        return content or "", ()
    text = "".join(part["text"] for part in content if part["type"] == "text")
    urls = (part["image_url"]["url"] for part in content if part["type"] == "image_url")
    return text, tuple(map(from_data_url, urls))


def call_to_openai(call: ToolCall) -> dict[str, JSON]:
    """Returns a call as an entry of `tool_calls`."""
    arguments = json.dumps(dict(call.arguments))
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def call_from_openai(row: Mapping[str, JSON], span: Sequence[int], problem: JSON) -> ToolCall:
    """Reads an entry of `tool_calls`; arguments that are no JSON object become a problem."""
    function: Mapping[str, JSON] = row["function"]
    arguments = function["arguments"]
    fault = Problem(*problem) if problem else None
    if isinstance(arguments, str):
        arguments, fault = read_arguments(arguments, fault)
    return ToolCall(row.get("id") or "", function["name"], arguments, (span[0], span[1]), fault)


def read_arguments(text: str, fault: Problem | None) -> tuple[Mapping[str, JSON], Problem | None]:
    """Reads the JSON text of arguments; what is no object becomes a problem."""
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError) as error:
        return {}, fault or Problem("malformed", f"Arguments are not valid JSON: {error}.")
    if not isinstance(arguments, dict):
        kind = type(arguments).__name__
        return {}, fault or Problem("malformed", f"Arguments are a {kind}, not a JSON object.")
    return arguments, fault  # pyright: ignore[reportUnknownVariableType]
