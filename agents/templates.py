"""Chat templates: the ids that stand between messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..envs.messages import Message

if TYPE_CHECKING:
    from ..envs.tokenizers import Tokenizer

Tools = Sequence[Mapping[str, Any]]


class Template(Protocol):
    """What is written around messages. A row is `open` once, then `render` for each turn."""

    @property
    def name(self) -> str: ...  # noqa: D102 - a name is a name
    @property
    def thinks(self) -> tuple[str, str] | None:
        """Delimiters of reasoning, for example ("<think>", "</think>")."""
        ...

    def head(self, tools: Tools, system: str | None) -> list[int]:
        """What stands before the first message."""
        ...

    def open(
        self, messages: Sequence[Message], tools: Tools, system: str | None, *, reply: bool
    ) -> list[int]:
        """The head and the first messages; `reply` opens the agent's turn."""
        ...

    def render(self, messages: Sequence[Message], *, reply: bool) -> list[int]:
        """Later messages, from behind the last end-of-turn id on."""
        ...

    def verdict(self, tools: Tools) -> str:
        """Whether earlier turns stay as they are: "yes", "until_user", or "no, because ..."."""
        ...


class DrillTemplate:
    """`<obs>` text `<act>`: for tokenizers that have these ids. No head, no system prompt."""

    name = "drill"
    thinks: tuple[str, str] | None = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._obs: int = getattr(tokenizer, "obs")  # noqa: B009 - not in the protocol
        self._act: int = getattr(tokenizer, "act")  # noqa: B009

    def head(self, tools: Tools, system: str | None) -> list[int]:
        """Nothing: a drill's agent learns its rules."""
        return []

    def open(
        self, messages: Sequence[Message], tools: Tools, system: str | None, *, reply: bool
    ) -> list[int]:
        """The same as later messages."""
        return self.render(messages, reply=reply)

    def render(self, messages: Sequence[Message], *, reply: bool) -> list[int]:
        """One observation of all that is new; what an agent said keeps its own marks."""
        out: list[int] = []
        role = ""
        for message in messages:
            if message.role == "system":
                continue
            said = message.role == "assistant"
            if said:
                out.append(self._act)
            elif role != "heard":
                out.append(self._obs)
            out += self._tokenizer.encode(message.content)
            out += [self._tokenizer.end_of_turn] if said else []
            role = "said" if said else "heard"
        if reply:
            out += [self._act] if role else [self._obs, self._act]
        return out

    def verdict(self, tools: Tools) -> str:
        """History is never rewritten."""
        return "yes"


class PlainTemplate:
    r"""`<|role|>\n` text, the end-of-turn id, `\n`: for bytes, and models without a template.

    The marks are plain text, written by us alone after an end-of-turn id: a user who writes
    them forges nothing, because no text encodes to that id. Tools are left to the environment's
    system prompt.
    """

    name = "plain"
    thinks: tuple[str, str] | None = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def head(self, tools: Tools, system: str | None) -> list[int]:
        """The system prompt, where there is one."""
        return [] if system is None else self._message("system", system)

    def open(
        self, messages: Sequence[Message], tools: Tools, system: str | None, *, reply: bool
    ) -> list[int]:
        """The head, then the messages."""
        head = self.head(tools, system)
        rest = self.render(messages, reply=reply)
        return head + (rest if head else rest[len(self._tokenizer.encode("\n")) :])

    def render(self, messages: Sequence[Message], *, reply: bool) -> list[int]:
        """Each message behind a line end, then the agent's mark."""
        line = self._tokenizer.encode("\n")
        out: list[int] = []
        for message in messages:
            out += line + self._message(message.role, message.content)
        return out + (line + self._tokenizer.encode("<|assistant|>\n") if reply else [])

    def _message(self, role: str, text: str) -> list[int]:
        encode, end = self._tokenizer.encode, self._tokenizer.end_of_turn
        return [*encode(f"<|{role}|>\n"), *encode(text), end]

    def verdict(self, tools: Tools) -> str:
        """History is never rewritten."""
        return "yes"


def default_template(tokenizer: Tokenizer) -> Template:
    """`DrillTemplate` where the tokenizer has its ids, else `PlainTemplate`."""
    if hasattr(tokenizer, "obs") and hasattr(tokenizer, "act"):
        return DrillTemplate(tokenizer)
    return PlainTemplate(tokenizer)
