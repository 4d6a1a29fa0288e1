"""A message without a call is an answer: its last fenced block is written and submitted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .. import parsing
from ..dialects import fences
from ..messages import ToolCall
from ..parsing import Parsed, Parser
from .tasks import FILE

CODE: Final = re.compile(r"^(def|class|import|from|async def|@\w+)\b", re.MULTILINE)


class Submitting:
    r"""A parser whose messages without a call write their last fenced block, and submit.

    Text without a block that looks like a program is the program; any other text submits what the
    file holds.

    >>> answer = Submitting(parsing.hermes)("So:\n```python\nx = 1\n```")
    >>> [(call.name, dict(call.arguments)) for call in answer.calls]
    [('write', {'path': 'solution.py', 'text': 'x = 1'}), ('submit', {})]
    """

    def __init__(self, inner: Parser) -> None:
        self.inner = inner
        self.name = getattr(inner, "name", "own")

    def __call__(self, text: str) -> Parsed:
        """Reads one message."""
        parsed = self.inner(text)
        if parsed.calls or parsed.problems or not text:
            return parsed
        source, start, stop = found(text)
        end = max(start, stop - 1)  # the last character is the submission: spans stay apart
        submit = ToolCall("", "submit", {}, (end, stop))
        if not source:
            return parsed._replace(calls=(submit._replace(span=(start, stop)),))
        write = ToolCall("", "write", {"path": FILE, "text": source}, (start, end))
        return parsed._replace(calls=(write, submit))

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Writes calls in the inner parser's form."""
        return parsing.render(calls, self.inner)


def found(text: str) -> tuple[str, int, int]:
    """Returns the program in a text and its range; no program where there is none."""
    blocks = list(fences(text))
    if blocks:
        last = blocks[-1]
        return last.code, last.start, last.stop
    return (text if CODE.search(text) else ""), 0, len(text)
