"""What tools ask others to do, and what they answer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from .messages import JSON, Problem, ProblemCode, ToolResult

__all__ = ["Checked", "GradeCall", "SessionCall", "ToolError", "answered", "plain", "refused"]


class ToolError(Exception):
    """What a tool raises when it cannot do what was asked; the agent reads the text."""

    def __init__(self, detail: str, hint: str = "", *, code: ProblemCode = "failed") -> None:
        super().__init__(f"{detail} {hint}".strip())
        self.problem = Problem(code, detail, hint)


class SessionCall(NamedTuple):
    """A method of a sandbox session that a tool asks for; it gets what the method returns."""

    session: Any
    method: str
    arguments: Mapping[str, Any] = {}

    def run(self) -> Any:
        """Call the method."""
        return getattr(self.session, self.method)(**self.arguments)


class GradeCall(NamedTuple):
    """A judgement that a tool asks for: it gets the sandbox's `Report`."""

    candidate: str
    tests: Any
    limits: Any = None  # the sandbox's `Limits`; None: its usual ones


class Checked(NamedTuple):
    """Arguments that fit, or the problem why they do not.

    Attributes:
        arguments: what the tool is called with; None when it cannot be called.
        problem: why not; or, with arguments, a remark that stops nothing (`coerced`).
    """

    arguments: Mapping[str, JSON] | None
    problem: Problem | None = None


def refused(call_id: str, problem: Problem, price: float = 0.0) -> ToolResult:
    """Return the result of a call that did not come to a good end."""
    return ToolResult(call_id, problem.text, False, problem, None, 0.0, price)


def answered(call_id: str, value: Any, price: float = 0.0) -> ToolResult:
    """Return the result that holds a tool's value: text as it is, other values as JSON."""
    if type(value) is str:
        return ToolResult(call_id, value, True, None, value, 0.0, price)
    if isinstance(value, ToolResult):
        return value._replace(call_id=call_id)
    content = plain(value)
    text = "done" if value is None else json.dumps(content, ensure_ascii=False)
    return ToolResult(call_id, text, True, None, content, 0.0, price)


def plain(value: Any) -> JSON:
    """Return a tool's value as plain JSON: records as objects, arrays as lists, others as text.

    >>> plain({"at": (1, 2.5), 3: None})
    {'at': [1, 2.5], '3': None}
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if dataclasses.is_dataclass(value):
        return plain(dataclasses.asdict(cast(Any, value)))
    if isinstance(value, Mapping):
        items = cast(Mapping[Any, Any], value).items()
        return {str(key): plain(item) for key, item in items}
    if isinstance(value, (list, tuple)):
        items = cast(Any, value)
        if hasattr(items, "_asdict"):
            return plain(items._asdict())
        return [plain(item) for item in items]
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    return str(value)
